"""The server image that scripts/test_image.sh builds, run with runc."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from debian_tools import tool
from oci import Container, Image
from support import ROOT, run, wait_for_batches

NAME = os.environ.get("JPEG_IMAGE", "")
pytestmark = pytest.mark.skipif(not NAME, reason="needs a built image: make test-image builds one and runs these")
CLASSIFY = Path(sys.executable).with_name("jpeg-classify")
USER = 10001


@pytest.fixture(scope="module")
def image() -> Image:
    tool("buildah", "buildah")
    tool("runc", "runc")
    return Image(NAME)


@pytest.fixture(scope="module")
def root(image: Image) -> Iterator[Path]:
    with image.mounted() as root:
        yield root


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty volume that belongs to the image's user, as Docker creates it."""
    volume = tmp_path_factory.mktemp("volume")
    os.chown(volume, USER, USER)
    return volume


@pytest.fixture(scope="module")
def container(image: Image, root: Path, volume: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    container = Container(image, root, tmp_path_factory.mktemp("container"), models=volume)
    try:
        container.wait_until_healthy(health_check(image), 90)
        yield container
    finally:
        container.remove()


@pytest.fixture
def other(image: Image, root: Path, tmp_path: Path) -> Iterator[object]:
    """Start more containers; they end with the test."""
    started = []

    def start(models: Path, *arguments: str, **environment: str) -> Container:
        started.append(Container(image, root, tmp_path, models=models, arguments=arguments, environment=environment))
        return started[-1]

    yield start
    for container in started:
        container.remove()


def health_check(image: Image) -> list[str]:
    kind, *command = map(str, image.config["Healthcheck"]["Test"])
    assert kind == "CMD"
    return command


def test_config_and_labels_of_the_image(image):
    config = image.config
    assert config["User"] == f"{USER}:{USER}"
    assert config["StopSignal"] == "SIGTERM"
    assert list(config["Volumes"]) == ["/models"]
    assert set(config["ExposedPorts"]) == {"8000/tcp", "8001/tcp", "8002/tcp", "8080/tcp"}
    assert health_check(image) == ["jpeg-serve", "probe"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == "triton-jpeg-classifier"
    head = run("git", "rev-parse", "HEAD", cwd=ROOT).stdout.strip()
    assert labels["org.opencontainers.image.revision"] in (head, "unknown")


def test_image_has_no_compiler_and_no_framework(root):
    programs = [
        path.name for folder in ("usr/bin", "usr/local/bin", "opt/venv/bin") for path in (root / folder).glob("*")
    ]
    assert "python3" in programs
    assert not {"gcc", "cc", "c++", "ld", "make", "uv", "nvcc"} & set(programs)
    packages = {path.name for path in root.glob("opt/venv/lib/python3*/site-packages/*")}
    assert "onnxruntime" in packages
    assert not {"torch", "torchvision", "tensorflow"} & packages


def test_image_holds_only_the_allowed_files(root):
    home = root / "opt/triton-jpeg-classifier"
    assert sorted(path.name for path in home.iterdir() if not path.name.startswith("__")) == [
        *("LICENSE", "README.md", "backends", "build", "client", "contract", "deploy", "model_repository", "photos"),
        *("postprocess", "preprocess", "pyproject.toml", "requirements", "runtime", "scripts", "serve"),
    ]
    for secret in ("etc/pip.conf", "run/ca.crt", "root/.cache/uv"):
        path = root / secret
        assert not path.exists() or not path.is_file() or path.stat().st_size == 0


def test_only_root_can_change_the_code(root):
    code = [root / "opt/triton-jpeg-classifier/deploy/image/entrypoint.sh", *root.glob("opt/venv/bin/*")]
    for path in code:
        state = path.stat()
        assert state.st_uid == 0
        assert not state.st_mode & 0o022


def test_the_sbom_names_packages_and_weights(root):
    sbom = json.loads((root / "usr/share/sbom/triton-jpeg-classifier.cdx.json").read_text())
    assert sbom["bomFormat"] == "CycloneDX"
    components = {(each["type"], each["name"]): each for each in sbom["components"]}
    numpy = next(root.glob("opt/venv/lib/python3*/site-packages/numpy-*.dist-info")).name
    assert f"numpy-{components['library', 'numpy']['version']}.dist-info" == numpy
    assert components["library", "libc6"]["purl"].startswith("pkg:deb/debian/libc6@")
    artefact = components["machine-learning-model", "classifier_onnx/1/model.onnx"]
    report = json.loads((root / "opt/triton-jpeg-classifier/model_repository/classifier_onnx/1/model.json").read_text())
    assert artefact["hashes"] == [{"alg": "SHA-256", "content": report["artefact"]["sha256"]}]
    weights = components["machine-learning-model", report["weights"]["source"]]
    assert weights["hashes"][0]["content"].startswith("b0353104")


@pytest.mark.parametrize("url", ["grpc://localhost:8001", "http://localhost:8000"])
def test_photos_get_their_labels(container, url):
    done = container.inside(CLASSIFY, "--url", url, "-k", "1", *sorted((ROOT / "photos").glob("*.jpg")))
    assert done.returncode == 0, done.stderr
    labels = [line.split(": ")[1].rpartition(" ")[0] for line in done.stdout.splitlines()]
    assert labels == ["Egyptian cat", "palace", "espresso", "bow tie"]


def test_request_of_64_images_fits_in_dockers_default_shared_memory(container):
    photos = [str(ROOT / "photos" / "china.jpg")] * 64
    done = container.inside(CLASSIFY, "--url", "grpc://localhost:8001", "-k", "1", *photos)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("palace") == 64


def test_every_process_runs_as_the_images_user_without_capabilities(container):
    owners = {}
    listed = run("runc", "ps", "--format", "json", container.name)
    for pid in json.loads(listed.stdout):
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in status if ":" in line)
        owners[fields["Name"].strip()] = (fields["Uid"].split(), int(fields["CapEff"], 16))
    assert "tritonserver" in owners
    assert all(owner == ([str(USER)] * 4, 0) for owner in owners.values()), owners


def test_only_the_volume_and_memory_are_writable(container):
    program = """
import os, pathlib
def writable(folder):
    try:
        path = pathlib.Path(folder, ".written"); path.write_text("x"); path.unlink()
    except OSError:
        return False
    return True
known = ("/proc", "/sys", "/tmp", "/models")
folders = (folder for folder, _, _ in os.walk("/") if not folder.startswith(known))
print(*sorted(filter(writable, folders)))
"""
    assert container.exec("python3", "-c", program).stdout.split() == ["/dev/shm"]


def test_health_check_fails_without_labels(image, container):
    check = health_check(image)
    assert container.exec(*check).stdout.strip() != ""
    broken = container.exec(*check, "--model", "preprocess")
    assert broken.returncode == 1
    assert "preprocess" in broken.stderr
    assert container.exec(*check, "--http-port", "9").returncode == 1


def test_reload_works_by_exec(container):
    done = container.exec("jpeg-serve", "reload")
    assert done.returncode == 0, done.stderr
    assert "classifier_onnx" in done.stdout


def test_filled_volume_is_not_modified(container, volume, other):
    """A second container of the volume copies nothing."""
    before = {path: path.stat().st_mtime_ns for path in volume.rglob("*") if path.is_file()}
    assert "copying the repository" in container.output()
    second = other(volume, "jpeg-serve", "check", "--static")
    assert second.wait(60) == 0, second.output()
    assert "copying" not in second.output()
    assert {path: path.stat().st_mtime_ns for path in volume.rglob("*") if path.is_file()} == before


def test_interrupted_copy_is_completed(image, other, tmp_path):
    volume = tmp_path / "volume"
    (volume / ".filling" / "preprocess").mkdir(parents=True)
    (volume / "preprocess").mkdir()
    (volume / "preprocess" / "config.pbtxt").write_text("half of")
    for path in (volume, *volume.rglob("*")):
        os.chown(path, USER, USER)
    container = other(volume)
    container.wait_until_healthy(health_check(image), 90)
    assert not (volume / ".filling").exists()


def test_volume_with_lost_and_found_is_filled(image, other, tmp_path):
    """A file system of its own has lost+found at its root, readable by root only."""
    volume = tmp_path / "volume"
    (volume / "lost+found").mkdir(parents=True)
    (volume / "lost+found").chmod(0o700)
    os.chown(volume, USER, USER)
    container = other(volume)
    container.wait_until_healthy(health_check(image), 90)
    assert "copying the repository" in container.output()
    assert "denied" not in container.output()


def test_unwritable_empty_volume_is_refused(other, tmp_path):
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o755)
    container = other(volume)
    assert container.wait(60) == 1
    assert f"/models holds no model and user {USER} cannot write to it" in container.output()


