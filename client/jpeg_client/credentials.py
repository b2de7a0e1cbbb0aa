"""What a client shows to a server, and what it trusts."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jpeg_client.address import Address
from jpeg_client.errors import InvalidArgument

# The token after "Bearer ": RFC 6750, section 2.1.
_KEY = re.compile(r"[A-Za-z0-9._~+/-]+=*")
# A field name and its value: RFC 9110, sections 5.1 and 5.5, in ASCII. gRPC sends names in lower case.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")


@dataclass(frozen=True)
class Credentials:
    """Credentials for one address.

    Attributes:
        api_key: API key for a gateway, or None.
        headers: Further headers of each request.
        ca: PEM file with the trusted certificates; None trusts the public CAs.
        certificate: PEM file with the client's certificate, for mutual TLS; None has none.
        certificate_key: PEM file with its private key, without a passphrase.
    """

    api_key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    ca: str | None = None
    certificate: str | None = None
    certificate_key: str | None = None

    @classmethod
    def checked(
        cls,
        address: Address,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        ca: str | os.PathLike[str] | None = None,
        certificate: str | os.PathLike[str] | None = None,
        certificate_key: str | os.PathLike[str] | None = None,
    ) -> Credentials:
        """Return the credentials, checked for an address.

        Raises:
            InvalidArgument: The key or a header is malformed, a file holds no certificate, the address has no TLS, or
                the key would travel unencrypted to another machine.
            OSError: A file cannot be read.
        """
        if api_key is not None:
            _check_key(address, api_key)
        for name, value in (headers or {}).items():
            _check_header(name, value)
        if ca is not None:
            _check_ca(address, ca)
        _check_certificate(address, certificate, certificate_key)
        return cls(
            api_key,
            dict(headers or {}),
            None if ca is None else os.fspath(ca),
            None if certificate is None else os.fspath(certificate),
            None if certificate_key is None else os.fspath(certificate_key),
        )

    @property
    def request_headers(self) -> dict[str, str]:
        """The headers of each request, with lower-case names."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        return headers if self.api_key is None else {**headers, "authorization": f"Bearer {self.api_key}"}


def _check_key(address: Address, key: str) -> None:
    if not _KEY.fullmatch(key):
        # Not shown: a key with a single wrong character is still a secret.
        raise InvalidArgument(
            "the API key is invalid: it consists of letters, digits and . _ ~ + / - with = only at the end",
            reason="invalid_api_key",
        )
    if not address.tls and not address.is_this_machine:
        raise InvalidArgument(
            f"the API key would travel to {address.host} unencrypted: use {address.scheme}s://, or no key",
            reason="unencrypted_api_key",
        )


def _check_header(name: str, value: str) -> None:
    if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
        # The value is not shown: it may be a secret.
        raise InvalidArgument(
            f"the header {name!r} is invalid: names are tokens, values printable ASCII without line breaks",
            reason="invalid_header",
        )


def _check_ca(address: Address, ca: str | os.PathLike[str]) -> None:
    _require_tls(address, "trusted certificates (ca) require TLS", "ca_without_tls")
    _require_readable(ca)
    try:
        ssl.create_default_context(cafile=os.fspath(ca))
    except ssl.SSLError as error:
        raise InvalidArgument(f"{os.fspath(ca)} holds no certificate in PEM format", reason="invalid_ca") from error


def _check_certificate(
    address: Address, certificate: str | os.PathLike[str] | None, key: str | os.PathLike[str] | None
) -> None:
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        raise InvalidArgument(
            "mutual TLS needs both files: the client's certificate, and its private key", reason="invalid_certificate"
        )
    _require_tls(address, "a client's certificate requires TLS", "certificate_without_tls")
    _require_readable(certificate)
    _require_readable(key)
    try:
        # `str` returns no passphrase: OpenSSL would read one from the terminal.
        ssl.create_default_context().load_cert_chain(os.fspath(certificate), os.fspath(key), password=str)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidArgument(
            f"{os.fspath(certificate)} and {os.fspath(key)} are not a certificate in PEM format and its private key "
            "without a passphrase",
            reason="invalid_certificate",
        ) from error


def _require_tls(address: Address, need: str, reason: str) -> None:
    if not address.tls:
        raise InvalidArgument(f"{need}: use {address.scheme}s:// instead of {address.scheme}://", reason=reason)


def _require_readable(file: str | os.PathLike[str]) -> None:
    # An OSError from `ssl` does not name the file.
    with Path(file).open("rb"):
        pass
