#!/usr/bin/env bash
# Builds the server image without Docker and tests it: buildah builds it on a Debian base from debootstrap, and the tests
# run it with runc, Docker's runtime.
# Usage: make test-image     (as root; needs Debian's packages buildah, debootstrap and runc)
#
#   LAYERS=false           keep no layers: less disk space, but no cache for the next build
#   BASE=IMAGE             use this base image instead of creating one
#   DEBIAN_MIRROR=URL      Debian mirror for debootstrap (default: debootstrap's)
set -euo pipefail
cd "$(dirname "$0")/.."
image=localhost/triton-jpeg-classifier:cpu
PATH=$PATH:/usr/sbin:/sbin # debootstrap and its tools
for tool in buildah debootstrap runc; do
  command -v "$tool" > /dev/null || { echo "test-image: needs $tool (Debian, Ubuntu: apt-get install $tool)" >&2; exit 1; }
done
if [ "$(id -u)" != 0 ]; then
  echo "test-image: debootstrap and buildah's chroot isolation need root: run it as root" >&2
  exit 1
fi
log() { echo "test-image: $* ($(date +%T))" >&2; }

make_base() {
  local folder container
  folder=$(mktemp -d)
  # shellcheck disable=SC2064  # expand the folder now
  trap "rm -rf '$folder'" EXIT
  log "creating $1 with debootstrap"
  debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,libpython3.11 bookworm "$folder/root" \
    ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} > "$folder/log" 2>&1 || { tail -n 20 "$folder/log" >&2; exit 1; }
  rm -rf "$folder"/root/var/cache/apt/* "$folder"/root/var/lib/apt/lists/* "$folder"/root/var/log/* \
    "$folder"/root/usr/share/doc/* "$folder"/root/usr/share/man/* "$folder"/root/usr/share/locale/*
  container=$(buildah from scratch)
  buildah copy --quiet "$container" "$folder/root" / > /dev/null
  buildah commit --quiet --rm "$container" "$1" > /dev/null
  rm -rf "$folder"
}

if [ -z "${BASE:-}" ]; then
  BASE=localhost/debian-python:bookworm
  buildah inspect --type image "$BASE" > /dev/null 2>&1 || make_base "$BASE"
fi

# The build of the image reaches the package index with this machine's settings.
secrets=()
certificates=${PIP_CERT:-${SSL_CERT_FILE:-}}
if [ -n "$certificates" ]; then secrets+=(--secret "id=ca.crt,src=$certificates"); fi
if [ -f /etc/pip.conf ]; then secrets+=(--secret "id=pip.conf,src=/etc/pip.conf"); fi

log "building $image"
# Docker's format, because OCI's has no HEALTHCHECK.
buildah build --isolation chroot --format docker --layers="${LAYERS:-true}" --target cpu --build-arg "BASE=$BASE" \
  --build-arg "REVISION=$(git rev-parse HEAD 2> /dev/null || echo unknown)" "${secrets[@]}" --tag "$image" .
log "testing $image"
JPEG_IMAGE=$image exec "${VENV:-.venv}/bin/pytest" tests/deployment/test_image.py "$@"
