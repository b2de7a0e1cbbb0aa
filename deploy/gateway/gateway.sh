#!/bin/sh
# The gateway: nginx with one configuration, nginx.conf.template.
#
#   gateway.sh run          render the configuration and exec nginx
#   gateway.sh check        render the configuration and test it with nginx
#   gateway.sh reload       render, test, and reload the running nginx: new keys, certificate or addresses
#   gateway.sh servers      list the servers: number, address, in or out
#   gateway.sh out N        stop sending requests to server N, and wait until its open requests have ended
#   gateway.sh in N         send requests to server N again
#   gateway.sh health       exit with 0 if the gateway responds
#
# docs/gateway.md documents the variables below. Needs nginx, envsubst, awk and getent; runs as any user except root.
# Exit status: 0 success, 1 failure, 2 invalid call.
set -eu

: "${GATEWAY_SERVERS:=server:8000:8001}"
: "${GATEWAY_MODELS:=jpeg_classifier}"
: "${GATEWAY_PRIVATE_MODELS:=}"
: "${GATEWAY_ADDRESS:=0.0.0.0}"
: "${GATEWAY_PORT:=8443}"
: "${GATEWAY_KEYS:=/run/secrets/gateway_keys}"
: "${GATEWAY_CERTIFICATE:=/run/secrets/gateway_certificate}"
: "${GATEWAY_CERTIFICATE_KEY:=/run/secrets/gateway_certificate_key}"
: "${GATEWAY_WEB_ROOT:=/srv/web}"
: "${GATEWAY_WEB:=off}"
: "${GATEWAY_RUN:=/tmp/gateway}"
: "${GATEWAY_ACCESS_LOG:=/dev/stdout}"
: "${GATEWAY_MAX_BODY_MB:=49}"
: "${GATEWAY_RATE:=50}"
: "${GATEWAY_BURST:=100}"
: "${GATEWAY_OPEN_REQUESTS:=32}"
: "${GATEWAY_OPEN_BODIES:=32}"
: "${GATEWAY_SERVER_OPEN_REQUESTS:=256}"
: "${GATEWAY_SERVER_LARGE_BODIES:=4}"
: "${GATEWAY_CONNECTIONS:=8192}"
: "${GATEWAY_TIMEOUT_S:=30}"
: "${GATEWAY_CLIENT_TIMEOUT_S:=10}"
: "${GATEWAY_CONNECTION_AGE_S:=3600}"
: "${GATEWAY_WORKERS:=auto}"
: "${GATEWAY_HSTS_S:=31536000}"
: "${GATEWAY_TRACE_CONTEXT:=off}"
: "${GATEWAY_NGINX:=nginx}"

# Debian has nginx where the PATH of users does not look.
PATH=$PATH:/usr/sbin:/sbin
here=$(cd "$(dirname "$0")" && pwd)
conf=$GATEWAY_RUN/nginx.conf

# glibc gives a block back as soon as it is free if it is above a threshold, which grows with the freed blocks. A fixed
# one keeps nginx from holding the memory of bodies that it has sent (200 MiB after a burst; measured).
: "${MALLOC_MMAP_THRESHOLD_:=131072}"
export MALLOC_MMAP_THRESHOLD_

# Seconds that an idle connection to a server stays open; `out` waits for these, too.
IDLE_S=4

fail() {
  echo "gateway: $1" >&2
  exit "${2:-1}"
}

# Refuse a value that could add directives to nginx's configuration.
must_match() { # NAME VALUE REGEX DESCRIPTION
  printf '%s' "$2" | LC_ALL=C awk -v pattern="^($3)\$" 'NR > 1 { exit 1 } $0 !~ pattern { exit 1 }' ||
    fail "$1 is '$2', but must be $4" 2
}

value_of() { eval "printf '%s' \"\$GATEWAY_$1\""; }

