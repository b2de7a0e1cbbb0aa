#!/bin/sh
# Installs the packages that open a TensorRT engine for its parity check: TensorRT's Python bindings in the version of
# the image's libraries, and CuPy for the image's CUDA. No lock holds them: the image decides their versions.
# Usage: engine_packages.sh VENV     In a stage of the Dockerfile, with uv on the PATH.
set -eu
# shellcheck source=deploy/image/index.sh
. "$(dirname "$0")/index.sh"
# NVIDIA's images state the version in their environment or by the Debian package of the library. 10.9.0.34+cuda12.8
# is 10.9.0.
version=${TENSORRT_VERSION:-${TRT_VERSION:-}}
if [ -z "$version" ]; then
  version=$(dpkg-query --show --showformat='${Version}\n' 'libnvinfer[0-9]*' 2> /dev/null | head -n 1)
fi
version=$(echo "$version" | sed -n 's/^\([0-9]*\.[0-9]*\.[0-9]*\).*/\1/p')
if [ -z "$version" ]; then
  echo "cannot determine the image's TensorRT version: TENSORRT_VERSION is not set and no package libnvinfer is installed" >&2
  exit 1
fi
cuda=${CUDA_VERSION:?CUDA_VERSION is not set in the environment of this image}
cuda=${cuda%%.*}
echo "installing TensorRT's bindings $version and CuPy for CUDA $cuda" >&2
# CuPy below 14: later releases need NumPy 2. fastrlock is its one dependency beside NumPy.
uv pip install --quiet --python "$1/bin/python" --no-deps \
  "tensorrt-cu$cuda-bindings==$version.*" "cupy-cuda${cuda}x>=13,<14" fastrlock
# The wheels have the module `tensorrt` in a package that also brings the libraries, which the image has already.
site=$(echo "$1"/lib/python3.*/site-packages)
printf 'from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n' > "$site/tensorrt.py"
