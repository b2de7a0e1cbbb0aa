"""What the programs serve and send: the identity network, or a repository of the user with photos."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jpeg_client import Client
from jpeg_contract.resources import PHOTOS
from jpeg_contract.settings import Decoder

from faults.errors import FaultsError
from faults.identity import write_recipe
from faults.samples import Sample, mixed_samples, photo_samples, variants, with_mistakes
from faults.senders import Target

SampleSource = Callable[[Target], list[Sample]]
"""Makes the samples for a server that runs."""

# A label may change with the size of the batch where two scores are nearly equal.
_CLEAR_MARGIN = 0.1
_VARIANTS = 16


@contextmanager
def served_repository(
    repository: Path | None, backend: str = "onnx", decoder: Decoder = "scaled"
) -> Iterator[tuple[Path, SampleSource]]:
    """Provide a repository and what to send to it.

    Args:
        repository: Of the user: its answers are compared with those of the server at rest, by label and checksum. None
            builds the identity network.
        backend: Form of the identity network, as `jpeg-build --backend` names it.
        decoder: Of the model `preprocess` with the identity network.
    """
    if repository is not None:
        yield repository, photos_of
        return
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        built = Path(folder) / "model_repository"
        build(write_recipe(Path(folder)), built, backend)
        config = built / "preprocess" / "config.pbtxt"
        config.write_text(config.read_text().replace('string_value: "scaled"', f'string_value: "{decoder}"'))
        yield built, lambda _: mixed_samples()


def build(recipe: Path, repository: Path, backend: str = "onnx") -> None:
    """Build a classifier with jpeg-build, and let the ensemble use it. Raises FaultsError."""
    command = [sys.executable, "-m", "jpeg_build", str(recipe), "--model-repository", str(repository)]
    command += ["--backend", backend]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FaultsError(f"jpeg-build failed: {done.stderr[-2000:]}", reason="build_failed")


def photos_of(target: Target, folder: Path = PHOTOS) -> list[Sample]:
    """Return the project's photos with the labels that a server at rest gives, and wrong images.

    Raises:
        FaultsError: The photos do not have two clear labels.
    """
    labels, images = [], []
    with Client(f"grpc://{target.grpc}", model=target.model) as client:
        for photo in sorted(folder.rglob("*.jpg")):
            data = photo.read_bytes()
            (prediction,) = client.classify([data], k=2)
            if prediction.error or prediction.scores[0] - prediction.scores[1] < _CLEAR_MARGIN:
                continue
            copies = variants(data, _VARIANTS)
            images += copies
            labels += [prediction.labels[0]] * len(copies)
    return with_mistakes(photo_samples(folder, labels, images))


def describe(samples: Sequence[Sample]) -> str:
    """Describe samples in a line."""
    good = sum(sample.is_good for sample in samples)
    largest = max(len(sample.data) for sample in samples)
    return f"{good} good and {len(samples) - good} wrong images, the largest of {largest / 1e6:.1f} MB"
