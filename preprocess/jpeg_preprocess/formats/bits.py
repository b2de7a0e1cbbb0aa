"""Numbers of any count of bits, as the headers of AV1 and HEVC have them."""

from __future__ import annotations


class Bits:
    """Reads bits from the most significant one on; behind the end, there are zeros.

    Args:
        data: The bytes.
    """

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        """Return the next bits as an unsigned number."""
        self._left -= count
        shifted = self._value >> self._left if self._left >= 0 else self._value << -self._left
        return shifted & ((1 << count) - 1)

    def exponential(self) -> int:
        """Return the next number in Exp-Golomb code: ue(v) of HEVC, uvlc() of AV1."""
        zeros = 0
        while zeros < 32 and not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)
