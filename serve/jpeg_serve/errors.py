"""The errors of this package; each has a reason code.

ServeError
├── PrerequisiteError   this machine lacks something
├── PortError           a port is taken
├── RepositoryProblems  the check of the repository found problems
├── ReloadError         a running server could not load the repository's content
├── ProbeError          a running server does not classify a photo, or classifies it wrongly
└── ServerDied          tritonserver ended, or was not ready in time
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jpeg_contract.errors import ReasonedError

if TYPE_CHECKING:
    from jpeg_serve.models import Problem


class ServeError(ReasonedError):
    """The server cannot run; the message states the cause and the remedy."""

    reason = "serve_failed"


class PrerequisiteError(ServeError):
    """This machine lacks something; the message names the package that provides it.

    Reasons: no_tritonserver, python_unsupported, libpython_missing, cache_not_writable,
    invalid_key_file.
    """

    reason = "prerequisite_missing"


class PortError(ServeError):
    """A port cannot be used. Reasons: port_taken, port_used_twice."""

    reason = "port_taken"


class RepositoryProblems(ServeError):
    """The model repository cannot be served; the message has one line per problem.

    Args:
        message: The summary, and a line for each problem.
        problems: The problems.
    """

    reason = "repository_problems"

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)

    @classmethod
    def of(cls, repository: Path, problems: Sequence[Problem], consequence: str = "") -> RepositoryProblems:
        """Return the error on the problems of a repository. consequence: continues its first sentence."""
        lines = "\n".join(f"  {problem}" for problem in problems)
        return cls(f"{repository} cannot be served{consequence}:\n{lines}", problems)


class ReloadError(ServeError):
    """No running server was found, or it could not load the repository's content; it continues unchanged.

    Reasons: no_server, several_servers, reload_in_progress, server_stopped, server_unreachable, server_timeout,
    key_refused, restart_needed, load_failed, model_missing, other_environment.
    """

    reason = "load_failed"


class ProbeError(ServeError):
    """A running server does not classify a photo, or classifies it wrongly.

    Reasons: unreachable, timeout, request_refused, inference_restricted, no_label, wrong_label,
    wrong_checksum, overloaded.
    """

    reason = "no_label"


class ServerDied(ServeError):
    """tritonserver ended, or was not ready in time; the message has the end of its log.

    Reasons: ended_early, not_ready_in_time, interrupted, server_ended.

    Args:
        message: The event.
        reason: The code.
        failures: Triton's reason for each model that did not load: the model's name and the reason.
    """

    reason = "ended_early"

    def __init__(self, message: str, *, reason: str | None = None, failures: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message, reason=reason)
        self.failures = tuple(failures)
