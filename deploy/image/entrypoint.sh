#!/bin/sh
# Entrypoint of both server images. With nothing, or with options of jpeg-serve, it serves; anything else is run as it
# is: docker run IMAGE jpeg-serve check.
#
#   MODEL_REPOSITORY   what to serve (/models). If it holds no model yet, it gets the one in the image.
#   ENGINE_PRECISION   fp32, fp16 or int8: build a TensorRT engine of this precision, if there is none for the GPU
#                      that is here; empty: never. The cpu image does not set it.
#   ENGINE_OPTIONS     more options of jpeg-build for it, as "--max-batch 128 --calibration /photos".
#   RECIPE             the recipe that the image was built from.
set -eu
home=${JPEG_HOME:-/opt/triton-jpeg-classifier}
models=${MODEL_REPOSITORY:-/models}
wanted=$models/.choose-tensorrt # there until the first engine is there

say() { echo "entrypoint: $*" >&2; }
fail() {
  say "$*"
  exit 1
}

# A shell that waits for a child in the foreground does not hear the signal that is to stop the container.
run() {
  "$@" &
  child=$!
  trap 'kill -TERM "$child" 2> /dev/null || true; wait "$child" || true; say "stopped"; exit 143' TERM INT
  status=0
  wait "$child" || status=$?
  trap - TERM INT
  return "$status"
}

fill_models() {
  if [ -d "$models/.filling" ]; then # a container that was killed while it did this
    say "$models: finishing what was begun"
  elif [ -n "$(find "$models" -mindepth 2 -maxdepth 2 -name config.pbtxt -print -quit)" ]; then
    return
  elif [ ! -w "$models" ]; then
    fail "$models holds no model and cannot be written by user $(id -u): mount a model repository, or let user \
$(id -u) write there (chown $(id -u), or fsGroup in Kubernetes)"
  else
    say "$models holds no model: copying the repository of $RECIPE into it"
    mkdir "$models/.filling"
    if [ -n "${ENGINE_PRECISION:-}" ]; then : > "$wanted"; fi
  fi
  cp -R "$home/model_repository/." "$models/.filling/"
  for model in "$models"/.filling/*; do
    rm -rf "${models:?}/${model##*/}"
    mv "$model" "$models/"
  done
  rm -rf "$models/.filling"
}

build_engines() {
  found=$(python3 "$home/serve/jpeg_serve/gpus.py")
  kinds=$(echo "$found" | python3 -c 'import json, sys; print(*json.load(sys.stdin)["capabilities"])')
  if [ -z "$kinds" ]; then
    why=$(echo "$found" | python3 -c 'import json, sys; print(json.load(sys.stdin)["why_none"])')
    say "no GPU ($why): no engine is built, and what the ensemble names is served as it is. For a GPU, run the" \
      "container with --gpus all"
    return
  fi
  built=""
  index=0
  for kind in $kinds; do
    case " $built " in
      *" $kind "*) ;;
      *)
        say "GPU $index, compute capability $kind: making sure of an engine in $ENGINE_PRECISION; the first time takes" \
          "minutes, and the server is not ready until then"
        # A name for this GPU, where there are others: jpeg-build builds for the first that it sees.
        visible=${CUDA_VISIBLE_DEVICES-all}
        if [ "$visible" = all ]; then visible=$index; fi
        # shellcheck disable=SC2086  # options are words
        run env "CUDA_VISIBLE_DEVICES=$visible" jpeg-build "$RECIPE" --model-repository "$models" \
          --from-onnx --backend tensorrt --precision "$ENGINE_PRECISION" --tool trtexec --per-gpu --if-needed \
          --timing-cache "$models/.timing-$kind" ${ENGINE_OPTIONS:-} > /dev/null ||
          fail "the engine was not built; the lines above say why. ENGINE_PRECISION= serves without one, on the CPU"
        built="$built $kind"
        ;;
    esac
    index=$((index + 1))
  done
  if [ -e "$wanted" ]; then
    run jpeg-build use tensorrt --model-repository "$models"
    rm "$wanted"
  fi
}

case "${1:-}" in
  '' | -*) ;;
  *) exec "$@" ;;
esac

if [ -w "$models" ]; then
  # Containers that share a volume take turns: the second one finds everything in place.
  exec 9> "$models/.entrypoint.lock"
  flock 9
fi
fill_models
if [ -n "${ENGINE_PRECISION:-}" ]; then build_engines; fi
exec 9>&-
exec jpeg-serve --model-repository "$models" --address 0.0.0.0 "$@"
