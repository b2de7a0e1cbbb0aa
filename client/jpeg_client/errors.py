"""What can go wrong between a client and a server.

JpegClientError
├── ServerUnavailable   nobody answers there, or the server is not ready
├── ServerTimeout       no answer in time
└── RequestRefused      the server answered, and refused the request as a whole

A single image that cannot be classified is no error of these: it is in its Prediction.
"""


class JpegClientError(Exception):
    """Base of all errors that the client raises."""


class ServerUnavailable(JpegClientError):  # says what is the case
    """Nobody answers at the address, or the server is not ready."""


class ServerTimeout(JpegClientError):
    """The server did not answer within `timeout_s`."""


class RequestRefused(JpegClientError):
    """The server refused the request as a whole.

    `status` is HTTP's or gRPC's word for it, such as "400" or "INVALID_ARGUMENT".
    """

    def __init__(self, message: str, status: str) -> None:
        super().__init__(message)
        self.status = status
