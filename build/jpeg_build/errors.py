"""What can go wrong in a build.

BuildError
├── CallError         options that do not go together: the command line was wrong
├── RecipeError       the recipe: the message begins with its path and line
├── NetworkError      the network or its weights are not available, or do not fit the recipe
├── ParityError       the artefact does not compute what the network computes
└── RepositoryError   the model repository cannot be read or written
"""

import re

from jpeg_contract.errors import ReasonedError

# Place and signature of the function in ONNX Runtime's sources that an error comes from, longer than the error itself.
_SIGNATURE = re.compile(r"/onnxruntime_src/\S+:\d+ [^()]*\((?:[^()]|\([^()]*\))*\)(?: const)? ")


class BuildError(ReasonedError):
    """A build failed; what was in the model repository before is still there. The message says what to do."""

    reason = "build_failed"


class CallError(BuildError):
    """Options do not go together."""

    reason = "invalid_call"


class RecipeError(BuildError):
    """The recipe is wrong."""

    reason = "invalid_recipe"


class NetworkError(BuildError):
    """The network or its weights are not available, or do not fit the recipe."""

    reason = "invalid_network"


class ParityError(BuildError):
    """The artefact does not compute what the network computes."""

    reason = "parity"


class RepositoryError(BuildError):
    """The model repository cannot be read or written."""

    reason = "invalid_repository"


def first_line(error: BaseException, most: int = 300) -> str:
    """Return the head of a framework's message, which may be pages long: the first line that is not blank.

    Args:
        error: The framework's.
        most: Its longest length in characters.
    """
    lines = [_SIGNATURE.sub(" ", line).strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:most]
