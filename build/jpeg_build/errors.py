"""What can go wrong in a build.

BuildError
├── CallError         what is asked for does not go together: the command line was wrong
├── RecipeError       the recipe: the message begins with its path and line
├── NetworkError      the network or its weights cannot be had, or do not fit the recipe
├── ParityError       the artefact does not compute what the network computes
└── RepositoryError   the model repository cannot be read or written
"""


class BuildError(Exception):
    """A build failed; what was in the model repository before is still there. The message says what to do."""


class CallError(BuildError):
    """What is asked for does not go together."""


class RecipeError(BuildError):
    """The recipe is wrong."""


class NetworkError(BuildError):
    """The network or its weights cannot be had, or do not fit the recipe."""


class ParityError(BuildError):
    """The artefact does not compute what the network computes."""


class RepositoryError(BuildError):
    """The model repository cannot be read or written."""
