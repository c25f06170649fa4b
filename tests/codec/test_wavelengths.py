"""Rules of `codec.wavelengths`: band centers come back to 0.01 nm, whatever they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec import golomb
from codec.enmap_bands import ENMAP_WAVELENGTHS_NM
from codec.errors import FrameFieldError
from codec.wavelengths import pack, unpack

SMOOTH = tuple(418.24 + 6.5 * k + 0.011 * k * k for k in range(224))
TWO_DETECTORS = (*SMOOTH[:90], *(c - 80 for c in SMOOTH[90:]))
GOLDEN = bytes.fromhex("3fff f91acfff 84df8b23 3fffccae bfea9b60")


@given(st.lists(st.floats(-1e9, 1e9), max_size=30).map(tuple))
def test_any_numbers_come_back(centers: tuple[float, ...]) -> None:
    """No order, sign or size of centers is assumed, only expected."""
    assert unpack(pack(centers), len(centers)) == pytest.approx(centers, abs=0.00501, rel=1e-12)


@pytest.mark.parametrize(
    "centers",
    [
        pytest.param((), id="none"),
        pytest.param((550.0,), id="one band"),
        pytest.param((0.0,) * 5, id="all zero"),
        pytest.param((450.0, 550.0, 650.0, 850.0), id="four bands"),
        pytest.param((*SMOOTH[:9], 0.0, 0.0, *SMOOTH[11:]), id="zero in bands of fill"),
        pytest.param(SMOOTH[::-1], id="descending"),
        pytest.param(TWO_DETECTORS, id="two detectors"),
        pytest.param(tuple(1e6 * k for k in range(9)), id="a unit above 1 nm"),
    ],
)
def test_lists_of_instruments_come_back(centers: tuple[float, ...]) -> None:
    """What instruments say of their bands comes back to 0.01 nm."""
    assert unpack(pack(centers), len(centers)) == pytest.approx(centers, abs=0.00501)


def test_smooth_centers_cost_bits_not_bytes() -> None:
    """A smooth list of 224 bands takes half a byte a band, and a seam a dozen bytes more."""
    smooth, seam = pack(SMOOTH), pack(TWO_DETECTORS)
    assert isinstance(smooth, bytes)
    assert isinstance(seam, bytes)
    assert len(smooth) < 224 / 2
    assert len(seam) < len(smooth) + 12


def test_a_grid_is_told_once() -> None:
    """Centers in whole nanometers cost no hundredths."""
    grid = tuple(400.0 + 10 * k + k % 2 for k in range(200))
    fine = tuple(center + 0.01 * (k % 3) for k, center in enumerate(grid))
    assert len(pack(grid) or b"") < len(pack(fine) or b"") - 30  # type: ignore[arg-type]  # bytes


def test_enmaps_list_travels_by_number() -> None:
    """A list both ends know is one number on the wire, rounded as any list is."""
    assert pack(ENMAP_WAVELENGTHS_NM) == 0
    again = unpack(0, 224)
    assert again == pytest.approx(ENMAP_WAVELENGTHS_NM, abs=0.00501)
    assert again[1] == 423.87
    assert isinstance(pack(ENMAP_WAVELENGTHS_NM[:-1]), bytes)


def test_the_bytes_are_frozen() -> None:
    """Unit, prediction and code of frame version 5, for ever."""
    centers = (418.24, 423.87, 429.29, 434.53, 439.6, 902.26, 911.87, 921.62)
    assert pack(centers) == GOLDEN
    assert unpack(GOLDEN, 8) == centers


@pytest.mark.parametrize(
    ("packed", "bands"),
    [
        pytest.param(1, 224, id="unknown list"),
        pytest.param(-1, 224, id="negative list"),
        pytest.param(0, 223, id="known list of other length"),
        pytest.param(b"", 3, id="empty"),
        pytest.param(GOLDEN, 7, id="one too many"),
        pytest.param(GOLDEN, 9, id="one too few"),
        pytest.param(golomb.pack([0, 5]), 1, id="no unit"),
        pytest.param(golomb.pack([-1, 5]), 1, id="negative unit"),
    ],
)
def test_damaged_lists_are_refused(packed: int | bytes, bands: int) -> None:
    """What describes no list of as many bands as the tile has is an error of the field."""
    with pytest.raises(FrameFieldError):
        unpack(packed, bands)