def test_read_only_repository_is_served(image, other, volume, container, tmp_path):
    """Kubernetes mounts a volume that many pods share in this way."""
    own = tmp_path / "own"
    copied = run("cp", "-R", volume, own)
    assert copied.returncode == 0
    for path in (own, *own.rglob("*")):
        os.chown(path, 0, 0)
        path.chmod(0o755 if path.is_dir() else 0o644)
    served = other(own)
    served.wait_until_healthy(health_check(image), 90)
    assert "copying" not in served.output()


def test_cpu_limit_is_respected(image, root, volume, tmp_path):
    """Without this, the server starts a thread for each core of a large machine."""
    program = "from jpeg_contract.cpus import usable_cpus; print(usable_cpus())"
    container = Container(image, root, tmp_path, models=volume, arguments=["python3", "-c", program], cpus=0.5)
    try:
        assert container.wait(60) == 0
        assert container.output() == "1\n"
    finally:
        container.remove()


def test_stop_completes_open_requests(image, root, volume, container, tmp_path):
    own = tmp_path / "own"
    assert run("cp", "-a", volume, own).returncode == 0
    # The request waits some seconds for a batch to fill.
    wait_for_batches(own / "preprocess", 64, seconds=4)
    stopped = Container(image, root, tmp_path, models=own)
    try:
        stopped.wait_until_healthy(health_check(image), 90)
        with ThreadPoolExecutor(1) as pool:
            photo = ROOT / "photos" / "china.jpg"
            request = pool.submit(stopped.inside, CLASSIFY, "--url", "http://localhost:8000", "-k", "1", photo)
            time.sleep(2)
            assert not request.done()
            stopped.signal(image.config["StopSignal"])
            done = request.result(60)
        assert done.returncode == 0, done.stderr
        assert "palace" in done.stdout
        assert stopped.wait(45) == 0
        assert "jpeg-serve: stopped" in stopped.output()
    finally:
        stopped.remove()
