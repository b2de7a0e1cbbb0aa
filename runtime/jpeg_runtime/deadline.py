"""The deadline that a request may carry: its parameter `deadline`, in milliseconds since 1970.

Triton has a parameter `timeout` of its own, which counts only with a queue policy. With any policy, Triton 2.51 lets
responses wait for half a second again and again (tried; server#8870), so the configs have none.
"""

from __future__ import annotations

import json
from collections.abc import Callable

PARAMETER = "deadline"
PASSED = "the request's deadline has passed [deadline_passed]"


def has_passed(parameters: Callable[[], str], now_s: float) -> bool:
    """Return whether a request's deadline has passed; a request without a readable one has none.

    Args:
        parameters: The request's method of that name: JSON, or an empty text.
        now_s: Seconds since 1970.
    """
    try:
        text = parameters()
        # Triton hands HTTP headers on under the name that the client typed.
        named = {str(name).lower(): value for name, value in json.loads(text).items()} if text else {}
        return PARAMETER in named and int(named[PARAMETER]) < now_s * 1000
    except (ValueError, TypeError, AttributeError):
        return False
