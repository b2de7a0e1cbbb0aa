#!/bin/sh
# Creates a virtual environment if there is none, and installs a lock file into it, then the wheels in /tmp/wheel.
# Usage: install.sh VENV LOCK [UV_OPTION ...]     In a stage of the Dockerfile, with uv on the PATH.
set -eu
venv=$1 lock=$2
shift 2
# shellcheck source=deploy/image/index.sh
. "$(dirname "$0")/index.sh"
if ! [ -d "$venv" ]; then uv venv --quiet --no-python-downloads --python python3 "$venv"; fi
uv pip install --quiet --python "$venv/bin/python" --require-hashes -r "$lock" "$@"
for wheel in /tmp/wheel/*.whl; do
  if [ -f "$wheel" ]; then uv pip install --quiet --python "$venv/bin/python" --no-deps "$wheel"; fi
done
