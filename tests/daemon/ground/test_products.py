"""Products: whole or not there, the same whenever written, and read by everybody's tools."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import spectral
import xarray
from numpy.typing import NDArray

from codec.patch_layers import PatchLayers
from codec.tile import Tile, TileInfo
from codec.tile_files import find_scenes, read_tile
from daemon.errors import OutputError
from daemon.ground.items import RestoredTile
from daemon.ground.products import (
    QUALITY,
    STAC,
    amend_product,
    file_sha256,
    layers_of,
    parts_of,
    tree_sha256,
    write_product,
)
from fakes import cubes, killed_writer
from fakes.ground import restored
from fakes.processes import PATIENCE_S, ROOT, until
from fakes.product_reader import PLACE, check, tile_of

FORMATS = ("geotiff", "cog", "envi", "zarr", "npy")
DATA = ROOT / "tests" / "data"
(ENMAP,) = find_scenes(DATA / "hyspecnet-11k")
SCENES = {
    "EnMAP": ENMAP,
    "AVIRIS": DATA / "aviris_salton_sea.npz",
    "widths and holes": None,
}


def files_of(path: Path) -> dict[str, bytes]:
    """Every file of a product's samples, by name."""
    return {
        file.relative_to(path.parent).as_posix(): file.read_bytes()
        for part in parts_of(path)
        for file in ([part] if part.is_file() else filter(Path.is_file, part.rglob("*")))
    }


def told(path: Path, ending: str) -> dict[str, object]:
    """What one of the files beside a product says."""
    said: dict[str, object] = json.loads(path.with_name("p" + ending).read_text())
    return said


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("marked", [False, True], ids=["no fill value", "a fill value"])
def test_a_product_completed_is_one_written_whole(
    tmp_path: Path, file_format: str, marked: bool
) -> None:
    """Byte for byte, over however many versions and boots; what is beside the samples tells."""
    tile = tile_of(1)
    if marked:
        tile = Tile(samples=tile.samples, info=replace(tile.info, nodata=0.0))
    for name in ("often", "once"):
        (tmp_path / name).mkdir()
    path = tmp_path / "often" / "p"
    for number, missing in enumerate([((0, 1), (1, 1)), ((1, 1),), ()], start=1):
        written = write_product(restored(tile, *missing, boot_id=number), path, file_format)
        item = told(path, STAC)["properties"]
        assert isinstance(item, dict)
        assert item["version"] == str(number)
        assert item["prismlink:complete"] == (not missing)
        assert item["prismlink:patches_missing"] == [list(position) for position in missing]
        np.testing.assert_array_equal(
            read_tile(written).samples, restored(tile, *missing).tile.samples
        )
    once = write_product(restored(tile), tmp_path / "once" / "p", file_format)

    assert files_of(written) == files_of(once)
    assert sorted(p.name for p in path.parent.iterdir()) == sorted(
        p.name for p in once.parent.iterdir()
    )


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_same_again_is_no_new_version(tmp_path: Path, file_format: str) -> None:
    """A ground that decodes a tile anew says of it what it said; so does another machine."""
    for _ in range(2):
        path = write_product(restored(tile_of(1), (0, 0)), tmp_path / "p", file_format)
        before = [told(path, ending) for ending in (STAC, QUALITY)]
    assert before == [told(path, ending) for ending in (STAC, QUALITY)]
    assert before[1]["version"] == 1


@pytest.mark.parametrize("before", FORMATS)
@pytest.mark.parametrize("after", FORMATS)
def test_a_name_has_one_product_in_one_format(tmp_path: Path, before: str, after: str) -> None:
    """What was there in another is gone, and the next version lists all that there is."""
    write_product(restored(tile_of(1), (0, 0)), tmp_path / "p", before)
    path = write_product(restored(tile_of(1)), tmp_path / "p", after)

    item = told(path, STAC)
    hrefs = {asset["href"] for asset in item["assets"].values()}  # type: ignore[attr-defined]
    assert hrefs | {f"./p{STAC}"} == {f"./{file.name}" for file in tmp_path.iterdir()}
    assert told(path, QUALITY)["version"] == 2
    np.testing.assert_array_equal(read_tile(path).samples, tile_of(1).samples)


