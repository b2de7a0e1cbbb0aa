"""The recipe: what a TOML file says about a network, as typed and checked data."""
