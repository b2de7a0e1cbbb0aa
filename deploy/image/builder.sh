#!/bin/sh
# Turns one of NVIDIA's images (tensorrt, pytorch, tensorflow) into a builder: adds the packages that jpeg-build needs
# to the image's own Python, and replaces none of the image's packages.
# Usage: builder.sh     In a stage of the Dockerfile.
set -eu
cd /opt/triton-jpeg-classifier
export PIP_ROOT_USER_ACTION=ignore PIP_BREAK_SYSTEM_PACKAGES=1 PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m pip freeze | grep -E '^[A-Za-z0-9._-]+==' > /tmp/constraints.txt || true
python3 -m pip install --quiet --constraint /tmp/constraints.txt \
  hatchling editables 'cyclopts>=4,<5' msgspec platformdirs rich \
  numpy pillow onnx onnxruntime polygraphy 'tritonclient[grpc]'
# The parity check opens an engine with the loader that serves it, which needs CuPy for the image's CUDA.
if python3 -c 'import tensorrt' 2> /dev/null; then
  cuda=${CUDA_VERSION:?CUDA_VERSION is not set in the environment of this image}
  python3 -m pip install --quiet --constraint /tmp/constraints.txt "cupy-cuda${cuda%%.*}x>=13"
fi
python3 -m pip install --quiet --no-deps --no-build-isolation --editable .
chmod -R a+rX,go-w .
rm /tmp/constraints.txt
