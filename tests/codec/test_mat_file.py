"""Rules of `codec.mat_file`: what scipy reads we read alike, and broken files raise."""

from __future__ import annotations

import io
import struct
from contextlib import suppress

import numpy as np
import pytest
import scipy.io

from codec.mat_file import mat_arrays

IMAGE = (np.arange(5 * 4 * 3).reshape(5, 4, 3) * 1000 - 9000).astype(np.int16)
BIG_ENDIAN = bytes.fromhex(
    "0000000e 00000040 00000006 00000008 0000000c 00000000"  # matrix, flags: class int32
    "00000005 00000008 00000001 00000003 00010001 61000000"  # shape (1, 3), name "a", small
    "00000003 00000006 0001 fffe 0300 0000 00000005 00000000"  # values stored as int16
)


def saved(*, compressed: bool, **arrays: object) -> bytes:
    """A file as scipy writes it."""
    file = io.BytesIO()
    scipy.io.savemat(file, arrays, do_compression=compressed)
    return file.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_scipy_reads_the_same(dtype: str, compressed: bool) -> None:
    """Every real type, in the clear and compressed, gives scipy's values and types."""
    raw = saved(
        compressed=compressed, image=np.abs(IMAGE).astype(dtype), text="AVIRIS é", scale=1e4,
        table={"left": 1}, complex=np.ones(3) * 1j, cells=np.array([1, "b"], object),
    )  # fmt: skip
    theirs, ours = scipy.io.loadmat(io.BytesIO(raw)), mat_arrays(raw)

    assert sorted(ours) == ["image", "scale", "text"]
    for name, array in ours.items():
        assert array.dtype.kind == theirs[name].dtype.kind
        assert name == "text" or array.dtype == theirs[name].dtype
        np.testing.assert_array_equal(array, theirs[name].reshape(array.shape))


def test_values_stored_as_smaller_integers() -> None:
    """MATLAB stores doubles as bytes where they fit; big-endian files are read, too."""
    header = b"MATLAB 5.0".ljust(124) + b"\x01\x00MI"
    array = struct.pack(">II", 14, 64) + BIG_ENDIAN[8:72]
    ours = mat_arrays(header + array)["a"]

    assert ours.dtype == np.int32
    assert ours.tolist() == [[1, -2, 768]]


def test_what_unfolds_without_end_is_refused() -> None:
    """A file of kilobytes may hold a gigabyte of zeros; nothing beyond the limit is unfolded."""
    raw = saved(compressed=True, image=np.zeros((1000, 1000), np.int16))
    assert len(raw) < 10_000

    assert mat_arrays(raw, 2_001_000)["image"].shape == (1000, 1000)
    with pytest.raises(ValueError, match="unfolds to more than 1999000 bytes"):
        mat_arrays(raw, 1_999_000)


@pytest.mark.parametrize("compressed", [False, True])
def test_any_cut_is_reported(compressed: bool) -> None:
    """A file cut anywhere is a ValueError or a zlib error; none is half an image."""
    raw = saved(compressed=compressed, image=IMAGE)
    for length in range(len(raw)):
        if length == 128:
            assert mat_arrays(raw[:length]) == {}  # cut to no variable at all
            continue
        with pytest.raises(Exception, match=r"\w+ .*"):
            mat_arrays(raw[:length])


def test_flipped_bytes_raise_or_read() -> None:
    """No flipped byte ends the process, as scipy's reader does."""
    raw = saved(compressed=False, image=IMAGE, sensor="AVIRIS")
    for place in range(len(raw)):
        for mask in (0x01, 0x80, 0xFF):
            with suppress(Exception):
                mat_arrays(raw[:place] + bytes([raw[place] ^ mask]) + raw[place + 1 :])