def test_the_quality_of_each_patch_is_told(tmp_path: Path) -> None:
    """Its step, packets and those repaired, and PSNR where it is known; null is not known."""
    item = restored(tile_of(1), (1, 0))
    path = write_product(item, tmp_path / "p", "npy")
    said = told(path, QUALITY)

    assert (said["complete"], said["grid"], said["patch_px"]) == (False, [2, 2], 128)
    assert said["model"] == item.side.model.hex()
    first, _, hole, _ = said["patches"]  # type: ignore[misc]  # a list of four
    assert first == {
        "row": 0, "col": 0, "received": True, "step": 64.0, "psnr_db": None,
        "max_abs_error": None, "packets": 5, "packets_repaired": 2,
    }  # fmt: skip
    assert hole == {
        "row": 1, "col": 0, "received": False, "step": None, "psnr_db": None,
        "max_abs_error": None, "packets": None, "packets_repaired": None,
    }  # fmt: skip


def test_layers_are_those_of_the_patches() -> None:
    """NaN where nothing came, or nothing is known."""
    layers = layers_of(restored(tile_of(1), (1, 0)))

    assert layers.received.tolist() == [[True, True], [False, True]]
    np.testing.assert_array_equal(layers.step, np.array([[64, 64], [np.nan, 64]], np.float32))
    assert np.isnan(layers.psnr_db).all()


def test_an_item_comes_last_and_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sees it finds all it lists; what else fails, there is none."""
    write_product(restored(tile_of(1), (0, 0)), tmp_path / "p", "geotiff")
    (tmp_path / f"p{QUALITY}").unlink()
    (tmp_path / f"p{QUALITY}").mkdir()
    with pytest.raises(OutputError, match="quality"):
        write_product(restored(tile_of(1)), tmp_path / "p", "geotiff")

    assert not (tmp_path / f"p{STAC}").exists()


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("after", ["the same", "npy", "zarr"])
def test_a_full_disk_leaves_the_product_and_its_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: str, after: str
) -> None:
    """The version before is as it was, and so is what is said of it, also if in another format."""
    path = write_product(restored(tile_of(1), (0, 0)), tmp_path / "p", file_format)
    before, item = files_of(path), told(path, STAC)

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match="No space left"):
        write_product(
            restored(tile_of(1)), tmp_path / "p", file_format if after == "the same" else after
        )
    assert (files_of(path), told(path, STAC)) == (before, item)


@pytest.mark.parametrize("broken", [b"", b"[]", b'{"version": "x"}', b"\xff", b'{"version": 3}'])
def test_a_broken_file_of_quality_is_replaced(tmp_path: Path, broken: bytes) -> None:
    """Then versions are counted from one again; no tile is lost for it."""
    (tmp_path / f"p{QUALITY}").write_bytes(broken)
    assert told(write_product(restored(tile_of(1)), tmp_path / "p", "npy"), QUALITY)["version"] == 1


def test_a_folder_has_the_digest_that_a_shell_makes(
    tmp_path: Path, requires_tool: Callable[[str], str]
) -> None:
    """As docs/products.md has it, so that others can check a zarr store."""
    requires_tool("sha256sum")
    path = write_product(restored(tile_of(1)), tmp_path / "p", "zarr")
    shell = "find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
    made = subprocess.run(["sh", "-c", shell], cwd=path, capture_output=True, check=True).stdout

    assert made.decode().split()[0] == tree_sha256(path)


# ---------------------------------------------------------------- other people's tools


@pytest.fixture(params=SCENES)
def item(request: pytest.FixtureRequest) -> RestoredTile:
    """Real scenes, and a tile with widths of bands, a place and a hole."""
    path = SCENES[request.param]
    if path is not None:
        return restored(read_tile(path))
    tile = cubes.tile(
        bands=4, rows=150, cols=140, nodata=-1.0, fill_pixels=0.1, georeference=PLACE,
        wavelengths_nm=(418.24, 550.0, 902.257, 2445.5), fwhm_nm=(6.5, 7.0, 11.25, 10.0),
        start_utc_s=1_667_492_678.25, sensor="EnMAP",
    )  # fmt: skip
    return restored(tile, (1, 0))


def check_wavelengths(info: TileInfo, centers_nm: list[float], widths_nm: list[float]) -> None:
    """They are the tile's."""
    assert centers_nm == pytest.approx(info.wavelengths_nm, abs=1e-6)
    assert widths_nm == pytest.approx(info.fwhm_nm, abs=1e-6)


