"""Files that a package needs and that a checkout keeps at its top, where people look for them.

The wheel carries them inside the package (`force-include` in pyproject.toml); a checkout, which is installed as
editable, has them only at its top.
"""

from __future__ import annotations

from pathlib import Path


def resource(module_file: str, packaged: str, in_checkout: str) -> Path:
    """Return the path of a file or folder.

    Args:
        module_file: The `__file__` of a module of the package that needs it.
        packaged: Its path below the package's folder, as the wheel has it.
        in_checkout: Its path below the checkout's top, which is two folders above the package's.
    """
    package = Path(module_file).resolve().parent
    inside = package / packaged
    return inside if inside.exists() else package.parents[1] / in_checkout


PHOTOS = resource(__file__, "photos", "photos")
"""The photos that builds are checked on and loads are made of; photos/README.md has their licences."""
