"""What TensorRT is told, version by version, and what is said where it is not there."""

import importlib.util
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from jpeg_build import trtexec
from jpeg_build.batches import any_batch
from jpeg_build.emitters import Options, tensorrt
from jpeg_build.errors import BuildError
from jpeg_build.gpu import cache_folder, find_gpu
from onnx import TensorProto, helper, numpy_helper

PROFILE = [
    "--minShapes=input__0:1x224x192x3",
    "--optShapes=input__0:8x224x192x3",
    "--maxShapes=input__0:32x224x192x3",
]


def always(version):
    shared = ["--preview=+profileSharing0806"] if version < (10,) else []
    return [*shared, "--profilingVerbosity=detailed", "--skipInference"]


def line(version, precision, *, options=None, fp32_layers=(), **more):
    return trtexec.command(
        version,
        precision=trtexec.precision_flags(version, precision, fp32_layers),
        options=options or Options(min_batch=1, opt_batch=8, max_batch=32),
        image=(224, 192),
        onnx=Path("a.onnx"),
        engine=Path("a.plan"),
        **{"timing_cache": None, **more},
    )


@pytest.mark.parametrize(
    ("version", "precision", "flags"),
    [
        ((8, 6, 1), "fp32", ["--noTF32"]),
        ((8, 6, 1), "fp16", ["--fp16"]),
        ((8, 6, 1), "int8", ["--fp16", "--int8"]),
        ((9, 3, 0), "fp16", ["--fp16"]),
        ((10, 3, 0), "fp32", ["--noTF32", "--stronglyTyped"]),
        ((10, 16, 1), "fp16", ["--stronglyTyped"]),
        ((10, 16, 1), "int8", ["--stronglyTyped"]),
        ((11, 0, 0), "fp32", ["--noTF32"]),
        ((11, 4, 1), "fp16", []),
        ((11, 4, 1), "int8", []),
    ],
)
def test_precision_is_told_as_each_version_wants_it(version, precision, flags):
    assert line(version, precision) == [
        "trtexec",
        "--onnx=a.onnx",
        "--saveEngine=a.plan",
        *PROFILE,
        *flags,
        *always(version),
    ]


@pytest.mark.parametrize("version", [(8, 6, 1), (10, 3, 0), (11, 4, 1)])
def test_what_the_user_chose_is_in_the_line(version):
    options = Options(
        min_batch=2,
        opt_batch=4,
        max_batch=8,
        workspace_bytes=3 * 2**29,
        builder_level=2,
        version_compatible=True,
        hardware_compatible=True,
    )
    made = line(
        version,
        "fp16",
        options=options,
        timing_cache=Path("cache.timing"),
        tactic_sources=["EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"],
    )
    assert made[3:6] == [f"--{name}Shapes=input__0:{n}x224x192x3" for name, n in (("min", 2), ("opt", 4), ("max", 8))]
    assert made[made.index("--memPoolSize=workspace:1536") :] == [
        "--memPoolSize=workspace:1536",
        "--builderOptimizationLevel=2",
        "--timingCacheFile=cache.timing",
        "--versionCompatible",
        "--hardwareCompatibilityLevel=ampere+",
        "--tacticSources=-CUBLAS,-CUBLAS_LT,-CUDNN,+EDGE_MASK_CONVOLUTIONS,+JIT_CONVOLUTIONS",
        *always(version),
    ]


def test_what_keeps_fp32_is_told_to_the_versions_that_do_not_read_it_in_the_file():
    kept = ["pixels/centred", "head"]
    assert line((8, 6, 1), "fp16", fp32_layers=kept)[-6:-3] == [
        "--precisionConstraints=prefer",
        "--layerPrecisions=pixels/centred:fp32,head:fp32",
        "--layerOutputTypes=pixels/centred:fp32,head:fp32",
    ]
    for version, precision in (((10, 3, 0), "fp16"), ((11, 0, 0), "fp16"), ((8, 6, 1), "int8")):
        assert not any("layer" in part for part in line(version, precision, fp32_layers=kept))


def test_layers_that_keep_fp32_are_found_in_the_file(tmp_path):
    half, full = TensorProto.FLOAT16, TensorProto.FLOAT

    def save(*, mixed):
        nodes = [
            helper.make_node("Cast", ["x"], ["full"], name="to_float", to=full),
            helper.make_node("Mul", ["full", "scale"], ["scaled"], name="normalise"),
            helper.make_node("Cast", ["scaled"], ["half"], name="to_half", to=half if mixed else full),
            helper.make_node("Relu", ["half"], ["active"], name="relu"),
            helper.make_node("Cast", ["active"], ["wide"], name="to_full", to=full),
            helper.make_node("Exp", ["wide"], ["y"], name="overflows"),
        ]
        graph = helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", 4])],
            [helper.make_tensor_value_info("y", full, ["N", 4])],
            [numpy_helper.from_array(np.ones(4, np.float32), "scale")],
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(tmp_path / "n.onnx"))
        return tensorrt.fp32_layers(tmp_path / "n.onnx")

    assert save(mixed=True) == ["normalise", "overflows"]
    assert save(mixed=False) == []


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v8601] # trtexec --help", (8, 6, 1)),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v9300] # trtexec", (9, 3, 0)),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec --help", (10, 3, 0)),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v101602] [b10] # trtexec --help", (10, 16, 2)),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v11.1.0.106] [b48] # trtexec", (11, 1, 0)),
        ("command not found", None),
    ],
)
def test_the_version_is_read_from_what_trtexec_says(banner, version):
    assert trtexec.parse_version(banner) == version


