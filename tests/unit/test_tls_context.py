"""Clients of the tests leave no open socket: a warning of one would fail a test that runs meanwhile."""

from __future__ import annotations

import gc
import socket
from pathlib import Path

import certifi
import pytest
from tls_context import trusting


def test_connection_that_is_reset_before_tls_leaves_no_open_socket() -> None:
    """As nginx resets those that it has not accepted when its test of the configuration ends."""
    context = trusting(Path(certifi.where()))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        plain = socket.create_connection(listening.getsockname())
    # The one end that the kernel had accepted is reset now.
    with pytest.raises(ConnectionResetError):
        context.wrap_socket(plain, server_hostname="localhost")
    # An open socket that nothing refers to is a ResourceWarning, which fails this test.
    gc.collect()
