"""The notebook's door: arrays of every kind go through it and come back with all that is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from rasterio.windows import Window

from codec import api, prism_file
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.errors import BitstreamError, TileError
from codec.targets import mean_psnr_db
from codec.tile import Georeference, Tile
from codec.tile_files import write_tile
from codec.xarray_accessor import register
from fakes.bundles import klt_bundle
from fakes.cubes import tile as fake_tile

CENTERS = (450.5, 550.0, 650.25, 1600.0)
WIDTHS = (6.5, 6.5, 7.0, 10.0)
PLACE = Georeference(crs="EPSG:32632", transform=(30.0, 0.0, 4e5, 0.0, -30.0, 5e6))
TURNED = Georeference(crs="EPSG:32632", transform=(21.0, 14.0, 4e5, 15.0, -22.0, 5e6))
LATITUDES_UP = Georeference(crs="EPSG:4326", transform=(0.1, 0.0, -118.3, 0.0, 0.1, 34.7))


@pytest.fixture
def cube() -> Tile:
    """A tile of which everything is known."""
    return fake_tile(
        bands=4, rows=20, cols=9, nodata=-1.0, fill_pixels=0.3, scene="here", sensor="toy",
        start_utc_s=1.7e9, wavelengths_nm=CENTERS, fwhm_nm=WIDTHS, georeference=PLACE,
    )  # fmt: skip


def test_a_tile_comes_back_as_the_codec_makes_it(cube: Tile) -> None:
    """The bytes are a `.prism` file's, and decode to what encoder and decoder give."""
    data = api.encode(cube, klt_bundle(), backend="torch")
    wanted = list(Encoder(klt_bundle(), backend="torch").encode(cube))

    assert list(prism_file.unpack(data)) == wanted
    got = api.decode(data, klt_bundle())
    np.testing.assert_array_equal(got.samples, Decoder(klt_bundle()).decode(wanted).samples)
    assert got.info == cube.info


def test_an_array_takes_its_facts_as_words(cube: Tile) -> None:
    """Everything a tile knows can be said beside an array; wavelengths as any sequence."""
    data = api.encode(
        cube.samples, klt_bundle(), backend="torch", wavelengths_nm=np.array(CENTERS),
        **{
            name: getattr(cube.info, name)
            for name in ("nodata", "scene", "sensor", "start_utc_s", "fwhm_nm", "georeference")
        },
    )  # fmt: skip

    assert data == api.encode(cube, klt_bundle(), backend="torch")


def test_xarray_is_a_round_trip(cube: Tile) -> None:
    """Samples, wavelengths, places and all else; the axes may come in any order."""
    array = api.to_xarray(cube)
    turned = api.from_xarray(array.transpose("y", "x", "band"))

    assert array.dims == ("band", "y", "x")
    assert array.wavelength.values.tolist() == list(CENTERS)
    assert (array.x.values[0], array.y.values[0]) == (400_015.0, 4_999_985.0)
    np.testing.assert_array_equal(turned.samples, cube.samples)
    assert turned.info == cube.info


@pytest.mark.parametrize("place", [PLACE, TURNED, LATITUDES_UP], ids=["north", "turned", "south"])
@pytest.mark.parametrize(
    "cut",
    [slice(None), slice(3, 8), slice(1, None, 3), slice(None, None, -1), slice(4, 5)],
    ids=["whole", "cut", "thinned", "flipped", "one pixel"],
)
def test_what_is_left_of_an_array_keeps_its_place(
    cube: Tile, place: Georeference, cut: slice
) -> None:
    """The ground under a pixel is the same, whatever was cut off, left out or turned over."""
    tile = replace(cube, info=replace(cube.info, georeference=place))
    left = api.from_xarray(api.to_xarray(tile).isel(x=cut, y=cut)).info.georeference
    assert left is not None
    cols, rows = (range(edge)[cut] for edge in (9, 20))
    for at in (0, -1):
        new = range(len(cols))[at], range(len(rows))[at]
        assert _ground(left, *new) == pytest.approx(_ground(place, cols[at], rows[at]), abs=1e-9)
    if len(cols) == 9 and cols[0] == 0:
        assert left == place


