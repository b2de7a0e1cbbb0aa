"""Checks of an artefact: the same answers as the network, and its speed."""
