"""What the requests of one application share."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from jpeg_web.backend import Backend
from jpeg_web.failures import RequestFailed
from jpeg_web.settings import Settings
from jpeg_web.statistics import Statistics
from jpeg_web.uploads import BodyReader


@dataclass(frozen=True)
class State:
    """The parts of a running application.

    Attributes:
        settings: Its settings.
        backend: The connection to Triton.
        statistics: The server's load.
        bodies: Reads the bodies of requests.
    """

    settings: Settings
    backend: Backend
    statistics: Statistics
    bodies: BodyReader

    @classmethod
    def of(cls, request: Request) -> State:
        """Return the state of the application that handles a request."""
        state = request.app.state.running
        assert isinstance(state, cls)
        return state

    def model(self, name: str | None) -> str:
        """Return the name of the model of a request: the default one if it names none. Raises RequestFailed."""
        if name is None:
            return self.settings.models[0]
        if name not in self.settings.models:
            raise RequestFailed(404, "unknown_model", "no model of this name is served: GET /models lists them")
        return name