@pytest.mark.parametrize("place", [PLACE, TURNED, LATITUDES_UP], ids=["north", "turned", "south"])
def test_what_is_cut_from_a_product_keeps_its_place(
    cube: Tile, place: Georeference, tmp_path: Path
) -> None:
    """A store tells where its pixels are, whichever way it lies, and so does its array alone."""
    tile = replace(cube, info=replace(cube.info, georeference=place))
    with xr.open_zarr(write_tile(tile, tmp_path / "x", "zarr"), chunks=None) as opened:
        whole, array = api.from_xarray(opened), api.from_xarray(opened["samples"])
        for part in (opened, opened["samples"]):
            left = api.from_xarray(part.isel(x=slice(2, 5))).info.georeference
            assert left is not None
            assert left.crs == place.crs
            assert _ground(left, 1, 4) == pytest.approx(_ground(place, 3, 4), abs=1e-9)
    assert whole.info == tile.info
    assert array.info.georeference == place


def test_counted_pixels_are_no_ground(cube: Tile) -> None:
    """A stranger's axes may be pixels by number; his transform stays that of the first."""
    array = api.to_xarray(cube).drop_vars(["x", "y"]).rename(x="col", y="row")
    counted = array.assign_coords(col=range(9), row=range(20))

    assert api.from_xarray(array).info.georeference == PLACE
    assert api.from_xarray(counted).info.georeference == PLACE


def _ground(place: Georeference, col: int, row: int) -> tuple[float, float]:
    """Where the center of a pixel lies."""
    a, b, c, d, e, f = place.transform
    x, y = col + 0.5, row + 0.5
    return a * x + b * y + c, d * x + e * y + f


@pytest.mark.parametrize(("place", "axis"), [(PLACE, "x"), (TURNED, "col")])
def test_pixels_that_are_not_even_have_no_place(cube: Tile, place: Georeference, axis: str) -> None:
    """No transform tells where they lie: refused, unless the place is given up or said."""
    tile = replace(cube, info=replace(cube.info, georeference=place))
    uneven = api.to_xarray(tile).isel(x=[0, 1, 4])
    with pytest.raises(TileError, match=rf"{axis} is not evenly .*; remedy: .*georeference=None"):
        api.from_xarray(uneven)

    assert api.as_tile(uneven, georeference=None).info.georeference is None


def test_integers_that_became_floats_are_explained(cube: Tile) -> None:
    """They may be DN as before or reflectance, and a wrong guess quantizes all of it away."""
    array = api.to_xarray(cube)
    for floats in (array / array.attrs["reflectance_scale"], array.where(array != -1)):
        for told in ({}, {"reflectance_scale": 1.0}, {"nodata": None}):
            with pytest.raises(TileError, match=r"were int16 .*give nodata and reflectance_scale"):
                api.as_tile(floats, **told)
    reflectance = api.as_tile(array / 10_000.0, reflectance_scale=1.0, nodata=-1e-4)

    assert (reflectance.info.reflectance_scale, reflectance.samples.dtype) == (1.0, np.float32)
    np.testing.assert_array_equal(reflectance.valid(), cube.valid())


def test_an_opened_store_that_became_floats_is_explained(cube: Tile, tmp_path: Path) -> None:
    """Also where xarray has forgotten what was stored: by the array, as by the Dataset."""
    with xr.open_zarr(write_tile(cube, tmp_path / "x", "zarr"), chunks=None) as opened:
        for changed in (opened / 10_000.0, opened["samples"] / 10_000.0):
            with pytest.raises(TileError, match="samples were int16"):
                api.from_xarray(changed)


@pytest.mark.parametrize("dtype", ["int16", "float32"])
@pytest.mark.parametrize("nodata", [None, -1.0])
def test_netcdf_is_a_round_trip(dtype: str, nodata: float | None, tmp_path: Path) -> None:
    """A tile without a fill value has attributes that can be written, and gets none by it."""
    tile = fake_tile(bands=2, rows=4, cols=5, dtype=dtype, nodata=nodata, georeference=PLACE)
    array = api.to_xarray(tile)
    array.to_netcdf(tmp_path / "x.nc", engine="scipy")
    again = api.from_xarray(xr.load_dataarray(tmp_path / "x.nc", engine="scipy"))

    assert again.info == api.from_xarray(array).info == tile.info
    np.testing.assert_array_equal(again.samples, tile.samples)


