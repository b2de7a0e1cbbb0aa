"""The images that a caller can pass, and their encoded bytes."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, BinaryIO, TypeGuard, Union

from jpeg_contract.errors import ReasonedError

from jpeg_client.errors import InvalidArgument
from jpeg_client.packages import require_package
from jpeg_client.prediction import Prediction
from jpeg_client.shrink import SHRUNK_OPTIONS, Shrinker

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from numpy.typing import NDArray

Image = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, BinaryIO, "NDArray[np.uint8]", "PIL.Image.Image"]
"""A path, encoded bytes, a file open in binary mode, an array (H, W, 3) of uint8 RGB, or an image of Pillow.

A path may be the URL of an object store, such as s3://BUCKET/KEY (extra `storage`).
"""

JPEG_OPTIONS: dict[str, Any] = {"quality": 95, "subsampling": 0}
"""How arrays and Pillow's images are encoded: with full colour resolution."""


MAX_IMAGE_BYTES = 48 * 2**20
"""A file with more is not read: it fits into no request."""


class ImageProblem(ReasonedError):
    """An image cannot be read or encoded: the error of this image alone."""

    reason = "invalid_image"


def is_image(images: object) -> TypeGuard[Image]:
    """Whether an argument is one image, and not several."""
    if isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike)):
        return True
    return hasattr(images, "read") or _is_array(images) or _is_pillow(images)


def read_image(image: Image, shrinker: Shrinker | None = None) -> bytes | Prediction:
    """Return the encoded bytes of an image, or the prediction that holds its error.

    Args:
        image: The image.
        shrinker: Makes photos smaller; None encodes arrays and Pillow's images at their size, and changes nothing else.

    Raises:
        TypeError: It is no image, or a file in text mode.
        InvalidArgument: A package that reads or encodes it is not installed.
    """
    try:
        return _encoded(image, shrinker)
    except ImageProblem as problem:
        return Prediction.failed(str(problem), problem.reason)


def read_images(images: Any, shrinker: Shrinker | None = None) -> list[bytes | Prediction]:
    """Read one image or several; see `read_image`."""
    several = not is_image(images) and hasattr(images, "__iter__")
    return [read_image(image, shrinker) for image in (images if several else [images])]


def _encoded(image: Any, shrinker: Shrinker | None) -> bytes:
    if _is_array(image):
        return _array(image, shrinker)
    if _is_pillow(image):
        return _pillow(image, shrinker)
    data = _data(image)
    return data if shrinker is None else shrinker.shrink(data)


def _data(image: Any) -> bytes:
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, os.PathLike)):
        return _file(os.fspath(image))
    if not hasattr(image, "read"):
        raise TypeError(
            "an image must be a path, bytes, an open file, an array or an image of Pillow, but is "
            f"{type(image).__name__}"
        )
    data = image.read()
    if not isinstance(data, bytes):
        raise TypeError("the file is open in text mode: open it in binary mode, 'rb'")
    return data


def _file(path: str) -> bytes:
    from jpeg_client.storage import NotAFile, TooLarge, read_file

    try:
        return read_file(path, MAX_IMAGE_BYTES)
    except InvalidArgument:
        raise
    except NotAFile as error:
        raise ImageProblem(f"{path}: {error}", reason="not_a_file") from error
    except TooLarge as error:
        raise ImageProblem(f"{path}: {error}", reason="too_many_bytes") from error
    except FileNotFoundError as error:
        raise ImageProblem(f"{path}: no such file", reason="file_missing") from error
    except OSError as error:
        raise ImageProblem(
            f"{path}: cannot read the file: {error.strerror or error}", reason="file_unreadable"
        ) from error
    except ValueError as error:  # a zero byte in the name
        raise ImageProblem(f"{path!r} is no path: {error}", reason="file_missing") from error


def _is_array(image: object) -> TypeGuard[NDArray[Any]]:
    return hasattr(image, "__array_interface__") and hasattr(image, "dtype")


def _is_pillow(image: object) -> TypeGuard[PIL.Image.Image]:
    return hasattr(image, "save") and hasattr(image, "getexif")


def _array(array: NDArray[Any], shrinker: Shrinker | None) -> bytes:
    require_package("PIL", "images")
    import numpy as np
    import PIL.Image

    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageProblem(
            f"an array must have the shape (height, width, 3) and the dtype uint8, in RGB, but has {array.shape} and "
            f"{array.dtype}",
            reason="invalid_array",
        )
    return _jpeg(PIL.Image.fromarray(np.ascontiguousarray(array)), shrinker)


def _pillow(image: PIL.Image.Image, shrinker: Shrinker | None) -> bytes:
    from PIL import ImageOps

    try:
        # The server turns a file as its EXIF orientation says; the encoded copy has none.
        return _jpeg(ImageOps.exif_transpose(image).convert("RGB"), shrinker)
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for a file that it opened, and cannot read
        raise ImageProblem(f"the image cannot be read: {error}", reason="invalid_image") from error


def _jpeg(image: PIL.Image.Image, shrinker: Shrinker | None) -> bytes:
    stream = io.BytesIO()
    small = None if shrinker is None else shrinker.shrink_pixels(image)
    try:
        if small is None:
            image.save(stream, "JPEG", **JPEG_OPTIONS)
        else:
            small.save(stream, "JPEG", **SHRUNK_OPTIONS)
    except OSError as error:  # more than 65,535 pixels in a row or column
        raise ImageProblem(f"the image cannot be a JPEG: {error}", reason="invalid_image") from error
    return stream.getvalue()
