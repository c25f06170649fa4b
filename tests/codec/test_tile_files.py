"""Rules of `codec.tile_files` and the modules below it: what is written is what is read."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import scipy.io
import xarray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codec import tile_tags
from codec.errors import TileFileError
from codec.tile import Georeference, Tile, TileInfo
from codec.tile_files import find_scenes, read_tile, write_tile

DATA = Path(__file__).parents[1] / "data"
FORMATS = ("geotiff", "envi", "zarr", "npy")
WKT_WITHOUT_NUMBER = 'LOCAL_CS["laboratory bench",UNIT["metre",1]]'
INFO = TileInfo(
    sensor="EnMAP",
    scene="Salton Sea / 1",
    tile_row=3,
    tile_col=2,
    sequence=2**64 - 1,
    start_utc_s=1_667_492_678.015625,
    reflectance_scale=10_000.0,
    nodata=None,
    wavelengths_nm=(418.24, 902.257, 640.1),
    fwhm_nm=(6.5, 11.25, 7.0),
    georeference=Georeference(
        crs="EPSG:32618", transform=(30.0, 0.0, 688_005.0, 0.0, -30.0, 4_561_935.1)
    ),
)


def tile_of(dtype: str, nodata: float | None = None, **changes: object) -> Tile:
    """Three bands of 5×4 px, every value different."""
    samples = (np.arange(60).reshape(3, 5, 4) * 7 - (0 if dtype == "uint16" else 50)).astype(dtype)
    if nodata is not None:
        samples[1], samples[0, 2, 2] = nodata, nodata
    return Tile(samples=samples, info=replace(INFO, nodata=nodata, **changes))  # type: ignore[arg-type]


def same(one: Tile, other: Tile) -> None:
    """Compare two tiles; NaN equals NaN."""
    assert one.samples.dtype == other.samples.dtype
    np.testing.assert_array_equal(one.samples, other.samples)
    fills = [math.nan if t.info.nodata is None else t.info.nodata for t in (one, other)]
    np.testing.assert_equal(fills[0], fills[1])
    assert (one.info.nodata is None) == (other.info.nodata is None)
    assert replace(one.info, nodata=None) == replace(other.info, nodata=None)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [
        ("int16", None),
        ("int16", -32768.0),
        ("uint16", None),
        ("uint16", 65535.0),
        ("float32", None),
        ("float32", -9999.5),
        ("float32", math.nan),
    ],
)
def test_every_type_comes_back(tmp_path: Path, file_format: str, dtype: str, nodata: float) -> None:
    """Samples, fill value and every fact of the tile survive each format."""
    tile = tile_of(dtype, nodata)

    written = write_tile(tile, tmp_path / "made" / "scene.v1", file_format)

    same(read_tile(written), tile)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(
    "georeference",
    [
        pytest.param(None, id="nowhere"),
        pytest.param(
            Georeference(crs="EPSG:4326", transform=(0.1, 0.0, -118.3, 0.0, -0.1, 34.7)),
            id="degrees",
        ),
        pytest.param(
            Georeference(crs="EPSG:32611", transform=(3.0, 1.0, 5.0, 1.0, -3.0, 9.0)), id="rotated"
        ),
        pytest.param(
            Georeference(crs="no such CRS", transform=(2.0, 0.0, 5.0, 0.0, -2.0, 9.0)),
            id="nonsense",
        ),
        pytest.param(Georeference(crs="", transform=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)), id="identity"),
    ],
)
def test_every_place_comes_back(
    tmp_path: Path, file_format: str, georeference: Georeference | None
) -> None:
    """A place that the format cannot say, and text that is no CRS, are kept all the same."""
    tile = tile_of("int16", georeference=georeference, wavelengths_nm=(), fwhm_nm=())

    same(read_tile(write_tile(tile, tmp_path / "t", file_format)), tile)


@pytest.mark.parametrize("file_format", ["geotiff", "envi"])
def test_wkt_without_a_number_is_stable(tmp_path: Path, file_format: str) -> None:
    """A CRS outside EPSG is read as WKT, and what was read is written and read unchanged."""
    place = Georeference(crs=WKT_WITHOUT_NUMBER, transform=(2.0, 0.0, 0.0, 0.0, -2.0, 0.0))
    once = read_tile(write_tile(tile_of("int16", georeference=place), tmp_path / "1", file_format))

    assert once.info.georeference is not None
    assert "laboratory bench" in once.info.georeference.crs
    same(read_tile(write_tile(once, tmp_path / "2", file_format)), once)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.tuples(st.text(max_size=20), st.text(max_size=20)),
    start=st.floats(min_value=-1e9, max_value=1e10),
    file_format=st.sampled_from(["geotiff", "envi", "npy"]),
)
def test_any_name_comes_back(
    tmp_path: Path, names: tuple[str, str], start: float, file_format: str
) -> None:
    """Braces, quotes, line ends and other scripts in a name cannot break a header."""
    tile = tile_of("int16", sensor=names[0], scene=names[1], start_utc_s=start)

    same(read_tile(write_tile(tile, tmp_path / "t", file_format)), tile)


@pytest.mark.parametrize("start_utc_s", [0.0, 1_667_492_678.0])
def test_an_envi_header_has_a_time_only_where_it_is_known(
    tmp_path: Path, start_utc_s: float
) -> None:
    """Zero is not known, and not 1970: read back as such, also from headers that said so."""
    path = write_tile(tile_of("int16", start_utc_s=start_utc_s), tmp_path / "t", "envi")
    lines = path.read_text().splitlines(keepends=True)
    said = [line for line in lines if line.startswith("acquisition time")]

    assert said == (["acquisition time = 2022-11-03T16:24:38+00:00\n"] if start_utc_s else [])
    assert read_tile(path).info.start_utc_s == start_utc_s
    if not start_utc_s:  # of an earlier build
        path.write_text("".join([*lines, "acquisition time = 1970-01-01T00:00:00+00:00\n"]))
        assert read_tile(path).info.start_utc_s == 0.0


@pytest.mark.parametrize("file_format", ["geotiff", "envi"])
def test_other_software_sees_the_same(tmp_path: Path, file_format: str) -> None:
    """GDAL finds place, fill value and wavelengths where it looks for them, without a warning."""
    tile = tile_of("int16", -32768.0)
    path = write_tile(tile, tmp_path / "t", file_format)

    with rasterio.open(path.with_suffix(".img") if file_format == "envi" else path) as file:
        assert file.crs.to_epsg() == 32618
        assert tuple(file.transform)[:6] == tile.info.georeference.transform  # type: ignore[union-attr]
        assert file.nodata == -32768
        assert file.tags(2)["wavelength"] == "902.257"
        np.testing.assert_array_equal(file.read(), tile.samples)
    assert [p.name for p in tmp_path.iterdir() if ".aux" in p.name] == []


def test_xarray_sees_the_same(tmp_path: Path) -> None:
    """The zarr store opens in xarray without a warning, with pixel centers and fill as NaN."""
    path = write_tile(tile_of("int16", -32768.0), tmp_path / "t", "zarr")

    with xarray.open_zarr(path, chunks=None) as dataset:
        assert dataset["samples"].dims == ("band", "y", "x")
        assert bool(dataset["samples"][1].isnull().all())
        assert float(dataset["x"][0]) == 688_020.0
        assert dataset["wavelength"].values.tolist() == [418.24, 902.257, 640.1]


def test_the_hyspecnet_tree() -> None:
    """Of a HySpecNet-11k patch, one scene is found and its name and kind fill the gaps."""
    (path,) = find_scenes(DATA / "hyspecnet-11k")
    tile = read_tile(path)

    assert tile.samples.shape == (224, 128, 128)
    assert tile.samples.dtype == np.int16
    assert tile.info.sensor == "EnMAP"
    assert tile.info.scene.startswith("ENMAP01-____L2A-DT0000004950")
    assert tile.info.scene.endswith("-Y01460273_X03110438")
    assert tile.info.start_utc_s == 1_667_492_678.0  # 2022-11-03 16:24:38 UTC
    assert (tile.info.reflectance_scale, tile.info.nodata) == (10_000.0, -32768.0)
    assert tile.info.georeference == Georeference(
        crs="EPSG:32618", transform=(30.0, 0.0, 688_005.0, 0.0, -30.0, 4_561_935.0)
    )
    assert (tile.info.wavelengths_nm[0], tile.info.wavelengths_nm[-1]) == (418.24, 2445.53)
    invalid = ~tile.valid().any(axis=(1, 2))
    assert np.flatnonzero(invalid).tolist() == [*range(126, 141), *range(160, 167)]


def test_the_salton_sea() -> None:
    """A scene archive gives every key of its README."""
    tile = read_tile(DATA / "aviris_salton_sea.npz")

    assert tile.samples.shape == (224, 51, 56)
    assert (tile.info.sensor, tile.info.scene) == ("AVIRIS", "aviris_salton_sea")
    assert (tile.info.reflectance_scale, tile.info.nodata) == (10_000.0, -32768.0)
    assert tile.info.wavelengths_nm[0] == 366.0
    assert int((~tile.valid().any(axis=(1, 2))).sum()) == 20


def test_scenes_are_found_in_order(tmp_path: Path) -> None:
    """Every format is found; layers, hidden files and doubles are not; a file is itself."""
    for file_format in FORMATS:
        write_tile(tile_of("int16"), tmp_path / file_format / "t", file_format)
    for name in (
        ".partial-x/a.tif", ".hidden.tif", "X-QL_VNIR.TIF", "X-SPECTRAL_IMAGE.TIF", "X-DATA.npy",
        "Y-DATA.npy", "notes.txt",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    found = [str(p.relative_to(tmp_path)) for p in find_scenes(tmp_path)]

    assert found == [
        "X-SPECTRAL_IMAGE.TIF", "Y-DATA.npy", "envi/t.hdr", "geotiff/t.tif", "npy/t.npy",
        "zarr/t.zarr",
    ]  # fmt: skip
    assert find_scenes(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(TileFileError, match="no scene there; remedy"):
        find_scenes(tmp_path / "empty")
    with pytest.raises(TileFileError, match="no such file or folder; remedy: check the path"):
        find_scenes(tmp_path / "nothing.tif")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("interleave", "axes"), [("bsq", "brc"), ("bil", "rbc"), ("BIP", "rcb")])
def test_envi_of_others(tmp_path: Path, order: str, interleave: str, axes: str) -> None:
    """Any interleave and byte order, wavelengths in micrometers, a tie point inside the image."""
    cube = np.arange(60).reshape(3, 5, 4)
    cube.transpose(["brc".index(a) for a in axes]).astype(order + "i4").tofile(tmp_path / "a.dat")
    (tmp_path / "a.hdr").write_text(
        f"""ENVI