def valid_of(item: RestoredTile) -> NDArray[np.bool_]:
    """Samples that came and were measured."""
    layers: PatchLayers = layers_of(item)
    return layers.valid(item.tile)


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("file_format", ["geotiff", "cog", "envi", "zarr"])
def test_gdal_and_rasterio_see_the_tile(
    tmp_path: Path, item: RestoredTile, file_format: str
) -> None:
    """Samples, what is valid, centers, widths, the place."""
    path, info = write_product(item, tmp_path / "p", file_format), item.tile.info
    name = {"envi": f"{path.with_suffix('.img')}", "zarr": f'ZARR:"{path}":/samples'}
    with rasterio.open(name.get(file_format, path)) as file:
        np.testing.assert_array_equal(file.read(), item.tile.samples)
        assert file.nodata == info.nodata
        np.testing.assert_array_equal(file.read_masks() == 255, valid_of(item))
        np.testing.assert_array_equal(file.dataset_mask() == 255, valid_of(item).any(axis=0))
        if info.georeference is not None:
            assert file.crs.to_epsg() == 32618
            assert tuple(file.transform)[:6] == info.georeference.transform
        else:
            assert file.crs is None
        if file_format in ("geotiff", "cog"):
            told = [file.tags(band, ns="IMAGERY") for band in file.indexes]
            check_wavelengths(
                info,
                [1000 * float(tags["CENTRAL_WAVELENGTH_UM"]) for tags in told],
                [1000 * float(tags["FWHM_UM"]) for tags in told if "FWHM_UM" in tags],
            )


def test_spectral_python_sees_the_tile(tmp_path: Path, item: RestoredTile) -> None:
    """Samples as stored, reflectance by the factor it reads, centers and widths in nanometers."""
    path, info = write_product(item, tmp_path / "p", "envi"), item.tile.info
    image = spectral.envi.open(path, path.with_suffix(".img"))

    stored = image.open_memmap()
    np.testing.assert_array_equal(np.moveaxis(stored, 2, 0), item.tile.samples)
    assert image.scale_factor == info.reflectance_scale
    assert float(image.metadata["data ignore value"]) == info.nodata
    assert image.bands.band_unit == "Nanometers"
    check_wavelengths(info, image.bands.centers, image.bands.bandwidths or [])
    assert ("map info" in image.metadata) == (info.georeference is not None)


def test_xarray_sees_the_tile(tmp_path: Path, item: RestoredTile) -> None:
    """Samples with fill as NaN, what is valid, centers and widths, the CRS, the time."""
    path, info = write_product(item, tmp_path / "p", "zarr"), item.tile.info
    with xarray.open_zarr(path, chunks=None, decode_coords="all") as found:
        valid = valid_of(item)
        np.testing.assert_array_equal(found["valid"].values, valid)
        np.testing.assert_array_equal(
            found["samples"].values, np.where(item.tile.valid(), item.tile.samples, np.nan)
        )
        widths = found["fwhm"].values.tolist() if "fwhm" in found.coords else []
        check_wavelengths(info, found["wavelength"].values.tolist(), widths)
        if info.georeference is not None:
            crs = rasterio.crs.CRS.from_wkt(found["spatial_ref"].attrs["crs_wkt"])
            assert crs.to_epsg() == 32618
        if info.start_utc_s:
            assert found["time"].values == np.datetime64(round(info.start_utc_s * 1e3), "ms")
        else:
            assert "time" not in found.variables


