"""Numeric and text arrays of MATLAB files, version 5 to 7 (`-v6`, `-v7`).

Why not scipy: one flipped byte in a variable's type sends `scipy.io.loadmat` (1.17) into a
segmentation fault, which no error handling survives. Scenes need a small part of the format,
and read here it fails with an exception. The tests compare the two on whole files.

Source: MAT-File Format, MathWorks, R2024a, chapter 1, "Level 5 MAT-File Format".
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Iterator
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_HEADER_BYTES: Final = 128
_MATRIX: Final = 14
_COMPRESSED: Final = 15
_STORED: Final = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
    16: "u1", 17: "u2", 18: "u4",
}  # fmt: skip
"""Type in the file to NumPy's; 16 to 18 are text in UTF-8, UTF-16 and UTF-32."""
_CHAR: Final = 4
_CLASSES: Final = {
    _CHAR: "", 6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4",
    14: "i8", 15: "u8",
}  # fmt: skip
"""Class of the variable to NumPy's type: MATLAB stores doubles as bytes where they fit."""
_COMPLEX_FLAG: Final = 0x0800


def mat_arrays(raw: bytes, most_bytes: int = sys.maxsize) -> dict[str, NDArray[Any]]:
    """Read the real numeric arrays and texts of a file; others are left out.

    Args:
        raw: The whole file.
        most_bytes: Most that a variable may unfold to [bytes].

    Returns:
        Arrays by name, in MATLAB's order of axes; a text is one string in an array.

    Raises:
        ValueError: If the file is of another version, or broken.
    """
    mark = raw[126:128]
    if len(raw) < _HEADER_BYTES or mark not in (b"IM", b"MI"):
        raise ValueError("it does not start as a MATLAB file does")
    order = "<" if mark == b"IM" else ">"
    (version,) = struct.unpack(order + "H", raw[124:126])
    if version != 0x0100:
        raise ValueError(f"it is of version {version >> 8}.x, HDF5 maybe; save it with -v7")
    arrays: dict[str, NDArray[Any]] = {}
    for kind, data in _elements(memoryview(raw)[_HEADER_BYTES:], order):
        if kind == _COMPRESSED:
            (element,) = _elements(memoryview(_inflate(data, most_bytes)), order)
            kind, data = element  # noqa: PLW2901  # the same element, now in the clear
        if kind == _MATRIX and (named := _array(data, order)):
            arrays[named[0]] = named[1]
    return arrays


def _inflate(data: memoryview, most_bytes: int) -> bytes:
    inflater = zlib.decompressobj()
    raw = inflater.decompress(data, most_bytes)
    if not inflater.eof:
        raise ValueError(f"a variable is cut, or unfolds to more than {most_bytes} bytes")
    return raw


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Walk over (type, bytes) of elements that stand one after the other."""
    at = 0
    while at < len(data):
        if at + 8 > len(data):
            raise ValueError(f"{len(data) - at} bytes are no element")
        kind, length = struct.unpack_from(order + "II", data, at)
        start = at + 8
        if kind >> 16:  # a small element: type and length share the first word, data the second
            kind, length, start = kind & 0xFFFF, kind >> 16, at + 4
        if start + length > len(data) or (start == at + 4 and length > 4):
            raise ValueError(f"an element of {length} bytes reaches past {len(data) - start}")
        yield kind, data[start : start + length]
        # Padded to 8 bytes, but for compressed elements, which stand close.
        at = start + length if kind == _COMPRESSED else at + -(-(start + length - at) // 8) * 8


def _array(data: memoryview, order: str) -> tuple[str, NDArray[Any]] | None:
    """Read name and values of one variable; None for cells, structures and complex numbers."""
    parts = list(_elements(data, order))
    if len(parts) < 4 or len(parts[0][1]) != 8:
        return None
    (flags,) = struct.unpack_from(order + "I", parts[0][1])
    dtype = _CLASSES.get(flags & 0xFF)
    if dtype is None or flags & _COMPLEX_FLAG:
        return None
    shape = np.frombuffer(parts[1][1], order + "i4").tolist()
    name = bytes(parts[2][1]).decode("ascii")
    kind, values = parts[3]
    if kind not in _STORED:
        raise ValueError(f"the values of {name} are of unknown type {kind}")
    stored = np.frombuffer(values, order + _STORED[kind])
    if flags & 0xFF == _CHAR:
        end = "le" if order == "<" else "be"
        encoding = {1: "utf-8", 2: f"utf-16-{end}", 4: f"utf-32-{end}"}.get(stored.itemsize, "none")
        return name, np.array([bytes(values).decode(encoding)])
    if min(shape, default=-1) < 0 or stored.size != prod(shape):
        raise ValueError(f"{name} has {stored.size} values and shape {shape}")
    return name, stored.astype(dtype).reshape(shape, order="F")
