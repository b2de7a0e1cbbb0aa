#!/bin/sh
# Removes the files of an environment that a server on CPUs cannot use. Usage: trim.sh VENV
set -eu
site=$(echo "$1"/lib/python3.*/site-packages)
version=$("$1/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# The stubs of Triton's Python backend for other Python versions, and the libpython that the wheel bundles for one.
for stub in "$site"/pytriton/tritonserver/python_backend_stubs/*; do
  if [ "${stub##*/}" != "$version" ]; then rm -r "$stub"; fi
done
rm -f "$site"/nvidia_pytriton.libs/libpython3-*.so.*

# OpenVINO's plugins for Intel's GPUs and NPUs, the GPU plugin's kernels, and the C++ headers.
rm -rf "$site"/openvino/libs/libopenvino_intel_gpu_plugin.so "$site"/openvino/libs/libopenvino_intel_npu_plugin.so \
  "$site"/openvino/libs/cache.json "$site"/openvino/include "$site"/openvino/cmake

# Triton looks for the stub here; otherwise jpeg-serve copies it at each start.
cp "$site/pytriton/tritonserver/python_backend_stubs/$version/triton_python_backend_stub" \
  "$site/pytriton/tritonserver/backends/python/"
