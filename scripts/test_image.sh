#!/usr/bin/env bash
# Builds the server image as `docker build` would, where there is no Docker, and tests it: buildah makes it of a Debian
# base that debootstrap makes, and the tests run it with runc, which is what runs containers in Docker, too.
# Usage: make test-image     (as root; needs buildah, debootstrap and runc: Debian's packages of these names)
#
#   LAYERS=false           keeps no layers: less on the disk, and the next build begins anew
#   BASE=IMAGE             takes this base instead of making one
#   DEBIAN_MIRROR=URL      where debootstrap gets it (default: its own)
set -euo pipefail
cd "$(dirname "$0")/.."
image=localhost/triton-jpeg-classifier:cpu
PATH=$PATH:/usr/sbin:/sbin # debootstrap, and what it runs
for tool in buildah debootstrap runc; do
  command -v "$tool" > /dev/null || { echo "test-image: needs $tool (Debian, Ubuntu: apt-get install $tool)" >&2; exit 1; }
done
if [ "$(id -u)" != 0 ]; then
  echo "test-image: debootstrap and buildah's chroot isolation need root: run it as root" >&2
  exit 1
fi
say() { echo "test-image: $* ($(date +%T))" >&2; }

make_base() {
  local folder made
  folder=$(mktemp -d)
  # shellcheck disable=SC2064  # the folder of now
  trap "rm -rf '$folder'" EXIT
  say "making $1 with debootstrap"
  debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,libpython3.11 bookworm "$folder/root" \
    ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} > "$folder/log" 2>&1 || { tail -n 20 "$folder/log" >&2; exit 1; }
  rm -rf "$folder"/root/var/cache/apt/* "$folder"/root/var/lib/apt/lists/* "$folder"/root/var/log/* \
    "$folder"/root/usr/share/doc/* "$folder"/root/usr/share/man/* "$folder"/root/usr/share/locale/*
  made=$(buildah from scratch)
  buildah copy --quiet "$made" "$folder/root" / > /dev/null
  buildah commit --quiet --rm "$made" "$1" > /dev/null
  rm -rf "$folder"
}

if [ -z "${BASE:-}" ]; then
  BASE=localhost/debian-python:bookworm
  buildah inspect --type image "$BASE" > /dev/null 2>&1 || make_base "$BASE"
fi

# What this machine needs to reach a package index, the image's build needs, too.
secrets=()
certificates=${PIP_CERT:-${SSL_CERT_FILE:-}}
if [ -n "$certificates" ]; then secrets+=(--secret "id=ca.crt,src=$certificates"); fi
if [ -f /etc/pip.conf ]; then secrets+=(--secret "id=pip.conf,src=/etc/pip.conf"); fi

say "building $image"
# docker format: OCI's has no HEALTHCHECK.
buildah build --isolation chroot --format docker --layers="${LAYERS:-true}" --target cpu --build-arg "BASE=$BASE" \
  --build-arg "REVISION=$(git rev-parse HEAD 2> /dev/null || echo unknown)" "${secrets[@]}" --tag "$image" .
say "testing $image"
JPEG_IMAGE=$image exec "${VENV:-.venv}/bin/pytest" tests/deployment/test_image.py "$@"
