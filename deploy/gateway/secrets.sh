#!/bin/sh
# Keys and certificate for the gateway.
#
#   secrets.sh init DIR [HOST...]       a first API key and a self-signed certificate for HOST (default localhost), to
#                                       try the gateway out; keeps what is there. The key goes to stdout, once
#   secrets.sh add FILE NAME [DAYS]     add an API key for NAME to the file of keys, for DAYS or for ever; the key goes
#                                       to stdout, and is kept nowhere
#   secrets.sh remove FILE NAME         remove the key of NAME
#
# The gateway reads them when it starts and at `gateway.sh reload`. Needs openssl. Exit status: 0, 1, 2 (wrong call).
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
    "" | *[!a-z0-9_-]*) fail "'$1' is no name for a key: use a-z, 0-9, _ and -" 2 ;;
    # nginx's map gives these words a meaning of their own.
    default | hostnames | include | volatile) fail "'$1' cannot be the name of a key" 2 ;;
  esac
  [ "${#1}" -le 32 ] || fail "the name of a key has at most 32 characters" 2
}

base64url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }

# The secret is 256 random bits, so no dictionary helps against its digest. MD5 is what nginx can compute without
# further modules; what is needed of it, that no input is found for a given digest, nobody can break.
add_key() { # FILE NAME [DAYS]
  check_name "$2"
  [ ! -f "$1" ] || ! grep -q "^$2 " "$1" || fail "$1 has a key of that name: remove it first, or take another name"
  until=""
  if [ -n "${3-}" ]; then
    case "$3" in *[!0-9]*) fail "DAYS is '$3', but must be a whole number" 2 ;; esac
    until=",$(($(date +%s) + $3 * 86400))"
  fi
  key="$2.$(openssl rand 32 | base64url)"
  digest=$(printf '%s' "$key" | openssl md5 -binary | base64url)
  echo "$2 \"$digest$until\";" >> "$1"
  echo "$key"
}

remove_key() { # FILE NAME
  check_name "$2"
  grep -q "^$2 " "$1" || fail "$1 has no key of the name $2"
  left=$(grep -v "^$2 " "$1" || true)
  # Into the same file: a mounted one cannot be replaced.
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
      *[!A-Za-z0-9.:-]*) fail "'$host' is no host" 2 ;;
      *:* | *[0-9].[0-9]*.[0-9]*.[0-9]*) names="$names,IP:$host" ;;
      *) names="$names,DNS:$host" ;;
    esac
  done
  if [ ! -f "$directory/certificate.pem" ]; then
    # Host names for which it holds are in the extension; 127.0.0.1 is always wanted when trying out.
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 90 -subj "/CN=$1" \
      -addext "subjectAltName=IP:127.0.0.1$names" -addext "keyUsage=critical,digitalSignature" \
      -addext "extendedKeyUsage=serverAuth" -addext "basicConstraints=critical,CA:false" \
      -keyout "$directory/certificate.key" -out "$directory/certificate.pem" 2> /dev/null ||
      fail "openssl could not make a certificate"
    # A certificate is public, and clients that try the gateway out need it.
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
