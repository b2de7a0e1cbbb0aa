#!/bin/sh
# Makes a virtual environment and installs locked packages, and the project's own wheel if /tmp/wheel has it.
# Usage: install.sh VENV LOCK [UV_OPTION ...]     In a stage of the Dockerfile, with uv on the PATH.
# Secrets, both optional: /etc/pip.conf names a package index, /run/ca.crt the certificates to trust.
set -eu
venv=$1 lock=$2
shift 2
if [ -s /run/ca.crt ]; then export SSL_CERT_FILE=/run/ca.crt; fi
if [ -s /etc/pip.conf ]; then
  index=$(sed -n 's/^ *index-url *= *//p' /etc/pip.conf | head -n 1) # uv does not read pip's settings
  if [ -n "$index" ]; then export UV_DEFAULT_INDEX="$index"; fi
fi
export UV_LINK_MODE=copy # the cache is on another file system
uv venv --quiet --no-python-downloads --python python3 "$venv"
uv pip install --quiet --python "$venv/bin/python" --require-hashes -r "$lock" "$@"
for wheel in /tmp/wheel/*.whl; do
  if [ -f "$wheel" ]; then uv pip install --quiet --python "$venv/bin/python" --no-deps "$wheel"; fi
done
