"""Short lists of small integers ↔ bytes, without a table: an adaptive Golomb–Rice code.

A value v is folded to 2·|v| − [v > 0]. What is above its low k bits goes first, in unary, from
`_UNARY` on in exponential Golomb; the k bits come after it, in plain. k follows the mean of the
values before it, in integers, and an outlier moves it little: band centers are smooth but for a few
jumps between detectors. Bits fill bytes from the highest; zeros fill the last byte.

Source: the run of k is LOCO-I's (Weinberger, Seroussi & Sapiro, IEEE TIP 9(8), 2000).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from codec.errors import FrameFieldError

_UNARY: Final = 4
_TRUSTED: Final = 3
"""A value counts as no more than about this many times 2^k."""

_LONGEST: Final = 40
"""Most bits of what is above the low bits: beyond every value that is sent."""


class _Law:
    """How many low bits the next value has: what both ends learn from the values before it."""

    def __init__(self) -> None:
        self._mean_16ths = 64

    @property
    def low_bits(self) -> int:
        return (self._mean_16ths // 24).bit_length()

    def learn(self, folded: int) -> None:
        trusted = min(folded, (_TRUSTED << self.low_bits) + _TRUSTED)
        self._mean_16ths += (16 * trusted - self._mean_16ths) >> 2


def pack(values: Iterable[int]) -> bytes:
    """Code integers of up to 40 bits; their number does not travel."""
    law, parts = _Law(), []
    for value in values:
        folded, low = 2 * abs(value) - (value > 0), law.low_bits
        high = folded >> low
        ones, rest = high, ""
        if high >= _UNARY:
            rest = f"{high - _UNARY + 1:b}"[1:]
            ones = _UNARY + len(rest)
        parts.append("1" * ones + "0" + rest)
        if low:
            parts.append(f"{folded & ((1 << low) - 1):0{low}b}")
        law.learn(folded)
    bits = "".join(parts)
    size = -(-len(bits) // 8)
    return int(bits.ljust(8 * size, "0") or "0", 2).to_bytes(size, "big")


def unpack(packed: bytes, count: int) -> list[int]:
    """Inverse of `pack` for `count` values.

    Raises:
        FrameFieldError: If the bytes end early, go on, or hold a value that nobody sends.
    """
    bits = "".join(f"{byte:08b}" for byte in packed)
    law, values, at = _Law(), [], 0
    for _ in range(count):
        low, start = law.low_bits, at
        at = bits.find("0", start) + 1
        ones = at - 1 - start
        plain = max(0, ones - _UNARY) + low
        if not at or ones > _UNARY + _LONGEST or at + plain > len(bits):
            raise FrameFieldError(f"{len(packed)} bytes do not hold {count} integers")
        number = int(bits[at : at + plain] or "0", 2)
        at += plain
        folded = (ones << low) + number
        if ones >= _UNARY:
            folded = number + (((1 << (ones - _UNARY)) + _UNARY - 1) << low)
        values.append((folded + 1) // 2 if folded & 1 else -(folded // 2))
        law.learn(folded)
    if len(bits) - at >= 8 or "1" in bits[at:]:
        raise FrameFieldError(f"something follows {count} integers in {len(packed)} bytes")
    return values
