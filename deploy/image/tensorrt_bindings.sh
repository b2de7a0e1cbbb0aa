#!/bin/sh
# Installs TensorRT's Python bindings of the very version that NVIDIA's image has, without its libraries, which are
# there already: they run an engine once, to compare it with the network. Usage: tensorrt_bindings.sh VENV
# No lock can hold them: the image decides the version.
set -eu
if [ -s /run/ca.crt ]; then export SSL_CERT_FILE=/run/ca.crt; fi
if [ -s /etc/pip.conf ]; then
  index=$(sed -n 's/^ *index-url *= *//p' /etc/pip.conf | head -n 1)
  if [ -n "$index" ]; then export UV_DEFAULT_INDEX="$index"; fi
fi
version=$(PYTHONPATH=/tmp/build "$1/bin/python" -c '
from jpeg_build.trtexec import find
print(".".join(map(str, find()[1])))')
cuda=${CUDA_VERSION:?the image does not say its CUDA version}
echo "TensorRT $version, CUDA $cuda: installing the bindings for Python" >&2
UV_LINK_MODE=copy uv pip install --quiet --python "$1/bin/python" --no-deps "tensorrt-cu${cuda%%.*}-bindings==$version.*"
# The module that programs import; in the wheels it is in a package that brings the libraries, too.
site=$(echo "$1"/lib/python3.*/site-packages)
printf 'from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n' > "$site/tensorrt.py"
