"""What keeps a server from running.

ServeError
├── PrerequisiteError   something on this machine is missing
├── PortError           a port is taken
├── RepositoryProblems  jpeg-serve check found something
├── ReloadError         a running server could not take what is in the repository
├── ProbeError          a running server does not answer a real image
└── ServerDied          tritonserver ended, or was never ready
"""


class ServeError(Exception):
    """The server cannot run; the message says why and what to do."""


class PrerequisiteError(ServeError):
    """Something on this machine is missing; the message names the package that brings it."""


class PortError(ServeError):
    """A port is taken by another program."""


class RepositoryProblems(ServeError):  # what it is, is what was found
    """The model repository cannot be served; one line for each problem."""


class ReloadError(ServeError):
    """A running server was not found, or could not take what is in the repository; it goes on as it was."""


class ProbeError(ServeError):
    """A running server gives no labels for a real image."""


class ServerDied(ServeError):  # says what happened
    """tritonserver ended, or was not ready in time; the message has its last words."""