check_variables() {
  whole='[0-9]+'
  path='/[A-Za-z0-9._/@+-]+'
  above_0="MAX_BODY_MB RATE BURST OPEN_REQUESTS OPEN_BODIES SERVER_OPEN_REQUESTS SERVER_LARGE_BODIES CONNECTIONS
    TIMEOUT_S CLIENT_TIMEOUT_S CONNECTION_AGE_S"
  for name in PORT HSTS_S $above_0; do
    value=$(value_of "$name")
    must_match "GATEWAY_$name" "$value" "$whole" "an integer"
  done
  for name in $above_0; do
    value=$(value_of "$name")
    must_match "GATEWAY_$name" "$value" '0*[1-9][0-9]*' "above 0"
  done
  for name in KEYS CERTIFICATE CERTIFICATE_KEY WEB_ROOT RUN ACCESS_LOG; do
    value=$(value_of "$name")
    must_match "GATEWAY_$name" "$value" "$path" "an absolute path without spaces"
  done
  must_match GATEWAY_ADDRESS "$GATEWAY_ADDRESS" '[0-9.]+|[[][0-9a-f:]+[]]' "an IPv4 address, or an IPv6 address in []"
  must_match GATEWAY_WEB "$GATEWAY_WEB" 'off|([A-Za-z0-9._-]+|[[][0-9a-f:]+[]]):[0-9]+' "HOST:PORT of jpeg-web, or off"
  must_match GATEWAY_WORKERS "$GATEWAY_WORKERS" "auto|$whole" "auto or an integer"
  must_match GATEWAY_TRACE_CONTEXT "$GATEWAY_TRACE_CONTEXT" 'on|off' "on or off"
  [ -z "${GATEWAY_MODEL-}" ] || fail "GATEWAY_MODEL is now GATEWAY_MODELS, model names separated by spaces" 2
  must_match GATEWAY_MODELS "$GATEWAY_MODELS" '[A-Za-z0-9_ -]*[A-Za-z0-9_-][A-Za-z0-9_ -]*' "model names separated by spaces"
  must_match GATEWAY_PRIVATE_MODELS "$GATEWAY_PRIVATE_MODELS" '[A-Za-z0-9_ -]*' "model names separated by spaces"
  seen=" "
  for name in $GATEWAY_MODELS $GATEWAY_PRIVATE_MODELS; do
    # With `_classifier_torch_tensorrt` and a message around it, 127 bytes, whose length is one byte.
    [ "${#name}" -lt 100 ] || fail "GATEWAY_MODELS, GATEWAY_PRIVATE_MODELS: $name is longer than 99 characters" 2
    case $seen in *" $name "*) fail "GATEWAY_MODELS and GATEWAY_PRIVATE_MODELS have $name twice" 2 ;; esac
    seen="$seen$name "
  done
  for server in $GATEWAY_SERVERS; do
    must_match GATEWAY_SERVERS "$server" '([A-Za-z0-9._-]+|[[][0-9a-f:]+[]]):[0-9]+:[0-9]+' "HOST:HTTP-PORT:GRPC-PORT, separated by spaces"
  done
  [ "$(count_servers)" -gt 0 ] || fail "GATEWAY_SERVERS is empty: set it to HOST:HTTP-PORT:GRPC-PORT" 2
}

count_servers() {
  # shellcheck disable=SC2086 # words
  set -- $GATEWAY_SERVERS
  echo $#
}

# Print server N as HOST:HTTP-PORT:GRPC-PORT.
server_number() {
  must_match "the server number" "$1" '[1-9][0-9]*' "a number from gateway.sh servers"
  [ "$1" -le "$(count_servers)" ] || fail "there is no server $1, only $(count_servers): gateway.sh servers lists them" 2
  # shellcheck disable=SC2086 # words
  echo $GATEWAY_SERVERS | cut -d ' ' -f "$1"
}

host_of() { echo "${1%:*:*}"; }
http_port_of() { echo "$1" | awk -F: '{ print $(NF - 1) }'; }
grpc_port_of() { echo "${1##*:}"; }

# Write the upstreams of all servers, and for each server those without it. nginx checks a file per request to choose
# between them, so replacing a server needs no reload and closes no client's connection.
upstreams() {
  upstream all 0
  if [ "$(count_servers)" -gt 1 ]; then
    number=0
    for _ in $GATEWAY_SERVERS; do
      number=$((number + 1))
      upstream "without_$number" "$number"
    done
  fi
}

