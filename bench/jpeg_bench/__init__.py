"""Measures how fast this machine classifies JPEGs, and how close a server comes to that limit."""
