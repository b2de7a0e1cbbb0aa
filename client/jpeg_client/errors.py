"""What can go wrong between a client and a server.

JpegClientError
├── ServerUnavailable      nobody answers there, or the server is not ready
├── ServerTimeout          no answer in time
├── CertificateRefused     the server's certificate is not one to be trusted
└── RequestRefused         the server, or the gateway before it, refused the request as a whole
    └── TooManyRequests    for now, since there were too many

A single image that cannot be classified is no error of these: it is in its Prediction.
"""


class JpegClientError(Exception):
    """Base of all errors that the client raises."""


class ServerUnavailable(JpegClientError):  # says what is the case
    """Nobody answers at the address, or the server is not ready."""


class ServerTimeout(JpegClientError):
    """The server did not answer within `timeout_s`."""


class CertificateRefused(JpegClientError):
    """The certificate that the server shows is out of date, for another host, or signed by nobody who is trusted."""


class RequestRefused(JpegClientError):
    """The server refused the request as a whole.

    `status` is HTTP's or gRPC's word for it, such as "400" or "INVALID_ARGUMENT".
    """

    def __init__(self, message: str, status: str) -> None:
        super().__init__(message)
        self.status = status


class TooManyRequests(RequestRefused):
    """Too many requests came with this API key, or from this address; after `wait_s` seconds it may be asked again."""

    def __init__(self, message: str, status: str, wait_s: float) -> None:
        super().__init__(message, status)
        self.wait_s = wait_s
