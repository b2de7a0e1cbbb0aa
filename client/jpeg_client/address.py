"""Where a server is, and what may be sent there."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"grpc": 8001, "http": 8000, "grpcs": 443, "https": 443}

# What may follow "Bearer ": RFC 6750, section 2.1.
_KEY = re.compile(r"[A-Za-z0-9._~+/-]+=*")


@dataclass(frozen=True)
class Address:
    """A server's address: scheme grpc, grpcs, http or https; a host, IPv6 without brackets; a port."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> Address:
        """SCHEME://HOST[:PORT]; raises ValueError for anything else."""
        parts = urlsplit(url)
        if "@" in parts.netloc or parts.query or parts.fragment:
            # Whoever writes this means a secret, so the URL is not repeated.
            raise ValueError("a server's URL has no user, password or query: give the key as api_key")
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError(
                f"{url!r} is no address of a server: write grpc://HOST:PORT, http://HOST:PORT, "
                "or with TLS grpcs://HOST:PORT, https://HOST:PORT"
            )
        return cls(parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS[parts.scheme])

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_and_port}"

    @property
    def host_and_port(self) -> str:
        """HOST:PORT, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def tls(self) -> bool:
        """Whether what is sent is encrypted."""
        return self.scheme in ("grpcs", "https")

    @property
    def is_this_machine(self) -> bool:
        """Whether what is sent stays here."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def check_key(self, key: str) -> None:
        """Raise ValueError for what is no API key, and for one that would be readable on its way here."""
        if not _KEY.fullmatch(key):
            # It is not shown: all but one letter of it may be right.
            raise ValueError("this is no API key: one has letters, digits and . _ ~ + / - only, and is not empty")
        if not self.tls and not self.is_this_machine:
            secure = f"{self.scheme}s"
            raise ValueError(
                f"the API key would be sent to {self.host} unencrypted, readable for everybody on the way: "
                f"use {secure}://, or no key"
            )

    def check_ca(self, ca: str | os.PathLike[str]) -> None:
        """Raise ValueError for a file without certificates, and where there is no TLS; OSError if it is unreadable."""
        if not self.tls:
            raise ValueError(f"certificates (ca) are for grpcs:// and https://, not for {self.scheme}://")
        with Path(ca).open("rb"):
            pass  # for an error that names the file: the one of `ssl` does not
        try:
            ssl.create_default_context(cafile=os.fspath(ca))
        except ssl.SSLError as error:
            raise ValueError(f"{os.fspath(ca)} holds no certificate in PEM format") from error
