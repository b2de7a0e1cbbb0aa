#!/bin/sh
# Creates the missing files of deploy/secrets/ (an API key, a self-signed certificate, Grafana's password) and starts
# deploy/compose.yaml. Usage: make up. UP_OPTIONS="--build" passes options to `docker compose up`.
set -eu
cd "$(dirname "$0")"
secrets=secrets
log() { echo "up: $*" >&2; }

key=$(gateway/secrets.sh init "$secrets" localhost)
umask 077
if [ ! -f "$secrets/grafana_admin" ]; then openssl rand 18 | openssl base64 -A > "$secrets/grafana_admin"; fi
if [ "$(id -u)" = 0 ]; then
  # The gateway refuses to run as root.
  chown -R 101:101 "$secrets"
  GATEWAY_USER=101:101
else
  GATEWAY_USER=$(id -u):$(id -g)
fi
# The containers run as other users, which must be able to read the mounted folders.
chmod -R a+rX gateway prometheus grafana
SERVER_CPUS=${SERVER_CPUS:-$(nproc)}
# `docker compose` reads these without this script.
printf '%s\n' "GATEWAY_USER=$GATEWAY_USER" "SERVER_CPUS=$SERVER_CPUS" > .env
export GATEWAY_USER SERVER_CPUS
if [ -n "$key" ]; then
  log "created an API key, which is stored nowhere: $key"
fi
# shellcheck disable=SC2086  # the options are words
docker compose -f compose.yaml ${COMPOSE_OPTIONS:-} up --detach --wait ${UP_OPTIONS:-}
log "gateway https://localhost:${GATEWAY_PUBLISH:-8443} (certificate: deploy/$secrets/certificate.pem), Prometheus" \
  "http://localhost:${PROMETHEUS_PUBLISH:-9090}, Grafana http://localhost:${GRAFANA_PUBLISH:-3000} (user admin," \
  "password in deploy/$secrets/grafana_admin)"