description = {{
  samples = 99, not a field}}
samples = 4
lines = 5
bands  = 3
data type = 3
; a remark = 1
interleave = {interleave}
byte order = {int(order == ">")}
sensor type = HyMap
acquisition time = 2022-11-03T16:24:38Z
reflectance scale factor = 5000
data ignore value = -1e30
map info = {{UTM, 1.5, 1.5, 1015.0, 1985.0, 30, 30, 33, North, WGS-84, units=Meters, rotation=0}}
wavelength units = Micrometers
wavelength = {{0.41824,
 0.902, 1.6401}}
"""
    )

    tile = read_tile(tmp_path / "a.dat")

    assert tile.samples.dtype == np.int16
    np.testing.assert_array_equal(tile.samples, cube)
    assert tile.info == TileInfo(
        sensor="HyMap",
        scene="a",
        start_utc_s=1_667_492_678.0,
        reflectance_scale=5000.0,
        wavelengths_nm=(418.24, 902.0, 1640.1),
        georeference=Georeference(crs="", transform=(30.0, 0.0, 1000.0, 0.0, -30.0, 2000.0)),
    )


def test_matlab_images(tmp_path: Path) -> None:
    """A .mat image is (rows, cols, bands); named variables beside it tell the rest."""
    image = np.arange(60.0).reshape(5, 4, 3)
    scipy.io.savemat(
        tmp_path / "a.mat",
        {"paviaU": image, "wavelength_nm": [[400.0, 500.0, 600.0]], "sensor": "ROSIS"},
    )

    tile = read_tile(tmp_path / "a.mat")

    assert tile.samples.dtype == np.float32
    np.testing.assert_array_equal(tile.samples, np.moveaxis(image, 2, 0))
    assert (tile.info.sensor, tile.info.wavelengths_nm) == ("ROSIS", (400.0, 500.0, 600.0))
    assert tile.info.reflectance_scale == 1.0


def test_geotiffs_of_others(tmp_path: Path) -> None:
    """Wavelengths in descriptions, a scale in GDAL's words, a fill value the type cannot hold."""
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", width=4, height=5, count=3, dtype="float64",
        nodata=-1.7e308, transform=rasterio.Affine(1, 0, 7, 0, -1, 9),
    ) as file:  # fmt: skip
        file.write(np.full((3, 5, 4), -1.7e308))
        file.descriptions = ("B1 (0.4 um)", "B2: 550.5 nm", "600 Nanometers")
        file.scales = (0.0005,) * 3

    tile = read_tile(tmp_path / "a.tif")

    assert not tile.valid().any()
    assert tile.info.wavelengths_nm == (400.0, 550.5, 600.0)
    assert (tile.info.scene, tile.info.reflectance_scale) == ("a", 2000.0)


