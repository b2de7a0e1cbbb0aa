"""Compares this project's server with the ceiling of the machine and with other servers (peers), in a checkout.

Run it with `python -m comparison`.
"""
