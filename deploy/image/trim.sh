#!/bin/sh
# Removes from an environment what a server on CPUs cannot use. Usage: trim.sh VENV
set -eu
site=$(echo "$1"/lib/python3.*/site-packages)
version=$("$1/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# Triton's workers for other Pythons, with the shared library of one of them that the wheel brings.
for stub in "$site"/pytriton/tritonserver/python_backend_stubs/*; do
  if [ "${stub##*/}" != "$version" ]; then rm -r "$stub"; fi
done
rm -f "$site"/nvidia_pytriton.libs/libpython3-*.so.*

# OpenVINO's plugins for Intel's GPUs and NPUs, the first one's kernels, and headers for C++.
rm -rf "$site"/openvino/libs/libopenvino_intel_gpu_plugin.so "$site"/openvino/libs/libopenvino_intel_npu_plugin.so \
  "$site"/openvino/libs/cache.json "$site"/openvino/include "$site"/openvino/cmake

# The worker for this Python goes where Triton looks for it: nothing has to be copied to be run when the server starts.
cp "$site/pytriton/tritonserver/python_backend_stubs/$version/triton_python_backend_stub" \
  "$site/pytriton/tritonserver/backends/python/"