@pytest.mark.parametrize("suffix", [".tif", ".img", ".npy", ".npz", ".mat"])
def test_any_cut_is_reported(tmp_path: Path, suffix: str) -> None:
    """A file cut anywhere is one error that names it, never a traceback or half a tile."""
    path = _written(tmp_path, suffix)
    whole = path.read_bytes()
    step = max(1, len(whole) // 40)
    for length in [*range(0, len(whole) - 1, step), len(whole) - 1]:
        if suffix == ".mat" and length >= len(whole) - 8:
            continue  # the last bytes of a .mat file are padding
        path.write_bytes(whole[:length])
        with pytest.raises(TileFileError, match=f"t{suffix}|t.hdr"):
            read_tile(path)


@pytest.mark.parametrize("suffix", [".tif", ".hdr", ".npy", ".npz", ".mat", ".json"])
@pytest.mark.filterwarnings("ignore:.*:rasterio.errors.NotGeoreferencedWarning")
def test_noise_is_reported_or_read(tmp_path: Path, suffix: str) -> None:
    """Flipped bytes give an error or another tile, and nothing else, in every format."""
    path = _written(tmp_path, suffix)
    target = path.with_suffix(".npy") if suffix == ".json" else path
    whole, rng = path.read_bytes(), np.random.default_rng(7)
    for _ in range(60):
        broken = np.frombuffer(whole, np.uint8).copy()
        places = rng.integers(0, min(len(whole), 700), size=3)
        broken[places] ^= rng.integers(1, 256, size=3, dtype=np.uint8)
        path.write_bytes(broken.tobytes())
        with suppress(TileFileError):
            read_tile(target)


def _written(folder: Path, suffix: str) -> Path:
    """Write one small scene in the format of `suffix`."""
    tile = tile_of("int16", -32768.0)
    if suffix in (".tif", ".hdr", ".img", ".npy", ".json"):
        file_format = {".tif": "geotiff", ".npy": "npy", ".json": "npy"}.get(suffix, "envi")
        return write_tile(tile, folder / "t", file_format).with_suffix(suffix)
    path = folder / f"t{suffix}"
    if suffix == ".mat":
        scipy.io.savemat(path, {"cube": np.moveaxis(tile.samples, 0, 2)})
    else:
        np.savez(path, cube=tile.samples, nodata=-32768)
    return path


def test_a_lost_chunk_is_reported(tmp_path: Path) -> None:
    """Zarr fills a chunk that is not there; we do not. A chunk cut or flipped is an error."""
    path = write_tile(tile_of("int16"), tmp_path / "t", "zarr")
    chunk = path / "samples" / "0.0.0"
    whole = chunk.read_bytes()
    for length in range(len(whole)):
        chunk.write_bytes(whole[:length])
        with pytest.raises(TileFileError, match="remedy"):
            read_tile(path)
    for place in range(len(whole)):
        chunk.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with suppress(TileFileError):  # some bits of a Zstandard header mean nothing
            same(read_tile(path), tile_of("int16"))
    chunk.unlink()
    with pytest.raises(TileFileError, match="1 of its chunks are missing"):
        read_tile(path)


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("a.txt", lambda p: p.touch(), "unknown format"),
        ("a.tif", lambda p: p, "no such file"),
        ("a.hdr", lambda p: p.write_text("ENVI\nsamples = 1\n"), "its data file"),
        ("a.hdr", lambda p: p.write_text("samples = 1\n"), "first line is not ENVI"),
        ("a.hdr", lambda p: p.write_text("ENVI\nwavelength = {1,\n 2"), "braces of 'wavelength'"),
        ("a.npz", lambda p: np.savez(p, image=np.zeros(3)), "no array named cube"),
        ("a.npz", lambda p: np.savez(p, cube=np.zeros((2, 2, 2), object)), "allow_pickle=False"),
        ("a.npy", lambda p: np.save(p, np.zeros((2, 2), "i2")), r"\(bands, rows, cols\)"),
        ("a.npy", lambda p: np.save(p, np.zeros((2, 2, 2), "c8")), "complex64"),
        ("a.npy", lambda p: np.save(p, np.array([[[-1, 70_000]]])), "from -1 to 70000 do not fit"),
        ("a.mat", lambda p: scipy.io.savemat(p, {"a": np.zeros(3)}), "0 three-dimensional"),
        ("a.mat", lambda p: p.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM"), "-v7"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path: Path, name: str, make: object, says: str) -> None:
    """The message names the file, the fault and the remedy."""
    path = tmp_path / name
    make(path)  # type: ignore[operator]
    with pytest.raises(TileFileError, match=says) as caught:
        read_tile(path)
    assert str(path) in str(caught.value)


def test_the_remedy_for_a_missing_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the ground extra, the error says what to install."""
    monkeypatch.setitem(sys.modules, "rasterio", None)
    (tmp_path / "a.tif").touch()
    with pytest.raises(TileFileError, match=r"pip install prismlink\[ground\]"):
        read_tile(tmp_path / "a.tif")


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_second_write_replaces_the_first(tmp_path: Path, file_format: str) -> None:
    """Writing over a file leaves the new tile and nothing else beside it."""
    write_tile(tile_of("int16"), tmp_path / "t", file_format)
    names = sorted(p.name for p in tmp_path.iterdir())
    second = tile_of("float32", sequence=9)

    path = write_tile(second, tmp_path / "t", file_format)

    same(read_tile(path), second)
    assert sorted(p.name for p in tmp_path.iterdir()) == names


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_failed_write_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: str
) -> None:
    """If the disk fails before the rename, the old file is whole and no scrap is left."""
    path = write_tile(tile_of("int16"), tmp_path / "t", file_format)

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(TileFileError, match=r"cannot be written: .*No space left"):
        write_tile(tile_of("float32"), tmp_path / "t", file_format)

    same(read_tile(path), tile_of("int16"))
    assert not list(tmp_path.glob(".partial-*"))


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_full_disk_leaves_no_file(tmp_path: Path, file_format: str) -> None:
    """A write that the system cuts short is an error; GDAL's included, which report late."""
    where = f"Path({str(tmp_path / 't')!r}), {file_format!r}"
    code = f"""
import sys, resource, numpy as np
from pathlib import Path
from codec.errors import TileFileError
from codec.tile import Tile, TileInfo
from codec.tile_files import write_tile
samples = np.random.default_rng(1).integers(0, 9999, (9, 128, 128)).astype(np.int16)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_tile(Tile(samples=samples, info=TileInfo()), {where})
except TileFileError:
    sys.exit(7)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 7
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    """The message lists what there is."""
    with pytest.raises(TileFileError, match=r"unknown format 'png'; remedy: one of .*geotiff"):
        write_tile(tile_of("int16"), tmp_path / "t", "png")


def test_stale_tags_give_way(tmp_path: Path) -> None:
    """Where a tool moved the image, the format's own place wins over our tag."""
    path = write_tile(tile_of("int16"), tmp_path / "t", "geotiff")
    with rasterio.open(path, "r+") as file:
        file.transform = rasterio.Affine(10, 0, 1, 0, -10, 2)

    georeference = read_tile(path).info.georeference

    assert georeference is not None
    assert georeference.transform == (10.0, 0.0, 1.0, 0.0, -10.0, 2.0)


@pytest.mark.parametrize("unit", ["Nanometers", "Micrometers", "Unknown", ""])
def test_widths_of_others(tmp_path: Path, unit: str) -> None:
    """An ENVI header's widths are in the unit of its wavelengths, which may have to be guessed."""
    scale = 1000 if unit in ("Micrometers", "Unknown") else 1
    np.zeros((2, 3, 4), "i2").tofile(tmp_path / "a.img")
    lines = [
        *("ENVI", "samples = 4", "lines = 3", "bands = 2", "data type = 2", "interleave = bsq"),
        *([f"wavelength units = {unit}"] if unit else []),
        f"wavelength = {{{500 / scale}, {600 / scale}}}",
        f"fwhm = {{{6.5 / scale}, {11 / scale}}}",
    ]
    (tmp_path / "a.hdr").write_text("\n".join(lines))

    assert read_tile(tmp_path / "a.hdr").info.fwhm_nm == (6.5, 11.0)


def test_wavelength_units() -> None:
    """Micrometers, nanometers, and a guess only where the file names no unit."""
    assert tile_tags.nanometers([0.418], "Micrometers") == [418.0]
    assert tile_tags.nanometers([418.0], "Nanometers") == [418.0]
    assert tile_tags.nanometers([0.418, 2.4], "Unknown") == [418.0, 2400.0]
    assert tile_tags.nanometers([418.0], "") == [418.0]
    assert tile_tags.nanometers([1.0], "Index") == []


def test_tags_are_json() -> None:
    """Every tag is one line of ASCII without braces, and none is left behind."""
    texts = tile_tags.to_text_tags(replace(INFO, scene="{\n}ü"))
    assert all(t.isascii() and t.isprintable() and not set("{}") & set(t) for t in texts.values())
    assert json.loads(texts["PRISMLINK_SCENE"]) == "{\n}ü"