# Write the upstreams of one set of servers: for each protocol one, and one for large bodies.
# Keep-alive to the servers for HTTP only. A gRPC server closes old connections (--grpc-max-connection-age), and a
# request that is sent just then fails, because nginx does not repeat what it began to send.
upstream() { # NAME NUMBER-LEFT-OUT
  for group in http grpc http_large grpc_large; do
    protocol=${group%_large}
    connections=$GATEWAY_SERVER_OPEN_REQUESTS
    [ "$group" = "$protocol" ] || connections=$GATEWAY_SERVER_LARGE_BODIES
    echo "  upstream ${group}_$1 {"
    echo "    zone ${group}_$1 64k;"
    each=0
    for server in $GATEWAY_SERVERS; do
      each=$((each + 1))
      [ "$each" -ne "$2" ] || continue
      echo "    server $(host_of "$server"):$("${protocol}_port_of" "$server") max_conns=$connections max_fails=3 fail_timeout=5s;"
    done
    [ "$protocol" = grpc ] || printf '    keepalive 32;\n    keepalive_timeout %ss;\n' "$IDLE_S"
    echo "  }"
  done
}

# Write the upstreams of the web application, which passes its images on to a server: one for large bodies, as for servers.
web_upstreams() {
  for group in "web:$GATEWAY_SERVER_OPEN_REQUESTS" "web_large:$GATEWAY_SERVER_LARGE_BODIES"; do
    echo "  upstream ${group%:*} {"
    echo "    zone ${group%:*} 64k;"
    echo "    server $GATEWAY_WEB max_conns=${group#*:};"
    printf '    keepalive 32;\n    keepalive_timeout %ss;\n' "$IDLE_S"
    echo "  }"
  done
}

# Remove the lines of the template that belong to the other value of GATEWAY_WEB.
without_the_other() {
  other=with
  [ "$GATEWAY_WEB" = off ] || other=without
  awk -v first="# only $other GATEWAY_WEB" '
    { line = $0; sub(/^ +/, "", line) }
    line == first { skips = 1 }
    !skips { print }
    line == "# end" { skips = 0 }'
}

taken_out() {
  number=0
  [ "$(count_servers)" -gt 1 ] || return 0
  for _ in $GATEWAY_SERVERS; do
    number=$((number + 1))
    # shellcheck disable=SC2016 # nginx's variable
    printf '    if (-f %s/out/%s) { set $servers_in without_%s; }\n' "$GATEWAY_RUN" "$number" "$number"
  done
}

# A regex of protobuf's tag of a field 1 with a length: 0x0a, or a longer varint. Parsers drop what exceeds 32 bits.
FIELD_1='(?:\x0a|\x8a\x80{0,3}[\x00\x10\x20\x30\x40\x50\x60\x70])'

# Write a regex of each name with its length in front: one byte, as encoders write it, or a padded varint.
names_with_length() { # NAME...
  bar=""
  for name; do
    printf '%s(?:\\x%02x|\\x%02x\\x80*\\x00)%s' "$bar" "${#name}" "$((${#name} | 128))" "$name"
    bar="|"
  done
}

# Write what the names of a model's own steps begin with: those of jpeg_classifier have no prefix
# (jpeg_contract.model_names).
prefix_of() { [ "$1" = jpeg_classifier ] || printf '%s_' "$1"; }

is_open() { case " $GATEWAY_MODELS " in *" $1 "*) ;; *) return 1 ;; esac; }

# The lines below are one per model, because nginx reads an argument of 4,096 bytes at most.

# Write the lines of a map that finds names of closed models in a gRPC message: the steps of all models, and
# GATEWAY_PRIVATE_MODELS. jpeg_classifier is one of them unless it is open. A classifier has the name of any form, so
# any length may be in front of it.
private_names() {
  closed=""
  is_open jpeg_classifier || closed=jpeg_classifier
  for model in $closed $GATEWAY_PRIVATE_MODELS; do
    printf '    "~%s(?:%s)" other_model;\n' "$FIELD_1" "$(names_with_length "$model")"
  done
  for model in $GATEWAY_MODELS $closed $GATEWAY_PRIVATE_MODELS; do
    prefix=$(prefix_of "$model")
    printf '    "~%s(?:%s|(?:[\\x01-\\x7f]|[\\x80-\\xff]\\x80*\\x00)%sclassifier_[a-z0-9])" other_model;\n' "$FIELD_1" \
      "$(names_with_length "${prefix}preprocess" "${prefix}postprocess" "${prefix}router")" "$prefix"
  done
}

