"""Products of a pass with loss, whose ground ends in the middle: those of an undisturbed one.

And what the board measured of patches is in them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pytest
import rasterio
import xarray
from numpy.typing import NDArray

from codec.patch_grid import PatchGrid
from codec.quality import max_abs_error, psnr_db
from codec.tile import Georeference, Tile
from codec.tile_files import read_tile
from daemon.ground.products import parts_of
from daemon.link.sockets import TileSender
from daemon.radio import LossyLink, Radio
from daemon.tile_message import TileMessage
from fakes.cubes import tile as fake_tile
from fakes.instrument import SAME_SPEED
from fakes.processes import PATIENCE_S, Desk, Process, towards, until
from fakes.product_reader import SUFFIXES
from fakes.scenes import cut
from fakes.web import Visitor

ROWS, COLS = 256, 128 * 8
PLACE: Final = Georeference(
    crs="EPSG:32618", transform=(30.0, 0.0, 688_005.0, 0.0, -30.0, 4_561_935.0)
)
SCENE: Final = "s_scene_*"
"""What files of the scene's product begin with."""
SLOWLY: Final = "link.kbit_per_s=400"
"""A tile takes seconds, so that a ground can end in the middle of one."""


def tile_of() -> Tile:
    """Sixteen patches, without a fill value: nothing but a mask can tell its holes."""
    made = fake_tile(bands=6, rows=ROWS, cols=COLS, scene="s", noise_dn=60.0, georeference=PLACE)
    widths = tuple(6.5 + band / 4 for band in range(6))
    centers = tuple(450.0 + 100 * band for band in range(6))
    return Tile(
        samples=made.samples, info=replace(made.info, wavelengths_nm=centers, fwhm_nm=widths)
    )


def files_of(product: Path) -> dict[str, bytes]:
    """All that holds samples, by name."""
    return {
        file.relative_to(product.parent).as_posix(): file.read_bytes()
        for part in parts_of(product)
        for file in ([part] if part.is_file() else filter(Path.is_file, part.rglob("*")))
    }


class Product(NamedTuple):
    """A product: where it is, what its item says, and its image, if GDAL or xarray opens it."""

    path: Path
    told: dict[str, Any]
    image: tuple[NDArray[Any], NDArray[np.bool_]] | None


def product_in(cubes: Path, name: str, file_format: str) -> Product:
    """The one product of such a name."""
    (item,) = cubes.glob(f"{name}.stac.json")
    path = item.with_name(item.name.removesuffix(".stac.json") + SUFFIXES[file_format])
    told = json.loads(item.read_text())["properties"]
    return Product(path, told, None if file_format == "npy" else read(path))


