"""The server image, as scripts/test_image.sh builds it: run with runc, asked over its network."""

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
    """An empty volume, as Docker makes one: it belongs to the image's user."""
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
    """Starts more containers; they end with the test."""
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


def test_what_the_image_says_of_itself(image):
    config = image.config
    assert config["User"] == f"{USER}:{USER}"
    assert config["StopSignal"] == "SIGTERM"
    assert list(config["Volumes"]) == ["/models"]
    assert set(config["ExposedPorts"]) == {"8000/tcp", "8001/tcp", "8002/tcp"}
    assert health_check(image) == ["jpeg-serve", "probe"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == "triton-jpeg-classifier"
    head = run("git", "rev-parse", "HEAD", cwd=ROOT).stdout.strip()
    assert labels["org.opencontainers.image.revision"] in (head, "unknown")


def test_there_is_no_compiler_and_no_framework_in_it(root):
    programs = [
        path.name for folder in ("usr/bin", "usr/local/bin", "opt/venv/bin") for path in (root / folder).glob("*")
    ]
    assert "python3" in programs
    assert not {"gcc", "cc", "c++", "ld", "make", "uv", "nvcc"} & set(programs)
    packages = {path.name for path in root.glob("opt/venv/lib/python3*/site-packages/*")}
    assert "onnxruntime" in packages
    assert not {"torch", "torchvision", "tensorflow"} & packages


def test_nothing_of_this_machine_is_in_it(root):
    home = root / "opt/triton-jpeg-classifier"
    assert sorted(path.name for path in home.iterdir() if not path.name.startswith("__")) == [
        *("README.md", "backends", "build", "client", "deploy", "model_repository", "photos", "preprocess"),
        *("pyproject.toml", "requirements", "scripts", "serve"),
    ]
    for secret in ("etc/pip.conf", "run/ca.crt", "root/.cache/uv"):
        path = root / secret
        assert not path.exists() or not path.is_file() or path.stat().st_size == 0


def test_only_root_can_change_its_code(root):
    code = [root / "opt/triton-jpeg-classifier/deploy/image/entrypoint.sh", *root.glob("opt/venv/bin/*")]
    for path in code:
        state = path.stat()
        assert state.st_uid == 0
        assert not state.st_mode & 0o022


def test_the_bill_of_materials_names_packages_and_weights(root):
    bill = json.loads((root / "usr/share/sbom/triton-jpeg-classifier.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    components = {(each["type"], each["name"]): each for each in bill["components"]}
    numpy = next(root.glob("opt/venv/lib/python3*/site-packages/numpy-*.dist-info")).name
    assert f"numpy-{components['library', 'numpy']['version']}.dist-info" == numpy
    assert components["library", "libc6"]["purl"].startswith("pkg:deb/debian/libc6@")
    artefact = components["machine-learning-model", "classifier_onnx/1/model.onnx"]
    report = json.loads((root / "opt/triton-jpeg-classifier/model_repository/classifier_onnx/1/model.json").read_text())
    assert artefact["hashes"] == [{"alg": "SHA-256", "content": report["artefact"]["sha256"]}]
    weights = components["machine-learning-model", report["weights"]["source"]]
    assert weights["hashes"][0]["content"].startswith("b0353104")


@pytest.mark.parametrize("url", ["grpc://localhost:8001", "http://localhost:8000"])
def test_labels_come_back(container, url):
    answered = container.inside(CLASSIFY, "--url", url, "-k", "1", *sorted((ROOT / "photos").glob("*.jpg")))
    assert answered.returncode == 0, answered.stderr
    labels = [line.split(": ")[1].rpartition(" ")[0] for line in answered.stdout.splitlines()]
    assert labels == ["Egyptian cat", "palace", "espresso", "bow tie"]


def test_a_request_of_many_images_fits_in_the_shared_memory_that_docker_gives(container):
    photos = [str(ROOT / "photos" / "china.jpg")] * 64
    answered = container.inside(CLASSIFY, "--url", "grpc://localhost:8001", "-k", "1", *photos)
    assert answered.returncode == 0, answered.stderr
    assert answered.stdout.count("palace") == 64


def test_every_process_is_the_images_user(container):
    owners = {}
    listed = run("runc", "ps", "--format", "json", container.name)
    for pid in json.loads(listed.stdout):
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in status if ":" in line)
        owners[fields["Name"].strip()] = (fields["Uid"].split(), int(fields["CapEff"], 16))
    assert "tritonserver" in owners
    assert all(owner == ([str(USER)] * 4, 0) for owner in owners.values()), owners


def test_nothing_can_be_written_but_the_volume_and_memory(container):
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


def test_the_health_check_fails_when_there_are_no_labels(image, container):
    check = health_check(image)
    assert container.exec(*check).stdout.strip() != ""
    broken = container.exec(*check, "--model", "preprocess")
    assert broken.returncode == 1
    assert "preprocess" in broken.stderr
    assert container.exec(*check, "--http-port", "9").returncode == 1


def test_a_reload_works_from_outside(container):
    answered = container.exec("jpeg-serve", "reload")
    assert answered.returncode == 0, answered.stderr
    assert "classifier_onnx" in answered.stdout


def test_what_the_volume_holds_stays(container, volume, other):
    """A second container of the volume serves what is there, and copies nothing."""
    before = {path: path.stat().st_mtime_ns for path in volume.rglob("*") if path.is_file()}
    assert "copying the repository" in container.said()
    second = other(volume, "jpeg-serve", "check")
    assert second.wait(60) == 0, second.said()
    assert "copying" not in second.said()
    assert {path: path.stat().st_mtime_ns for path in volume.rglob("*") if path.is_file()} == before


def test_a_volume_that_was_begun_is_finished(image, other, tmp_path):
    volume = tmp_path / "volume"
    (volume / ".filling" / "preprocess").mkdir(parents=True)
    (volume / "preprocess").mkdir()
    (volume / "preprocess" / "config.pbtxt").write_text("half of")
    for path in (volume, *volume.rglob("*")):
        os.chown(path, USER, USER)
    container = other(volume)
    container.wait_until_healthy(health_check(image), 90)
    assert not (volume / ".filling").exists()


def test_a_volume_with_a_file_system_of_its_own_is_filled(image, other, tmp_path):
    """Which has lost+found at its root, for root only."""
    volume = tmp_path / "volume"
    (volume / "lost+found").mkdir(parents=True)
    (volume / "lost+found").chmod(0o700)
    os.chown(volume, USER, USER)
    container = other(volume)
    container.wait_until_healthy(health_check(image), 90)
    assert "copying the repository" in container.said()
    assert "denied" not in container.said()


def test_a_volume_that_cannot_be_written_is_said(other, tmp_path):
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o755)
    container = other(volume)
    assert container.wait(60) == 1
    assert f"/models holds no model and cannot be written by user {USER}" in container.said()


def test_a_repository_of_ones_own_is_served_read_only(image, other, volume, container, tmp_path):
    """As in Kubernetes, from a volume that many pods read."""
    own = tmp_path / "own"
    copied = run("cp", "-R", volume, own)
    assert copied.returncode == 0
    for path in (own, *own.rglob("*")):
        os.chown(path, 0, 0)
        path.chmod(0o755 if path.is_dir() else 0o644)
    served = other(own)
    served.wait_until_healthy(health_check(image), 90)
    assert "copying" not in served.said()


def test_a_limit_of_cpus_is_seen(image, root, volume, tmp_path):
    """Or the server on a large machine would start a thread for each of its cores."""
    program = "from jpeg_preprocess.cpus import usable_cpus; print(usable_cpus())"
    container = Container(image, root, tmp_path, models=volume, arguments=["python3", "-c", program], cpus=0.5)
    try:
        assert container.wait(60) == 0
        assert container.said() == "1\n"
    finally:
        container.remove()


def test_a_stop_lets_open_requests_end(image, root, volume, container, tmp_path):
    own = tmp_path / "own"
    assert run("cp", "-a", volume, own).returncode == 0
    # Some seconds in which the request waits for a batch to fill.
    wait_for_batches(own / "preprocess", 64, seconds=4)
    stopped = Container(image, root, tmp_path, models=own)
    try:
        stopped.wait_until_healthy(health_check(image), 90)
        with ThreadPoolExecutor(1) as pool:
            photo = ROOT / "photos" / "china.jpg"
            asked = pool.submit(stopped.inside, CLASSIFY, "--url", "http://localhost:8000", "-k", "1", photo)
            time.sleep(2)
            assert not asked.done()
            stopped.signal(image.config["StopSignal"])
            answered = asked.result(60)
        assert answered.returncode == 0, answered.stderr
        assert "palace" in answered.stdout
        assert stopped.wait(45) == 0
        assert "jpeg-serve: stopped" in stopped.said()
    finally:
        stopped.remove()