LOG = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec --onnx=a.onnx
[09/25/2026-10:00:00] [I] === Model Options ===
[09/25/2026-10:00:02] [\x1b[31mE\x1b[0m] [TRT] ModelImporter.cpp:771: ERROR: No importer registered for op: Mystery
[09/25/2026-10:00:02] [E] Failed to parse onnx file
[09/25/2026-10:00:02] [I] Finished parsing network model.
[09/25/2026-10:00:02] [E] Parsing model failed
[09/25/2026-10:00:02] [E] Engine set up failed
&&&& FAILED TensorRT.trtexec [TensorRT v100300] # trtexec --onnx=a.onnx
"""


def test_the_reason_is_the_last_error_that_names_one():
    assert trtexec.last_error(LOG) == "[TRT] ModelImporter.cpp:771: ERROR: No importer registered for op: Mystery"
    assert trtexec.last_error("[I] fine\n[E] Engine set up failed\n") == "Engine set up failed"
    assert trtexec.last_error("[I] fine\n") is None


def test_a_tool_that_fails_is_quoted_and_all_it_said_goes_to_stderr(capfd, tmp_path):
    (tmp_path / "log").write_text(LOG)
    with pytest.raises(BuildError, match=r"^trtexec could not build the engine: \[TRT\] ModelImporter.* op: Mystery$"):
        trtexec.run(Path("/bin/sh"), ["trtexec", "-c", f"cat {tmp_path}/log; exit 1"])
    out, err = capfd.readouterr()
    assert (out, err) == ("", LOG)
    with pytest.raises(BuildError, match="it ended with status 3"):
        trtexec.run(Path("/bin/sh"), ["trtexec", "-c", "exit 3"])
    trtexec.run(Path("/bin/sh"), ["trtexec", "-c", "echo done"])


def test_a_missing_trtexec_is_named_with_the_images_that_have_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(trtexec, "_USUAL_PLACE", tmp_path / "trtexec")
    with pytest.raises(BuildError, match=r"no trtexec on the PATH.*tensorrt:YY\.MM-py3 and .*tritonserver:YY\.MM-py3"):
        trtexec.find()


def has_gpu():
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).stdout.startswith(b"GPU")
    except FileNotFoundError:
        return False


@pytest.mark.skipif(has_gpu(), reason="says what is missing on a machine without a GPU; this one has one")
def test_without_a_gpu_the_error_says_where_to_build(tmp_path):
    with pytest.raises(
        BuildError, match=r"driver.*nvcr\.io/nvidia/tensorrt:.*No GPU is needed by the backends onnx and openvino"
    ):
        find_gpu()
    (tmp_path / "model.plan").write_bytes(b"engine")
    with pytest.raises(BuildError, match="built and run on the kind of GPU"):
        tensorrt.inspect(tmp_path / "model.plan")
    with pytest.raises(BuildError, match="built and run on the kind of GPU"), tensorrt.opened(tmp_path / "model.plan"):
        pass


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt") is not None, reason="says what is missing without TensorRT; it is here"
)
def test_without_tensorrt_the_error_names_the_package_and_the_image():
    with pytest.raises(BuildError, match=r"package tensorrt is not installed.*\[tensorrt\].*tensorrt:YY\.MM-py3"):
        tensorrt._tensorrt()


def test_the_timing_cache_is_replaced_only_by_a_build_that_went_well(tmp_path):
    cache, scratch = tmp_path / "there" / "my.timing", tmp_path / "scratch"
    scratch.mkdir()
    with tensorrt._timing_cache(cache, scratch) as copy:
        assert not copy.exists()
        copy.write_bytes(b"first")
    assert cache.read_bytes() == b"first"

    def fail():
        with tensorrt._timing_cache(cache, scratch) as copy:
            assert copy.read_bytes() == b"first"
            copy.write_bytes(b"half")
            raise BuildError("the builder failed")

    with pytest.raises(BuildError):
        fail()
    assert cache.read_bytes() == b"first"
    assert [file.name for file in cache.parent.iterdir()] == ["my.timing"]


def test_the_cache_folder_is_the_users_or_a_temporary_one(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache" / "jpeg_build"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cache_folder().parent.parent == tmp_path


def test_tactic_sources_are_names_that_tensorrt_knows():
    known = list(trtexec.TACTIC_SOURCES)
    assert tensorrt._tactic_sources(None, known) is None
    assert tensorrt._tactic_sources("edge_mask_convolutions, CUDNN", known) == ["EDGE_MASK_CONVOLUTIONS", "CUDNN"]
    with pytest.raises(BuildError, match="JPEG_BUILD_TACTIC_SOURCES names CUTLASS, but this TensorRT has CUBLAS, "):
        tensorrt._tactic_sources("CUTLASS", known)


def test_any_batch_goes_through_a_network_that_takes_some_sizes():
    sizes = []

    def run(pixels):
        sizes.append(len(pixels))
        return pixels.reshape(len(pixels), -1).astype(np.float32)

    pixels = np.arange(11, dtype=np.uint8).reshape(11, 1, 1, 1)
    assert np.array_equal(any_batch(run, 2, 4)(pixels), run(pixels))
    assert sizes[:3] == [4, 4, 3]
    assert np.array_equal(any_batch(run, 2, 4)(pixels[4:9]), run(pixels[4:9]))
    assert sizes[4:6] == [4, 2]