def read(product: Path) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Samples, and which pixels are valid, as GDAL or xarray has them."""
    if product.suffix == ".zarr":
        with xarray.open_zarr(product, chunks=None) as dataset:
            return dataset["samples"].values, dataset["valid"].values.any(axis=0)
    with rasterio.open(
        product.with_suffix(".img") if product.suffix == ".hdr" else product
    ) as file:
        assert file.tags(3, ns="IMAGERY")["CENTRAL_WAVELENGTH_UM"].startswith("0.65")
        assert file.crs.to_epsg() == 32618
        return file.read(), file.dataset_mask() == 255


def undisturbed(desk: Desk, bundle: Path, cubes: Path, file_format: str, *tiles: Tile) -> None:
    """Products of a pass without loss."""
    ground = desk.ground(
        bundle, f"output.directory={cubes}", f"output.format={file_format}"
    ).until_ready()
    flight = desk.flight(bundle, SAME_SPEED).until_ready()
    send(desk, *tiles)
    ground.until_metrics(
        lambda n: n.total("tiles_written_total", state="complete") == len(tiles), "all tiles"
    )
    flight.stop()
    ground.stop()


def send(desk: Desk, *tiles: Tile) -> None:
    """Tiles to the board."""
    with TileSender(towards(desk.tiles)) as sender:
        for tile in tiles:
            assert sender.send(TileMessage.pack(tile), PATIENCE_S)


@contextmanager
def lossy_pass(
    desk: Desk, bundle: Path, tmp_path: Path, *words: str
) -> Iterator[Callable[[], Process]]:
    """A board behind a link that loses 5 %; what this gives starts its ground, and starts it again.

    Args:
        desk: Where they run.
        bundle: Of both.
        tmp_path: For their files.
        words: More settings of the ground.
    """
    air, up = f"{desk.link}-air", f"{desk.link}-up"
    radio = Radio(board=air, ground=desk.link, link=LossyLink(seed=3, loss=0.05))

    def ground() -> Process:
        return desk.ground(
            bundle, f"archive.directory={tmp_path / 'archive'}", *words,
            f"link.uplink={{address: '{up}', report_s: 0.2, reorder_s: 0.1, retry_s: 1.0}}",
        ).until_ready()  # fmt: skip

    radio.start()
    try:
        flight = desk.flight(
            bundle, SAME_SPEED, SLOWLY, f"link.address={air}", "link.mtu_bytes=512",
            "spool.kind=disk", f"spool.directory={tmp_path / 'spool'}",
            f"link.uplink={{address: '{up}', beacon_s: 0.2}}",
        ).until_ready()  # fmt: skip
        yield ground
        flight.stop()
    finally:
        radio.stop()
    assert radio.link.lost > 0


@pytest.mark.parametrize("file_format", ["geotiff", "envi", "zarr", "npy"])
def test_loss_and_a_restart_change_no_byte(
    desk: Desk, small_bundle: Path, tmp_path: Path, file_format: str
) -> None:
    """At 5 % loss, with a ground that ends and starts again in the middle of two tiles of a scene.

    What it wrote of a tile and of the scene when it ended opens, and the mask is that of the
    patches that had come; what the next one makes of them is, byte for byte, what a pass without
    loss makes.
    """
    tiles = list(cut(tile_of(), (ROWS // 2, ROWS // 2), (COLS,)).values())
    words = f"output.format={file_format}", "output.scene_deadline_s=0.5"
    with lossy_pass(desk, small_bundle, tmp_path, *words) as start:
        ground = start()
        send(desk, *tiles)
        ground.until_metrics(lambda n: n.total("patches_decoded_total") > 8, "some of both")
        ground.stop()
        begun = next(told["file"] for told in desk.manifests() if told["patches_missing"])
        names = SCENE, Path(begun).stem
        before = [product_in(desk.cubes, name, file_format) for name in names]

        ground = start()
        ground.until_metrics(
            lambda n: n.total("scenes_written_total", state="complete") == 1, "the whole scene"
        )
        ground.stop()

    undisturbed(desk, small_bundle, tmp_path / "undisturbed", file_format, *tiles)
    for name, partial, shape in zip(names, before, ((ROWS, COLS), (ROWS // 2, COLS)), strict=True):
        final = product_in(desk.cubes, name, file_format)
        assert files_of(final.path) == files_of(tmp_path / "undisturbed" / final.path.name)
        check_completed(partial, final, *shape)
    for told in desk.manifests():
        product = desk.cubes / told["file"]
        assert files_of(product) == files_of(tmp_path / "undisturbed" / product.name)


def check_completed(partial: Product, final: Product, rows: int, cols: int) -> None:
    """What was there before had a mask, and stayed as it was."""
    missing = partial.told["prismlink:patches_missing"]
    assert 0 < len(missing) < partial.told["prismlink:patches"]
    assert (partial.told["version"], partial.told["prismlink:complete"]) == ("1", False)
    assert int(final.told["version"]) >= 2
    assert final.told["prismlink:complete"] is True
    assert final.told["proj:shape"] == [rows, cols]
    if partial.image is None or final.image is None:
        return
    expected, grid = (
        np.ones((rows, cols), dtype=np.bool_),
        PatchGrid(tile_rows=rows, tile_cols=cols),
    )
    for position in missing:
        expected[grid.extent(*position).slices] = False
    np.testing.assert_array_equal(partial.image[1], expected)
    np.testing.assert_array_equal(partial.image[0][:, expected], final.image[0][:, expected])
    assert final.image[1].all()


def measured_in(cubes: Path) -> dict[tuple[int, int], tuple[float, float]]:
    """PSNR and largest error of the patches of which the one product tells them."""
    (path,) = cubes.glob("*.quality.json")
    return {
        (patch["row"], patch["col"]): (patch["psnr_db"], patch["max_abs_error"])
        for patch in json.loads(path.read_text())["patches"]
        if patch["psnr_db"] is not None
    }


def test_what_the_board_measures_is_in_the_product(desk: Desk, small_bundle: Path) -> None:
    """PSNR within 0.01 dB and largest error are those of the original and the product."""
    up = f"{desk.link}-up"
    ground = desk.ground(
        small_bundle, "output.format=npy", "web.port=0",
        f"link.uplink={{address: '{up}', report_s: 0.2}}",
    ).until_ready()  # fmt: skip
    flight = desk.flight(
        small_bundle, SAME_SPEED, "model.quality_every=1",
        f"link.uplink={{address: '{up}', beacon_s: 0.2}}",
    ).until_ready()  # fmt: skip
    page = Visitor(int(ground.events("ready")[0]["web"].rpartition(":")[2]))

    def shown() -> list[dict[str, Any]]:
        tiles: list[dict[str, Any]] = json.loads(page.get("/api/state").body)["tiles"]
        return [tile for tile in tiles if tile["psnr_db"] is not None]

    send(desk, tile_of())
    ground.until_metrics(lambda n: n.total("tiles_written_total", state="complete") == 1, "a tile")
    checked = flight.until_metrics(
        lambda n: n.total("quality_checked_total") + n.total("quality_skipped_total") == 16,
        "all patches to be looked at, or not",
    ).total("quality_checked_total")
    assert checked > 0
    until(lambda: len(measured_in(desk.cubes)) == checked, "every note in the product")
    until(lambda: [tile["psnr_patches"] for tile in shown()] == [checked], "the page to have them")
    (tile,) = shown()
    flight.stop()
    ground.stop()

    before, told = tile_of(), measured_in(desk.cubes)
    product = read_tile(desk.cubes / desk.manifests()[0]["file"])
    grid = PatchGrid(tile_rows=ROWS, tile_cols=COLS)
    for (row, col), (told_db, told_error) in told.items():
        part = (slice(None), *grid.extent(row, col).slices)
        pair = before.samples[part], product.samples[part], before.valid()[part]
        assert told_db == pytest.approx(psnr_db(*pair, before.info.reflectance_scale), abs=0.01)
        assert told_error == pytest.approx(max_abs_error(*pair))
    assert tile["psnr_db"] == pytest.approx(np.mean([known for known, _ in told.values()]))
    ((item,), (quality,)) = (list(desk.cubes.glob(f"*.{end}.json")) for end in ("stac", "quality"))
    assert json.loads(item.read_text())["assets"]["quality"]["file:checksum"] == (
        "1220" + hashlib.sha256(quality.read_bytes()).hexdigest()
    )
