"""The names that every classifier shares, whatever runs it (docs/contract.md)."""

INPUT, OUTPUT = "input__0", "output__0"

# Probabilities below this say nothing any more; their logarithm stays far from float32's underflow.
SMALLEST_PROBABILITY = 1e-20
