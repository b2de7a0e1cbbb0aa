#!/bin/sh
# Entrypoint of both server images. Without arguments, or with options of jpeg-serve, it serves; it runs any other
# command as given: docker run IMAGE jpeg-serve check.
#
#   MODEL_REPOSITORY   the model repository to serve (/models). If it holds no model, the image's repository is copied.
#   ENGINE_PRECISION   fp32, fp16 or int8: build a TensorRT engine of this precision for each kind of GPU that has none,
#                      if the repository is the image's own. Empty: build none. The cpu image does not set it.
#   ENGINE_OPTIONS     further options of jpeg-build for the engine: "--max-batch 128 --calibration /photos".
#   RECIPE             the recipe that the image was built from.
set -eu
home=${JPEG_HOME:-/opt/triton-jpeg-classifier}
models=${MODEL_REPOSITORY:-/models}
lock=$models/.entrypoint.lock
select=$models/.choose-tensorrt # exists until the first engine is built: the ensemble then selects TensorRT
source_report=classifier_onnx/1/model.json # the artefact that engines are built from

log() { echo "entrypoint: $*" >&2; }
fail() {
  log "$*"
  exit 1
}

# A shell defers traps while a child runs in the foreground, and the kernel delivers to process 1 of a container only
# the signals that it handles. So children run in the background.
running=""
stop() {
  if [ -n "$running" ] && [ -n "${!:-}" ]; then
    begun=$!
    kill -TERM "$begun" 2> /dev/null || true
    # Again after a second: a child that has just been forked may miss the first signal. SIGKILL after 20 more.
    (sleep 1; kill -TERM "$begun"; sleep 20; kill -KILL "$begun") > /dev/null 2>&1 &
    wait "$begun" || true
  fi
  log "stopped"
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

# Containers that share a volume take turns: the second one finds the volume filled and the engines built.
take_turn() {
  [ -w "$models" ] || return 0
  # For all users: containers that share a volume may run as different ones, and each must be able to write to it.
  if ! [ -e "$lock" ]; then (umask 0 && : > "$lock") 2> /dev/null || true; fi
  # For writing where possible: NFS refuses an exclusive lock on a file that is open for reading only.
  if [ -w "$lock" ]; then
    exec 9<> "$lock"
  elif [ -r "$lock" ]; then
    exec 9< "$lock"
  else
    log "cannot open $lock: continuing without a lock"
    return
  fi
  if ! flock --nonblock 9; then
    log "waiting: another container holds the lock of $models"
    run flock 9 || log "the file system of $models has no locks: continuing without a lock"
  fi
}

holds_models() {
  # The slash follows a link; -L because the models may be links, too.
  [ -n "$(find -L "$models/" -mindepth 2 -maxdepth 2 -name config.pbtxt -print 2> /dev/null | head -n 1)" ]
}

fill_models() {
  if [ -d "$models/.filling" ]; then # a container was killed while it copied
    log "$models: completing an interrupted copy"
  elif holds_models; then
    return
  elif ! [ -w "$models" ]; then
    fail "$models holds no model and user $(id -u) cannot write to it: mount a model repository, or make it writable" \
      "for user $(id -u) (chown $(id -u), or fsGroup in Kubernetes)"
  else
    for model in "$home"/model_repository/*; do
      if [ -e "$models/${model##*/}" ]; then
        fail "$models/${model##*/} exists but holds no model: move it away"
      fi
    done
    log "$models holds no model: copying the repository of $RECIPE into it"
    if [ -n "${ENGINE_PRECISION:-}" ]; then : > "$select"; fi
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
  if ! cmp -s "$home/model_repository/$source_report" "$models/$source_report"; then
    log "$models is not the repository of this image: no engine is built." \
      "jpeg-build RECIPE --from-onnx --backend tensorrt builds one"
    return
  fi
  # {"gpus": [["NVIDIA H100", "9.0"]], "devices": ["0"], "why_none": ""}
  found=$(timeout 60 python3 "$home/contract/jpeg_contract/gpus.py") ||
    fail "the NVIDIA driver does not respond: run nvidia-smi in this container and on the host"
  # "9.0=0 8.6=1": of each GPU, its kind and what CUDA_VISIBLE_DEVICES calls it.
  gpus=$(echo "$found" | python3 -c 'import json, sys; found = json.load(sys.stdin)
for gpu, device in zip(found["gpus"], found["devices"]): print(f"{gpu[1]}={device}")')
  if [ -z "$gpus" ]; then
    why=$(echo "$found" | python3 -c 'import json, sys; print(json.load(sys.stdin)["why_none"])')
    log "no GPU ($why): no engine is built, and the ensemble's current classifier is served. For a GPU, run the" \
      "container with --gpus all"
    return
  fi
  built=""
  index=0
  for gpu in $gpus; do
    kind=${gpu%%=*}
    case " $built " in
      *" $kind "*) ;;
      *)
        log "GPU $index, compute capability $kind: building an engine in $ENGINE_PRECISION unless there is one; this" \
          "takes minutes, and the server is not ready until then"
        set -f # the options are words, not file patterns
        # Restrict the process to this GPU: jpeg-build builds for the first GPU it finds.
        # shellcheck disable=SC2086
        run env "CUDA_VISIBLE_DEVICES=${gpu#*=}" jpeg-build "$RECIPE" --model-repository "$models" \
          --from-onnx --backend tensorrt --precision "$ENGINE_PRECISION" --tool trtexec --per-gpu --if-needed \
          --timing-cache "$models/.timing-$kind" ${ENGINE_OPTIONS:-} >&2 ||
          fail "the engine was not built, see the lines above. ENGINE_PRECISION= serves without one, on the CPU"
        set +f
        built="$built $kind"
        ;;
    esac
    index=$((index + 1))
  done
  if [ -e "$select" ]; then
    run jpeg-build use tensorrt --model-repository "$models" >&2
    rm "$select"
  fi
}

case "${1:-}" in
  '' | -*) ;;
  # These commands read the repository: fill a new volume first.
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
# The container listens on all its interfaces. Its network decides who reaches them: the gateway on an internal network,
# or a port published on 127.0.0.1 (docs/image.md). A caller that passes an address decides that itself.
for option; do
  case "$option" in
    --) break ;;
    --address | --address=*) exec jpeg-serve --model-repository "$models" "$@" ;;
  esac
done
exec jpeg-serve --model-repository "$models" --address 0.0.0.0 --behind-gateway "$@"
