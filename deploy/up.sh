#!/bin/sh
# Starts deploy/compose.yaml, after making what deploy/secrets/ lacks: an API key and a self-signed certificate to try
# out, and Grafana's password. Usage: make up; UP_OPTIONS="--build" passes options of `docker compose up`.
set -eu
cd "$(dirname "$0")"
secrets=secrets
say() { echo "up: $*" >&2; }

key=$(gateway/secrets.sh init "$secrets" localhost)
umask 077
if [ ! -f "$secrets/grafana_admin" ]; then openssl rand 18 | openssl base64 -A > "$secrets/grafana_admin"; fi
if [ "$(id -u)" = 0 ]; then
  # The gateway does not run as root.
  chown -R 101:101 "$secrets"
  GATEWAY_USER=101:101
else
  GATEWAY_USER=$(id -u):$(id -g)
fi
# Containers run as other users, who must be able to read what is mounted.
chmod -R a+rX gateway prometheus grafana
SERVER_CPUS=${SERVER_CPUS:-$(nproc)}
# For `docker compose` without this script.
printf '%s\n' "GATEWAY_USER=$GATEWAY_USER" "SERVER_CPUS=$SERVER_CPUS" > .env
export GATEWAY_USER SERVER_CPUS
if [ -n "$key" ]; then
  say "made an API key, shown this once: $key"
fi
# shellcheck disable=SC2086  # options are words
docker compose -f compose.yaml ${COMPOSE_OPTIONS:-} up --detach --wait ${UP_OPTIONS:-}
say "gateway https://localhost:${GATEWAY_PUBLISH:-8443} (certificate: deploy/$secrets/certificate.pem), Prometheus" \
  "http://localhost:${PROMETHEUS_PUBLISH:-9090}, Grafana http://localhost:${GRAFANA_PUBLISH:-3000} (user admin," \
  "password in deploy/$secrets/grafana_admin)"