def test_the_manual_opens_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of docs/products.md runs as it stands, on files of these names."""
    text = (ROOT / "docs" / "products.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    for file_format in ("geotiff", "envi", "zarr"):
        (tmp_path / file_format).mkdir()  # a folder has a name in one format
        write_product(restored(read_tile(ENMAP)), tmp_path / file_format / "NAME", file_format)
        shutil.copytree(tmp_path / file_format, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    made = dict[str, Any]()
    exec(code, made)  # noqa: S102  # our own manual

    assert made["centers_um"][0] == 0.41824
    assert made["red"].shape == (128, 128)
    assert made["image"].shape == (128, 128, 224)
    made["cube"].close()


# ---------------------------------------------------------------- readers beside the writer


@pytest.mark.parametrize("file_format", ["geotiff", "envi", "zarr", "npy"])
def test_no_reader_sees_half_a_product(tmp_path: Path, file_format: str) -> None:
    """Another process reads while tiles are written with holes and completed patch by patch.

    See `fakes.product_reader` for what it demands.
    """
    reader = subprocess.Popen(
        [sys.executable, "-m", "fakes.product_reader", str(tmp_path), file_format],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        stderr=subprocess.PIPE,
        text=True,
    )
    growing = [((0, 0), (0, 1), (1, 0)), ((0, 0), (1, 0)), ((1, 0),), ()]
    sequence = 0
    try:

        def write_on() -> bool:
            nonlocal sequence
            sequence += 1
            for missing in growing:
                item = restored(tile_of(sequence), *missing)
                write_product(item, tmp_path / f"p{sequence:04d}", file_format)
            passes = tmp_path / "passes"
            ended = reader.poll() is not None
            return ended or (passes.exists() and int(passes.read_text() or "0") >= 20)

        until(write_on, "twenty readings", timeout_s=PATIENCE_S)
        (tmp_path / "stop").touch()
        _, errors = reader.communicate(timeout=PATIENCE_S)
    finally:
        reader.kill()
        reader.wait()
    assert (reader.returncode, errors) == (0, "")


# ---------------------------------------------------------------- a writer that is killed


def whole_item(folder: Path, file_format: str) -> dict[str, Any] | None:
    """The item of the product there, which must be as all of its files are; None: there is none."""
    found = list(folder.glob(f"*{STAC}"))
    if not found:
        return None
    assert check(found[0], file_format)
    item: dict[str, Any] = json.loads(found[0].read_bytes())
    for asset in item["assets"].values():
        path = folder / asset["href"]
        if path.is_dir():
            assert asset["prismlink:tree_sha256"] == tree_sha256(path)
        else:
            assert asset["file:checksum"] == "1220" + file_sha256(path)
    return item


def killed(folder: Path, file_format: str, what: str) -> list[Path]:
    """Have a ground killed at each step; see `fakes.killed_writer`."""
    words = [sys.executable, "-m", "fakes.killed_writer", str(folder), file_format, what]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    subprocess.run(words, env=env, check=True, timeout=10 * PATIENCE_S)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("file_format", ["envi", "zarr"])
def test_a_ground_that_is_killed_leaves_a_whole_version_or_no_item(
    tmp_path: Path, file_format: str
) -> None:
    """And has not told that the tile is written, so that the archive gives it to the next one."""
    *folders, done = killed(tmp_path, file_format, "write")
    assert len(folders) > 6
    found = [whole_item(folder, file_format) for folder in folders]
    versions = [item and item["properties"]["version"] for item in found]
    assert {"1", None, "2"} == set(versions)
    for folder, version in zip(folders, versions, strict=True):
        assert version == "2" or not (folder / killed_writer.TOLD).exists()
        list(killed_writer.writer(folder, file_format).accept(restored(killed_writer.TILE)))
        item = whole_item(folder, file_format)
        assert item is not None
        assert (item["properties"]["version"], item["properties"]["prismlink:complete"]) == (
            "2",
            True,
        )
        assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in done.iterdir())


def test_an_amendment_that_failed_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the next one, once there is room again; until then the product is as it was."""
    item = restored(killed_writer.TILE)
    path, note = tmp_path / "p", killed_writer.NOTE
    write_product(item, path, "npy")
    before = whole_item(tmp_path, "npy")
    with monkeypatch.context() as patch:
        patch.setattr("daemon.ground.products.write_whole", _no_room)
        with pytest.raises(OutputError):
            amend_product(path, {note.place: note.measured})
    assert whole_item(tmp_path, "npy") == before is not None
    assert amend_product(path, {note.place: note.measured})
    assert whole_item(tmp_path, "npy") not in (before, None)


def _no_room(path: Path, _: bytes) -> None:
    raise OutputError(path, "no room")


def test_an_item_that_was_being_amended_comes_back(tmp_path: Path) -> None:
    """With the next ground, whichever of its checksums is right then; nothing half is left."""
    *folders, done = killed(tmp_path, "npy", "amend")
    assert None in [whole_item(folder, "npy") for folder in folders]
    assert any(list(folder.glob(".*.part")) for folder in folders)
    for folder in folders:
        killed_writer.writer(folder, "npy")
        assert whole_item(folder, "npy") is not None
        assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in done.iterdir())
    (quality,) = done.glob(f"*{QUALITY}")
    assert json.loads(quality.read_bytes())["patches"][1]["psnr_db"] == killed_writer.NOTE.psnr_db
