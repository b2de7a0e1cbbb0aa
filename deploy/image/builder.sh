#!/bin/sh
# Makes a builder of one of NVIDIA's images (tensorrt, pytorch, tensorflow), which have the framework and TensorRT:
# what is missing for jpeg-build is added to the image's own Python, and nothing that it has is replaced.
set -eu
cd /opt/triton-jpeg-classifier
export PIP_ROOT_USER_ACTION=ignore PIP_BREAK_SYSTEM_PACKAGES=1 PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m pip freeze | grep -E '^[A-Za-z0-9._-]+==' > /tmp/constraints.txt || true
python3 -m pip install --quiet --constraint /tmp/constraints.txt \
  hatchling editables numpy pillow onnx onnxruntime polygraphy 'tritonclient[grpc]'
python3 -m pip install --quiet --no-deps --no-build-isolation --editable .
chmod -R a+rX,go-w .
rm /tmp/constraints.txt
