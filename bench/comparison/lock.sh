#!/usr/bin/env bash
# Compiles peers/*/requirements.txt from the requirements.in beside each: every version pinned, every file hashed, no
# index address. Packages shared with this project (ONNX Runtime, NumPy, Pillow, msgspec and others; PyTorch for
# TorchServe) get the versions of requirements/demo.txt.
# Usage: bench/comparison/lock.sh [NAME ...]     (needs uv on the PATH)
set -euo pipefail
cd "$(dirname "$0")/../.."
peers=bench/comparison/peers
shared=$(mktemp)
trap 'rm -f "$shared"' EXIT
grep -E '^(cykooz-resizer|isal|msgspec|onnxruntime|numpy|pillow|torch)==' requirements/demo.txt | sed 's/ *\\$//' > "$shared"
for folder in "${@:-bentoml fastapi litserve mlserver ray_serve torchserve}"; do
  for name in $folder; do
    uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-annotate --no-emit-index-url \
      --constraints "$shared" --custom-compile-command bench/comparison/lock.sh \
      "$peers/$name/requirements.in" --output-file "$peers/$name/requirements.txt"
  done
done
