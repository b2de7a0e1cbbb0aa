"""Server addresses."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from jpeg_client.errors import InvalidArgument

_DEFAULT_PORTS = {"grpc": 8001, "http": 8000, "grpcs": 443, "https": 443}


@dataclass(frozen=True)
class Address:
    """The address of a server.

    Attributes:
        scheme: grpc, grpcs, http or https.
        host: Name or IP address; IPv6 without brackets.
        port: TCP port.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> Address:
        """Parse SCHEME://HOST[:PORT].

        Raises:
            InvalidArgument: The URL has another form.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:  # brackets without an IPv6 address, or a port out of range
            raise _invalid_url(url) from None
        if "@" in parts.netloc or parts.query or parts.fragment:
            # These parts hold a secret, so the message does not repeat the URL.
            raise InvalidArgument(
                "a server URL has no user, password, query or fragment: pass the key with Client(api_key=...) "
                "or jpeg-classify --api-key-file FILE",
                reason="invalid_url",
            )
        if parts.scheme not in _DEFAULT_PORTS or not host or parts.path not in ("", "/"):
            raise _invalid_url(url)
        return cls(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme])

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_and_port}"

    @property
    def host_and_port(self) -> str:
        """HOST:PORT, with IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme in ("grpcs", "https")

    @property
    def is_this_machine(self) -> bool:
        """Whether the host is a loopback address or localhost."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def _invalid_url(url: str) -> InvalidArgument:
    # Text before an @ may be a password.
    shown = "" if "@" in url else f" {url!r}"
    return InvalidArgument(
        f"invalid server URL{shown}: write grpc://HOST:PORT or http://HOST:PORT, or with TLS grpcs://HOST:PORT or "
        "https://HOST:PORT",
        reason="invalid_url",
    )
