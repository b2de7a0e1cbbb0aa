"""The server behind the application."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from jpeg_client import AsyncClient
from jpeg_client.errors import InvalidArgument, JpegClientError

from jpeg_web.failures import from_client_error
from jpeg_web.fresh import Fresh
from jpeg_web.settings import Settings

if TYPE_CHECKING:
    from jpeg_client import ModelDescription, Prediction

# A swapped classifier shows in the responses after this time.
_DESCRIPTION_LASTS_S = 1.0
_DESCRIPTION_TIMEOUT_S = 5.0


class Backend:
    """A connection to Triton, for one event loop: use it in an `async with` block.

    Args:
        settings: Of the application.
    """

    def __init__(self, settings: Settings) -> None:
        # Without retries: an HTTP client gets 503 or 429 with Retry-After at once, and decides itself. A retry here
        # would hold its image in memory, and hide the load.
        self._client = AsyncClient(
            settings.url,
            api_key=settings.api_key,
            ca=settings.ca,
            timeout_s=settings.timeout_s,
            model=settings.models[0],
            retry=False,
            # The server drops what it has not begun when the time is over, also where a proxy hides that nobody waits.
            send_deadline=True,
        )
        self._descriptions = {
            model: Fresh(partial(self._describe, model), _DESCRIPTION_LASTS_S) for model in settings.models
        }

    async def __aenter__(self) -> Backend:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for description in self._descriptions.values():
            await description.close()
        await self._client.close()

    async def classify(
        self, images: Sequence[bytes], k: int | None, *, threshold: float | None, model: str, timeout_s: float
    ) -> list[Prediction]:
        """Classify images.

        Args:
            images: Encoded images.
            k: Labels per image; None takes the server's default.
            threshold: Labels with a lower score are left out; None takes that of the model.
            model: Name of the ensemble.
            timeout_s: Time limit in seconds.

        Returns:
            One prediction per image, in order.

        Raises:
            RequestFailed: The request fails as a whole.
        """
        try:
            return await self._client.classify(list(images), k, threshold=threshold, model=model, timeout_s=timeout_s)
        except (JpegClientError, InvalidArgument) as error:
            raise from_client_error(error) from error

    async def describe(self, model: str) -> ModelDescription:
        """Describe a model of the settings; the description may be a second old.

        Raises:
            RequestFailed: The model is not ready, or the server does not respond.
        """
        return await self._descriptions[model].get()

    async def _describe(self, model: str) -> ModelDescription:
        try:
            return await self._client.describe(model=model, timeout_s=_DESCRIPTION_TIMEOUT_S)
        except (JpegClientError, InvalidArgument) as error:
            raise from_client_error(error) from error
