"""Rules of `codec.tile`: a tile that exists can be coded."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from codec.errors import TileError
from codec.tile import Georeference, Tile, TileInfo, check_nodata, fill_value


def make(dtype: str = "int16", shape: tuple[int, ...] = (2, 3, 4), **info: Any) -> Tile:
    """A tile of zeros."""
    return Tile(samples=np.zeros(shape, dtype=dtype), info=TileInfo(**info))


@pytest.mark.parametrize(
    ("dtype", "shape", "message"),
    [
        pytest.param("float64", (2, 3, 4), "got float64", id="type"),
        pytest.param("int32", (2, 3, 4), "got int32", id="another type"),
        pytest.param("int16", (3, 4), "bands, rows, cols", id="two axes"),
        pytest.param("int16", (2, 0, 4), "none zero", id="no rows"),
        pytest.param("int16", (4097, 1, 1), "4096 bands", id="too many bands"),
        pytest.param("int16", (1, 1, 65_537), "65536 px", id="too wide"),
    ],
)
def test_shape_and_type_are_checked(dtype: str, shape: tuple[int, ...], message: str) -> None:
    """Samples are three axes, none empty, within bounds, of a type that is coded."""
    with pytest.raises(TileError, match=message):
        make(dtype, shape)


def test_one_wavelength_per_band() -> None:
    """Wavelengths are all given, or none."""
    assert make(wavelengths_nm=(500.0, 600.0)).info.wavelengths_nm == (500.0, 600.0)
    with pytest.raises(TileError, match="1 wavelengths, 2 bands"):
        make(wavelengths_nm=(500.0,))


@pytest.mark.parametrize(
    "info",
    [
        pytest.param({"reflectance_scale": 0.0}, id="no scale"),
        pytest.param({"reflectance_scale": math.nan}, id="scale NaN"),
        pytest.param({"reflectance_scale": 1e-300}, id="scale that overflows float32"),
        pytest.param({"start_utc_s": math.inf}, id="time"),
        pytest.param({"start_utc_s": 1.7e18}, id="time in nanoseconds"),
        pytest.param({"tile_row": -1}, id="negative row"),
        pytest.param({"tile_col": 2**32}, id="column beyond 32 bits"),
        pytest.param({"sequence": 2**64}, id="sequence beyond 64 bits"),
        pytest.param({"wavelengths_nm": (math.nan,)}, id="wavelength NaN"),
        pytest.param({"wavelengths_nm": (0.004,)}, id="wavelength that rounds to zero"),
    ],
)
def test_what_is_said_of_a_tile_is_checked(info: dict[str, Any]) -> None:
    """A field out of range is an error when it is written down, not when it is sent."""
    with pytest.raises(TileError, match=f"{next(iter(info))} must be"):
        TileInfo(**info)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        pytest.param({"transform": (1.0, 0.0, math.nan, 0.0, 1.0, 0.0)}, "six finite", id="NaN"),
        pytest.param({"transform": (1.0, 0.0, 5.0, 0.0, 1.0)}, "six finite", id="five"),
        pytest.param({"transform": None}, "six finite", id="no transform"),
        pytest.param({"crs": None}, "crs must be text, got None", id="no CRS"),
        pytest.param({"crs": "x" * 65_537}, "crs must be at most 65536", id="a book of WKT"),
    ],
)
def test_a_georeference_is_one(place: dict[str, Any], message: str) -> None:
    """A transform with a hole in it places nothing, and a CRS no decoder takes is no place."""
    whole = {"crs": "EPSG:32632", "transform": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)}
    with pytest.raises(TileError, match=message):
        Georeference(**(whole | place))


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"scene": 2024}, "scene must be text, got 2024"),
        ({"tile_row": 3.0}, r"tile_row must be a whole number, got 3\.0"),
        ({"reflectance_scale": "1e4"}, "reflectance_scale must be a number, got '1e4'"),
        ({"nodata": "none"}, "nodata must be a number or None"),
        ({"wavelengths_nm": 500.0}, r"wavelengths_nm must be numbers, got 500\.0"),
        ({"georeference": ("EPSG:32632", ())}, "georeference must be a Georeference or None"),
    ],
)
def test_another_type_is_refused_by_name(info: dict[str, Any], message: str) -> None:
    """What no decoder would read back, or nobody could send, is no fact of a tile."""
    with pytest.raises(TileError, match=message):
        TileInfo(**info)


def test_what_stands_for_a_type_becomes_it() -> None:
    """NumPy's texts and numbers name the same tile as Python's, and are sent alike."""
    given: Any = {
        "scene": np.str_("a"), "tile_row": np.int64(3), "sequence": True, "nodata": np.int16(-1),
        "start_utc_s": np.float32(1.5), "wavelengths_nm": np.array([500.0, 600.0]),
        "georeference": Georeference(crs=np.str_(""), transform=np.arange(6, dtype=np.float32)),
    }  # fmt: skip
    plain = TileInfo(
        scene="a", tile_row=3, sequence=1, nodata=-1.0, start_utc_s=1.5,
        wavelengths_nm=(500.0, 600.0),
        georeference=Georeference(crs="", transform=(0.0, 1.0, 2.0, 3.0, 4.0, 5.0)),
    )  # fmt: skip

    assert repr(TileInfo(**given)) == repr(plain)
    assert TileInfo(**given).tile_id == plain.tile_id


@pytest.mark.parametrize(
    ("dtype", "nodata", "fits"),
    [
        ("int16", -32768, True),
        ("int16", 40_000, False),
        ("int16", 0.5, False),
        ("int16", math.nan, False),
        ("int16", math.inf, False),
        ("uint16", -1, False),
        ("uint16", 65_535, True),
        ("float32", math.nan, True),
        ("float32", -3.4028234663852886e38, True),
        ("float32", 1e39, False),
    ],
)
def test_the_fill_value_is_a_sample(dtype: str, nodata: float, *, fits: bool) -> None:
    """A fill value is one that the samples can hold, or none at all."""
    if fits:
        check_nodata(np.dtype(dtype), nodata)
        assert make(dtype, nodata=nodata).info.nodata is not None
    else:
        with pytest.raises(TileError, match="is not a value of"):
            make(dtype, nodata=nodata)


def test_valid_integers() -> None:
    """An integer is valid unless it is the fill value."""
    samples = np.array([[[1, -5], [-5, 3]]], dtype=np.int16)
    assert Tile(samples=samples, info=TileInfo()).valid().all()
    valid = Tile(samples=samples, info=TileInfo(nodata=-5)).valid()
    assert valid.tolist() == [[[True, False], [False, True]]]


@pytest.mark.parametrize(
    ("nodata", "expected"),
    [
        pytest.param(None, [True, False, False, False, True], id="none"),
        pytest.param(-1.0, [True, False, False, False, False], id="a number"),
        pytest.param(math.nan, [True, False, False, False, True], id="NaN"),
    ],
)
def test_valid_floats(nodata: float | None, expected: list[bool]) -> None:
    """A float is valid if it is finite and not the fill value."""
    samples = np.array([0.5, math.nan, math.inf, -math.inf, -1.0], dtype=np.float32)
    tile = Tile(samples=samples.reshape(1, 1, 5), info=TileInfo(nodata=nodata))
    assert tile.valid().ravel().tolist() == expected


def test_the_fill_of_a_restored_tile() -> None:
    """Fill is the tile's own value, else NaN, else the lowest integer."""
    assert fill_value(np.dtype("int16"), 7) == 7
    assert fill_value(np.dtype("uint16"), None) == 0
    assert fill_value(np.dtype("int16"), None) == -32768
    assert math.isnan(fill_value(np.dtype("float32"), None))


def test_the_tile_id_is_frozen() -> None:
    """The same tile has the same eight bytes on every machine and in every release."""
    info = TileInfo(sensor="EnMAP", scene="A", tile_row=1, tile_col=2, sequence=3)
    assert info.tile_id.hex() == "f67d87ab72ef2793"


@pytest.mark.parametrize("field", ["sensor", "scene", "tile_row", "tile_col", "sequence"])
def test_each_part_of_the_identity_counts(field: str) -> None:
    """Tiles that differ in name, place or count have different ids."""
    other: Any = "x" if field in ("sensor", "scene") else 1
    assert TileInfo(**{field: other}).tile_id != TileInfo().tile_id


def test_what_is_measured_is_no_identity() -> None:
    """Time and wavelengths may be corrected without giving the tile another name."""
    assert TileInfo(start_utc_s=5.0, nodata=1).tile_id == TileInfo().tile_id
