#!/bin/sh
# Installs TensorRT's Python bindings of the very version that NVIDIA's image has, without its libraries, which are
# there already: they run an engine once, to compare it with the network. Usage: tensorrt_bindings.sh VENV
# No lock can hold them: the image decides the version.
set -eu
# shellcheck source=deploy/image/index.sh
. "$(dirname "$0")/index.sh"
# NVIDIA's images say it in their environment; else the Debian package of the library does. 10.9.0.34+cuda12.8 is 10.9.0.
version=${TENSORRT_VERSION:-${TRT_VERSION:-}}
if [ -z "$version" ]; then
  version=$(dpkg-query --show --showformat='${Version}\n' 'libnvinfer[0-9]*' 2> /dev/null | head -n 1)
fi
version=$(echo "$version" | sed -n 's/^\([0-9]*\.[0-9]*\.[0-9]*\).*/\1/p')
if [ -z "$version" ]; then
  echo "the image does not say its version of TensorRT: neither TENSORRT_VERSION nor a package libnvinfer" >&2
  exit 1
fi
cuda=${CUDA_VERSION:?the image does not say its CUDA version}
echo "TensorRT $version, CUDA $cuda: installing the bindings for Python" >&2
uv pip install --quiet --python "$1/bin/python" --no-deps "tensorrt-cu${cuda%%.*}-bindings==$version.*"
# The module that programs import; in the wheels it is in a package that brings the libraries, too.
site=$(echo "$1"/lib/python3.*/site-packages)
printf 'from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n' > "$site/tensorrt.py"