def test_a_stranger_s_dataarray_is_a_cube() -> None:
    """Axes of other names count in their order; floats are reflectance."""
    values = fake_tile(bands=3, rows=8, cols=8, dtype="float32", mean_dn=0.2, noise_dn=0.001)
    array = xr.DataArray(
        values.samples.astype(np.float64), dims=("wavelength", "row", "col"),
        coords={"wavelength": [500.0, 600.0, 700.0]},
    )  # fmt: skip
    tile = api.from_xarray(array)

    assert (tile.samples.dtype, tile.samples.shape) == (np.float32, (3, 8, 8))
    assert (tile.info.reflectance_scale, tile.info.wavelengths_nm) == (1.0, (500.0, 600.0, 700.0))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (("lat", "lon", "band"), ("band", "lat", "lon")),
        (("y", "x", "wavelength"), ("wavelength", "y", "x")),
        (("x", "bands", "y"), ("bands", "y", "x")),
        (("lon", "lat", "wavelength_nm"), ("wavelength_nm", "lat", "lon")),
        (("line", "sample", "channel"), ("line", "sample", "channel")),
    ],
)
def test_bands_go_first_by_their_name(given: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    """Most of netCDF has them last; nothing but the name tells."""
    array = xr.DataArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5), dims=given)

    np.testing.assert_array_equal(api.from_xarray(array).samples, array.transpose(*wanted).values)


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_an_opened_store_is_the_tile_it_was_made_of(dtype: str, tmp_path: Path) -> None:
    """A Dataset of ours gives all facts and the same frames; its array scale, fill and centers."""
    tile = fake_tile(
        bands=4, rows=8, cols=9, dtype=dtype, nodata=-1.0, fill_pixels=0.2, scene="here",
        sequence=7, wavelengths_nm=CENTERS[:4], fwhm_nm=(6.5,) * 4,
    )  # fmt: skip
    register()
    with xr.open_dataset(write_tile(tile, tmp_path / "x", "zarr"), engine="zarr") as opened:
        whole, array = opened.prismlink.tile(), opened["samples"].prismlink.tile()
        again = opened.prismlink.encode(klt_bundle(), backend="torch")

    assert whole.info == tile.info
    np.testing.assert_array_equal(whole.samples, tile.samples)
    np.testing.assert_array_equal(array.samples, tile.samples)
    for name in ("reflectance_scale", "nodata", "wavelengths_nm", "fwhm_nm"):
        assert getattr(array.info, name) == getattr(tile.info, name)
    assert again == api.encode(tile, klt_bundle(), backend="torch")


@pytest.mark.parametrize("opened", [True, False], ids=["applied by xarray", "as stored"])
def test_packed_integers_are_as_cf_says(opened: bool, tmp_path: Path) -> None:
    """Scale and fill of a stranger's file count, whether xarray has applied them or not."""
    stored = np.arange(32, dtype=np.int16).reshape(2, 4, 4)
    stored[:, 0, 0] = -9
    cf = {"scale_factor": 0.002, "_FillValue": np.int16(-9)}
    xr.Dataset({"reflectance": (("band", "y", "x"), stored, cf)}).to_zarr(
        tmp_path / "x", zarr_format=2
    )
    with xr.open_zarr(tmp_path / "x", chunks=None, mask_and_scale=opened) as dataset:
        tile = api.from_xarray(dataset)

    np.testing.assert_array_equal(tile.samples, stored)
    assert (tile.info.reflectance_scale, tile.info.nodata) == (500.0, -9.0)


def test_changed_values_are_not_packed_again(tmp_path: Path) -> None:
    """What is no integer of the store any more stays the float it is."""
    values = np.full((2, 4, 4), 0.5, np.float32)
    array = xr.DataArray(values, dims=api.DIMENSIONS)
    array.encoding = {"dtype": np.dtype(np.int16), "_FillValue": -9}

    assert api.from_xarray(array).samples.dtype == np.float32


def test_two_cubes_are_one_too_many() -> None:
    """Which of them is meant has to be said."""
    cube = (api.DIMENSIONS, np.zeros((2, 4, 4), np.int16))
    with pytest.raises(TileError, match=r"2 cubes .*remedy: give dataset\[NAME\]"):
        api.from_xarray(xr.Dataset({"a": cube, "b": cube}))


@pytest.mark.parametrize("unit", ["um", "micrometers", "µm", "nm", None])
def test_wavelengths_are_in_their_unit(unit: str | None) -> None:
    """Micrometers become nanometers; widths without a unit have that of the centers."""
    many = 1 if unit == "nm" else 1000
    told = {} if unit is None else {"units": unit}
    array = xr.DataArray(
        np.zeros((2, 4, 4), np.int16), dims=api.DIMENSIONS,
        coords={
            "wavelength": ("band", np.array([400.0, 2400.0]) / many, told),
            "fwhm": ("band", np.array([6.0, 8.0]) / many),
        },
    )  # fmt: skip
    info = api.from_xarray(array).info

    assert (info.wavelengths_nm, info.fwhm_nm) == ((400.0, 2400.0), (6.0, 8.0))


