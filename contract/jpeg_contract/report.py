"""model.json, the report on an artefact: its origin, its requirements, and the result of its check."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from jpeg_contract.artefacts import report_path
from jpeg_contract.errors import ReasonedError

SCHEMA_VERSION = 2
"""Format 1, of version 0.1, was checked less strictly: its artefacts are built again."""

# What msgspec raises for bytes that are no JSON, no UTF-8, or nested too deep.
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class ReportError(ReasonedError):
    """There is no report that can be used; the message is a sentence without its subject.

    Reasons: report_missing, report_unreadable, report_outdated, report_newer.
    """

    reason = "report_unreadable"


class ArtefactFile(msgspec.Struct, frozen=True, kw_only=True):
    """The artefact. file: name; bytes: size of all its files; sha256: of `artefact_sha256`."""

    file: str
    sha256: str
    bytes: int = 0


class Requirements(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The environment that the artefact requires; empty where it does not matter.

    Attributes:
        compute_capability: Of the GPU that it was built for, as "9.0".
        hardware_compatible: It runs on GPUs of Ampere and later.
        version_compatible: Later TensorRT versions of the same major load it.
        tensorrt: Version of the package; also torch, torch_tensorrt, tensorflow.
    """

    compute_capability: str = ""
    hardware_compatible: bool = False
    version_compatible: bool = False
    tensorrt: str = ""
    torch: str = ""
    torch_tensorrt: str = ""
    tensorflow: str = ""


class ConfigSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The artefact's part of its classifier's config; kept, so that going back to it is exact.

    Attributes:
        on_gpu: It needs a GPU.
        max_batch: The largest batch that it takes, None for any.
        parameters: By the native backend's names.
        engines: File names by compute capability, where there is one for each kind of GPU.
    """

    on_gpu: bool = False
    max_batch: int | None = None
    parameters: dict[str, str] = msgspec.field(default_factory=dict)
    engines: dict[str, str] = msgspec.field(default_factory=dict)


class WeightsSource(msgspec.Struct, frozen=True, kw_only=True):
    """Where the numbers of the network come from. sha256 is None for random weights."""

    source: str
    sha256: str | None = None


class ParityResult(msgspec.Struct, frozen=True, kw_only=True):
    """How far the artefact is from the network.

    Differences are of logits; agreement and overlap are over the photos.

    Attributes:
        photos: How many photos were compared.
        random_images: How many images of noise.
        largest_logit: Largest absolute logit of the network.
        max_abs_difference: Largest difference.
        mean_abs_difference: Mean difference.
        relative_difference: Largest difference, as a part of the largest logit.
        mean_difference: Mean difference, as a part of the largest logit.
        top1_agreement: Part of the photos with the same best class.
        top5_overlap: Part of the best five classes that are the network's, too.
        batches: The batch sizes that the artefact was run in, as the server runs them.
        neighbour_difference: Largest difference of one image's logits between these runs, as a part of the largest
            logit: whether an image's neighbours in a batch change its answer.
        most_photos_difference: Largest difference on all photos but the worst 5 %, as a part of the largest logit; with
            fewer than 20 photos on all of them. 0 in reports of earlier builds.
    """

    photos: int
    random_images: int
    largest_logit: float
    max_abs_difference: float
    mean_abs_difference: float
    relative_difference: float
    mean_difference: float
    top1_agreement: float
    top5_overlap: float
    batches: list[int] = msgspec.field(default_factory=list)
    neighbour_difference: float = 0.0
    most_photos_difference: float = 0.0


class Tolerance(msgspec.Struct, frozen=True):
    """The bounds of the check of one precision.

    Attributes:
        relative_difference: Largest difference of a logit, as a part of the network's largest absolute logit. It also
            bounds how far an image's logits may depend on its neighbours in a batch.
        outlier_difference: The same in the worst 5 % of the photos; None, as in reports of earlier builds,
            makes no exception.
        mean_difference: The same of the mean difference.
        top1_agreement: Least agreement, as a part of the photos.
        top5_overlap: Least overlap.
        tie: Classes whose logits by the network are nearer to each other than this part of the largest logit count as
            equal in rank: which of two equal logits is first says nothing about an artefact.
        noise: Whether images of noise count. Calibrated artefacts clip values that no photo reaches.
    """

    relative_difference: float
    mean_difference: float
    top1_agreement: float
    top5_overlap: float
    tie: float
    noise: bool = True
    outlier_difference: float | None = None


ComparedOn = Literal["photos", "calibration photos", "held-out calibration photos"]


class QuantisationTry(msgspec.Struct, frozen=True, kw_only=True):
    """One int8 form that a build compared with the network, in ONNX Runtime.

    Attributes:
        strategy: Where the ranges of its values come from.
        layers_in_int8: Number of layers.
        layers_in_float32: Likewise.
        top1_agreement: See ParityResult; likewise the next four.
        top5_overlap: Likewise.
        mean_difference: Likewise.
        most_photos_difference: Likewise.
        relative_difference: Likewise.
        fault: What is outside the tolerance; empty if it was taken.
    """

    strategy: str
    layers_in_int8: int
    layers_in_float32: int
    top1_agreement: float
    top5_overlap: float
    mean_difference: float
    most_photos_difference: float
    relative_difference: float
    fault: str = ""


class Quantisation(msgspec.Struct, frozen=True, kw_only=True):
    """How an int8 artefact was found.

    Attributes:
        strategy: Where the ranges of its values come from.
        layers_in_float32: Names of the layers that stay in float32.
        calibration_images: Number of images that the ranges come from.
        compared_images: Number of images that it was compared with the network on.
        compared_on: "photos" are those of --photos or of this project; "held-out calibration photos" did not take part
            in the calibration.
        tries: The forms that were tried, in this order; the last one was taken.
    """

    strategy: str
    layers_in_float32: list[str]
    calibration_images: int
    compared_images: int
    compared_on: ComparedOn
    tries: list[QuantisationTry] = msgspec.field(default_factory=list)


class KnownClass(msgspec.Struct, frozen=True, kw_only=True):
    """A class that the probe's photo may be given. score: probability by the artefact."""

    index: int
    label: str
    score: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The report on one artefact.

    It holds no path of the machine and no time: equal builds, equal reports. Unknown fields are left alone: a later
    minor version may add some.

    Attributes:
        schema_version: Of this format.
        recipe: Name of the recipe.
        recipe_sha256: Its digest.
        form: Name of the classifier form.
        precision: fp32, fp16, bf16 or int8.
        classes: Number of classes.
        input: Shape of one image, [height, width, 3].
        artefact: The file.
        requires: The environment that serves it.
        details: Form inside, profile, calibration, and the like.
        config: Its part of its classifier's config.
        weights: Where the network's numbers come from.
        parity: How far it is from the network.
        tolerance: The tolerance of the check.
        probe: The classes that the artefact may give the photo of `jpeg-serve probe`, best first.
        versions: Of the tools that made it.
        pixels_sha256: Digest of what decides the pixels that the network takes (`PreprocessSettings.pixels_sha256`);
            empty in reports of earlier builds.
        labels_sha256: Digest of what decides what the network's outputs mean (`PostprocessSettings.labels_sha256`);
            likewise.
        requested: The options of the build, so that a build with others is not taken for this one.
        images_per_second: Measured for each precision by `--precision auto`; None for one left out.
        quantisation: How an int8 artefact was found; None for others, and in reports of earlier builds.
        runs_code: Building it runs Python code that the recipe names; False in reports of earlier builds.
    """

    schema_version: int
    recipe: str
    recipe_sha256: str
    form: str
    precision: str
    classes: int
    input: list[int]
    artefact: ArtefactFile
    requires: Requirements = Requirements()
    details: dict[str, Any] = msgspec.field(default_factory=dict)
    config: ConfigSettings = ConfigSettings()
    weights: WeightsSource
    parity: ParityResult
    tolerance: Tolerance
    probe: list[KnownClass] = msgspec.field(default_factory=list)
    versions: dict[str, str] = msgspec.field(default_factory=dict)
    pixels_sha256: str = ""
    labels_sha256: str = ""
    requested: dict[str, Any] = msgspec.field(default_factory=dict)
    images_per_second: dict[str, float | None] | None = None
    quantisation: Quantisation | None = None
    runs_code: bool = False


class _Schema(msgspec.Struct):
    """The fields that identify a report, in every format."""

    schema_version: int | None = None
    format: int | None = None


def write_report(report: Report, artefact: Path) -> None:
    """Write the report beside its artefact, as JSON."""
    text = msgspec.json.format(msgspec.json.encode(report), indent=2)
    report_path(artefact).write_bytes(text + b"\n")


def to_json(report: Report) -> dict[str, Any]:
    """Return the report as plain values."""
    plain: dict[str, Any] = msgspec.to_builtins(report)
    return plain


def read_report(artefact: Path) -> Report:
    """Read the report on an artefact.

    Raises:
        ReportError: It is missing, damaged, or of another format.
    """
    unknown = f"so that nobody knows what {artefact.name} is"
    try:
        text = report_path(artefact).read_bytes()
    except FileNotFoundError as error:
        raise ReportError(f"is missing, {unknown}", reason="report_missing") from error
    except OSError as error:
        raise ReportError(f"cannot be read ({error.strerror}), {unknown}") from error
    try:
        schema = msgspec.json.decode(text, type=_Schema)
    except _NOT_JSON as error:
        raise ReportError(f"is not JSON that can be read, {unknown}") from error
    if schema.schema_version is None and schema.format is not None:
        raise ReportError(
            "was written by an earlier jpeg-build, which checked less than this one", reason="report_outdated"
        )
    if schema.schema_version is None or schema.schema_version < 1:
        raise ReportError("is not a report of jpeg-build")
    if schema.schema_version > SCHEMA_VERSION:
        raise ReportError(
            f"was written by a newer jpeg-build (schema version {schema.schema_version}, and this one knows "
            f"{SCHEMA_VERSION})",
            reason="report_newer",
        )
    try:
        return msgspec.json.decode(text, type=Report)
    except msgspec.ValidationError as error:
        raise ReportError(f"is damaged ({error})") from error
    except _NOT_JSON as error:  # in a part that the identifying fields do not need
        raise ReportError(f"is not JSON that can be read, {unknown}") from error


def find_report(artefact: Path) -> Report | None:
    """Read the report on an artefact; None if there is none that can be used."""
    try:
        return read_report(artefact)
    except ReportError:
        return None
