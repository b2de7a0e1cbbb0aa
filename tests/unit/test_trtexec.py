"""The commands of trtexec for each version of TensorRT, its errors, and the errors where it is missing."""

import importlib.util
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from jpeg_build.checks.batches import split_batches
from jpeg_build.emitters import Options, tensorrt, trtexec
from jpeg_build.errors import BuildError
from jpeg_build.gpu import cache_folder, require_gpu
from onnx import TensorProto, helper, numpy_helper

PROFILE = [
    "--minShapes=input__0:1x224x192x3",
    "--optShapes=input__0:8x224x192x3",
    "--maxShapes=input__0:32x224x192x3",
]


def common(version):
    shared = ["--preview=+profileSharing0806"] if version < (10,) else []
    return [*shared, "--profilingVerbosity=detailed", "--skipInference"]


def command(version, precision, *, options=None, fp32_layers=(), **more):
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
def test_each_version_gets_its_own_precision_flags(version, precision, flags):
    assert command(version, precision) == [
        "trtexec",
        "--onnx=a.onnx",
        "--saveEngine=a.plan",
        *PROFILE,
        *flags,
        *common(version),
    ]


@pytest.mark.parametrize("version", [(8, 6, 1), (10, 3, 0), (11, 4, 1)])
def test_the_options_are_in_the_command(version):
    options = Options(
        min_batch=2,
        opt_batch=4,
        max_batch=8,
        workspace_bytes=3 * 2**29,
        builder_level=2,
        version_compatible=True,
        hardware_compatible=True,
    )
    made = command(
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
        *common(version),
    ]


def test_layers_that_keep_fp32_are_flags_for_weakly_typed_versions_only():
    kept = ["pixels/centred", "head"]
    assert command((8, 6, 1), "fp16", fp32_layers=kept)[-6:-3] == [
        "--precisionConstraints=prefer",
        "--layerPrecisions=pixels/centred:fp32,head:fp32",
        "--layerOutputTypes=pixels/centred:fp32,head:fp32",
    ]
    for version, precision in (((10, 3, 0), "fp16"), ((11, 0, 0), "fp16"), ((8, 6, 1), "int8")):
        assert not any("layer" in part for part in command(version, precision, fp32_layers=kept))


def test_layers_that_keep_fp32_are_read_from_the_file(tmp_path):
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
def test_the_version_is_parsed_from_trtexecs_first_line(banner, version):
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


def test_the_error_is_the_last_one_that_names_a_cause():
    assert trtexec.last_error(LOG) == "[TRT] ModelImporter.cpp:771: ERROR: No importer registered for op: Mystery"
    assert trtexec.last_error("[I] fine\n[E] Engine set up failed\n") == "Engine set up failed"
    assert trtexec.last_error("[I] fine\n") is None


def test_a_failure_has_the_error_and_the_output_goes_to_stderr(capfd, tmp_path):
    (tmp_path / "log").write_text(LOG)
    with pytest.raises(BuildError, match="No importer registered for op: Mystery") as caught:
        trtexec.run(Path("/bin/sh"), ["trtexec", "-c", f"cat {tmp_path}/log; exit 1"])
    assert caught.value.reason == "trtexec_failed"
    out, err = capfd.readouterr()
    assert (out, err) == ("", LOG)
    with pytest.raises(BuildError, match="status 3"):
        trtexec.run(Path("/bin/sh"), ["trtexec", "-c", "exit 3"])
    trtexec.run(Path("/bin/sh"), ["trtexec", "-c", "echo done"])


def test_a_missing_trtexec_is_reported_with_the_images_that_have_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(trtexec, "_DEFAULT_PATH", tmp_path / "trtexec")
    with pytest.raises(BuildError, match=r"tensorrt:YY\.MM-py3.*tritonserver:YY\.MM-py3") as caught:
        trtexec.find()
    assert caught.value.reason == "trtexec_missing"


@pytest.mark.parametrize(
    ("script", "version"),
    [("echo '&&&& RUNNING TensorRT.trtexec [TensorRT v100300]'", (10, 3, 0)), ("echo nothing", None)],
)
def test_trtexec_is_found_with_its_version(monkeypatch, tmp_path, script, version):
    binary = tmp_path / "trtexec"
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    if version is None:
        with pytest.raises(BuildError) as caught:
            trtexec.find()
        assert caught.value.reason == "trtexec_failed"
    else:
        assert trtexec.find() == (binary, version)


def has_gpu():
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).stdout.startswith(b"GPU")
    except FileNotFoundError:
        return False


@pytest.mark.skipif(has_gpu(), reason="tests the error without a GPU; this machine has one")
def test_without_a_gpu_the_error_has_an_image_to_build_in(tmp_path):
    with pytest.raises(BuildError, match=r"nvcr\.io/nvidia/tensorrt:.*onnx and openvino") as caught:
        require_gpu()
    assert caught.value.reason == "gpu_missing"
    (tmp_path / "model.plan").write_bytes(b"engine")
    with pytest.raises(BuildError) as caught:
        tensorrt.inspect(tmp_path / "model.plan")
    assert caught.value.reason == "gpu_missing"


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt") is not None, reason="tests the error without TensorRT; it is installed"
)
def test_without_tensorrt_the_error_names_the_package_and_the_image():
    with pytest.raises(BuildError, match=r"package tensorrt .*\[tensorrt\].*tensorrt:YY\.MM-py3"):
        tensorrt._tensorrt()


def test_the_timing_cache_is_replaced_by_successful_builds_only(tmp_path):
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
    assert cache_folder() == tmp_path / "cache" / "jpeg-build"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cache_folder().parent.parent == tmp_path


def test_tactic_sources_are_checked_against_tensorrts_own():
    known = list(trtexec.TACTIC_SOURCES)
    assert tensorrt._tactic_sources(None, known) is None
    assert tensorrt._tactic_sources("edge_mask_convolutions, CUDNN", known) == ["EDGE_MASK_CONVOLUTIONS", "CUDNN"]
    with pytest.raises(BuildError, match=r"JPEG_BUILD_TACTIC_SOURCES .*CUTLASS.* CUBLAS, "):
        tensorrt._tactic_sources("CUTLASS", known)


def test_large_batches_are_split():
    sizes = []

    def run(pixels):
        sizes.append(len(pixels))
        return pixels.reshape(len(pixels), -1).astype(np.float32)

    pixels = np.arange(11, dtype=np.uint8).reshape(11, 1, 1, 1)
    assert np.array_equal(split_batches(run, 4)(pixels), pixels.reshape(11, 1))
    assert sizes == [4, 4, 3]