# Write the lines of a map that finds an open model at the beginning of an inference over gRPC.
open_names() {
  for model in $GATEWAY_MODELS; do
    printf '    "~^\\x00[\\x00-\\xff]{4}\\x0a\\x%02x%s\\x12[^\\x00]" other_model;\n' "${#model}" "$model"
    printf '    "~^\\x00[\\x00-\\xff]{4}\\x0a\\x%02x%s" "";\n' "${#model}" "$model"
  done
}

# Write a regex of the gRPC messages that have a name as their only field.
name_message() { # NAME
  printf '\\x00\\x00\\x00\\x00\\x%02x\\x0a\\x%02x%s\\z' "$((${#1} + 2))" "${#1}" "$1"
}

# Write the lines of a map from method and message to the servers: everything about open models.
described_over_grpc() {
  for model in $GATEWAY_MODELS; do
    # shellcheck disable=SC2016 # nginx's variable
    printf '    "~^/inference\\.GRPCInferenceService/Model(?:Ready|Metadata|Config) %s" grpc_$servers_in;\n' \
      "$(name_message "$model")"
  done
  for model in $GATEWAY_MODELS; do
    prefix=$(prefix_of "$model")
    for step in preprocess postprocess router; do config_over_grpc "$(name_message "$prefix$step")"; done
    # Of any form; the lengths are those of the whole message, or Triton refuses it.
    config_over_grpc "\\x00\\x00\\x00\\x00[\\x00-\\x7f]\\x0a[\\x00-\\x7f]${prefix}classifier_[a-z0-9_]+\\z"
  done
  # Other models may decode with this one.
  is_open jpeg_classifier || config_over_grpc "$(name_message preprocess)"
}

config_over_grpc() { # REGEX
  # shellcheck disable=SC2016 # nginx's variable
  printf '    "~^/inference\\.GRPCInferenceService/ModelConfig %s" grpc_$servers_in;\n' "$1"
}

# The same for paths over HTTP.
# shellcheck disable=SC2016 # nginx's variable
described_over_http() {
  for model in $GATEWAY_MODELS; do
    printf '    "~^/v2/models/%s(?:/ready|/config)?$" $uri;\n' "$model"
    printf '    "~^/v2/models/%s(?:preprocess|postprocess|router|classifier_[a-z0-9_]+)/config$" $uri;\n' \
      "$(prefix_of "$model")"
  done
  is_open jpeg_classifier || printf '    "~^/v2/models/preprocess/config$" $uri;\n'
}

# Write the lines of a map from the path of an inference to itself.
open_paths() {
  for model in $GATEWAY_MODELS; do
    printf '    "~^/v2/models/%s/infer$" /v2/models/%s/infer;\n' "$model" "$model"
  done
}

# Succeed if nginx is at least MAJOR.MINOR.PATCH.
nginx_is_at_least() {
  "$GATEWAY_NGINX" -v 2>&1 | awk -v least="$1" '
    match($0, /[0-9]+\.[0-9]+\.[0-9]+/) {
      split(substr($0, RSTART, RLENGTH), have, "."); split(least, want, ".")
      for (i = 1; i <= 3; i++) if (have[i] != want[i]) exit !(have[i] + 0 > want[i] + 0)
      exit 0
    }
    { exit 1 }'
}