def test_an_unknown_unit_of_wavelengths_is_refused() -> None:
    """Wave numbers are not taken for nanometers."""
    array = xr.DataArray(
        np.zeros((1, 4, 4), np.int16), dims=api.DIMENSIONS,
        coords={"wavelength": ("band", [9000.0], {"units": "cm-1"})},
    )  # fmt: skip
    with pytest.raises(TileError, match=r"wavelength is in 'cm-1'; remedy: give it in nm or um"):
        api.from_xarray(array)


def test_the_accessor_encodes(cube: Tile) -> None:
    """It gives the bytes that the function does; registering twice does no harm."""
    register()
    register()
    array = api.to_xarray(cube)

    assert array.prismlink.encode(klt_bundle(), backend="torch") == api.encode(
        cube, klt_bundle(), backend="torch"
    )
    assert array.prismlink.tile(scene="there").info == replace(cube.info, scene="there")


def test_rasterio_writes_the_profile(cube: Tile, tmp_path: object) -> None:
    """Array and profile make a file, and the file's array and profile the tile again."""
    path = f"{tmp_path}/cube.tif"
    array, profile = api.to_rasterio(cube)
    with rasterio.open(path, "w", **profile) as file:
        file.write(array)
    with rasterio.open(path) as file:
        tile = api.from_rasterio(file.read(), file.profile)

    np.testing.assert_array_equal(tile.samples, cube.samples)
    assert (tile.info.nodata, tile.info.georeference) == (-1.0, PLACE)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning:rasterio")
def test_a_window_is_not_placed_as_its_file(cube: Tile, tmp_path: Path) -> None:
    """The file's transform is refused for it; the remedies give its own, or none."""
    array, profile = api.to_rasterio(cube)
    with rasterio.open(tmp_path / "x.tif", "w", **profile) as file:
        file.write(array)
    window = Window(2, 5, 6, 12)
    with rasterio.open(tmp_path / "x.tif") as file:
        part, whole, transform = (
            file.read(window=window),
            file.profile,
            file.window_transform(window),
        )
        bands = api.from_rasterio(file.read([1, 3]), whole)
    with pytest.raises(TileError, match=r"12 × 6 px, .* of 20 × 9; remedy: .*georeference=None"):
        api.from_rasterio(part, whole)
    own = api.from_rasterio(part, whole | {"height": 12, "width": 6, "transform": transform})

    assert own.info.georeference is not None
    assert _ground(own.info.georeference, 0, 0) == _ground(PLACE, 2, 5)
    assert api.from_rasterio(part, whole, georeference=None).info.georeference is None
    assert bands.info.georeference == PLACE


def test_an_image_without_a_place_has_none() -> None:
    """Rasterio gives such an image the identity for a transform."""
    array = fake_tile(bands=2, rows=4, cols=4).samples
    profile = {"nodata": None, "crs": None, "transform": rasterio.Affine.identity()}

    assert api.from_rasterio(array, profile).info.georeference is None


@pytest.mark.parametrize(
    ("dtype", "nodata", "wanted"),
    [("uint16", -9999.0, None), ("uint8", 255.0, 255.0), ("float32", -1.8e308, -np.inf)],
)
def test_a_fill_value_that_no_sample_can_have_is_none(
    dtype: str, nodata: float, wanted: float | None
) -> None:
    """As the readers of files have it."""
    array = np.ones((2, 4, 4), dtype)

    assert api.from_rasterio(array, {"nodata": nodata}).info.nodata == wanted


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("int16", -1.0), ("float32", -1.0), ("float32", None)]
)
def test_what_is_masked_is_fill(dtype: str, nodata: float | None) -> None:
    """Of a file's array as of anybody's: the fill value where there is one, of floats NaN."""
    masked = np.ma.masked_array(np.arange(32, dtype=dtype).reshape(2, 4, 4))
    masked[:, 1] = np.ma.masked
    for tile in (
        api.as_tile(masked, nodata=nodata),
        api.from_rasterio(masked, {"nodata": nodata}),
    ):
        np.testing.assert_array_equal(tile.valid(), ~masked.mask)
        assert (tile.samples.dtype, tile.info.nodata) == (dtype, nodata)


