"""Which page is made by what."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from reference import commands, config_parameters, metrics, reason_codes, recipe_keys
from reference.raised import CHECKOUT

FOLDER = CHECKOUT / "docs" / "reference"

PAGES: Mapping[str, Callable[[], str]] = {
    "commands.md": commands.page,
    "recipe-keys.md": recipe_keys.page,
    "config-parameters.md": config_parameters.page,
    "metrics.md": metrics.page,
    "reason-codes.md": reason_codes.page,
}
