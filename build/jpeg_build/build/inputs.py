"""Loads the network of a build and runs it, for all comparisons with what is made of it."""

from __future__ import annotations

import numpy as np
from jpeg_contract.command_line import Progress

from jpeg_build.build.request import Request
from jpeg_build.checks.parity_inputs import ParityInputs
from jpeg_build.emitters import Logits, Pixels
from jpeg_build.errors import NetworkError
from jpeg_build.networks.load import load_network
from jpeg_build.networks.network import Network
from jpeg_build.photos import load_photos, random_pixels


def prepare_inputs(request: Request, progress: Progress) -> ParityInputs:
    """Load the network and run it on photos and noise. Raises BuildError."""
    network = load_network(
        request.recipe,
        request.form,
        checkpoint=request.checkpoint,
        random=request.random_weights,
        built=request.repository if request.from_onnx else None,
        trust_code=request.trust_code,
        progress=progress,
    )
    photos = load_photos(request.photos, request.recipe, purpose="check the artefact on", option="--photos")
    noise = random_pixels(request.recipe)
    progress(f"running the network on {len(photos)} photos and {len(noise)} images of noise")
    return ParityInputs(network, photos, noise, run_network(network, np.concatenate([photos, noise])))


def run_network(network: Network, pixels: Pixels) -> Logits:
    """Return the logits of the network itself. Raises NetworkError if one is not finite."""
    step = 16  # frameworks keep the activations of a whole batch
    logits = np.concatenate([network.reference(pixels[at : at + step]) for at in range(0, len(pixels), step)])
    if not np.isfinite(logits).all():
        raise NetworkError(
            f"{network.weights.source}: the network itself, in fp32, returns NaN or infinity for some of the photos or "
            "the images of noise: check its weights, and the recipe's [normalisation]",
            reason="network_not_finite",
        )
    return logits
