#!/usr/bin/env bash
# Renews bench/peers/*/requirements.txt from the requirements.in beside each: every version pinned, every file hashed,
# no index address inside. What a peer shares with our server (ONNX Runtime, NumPy, Pillow; PyTorch for TorchServe) is
# pinned to what requirements/demo.txt has.
# Usage: bench/peers/lock.sh [NAME ...]     (needs uv on the PATH)
set -euo pipefail
cd "$(dirname "$0")/../.."
shared=$(mktemp)
trap 'rm -f "$shared"' EXIT
grep -E '^(onnxruntime|numpy|pillow|torch)==' requirements/demo.txt | sed 's/ *\\$//' > "$shared"
for folder in "${@:-bentoml fastapi litserve mlserver ray_serve torchserve}"; do
  for name in $folder; do
    uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-annotate --no-emit-index-url \
      --constraints "$shared" --custom-compile-command "bench/peers/lock.sh" \
      "bench/peers/$name/requirements.in" --output-file "bench/peers/$name/requirements.txt"
  done
done
