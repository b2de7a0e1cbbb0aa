"""Errors of the fault programs. Each has a stable reason code in `reason`."""

from __future__ import annotations

from jpeg_contract.errors import ReasonedError


class FaultsError(ReasonedError):
    """The run failed before it could judge the server."""

    reason = "faults_failed"


class NotPossibleHere(FaultsError):
    """This machine lacks what a fault needs, such as a privilege."""

    reason = "not_possible_here"
