"""Paths of the checkout."""

from __future__ import annotations

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PEER_SOURCES = CHECKOUT / "bench" / "comparison" / "peers"
PEER_ENVIRONMENTS = CHECKOUT / ".bench"
PHOTOS = CHECKOUT / "photos"
RESULTS = CHECKOUT / "bench" / "results"
MODEL_REPOSITORY = CHECKOUT / "model_repository"