def test_masked_integers_need_a_fill_value() -> None:
    """Which number is free is not known here; without anything masked none is needed."""
    masked = np.ma.masked_equal(np.arange(32, dtype=np.uint16).reshape(2, 4, 4), 7)
    for profile in ({"nodata": None}, {"nodata": -9999.0}):
        with pytest.raises(TileError, match="no uint16 stands for that; remedy: give nodata"):
            api.from_rasterio(masked, profile)

    assert api.as_tile(np.ma.masked_less(masked.data, 0)).valid().all()


def test_targets_are_met() -> None:
    """A rate within 5 %, a PSNR within 0.3 dB."""
    big = fake_tile(bands=6, rows=64, cols=64)
    rated = api.encode(big, klt_bundle(), rate_bpppc=2.0, backend="torch")
    good = api.encode(big, klt_bundle(), psnr_db=70.0, backend="torch")
    frames = sum(map(len, prism_file.unpack(rated)))

    assert 8 * frames / big.samples.size == pytest.approx(2.0, rel=0.05)
    assert mean_psnr_db(big, api.decode(good, klt_bundle())) == pytest.approx(70.0, abs=0.3)


def test_several_tiles_are_decoded_one_by_one(cube: Tile) -> None:
    """`decode` wants one, and says what to use for more."""
    other = fake_tile(bands=3, rows=8, cols=8, scene="other")
    parts = [api.encode(one, klt_bundle(), backend="torch") for one in (cube, other)]
    both = prism_file.pack([frame for part in parts for frame in prism_file.unpack(part)])

    assert [tile.info.scene for tile in api.decode_all(both, klt_bundle())] == ["here", "other"]
    with pytest.raises(BitstreamError, match="2 tiles, not one; remedy: decode_all"):
        api.decode(both, klt_bundle())


@pytest.mark.parametrize(
    ("cube", "facts", "said"),
    [
        ([[[1, 2], [3, 4]]], {}, "list is no cube; remedy: a Tile, a NumPy array, "),
        (Path("x.tif"), {}, "Path is no cube; .*read_tile gives that of a file"),
        (None, {}, "NoneType is no cube; remedy"),
        (xr.Variable(api.DIMENSIONS, np.zeros((2, 4, 4))), {}, "Variable is no cube; remedy"),
        (np.zeros((4, 4)), {}, "a cube is"),
        (np.full((2, 4, 4), 1e6).astype(np.int64), {}, "16 bits"),
        (np.zeros((2, 4, 4), np.int16), {"wavelengths_nm": [500.0]}, "1 wavelengths, 2 bands"),
        (np.zeros((2, 4, 4), np.int16), {"sceen": "x"}, "no such fact: sceen; remedy"),
        (np.zeros((2, 4, 4), np.int16), {"wavelengths_nm": None}, "_nm must not be None; remedy"),
        (np.zeros((2, 4, 4), np.int16), {"reflectance_scale": None}, "None; remedy: leave it out"),
        (xr.DataArray(np.zeros((2, 4, 4)), attrs={"sequence": "x"}), {}, "attribute"),
    ],
)
def test_what_is_no_tile_is_told(cube: object, facts: dict[str, object], said: str) -> None:
    """By one kind of error, with what is wrong."""
    with pytest.raises(TileError, match=said):
        api.as_tile(cube, **facts)  # type: ignore[arg-type]


def test_bytes_are_bytes_of_any_kind(cube: Tile) -> None:
    """As sockets and files give them; what is none is a fault of the caller's."""
    data = api.encode(cube, klt_bundle(), backend="torch")
    wanted = api.decode(data, klt_bundle())
    for kind in (bytearray, memoryview):
        assert api.decode(kind(data), klt_bundle()).info == wanted.info
        (tile,) = api.decode_all(kind(data), klt_bundle())
        np.testing.assert_array_equal(tile.samples, wanted.samples)
    with pytest.raises(TypeError, match="bytes-like"):
        api.decode(len(data), klt_bundle())  # type: ignore[arg-type]


def test_two_aims_are_one_too_many(cube: Tile) -> None:
    """Which one counted would be anybody's guess."""
    with pytest.raises(ValueError, match="give one of"):
        api.encode(cube, klt_bundle(), step=3.0, rate_bpppc=0.1)