render() {
  [ "$(id -u)" -ne 0 ] || fail "not as root: run the gateway as an unprivileged user (setpriv, su, or the image's user)" 2
  check_variables
  for file in "$GATEWAY_KEYS" "$GATEWAY_CERTIFICATE" "$GATEWAY_CERTIFICATE_KEY"; do
    [ -r "$file" ] || fail "cannot read $file: secrets.sh init creates keys and a self-signed certificate"
  done
  # Connections, listening sockets and logs. nginx raises the soft limit of open files, but cannot exceed the hard one.
  OPEN_FILES=$((GATEWAY_CONNECTIONS + 64))
  # shellcheck disable=SC3045 # dash and busybox have it
  allowed=$(ulimit -H -n)
  if [ "$allowed" != unlimited ] && [ "$allowed" -lt "$OPEN_FILES" ]; then
    fail "GATEWAY_CONNECTIONS is $GATEWAY_CONNECTIONS, but a process may open only $allowed files: raise that limit to $OPEN_FILES (ulimits in Compose, LimitNOFILE in systemd), or lower GATEWAY_CONNECTIONS"
  fi
  umask 077
  mkdir -p "$GATEWAY_RUN/out"
  # nginx 1.25.1 deprecates `listen ... http2` in favour of the directive `http2`.
  LISTEN_HTTP2=" http2" HTTP2_ON=""
  if nginx_is_at_least 1.25.1; then LISTEN_HTTP2="" HTTP2_ON="http2 on;"; fi
  # From 1.27.4 on, a reload keeps idle connections open long enough for a request in transit.
  KEEPALIVE_MIN=""
  if nginx_is_at_least 1.27.4; then KEEPALIVE_MIN="  keepalive_min_timeout 5s;"; fi
  # A connection that is idle for half its age ends, so that a client leaves within one and a half of it.
  KEEPALIVE_S=$(((GATEWAY_CONNECTION_AGE_S + 1) / 2))
  [ "$KEEPALIVE_S" -le 75 ] || KEEPALIVE_S=75
  SHUTDOWN_S=$((GATEWAY_TIMEOUT_S + GATEWAY_CLIENT_TIMEOUT_S))
  PRIVATE_NAMES=$(private_names)
  OPEN_NAMES=$(open_names)
  OPEN_PATHS=$(open_paths)
  DESCRIBED_OVER_GRPC=$(described_over_grpc)
  DESCRIBED_OVER_HTTP=$(described_over_http)
  # shellcheck disable=SC2086 # words
  MODEL_LIST=$(printf ', %s' $GATEWAY_MODELS)
  MODEL_LIST=${MODEL_LIST#, }
  REFUSED_PARAMETER=$(names_with_length classification shared_memory_region)
  PARAMETER_REFUSED="classification (class_count), shared memory and JSON data are refused: the output LABEL has the labels, the parameter k is their number, and images come in the request as binary data [parameter_refused]"
  UPSTREAMS=$(upstreams)
  TAKEN_OUT=$(taken_out)
  # Headers of the web application that this gateway sets itself.
  WEB_HIDDEN=""
  if [ "$GATEWAY_WEB" != off ]; then
    UPSTREAMS="$UPSTREAMS
$(web_upstreams)"
    for name in Cache-Control X-Content-Type-Options Referrer-Policy Cross-Origin-Opener-Policy; do
      WEB_HIDDEN="$WEB_HIDDEN      proxy_hide_header $name;
"
    done
  fi
  export FIELD_1 REFUSED_PARAMETER PARAMETER_REFUSED OPEN_FILES GATEWAY_CONNECTIONS
  export LISTEN_HTTP2 HTTP2_ON KEEPALIVE_MIN KEEPALIVE_S SHUTDOWN_S UPSTREAMS TAKEN_OUT WEB_HIDDEN
  export PRIVATE_NAMES OPEN_NAMES OPEN_PATHS DESCRIBED_OVER_GRPC DESCRIBED_OVER_HTTP MODEL_LIST
  export GATEWAY_ADDRESS GATEWAY_PORT GATEWAY_KEYS GATEWAY_CERTIFICATE GATEWAY_CERTIFICATE_KEY
  export GATEWAY_WEB_ROOT GATEWAY_RUN GATEWAY_ACCESS_LOG GATEWAY_MAX_BODY_MB GATEWAY_RATE GATEWAY_BURST
  export GATEWAY_OPEN_REQUESTS GATEWAY_OPEN_BODIES GATEWAY_TIMEOUT_S GATEWAY_CLIENT_TIMEOUT_S
  export GATEWAY_CONNECTION_AGE_S GATEWAY_WORKERS GATEWAY_HSTS_S GATEWAY_TRACE_CONTEXT
  # Names in braces are ours; nginx's variables have no braces in the template.
  # shellcheck disable=SC2016 # the names, not the values
  names=$(grep -o '\${[A-Z0-9_]*}' "$here/nginx.conf.template" | sort -u | tr '\n' ' ')
  without_the_other < "$here/nginx.conf.template" | envsubst "$names" > "$conf.new"
  mv "$conf.new" "$conf"
}

# Copy nginx's errors to stderr without the queries of addresses: they may hold keys, and nginx writes whole requests.
without_queries() {
  while IFS= read -r line; do
    shown=""
    while :; do
      case $line in *\?*) ;; *) break ;; esac
      shown="$shown${line%%\?*}?..."
      line=${line#*\?}
      # A query ends at a space or a quotation mark.
      query=${line%%[ \"]*}
      line=${line#"$query"}
    done
    printf '%s\n' "$shown$line" >&2
  done
}

running() {
  [ -f "$GATEWAY_RUN/nginx.pid" ] || fail "no gateway is running in $GATEWAY_RUN"
}

# Count the connections to a server that may carry a request. TCP state 01 is ESTABLISHED.
open_connections() { # HOST HTTP-PORT GRPC-PORT
  # IPv4 addresses in the format of /proc/net/tcp, in the byte order of x86 and ARM.
  addresses=$(getent ahostsv4 "$1" | awk '{ split($1, b, "."); printf "%02X%02X%02X%02X ", b[4], b[3], b[2], b[1] }')
  ports=$(printf '%04X %04X' "$2" "$3")
  cat /proc/net/tcp /proc/net/tcp6 2> /dev/null | awk -v addresses="$addresses" -v ports="$ports" '
    BEGIN { n = split(addresses, a, " "); split(ports, p, " ") }
    $4 == "01" {
      split($3, remote, ":")
      if (remote[2] != p[1] && remote[2] != p[2]) next
      if (length(remote[1]) > 8) { count++; next }
      for (i = 1; i <= n; i++) if (remote[1] == a[i]) count++
    }
    END { print count + 0 }'
}

take_out() {
  running
  server=$(server_number "$1")
  [ "$(count_servers)" -gt 1 ] || fail "server $1 is the only one"
  for other in "$GATEWAY_RUN"/out/*; do
    [ -e "$other" ] || continue
    [ "${other##*/}" = "$1" ] || fail "server ${other##*/} is out, and only one at a time can be: run gateway.sh in ${other##*/}"
  done
  : > "$GATEWAY_RUN/out/$1"
  limit=$((GATEWAY_TIMEOUT_S + IDLE_S + 5))
  waited=0
  # A worker may have chosen this server just before the file appeared.
  sleep 1
  while [ "$(open_connections "$(host_of "$server")" "$(http_port_of "$server")" "$(grpc_port_of "$server")")" -gt 0 ]; do
    [ "$waited" -lt "$limit" ] || fail "server $1 is out, but still has open connections after $limit s"
    waited=$((waited + 1))
    sleep 1
  done
  echo "gateway: server $1 ($server) is out and has no open request: it can be stopped" >&2
}

list_servers() {
  number=0
  for server in $GATEWAY_SERVERS; do
    number=$((number + 1))
    state=in
    [ ! -f "$GATEWAY_RUN/out/$number" ] || state=out
    echo "$number $server $state"
  done
}

case "${1-}" in
  run)
    render
    # A killed gateway leaves its sockets, and nginx does not bind to an existing one.
    rm -f "$GATEWAY_RUN/refusal.sock" "$GATEWAY_RUN/refusal_http.sock" "$GATEWAY_RUN/errors"
    # An error that prevents the start is printed here, and not lost with this process.
    "$GATEWAY_NGINX" -e stderr -c "$conf" -t -q
    mkfifo "$GATEWAY_RUN/errors"
    without_queries < "$GATEWAY_RUN/errors" &
    exec "$GATEWAY_NGINX" -e stderr -c "$conf" 2> "$GATEWAY_RUN/errors"
    ;;
  check)
    render
    exec "$GATEWAY_NGINX" -e stderr -c "$conf" -t
    ;;
  reload)
    running
    render
    "$GATEWAY_NGINX" -e stderr -c "$conf" -t && exec "$GATEWAY_NGINX" -e stderr -c "$conf" -s reload
    ;;
  servers) list_servers ;;
  out) take_out "${2-}" ;;
  in)
    server_number "${2-}" > /dev/null
    rm -f "$GATEWAY_RUN/out/$2"
    ;;
  health)
    url="https://127.0.0.1:$GATEWAY_PORT/healthz"
    # Without verification: the certificate names the public host, not 127.0.0.1.
    if command -v curl > /dev/null; then
      exec curl --silent --fail --insecure --max-time 5 --output /dev/null "$url"
    fi
    exec wget -q -T 5 --no-check-certificate -O /dev/null "$url"
    ;;
  *)
    sed -n '2,/^set -eu/{/^#/s/^# \{0,1\}//p;}' "$0" >&2
    exit 2
    ;;
esac
