# ruff: noqa: E501  # one row for each case
"""Mistakes in the static repository, one each, and changes that are unusual but right."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from repository.edits import Change, append, change, merge, parameter, replace
from support import edit

ENSEMBLE, PREPROCESS, CLASSIFIER, POSTPROCESS = "jpeg_classifier", "preprocess", "classifier_onnx", "postprocess"


@dataclass(frozen=True)
class Mistake:
    """A mistake.

    Attributes:
        change: Makes it.
        reasons: Of the problems that it leads to, in their order.
        loads: Whether tritonserver 2.51 loads it all the same, as something else than is meant.
    """

    change: Change
    reasons: list[str]
    loads: bool = False


def warm_up(config, *, clear="model_warmup"):
    return merge(CLASSIFIER, f"model_warmup {{ {config} }}", clear=clear)


PIXELS = 'inputs {{ key: "{name}" value {{ data_type: {type} dims: [{dims}] {data} }} }}'


def pixels(name="input__0", kind="TYPE_UINT8", dims="224, 224, 3", data="zero_data: true"):
    return PIXELS.format(name=name, type=kind, dims=dims, data=data)


def instances(text, model=CLASSIFIER):
    return merge(model, f"instance_group {{ {text} }}", clear="instance_group")


def batching(text):
    return merge(CLASSIFIER, f"dynamic_batching {{ {text} }}")


def without(model, name):
    def remove(config):
        del config.parameters[name]

    return change(model, remove)


def tensor(model, kind, **fields):
    def edit_tensor(config):
        message = getattr(config, kind)[0]
        for name, value in fields.items():
            if isinstance(value, list):
                message.ClearField(name)
                getattr(message, name).extend(value)
            else:
                setattr(message, name, value)

    return change(model, edit_tensor)


def add_tensor(model, kind, text):
    return merge(model, f"{kind} {{ {text} }}")


def labels_in_a_folder(repository):
    (repository / CLASSIFIER / "labels.txt").unlink()
    (repository / CLASSIFIER / "labels.txt").mkdir()


# Each is one mistake in the static repository, and the reasons of the problems that it leads to.
MISTAKES = {
    # Settings of preprocess and postprocess.
    "decoder": Mistake(parameter(PREPROCESS, "decoder", "quick"), ["invalid_setting"]),
    "antialias": Mistake(parameter(PREPROCESS, "antialias", "maybe"), ["invalid_setting"]),
    "unknown setting": Mistake(parameter(PREPROCESS, "resizesize", "1"), ["unknown_parameter"]),
    "missing setting": Mistake(without(PREPROCESS, "resize_size"), ["missing_parameter"]),
    "geometry": Mistake(parameter(PREPROCESS, "crop_size", "300,300"), ["invalid_geometry"]),
    "crop size": Mistake(parameter(PREPROCESS, "crop_size", "200,200"), ["crop_size_mismatch"], loads=True),
    "limit": Mistake(parameter(PREPROCESS, "max_pixels", "0"), ["invalid_setting"]),
    "default_k": Mistake(parameter(POSTPROCESS, "default_k", "0"), ["invalid_setting"]),
    "no text": Mistake(append(PREPROCESS, 'parameters { key: "EXTRA" value { } }'), ["parameter_without_value"], loads=True),
    # Parameters of classifiers.
    "threads": Mistake(parameter(CLASSIFIER, "intra_op_thread_count", "-1"), ["invalid_setting"]),
    "execution mode": Mistake(parameter(CLASSIFIER, "execution_mode", "5"), ["invalid_setting"]),
    "no value": Mistake(parameter(CLASSIFIER, "intra_op_thread_count", ""), ["parameter_without_value", "invalid_setting"]),
    "graph level": Mistake(merge(CLASSIFIER, "optimization { graph { level: 7 } }"), ["graph_level"]),
    "tensors on the CPU": Mistake(parameter(CLASSIFIER, "FORCE_CPU_ONLY_INPUT_TENSORS", "maybe"), ["invalid_setting"]),
    # Batching and scheduling.
    "preferred batch": Mistake(batching("preferred_batch_size: [128]"), ["preferred_batch_size"]),
    "preferred batch 0": Mistake(batching("preferred_batch_size: [0]"), ["preferred_batch_size"]),
    "default priority": Mistake(batching("priority_levels: 2"), ["priority_level"]),
    "priority of a policy": Mistake(batching("priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 5 value { } }"), ["priority_level"]),
    "ordered priorities": Mistake(batching("priority_levels: 2 default_priority_level: 1 preserve_ordering: true"), ["priority_level"]),
    "sequences": Mistake(merge(CLASSIFIER, "sequence_batching { }", clear="dynamic_batching"), ["scheduling"], loads=True),
    "decoupled": Mistake(merge(CLASSIFIER, "model_transaction_policy { decoupled: true }"), ["scheduling"]),
    "batch input": Mistake(merge(CLASSIFIER, 'batch_input { kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_FP32 source_input: "input__0" }'), ["batching"], loads=True),
    # Instances.
    "no instance": Mistake(replace(CLASSIFIER, "count: 1", "count: 0"), ["instance_count"], loads=True),
    "negative instances": Mistake(instances("count: -1"), ["instance_count"], loads=True),
    "KIND_MODEL": Mistake(instances("kind: KIND_MODEL"), ["instance_kind"]),
    "KIND_MODEL of preprocess": Mistake(instances("kind: KIND_MODEL", PREPROCESS), ["instance_kind"], loads=True),
    "no GPU": Mistake(instances("kind: KIND_GPU"), ["gpu_missing"]),
    "no such GPU": Mistake(instances("gpus: [0]"), ["gpu_missing"]),
    "GPU of a CPU": Mistake(instances("kind: KIND_CPU gpus: [0]"), ["instance_kind", "gpu_missing"]),
    "profile": Mistake(instances('count: 1 kind: KIND_CPU profile: ["0"]'), ["instance_profile"]),
    # Warm-up requests.
    "warm-up shape": Mistake(warm_up(f"batch_size: 1 {pixels(dims='10, 10, 3')}"), ["warm_up"]),
    "warm-up rank": Mistake(warm_up(f"batch_size: 1 {pixels(dims='224, 224')}"), ["warm_up"]),
    "warm-up of any size": Mistake(warm_up(f"batch_size: 1 {pixels(dims='-1, 224, 3')}"), ["warm_up"]),
    "warm-up type": Mistake(warm_up(f"batch_size: 1 {pixels(kind='TYPE_FP32')}"), ["warm_up"]),
    "warm-up input": Mistake(warm_up(f"batch_size: 1 {pixels()} {pixels('more')}"), ["warm_up"], loads=True),
    "warm-up without input": Mistake(warm_up("batch_size: 1"), ["warm_up"]),
    "warm-up without data": Mistake(warm_up(f"batch_size: 1 {pixels(data='')}"), ["warm_up"]),
    "warm-up batch": Mistake(warm_up(f"batch_size: 65 {pixels()}"), ["warm_up"]),
    "warm-up file": Mistake(warm_up(f"""batch_size: 1 {pixels(data='input_data_file: "f"')}"""), ["warm_up_file"]),
    "warm-up of preprocess": Mistake(merge(PREPROCESS, """model_warmup { batch_size: 1 inputs { key: "IMAGE" value { data_type: TYPE_STRING dims: [1] zero_data: true } } }"""), ["warm_up"]),
    # Tensors of the contract.
    "classifier's type": Mistake(tensor(CLASSIFIER, "input", data_type=11), ["warm_up", "tensor_type", "edge_type"]),
    "classifier's name": Mistake(tensor(CLASSIFIER, "output", name="logits"), ["tensor_unknown", "tensor_missing", "step_tensor_unknown", "edge_without_source"]),
    "classifier's second input": Mistake(add_tensor(CLASSIFIER, "input", 'name: "more" data_type: TYPE_UINT8 dims: [1]'), ["warm_up", "tensor_unknown", "step_input_missing", "artefact_shape"]),
    "classifier's reshape": Mistake(add_tensor(CLASSIFIER, "input", 'name: "input__0" data_type: TYPE_UINT8 dims: [224, 224, 3] reshape { shape: [150528] }'), ["tensor_duplicate", "tensor_option"]),
    "ragged": Mistake(tensor(CLASSIFIER, "input", allow_ragged_batch=True), ["tensor_option"], loads=True),
    "preprocess' type": Mistake(tensor(PREPROCESS, "output", data_type=11), ["tensor_type", "edge_type"]),
    "preprocess' shape": Mistake(tensor(PREPROCESS, "output", dims=[240, 240, 3]), ["crop_size_mismatch", "edge_shape"]),
    "postprocess' output": Mistake(add_tensor(POSTPROCESS, "output", 'name: "MORE" data_type: TYPE_FP32 dims: [1]'), ["tensor_unknown"], loads=True),
    # Fields that Triton refuses for ensembles.
    "ensemble's instances": Mistake(merge(ENSEMBLE, "instance_group { count: 1 }"), ["ensemble_field"]),
    "ensemble's optimization": Mistake(merge(ENSEMBLE, "optimization { }"), ["ensemble_field"]),
    "ensemble's backend": Mistake(merge(ENSEMBLE, 'backend: "python"'), ["ensemble_field"]),
    "ensemble's platform": Mistake(replace(ENSEMBLE, 'platform: "ensemble"\n', ""), ["platform_mismatch"]),
    # Files.
    "no artefact": Mistake(lambda r: (r / CLASSIFIER / "1/model.onnx").unlink(), ["artefact_missing"]),
    "altered artefact": Mistake(lambda r: (r / CLASSIFIER / "1/model.onnx").write_bytes(b"x"), ["artefact_altered"]),
    "no version": Mistake(lambda r: shutil.rmtree(r / CLASSIFIER / "1"), ["version_missing"]),
    "no report": Mistake(lambda r: (r / CLASSIFIER / "1/model.json").unlink(), ["report_missing"], loads=True),
    "no JSON": Mistake(lambda r: (r / CLASSIFIER / "1/model.json").write_text("{"), ["report_unreadable"], loads=True),
    "no labels": Mistake(lambda r: (r / POSTPROCESS / "labels.txt").unlink(), ["invalid_labels"]),
    "too few labels": Mistake(lambda r: edit(r / POSTPROCESS / "labels.txt", "tench\n", ""), ["invalid_labels"]),
    "blank label": Mistake(lambda r: edit(r / POSTPROCESS / "labels.txt", "tench\n", "\n"), ["invalid_labels"]),
    "labels in Latin-1": Mistake(lambda r: (r / POSTPROCESS / "labels.txt").write_bytes(b"\xe9\n" * 1000), ["invalid_labels"]),
    "no labels of the classifier": Mistake(lambda r: (r / CLASSIFIER / "labels.txt").unlink(), ["invalid_labels"]),
    "labels in a folder": Mistake(labels_in_a_folder, ["invalid_labels"]),
    "no config": Mistake(lambda r: (r / PREPROCESS / "config.pbtxt").unlink(), ["config_missing"]),
    "no model.py": Mistake(lambda r: (r / PREPROCESS / "1/model.py").unlink(), ["model_missing"]),
    "invalid model.py": Mistake(lambda r: (r / PREPROCESS / "1/model.py").write_text("def (:\n"), ["model_invalid"]),
    "model.py of zeros": Mistake(lambda r: (r / PREPROCESS / "1/model.py").write_bytes(b"x = 1\0\n"), ["model_invalid"]),
    "model.py without model": Mistake(lambda r: (r / PREPROCESS / "1/model.py").write_text("x = 1\n"), ["model_invalid"]),
    "no version of the ensemble": Mistake(lambda r: shutil.rmtree(r / ENSEMBLE / "1"), ["version_missing"]),
}  # fmt: skip


# Each is unusual, and right.
UNUSUAL = {
    "labels with a byte order mark": lambda r: (r / POSTPROCESS / "labels.txt").write_bytes(b"\xef\xbb\xbf" + (r / POSTPROCESS / "labels.txt").read_bytes()),
    "no count": instances(""),
    "zeros elsewhere": instances('kind: KIND_CPU rate_limiter { resources { name: "R" count: 0 } }'),
    "zeros in a comment": replace(CLASSIFIER, "count: 1", "kind: KIND_CPU # count: 0"),
    "two groups": instances("count: 1 kind: KIND_CPU } instance_group { count: 2 kind: KIND_CPU"),
    "no instance group": merge(CLASSIFIER, "", clear="instance_group"),
    "no scheduler": merge(CLASSIFIER, "", clear="dynamic_batching"),
    "priorities": batching("priority_levels: 2 default_priority_level: 1"),
    "preferred batches": batching("preferred_batch_size: [4, 64]"),
    "a smaller ensemble": replace(ENSEMBLE, "max_batch_size: 64", "max_batch_size: 8"),
    "parameters of Triton": parameter(PREPROCESS, "SHM_DEFAULT_BYTE_SIZE", "1048576"),
    "parameters of ONNX Runtime": parameter(CLASSIFIER, "session.intra_op.allow_spinning", "0"),
    "a platform alone": merge(CLASSIFIER, "", clear="backend"),
    "a backend alone": merge(CLASSIFIER, "", clear="platform"),
    "no name": merge(CLASSIFIER, "", clear="name"),
    "its library": merge(CLASSIFIER, 'runtime: "model.py"'),
    "random warm-up": warm_up(f"batch_size: 64 {pixels(data='random_data: true')}"),
    "a response cache": merge(CLASSIFIER, "response_cache { enable: true }"),
}  # fmt: skip
