#!/bin/sh
# API keys and certificate of the gateway.
#
#   secrets.sh init DIR [HOST...]       create an API key named "first" and a self-signed certificate for HOST (default
#                                       localhost), unless they exist. Prints the key, which is stored nowhere
#   secrets.sh add FILE NAME [DAYS]     add an API key for NAME to the key file, valid for DAYS or without limit. Prints
#                                       the key, which is stored nowhere
#   secrets.sh remove FILE NAME         remove the key of NAME
#
# The gateway reads both at its start and at `gateway.sh reload`. Needs openssl. Exit status: 0 success, 1 failure,
# 2 invalid call.
set -eu
umask 077

fail() {
  echo "secrets: $1" >&2
  exit "${2:-1}"
}

usage() {
  sed -n '2,/^set -eu/{/^#/s/^# \{0,1\}//p;}' "$0" >&2
  exit 2
}

check_name() {
  case "$1" in
    "" | *[!a-z0-9_-]*) fail "'$1' is not a key name: use a-z, 0-9, _ and -" 2 ;;
    # These words are parameters of nginx's map.
    default | hostnames | include | volatile) fail "'$1' is reserved and cannot be a key name" 2 ;;
  esac
  [ "${#1}" -le 32 ] || fail "a key name has at most 32 characters" 2
}

base64url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }

# MD5 is the digest that nginx computes without further modules. Only its preimage resistance matters here, which is
# unbroken, and the secret has 256 random bits, so a dictionary does not help.
add_key() { # FILE NAME [DAYS]
  check_name "$2"
  [ ! -f "$1" ] || ! grep -q "^$2 " "$1" || fail "$1 already has a key named $2: remove it first, or choose another name"
  until=""
  if [ -n "${3-}" ]; then
    case "$3" in *[!0-9]*) fail "DAYS is '$3', but must be an integer" 2 ;; esac
    until=",$(($(date +%s) + $3 * 86400))"
  fi
  key="$2.$(openssl rand 32 | base64url)"
  digest=$(printf '%s' "$key" | openssl md5 -binary | base64url)
  echo "$2 \"$digest$until\";" >> "$1"
  echo "$key"
}

remove_key() { # FILE NAME
  check_name "$2"
  grep -q "^$2 " "$1" || fail "$1 has no key named $2"
  left=$(grep -v "^$2 " "$1" || true)
  # Rewrite in place: a mounted file cannot be replaced.
  printf '%s' "${left:+$left
}" > "$1"
}

init() { # DIR HOST...
  directory=$1
  shift
  [ $# -gt 0 ] || set -- localhost
  mkdir -p "$directory"
  names=""
  for host in "$@"; do
    case "$host" in
      *[!A-Za-z0-9.:-]*) fail "'$host' is not a host" 2 ;;
      *:* | *[0-9].[0-9]*.[0-9]*.[0-9]*) names="$names,IP:$host" ;;
      *) names="$names,DNS:$host" ;;
    esac
  done
  if [ ! -f "$directory/certificate.pem" ]; then
    # Clients read the host names from the extension; 127.0.0.1 is always included.
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 90 -subj "/CN=$1" \
      -addext "subjectAltName=IP:127.0.0.1$names" -addext "keyUsage=critical,digitalSignature" \
      -addext "extendedKeyUsage=serverAuth" -addext "basicConstraints=critical,CA:false" \
      -keyout "$directory/certificate.key" -out "$directory/certificate.pem" 2> /dev/null ||
      fail "openssl cannot create the certificate"
    # The certificate is public, and clients need it.
    chmod 644 "$directory/certificate.pem"
  fi
  if [ ! -f "$directory/keys" ]; then
    add_key "$directory/keys" first
  fi
}

case "${1-}" in
  init) [ $# -ge 2 ] || usage; shift; init "$@" ;;
  add) [ $# -ge 3 ] || usage; shift; add_key "$@" ;;
  remove) [ $# -eq 3 ] || usage; shift; remove_key "$@" ;;
  *) usage ;;
esac
