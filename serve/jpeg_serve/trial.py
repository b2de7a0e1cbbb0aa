"""A trial: load the repository once in a real tritonserver, and stop it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import fields

from jpeg_serve.errors import ServerDied
from jpeg_serve.models import Problem
from jpeg_serve.options import LoadOptions, ServerOptions
from jpeg_serve.server import TritonServer

REASON = "trial_load_failed"

_DRAIN_S = 0  # if a model does not load, Triton unloads the others as long as that


def run_trial(options: LoadOptions, report: Callable[[float], None] | None = None) -> list[Problem]:
    """Start a tritonserver on free ports, wait until it is ready, and stop it. Its log is hidden.

    Args:
        options: The models to load.
        report: Gets the seconds waited, once a second.

    Returns:
        Triton's reasons, by the models that do not load; none if everything loads.

    Raises:
        ServeError: The server cannot be started at all.
    """
    given = {field.name: getattr(options, field.name) for field in fields(LoadOptions)}
    trial = ServerOptions(**given, http_port=0, grpc_port=0, metrics_port=0, drain_s=_DRAIN_S)
    with tempfile.TemporaryFile() as log:
        server = TritonServer(trial, log=log, is_trial=True)
        try:
            server.start()
            server.wait_until_ready(report)
        except ServerDied as error:
            problems = [Problem(model, cause, REASON) for model, cause in error.failures]
            return problems or [Problem(str(options.model_repository), str(error), REASON)]
        finally:
            server.clean_up()  # it has no requests to finish
    return []
