"""Faults injected into a running server under load, with every answer checked. Part of the checkout only."""
