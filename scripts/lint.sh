#!/usr/bin/env bash
# All checks that do not run the code. Usage: make lint
set -euo pipefail
cd "$(dirname "$0")/.."
ruff format --check .
ruff check .
mapfile -t shells < <(git ls-files '*.sh')
shellcheck --external-sources "${shells[@]}" .ci/run
hadolint Dockerfile
lint-imports
bandit --quiet --configfile pyproject.toml --recursive contract preprocess postprocess runtime build serve client bench \
  scripts model_repository backends deploy
mypy contract/jpeg_contract preprocess/jpeg_preprocess postprocess/jpeg_postprocess runtime/jpeg_runtime \
  build/jpeg_build serve/jpeg_serve client/jpeg_client client/jpeg_web bench/jpeg_bench \
  scripts/demo.py scripts/renew_configs.py scripts/hatch_build.py scripts/accuracy*.py scripts/site_hooks.py scripts/reference/*.py bench/classifiers.py bench/decode_cost.py bench/shared_memory.py bench/web_cost.py bench/comparison/*.py bench/faults/*.py deploy/image/sbom.py
# Tests take fixtures of every type: their bodies are checked, their signatures may be left open.
mypy --allow-untyped-defs --allow-incomplete-defs --allow-untyped-calls --exclude tests/repository/assets tests
# Each of these is a program of its own, some named as Triton wants it: one by one, or their names would collide.
for model in model_repository/*/1/model.py backends/*/model.py examples/*/*.py; do
  mypy --no-error-summary "$model"
done
# The page's JavaScript: its types, which are JSDoc comments, and its format.
if [[ -x tests/web/node_modules/.bin/tsc && -x tests/web/node_modules/.bin/prettier ]]; then
  npm run --silent --prefix tests/web check
else
  missing="the page's JavaScript is not checked: that needs npm ci --prefix tests/web"
  if [[ ${JPEG_REQUIRE_TOOLS:-} == 1 ]]; then
    echo "lint: $missing, and JPEG_REQUIRE_TOOLS is 1" >&2
    exit 1
  fi
  echo "lint: $missing" >&2
fi
echo "lint: nothing found"
