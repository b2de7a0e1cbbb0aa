"""Stands where a model would; the check reads no code."""
