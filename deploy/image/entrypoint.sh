#!/bin/sh
# Entrypoint of both server images. With nothing, or with options of jpeg-serve, it serves; anything else is run as it
# is: docker run IMAGE jpeg-serve check.
#
#   MODEL_REPOSITORY   what to serve (/models). If it holds no model yet, it gets the one in the image.
#   ENGINE_PRECISION   fp32, fp16 or int8: build a TensorRT engine of this precision, if there is none for the GPU that
#                      is here and the repository is the image's own; empty: never. The cpu image does not set it.
#   ENGINE_OPTIONS     more options of jpeg-build for it, as "--max-batch 128 --calibration /photos".
#   RECIPE             the recipe that the image was built from.
set -eu
home=${JPEG_HOME:-/opt/triton-jpeg-classifier}
models=${MODEL_REPOSITORY:-/models}
lock=$models/.entrypoint.lock
wanted=$models/.choose-tensorrt # there until the first engine is there
checked=classifier_onnx/1/model.json # what engines are built from

say() { echo "entrypoint: $*" >&2; }
fail() {
  say "$*"
  exit 1
}

# A shell that waits for a child in the foreground does not hear the signal that is to stop the container; and the first
# process of a container gets no signal that it has not asked for.
running=""
stop() {
  if [ -n "$running" ] && [ -n "${!:-}" ]; then
    begun=$!
    kill -TERM "$begun" 2> /dev/null || true
    # Once more: a child that is just being started may miss the first one. And not for ever.
    (sleep 1; kill -TERM "$begun"; sleep 20; kill -KILL "$begun") > /dev/null 2>&1 &
    wait "$begun" || true
  fi
  say "stopped"
  exit 143
}
trap stop TERM INT
run() {
  running=yes
  "$@" &
  status=0
  wait "$!" || status=$?
  running=""
  return "$status"
}

# Containers that share a volume take turns: the second one finds everything in place.
take_turn() {
  [ -w "$models" ] || return 0
  if ! [ -e "$lock" ]; then (: > "$lock") 2> /dev/null || true; fi
  if ! [ -r "$lock" ]; then
    say "$lock cannot be used: going on without it"
    return
  fi
  exec 9< "$lock"
  if ! flock --nonblock 9; then
    say "waiting: another container works on $models"
    run flock 9 || say "$models knows no locks: going on without"
  fi
}

holds_models() {
  # With the slash, through a link; -L, since the models may be links, too.
  [ -n "$(find -L "$models/" -mindepth 2 -maxdepth 2 -name config.pbtxt -print 2> /dev/null | head -n 1)" ]
}

fill_models() {
  if [ -d "$models/.filling" ]; then # a container that was killed while it did this
    say "$models: finishing what was begun"
  elif holds_models; then
    return
  elif ! [ -w "$models" ]; then
    fail "$models holds no model and cannot be written by user $(id -u): mount a model repository, or let user" \
      "$(id -u) write there (chown $(id -u), or fsGroup in Kubernetes)"
  else
    for model in "$home"/model_repository/*; do
      if [ -e "$models/${model##*/}" ]; then
        fail "$models/${model##*/} is there, but holds no model: move it away"
      fi
    done
    say "$models holds no model: copying the repository of $RECIPE into it"
    if [ -n "${ENGINE_PRECISION:-}" ]; then : > "$wanted"; fi
    mkdir "$models/.filling"
  fi
  cp -R "$home/model_repository/." "$models/.filling/"
  for model in "$models"/.filling/*; do
    rm -rf "${models:?}/${model##*/}"
    mv "$model" "$models/"
  done
  rm -rf "$models/.filling"
}

build_engines() {
  if ! cmp -s "$home/model_repository/$checked" "$models/$checked"; then
    say "$models is not the repository of this image: it is served as it is, and no engine is built." \
      "jpeg-build RECIPE --from-onnx --backend tensorrt builds one"
    return
  fi
  found=$(timeout 60 python3 "$home/serve/jpeg_serve/gpus.py") ||
    fail "NVIDIA's driver does not answer: nvidia-smi in this container and on the machine may say more"
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
        set -f # options are words, and no patterns of files
        # shellcheck disable=SC2086
        run env "CUDA_VISIBLE_DEVICES=$visible" jpeg-build "$RECIPE" --model-repository "$models" \
          --from-onnx --backend tensorrt --precision "$ENGINE_PRECISION" --tool trtexec --per-gpu --if-needed \
          --timing-cache "$models/.timing-$kind" ${ENGINE_OPTIONS:-} > /dev/null ||
          fail "the engine was not built; the lines above say why. ENGINE_PRECISION= serves without one, on the CPU"
        set +f
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
  # They have something to look at, also in a new volume.
  jpeg-serve | jpeg-build)
    take_turn
    fill_models
    exec 9<&-
    exec "$@"
    ;;
  *) exec "$@" ;;
esac
take_turn
fill_models
if [ -n "${ENGINE_PRECISION:-}" ]; then build_engines; fi
exec 9<&-
exec jpeg-serve --model-repository "$models" --address 0.0.0.0 "$@"
