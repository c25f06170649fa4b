"""Products of a pass with loss, whose ground ends in the middle: those of an undisturbed one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import rasterio
import xarray
from numpy.typing import NDArray

from codec.patch_grid import PatchGrid
from codec.tile import Georeference, Tile
from daemon.ground.products import parts_of
from daemon.link.sockets import Endpoint, TileSender
from daemon.radio import LossyLink, Radio
from daemon.tile_message import TileMessage
from fakes.cubes import tile as fake_tile
from fakes.instrument import SAME_SPEED
from fakes.processes import PATIENCE_S, Desk

ROWS, COLS = 256, 128 * 8
PLACE: Final = Georeference(
    crs="EPSG:32618", transform=(30.0, 0.0, 688_005.0, 0.0, -30.0, 4_561_935.0)
)
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


def item_in(cubes: Path) -> dict[str, Any]:
    """What the one item says."""
    (path,) = cubes.glob("*.stac.json")
    told: dict[str, Any] = json.loads(path.read_text())["properties"]
    return told


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


def undisturbed(desk: Desk, bundle: Path, cubes: Path, file_format: str) -> Path:
    """The product of a pass without loss."""
    ground = desk.ground(
        bundle, f"output.directory={cubes}", f"output.format={file_format}"
    ).until_ready()
    flight = desk.flight(bundle, SAME_SPEED).until_ready()
    send(desk)
    ground.until_metrics(lambda n: n.total("tiles_written_total", state="complete") == 1, "a tile")
    flight.stop()
    ground.stop()
    (manifest,) = cubes.glob("*.manifest.json")
    return cubes / str(json.loads(manifest.read_text())["file"])


def send(desk: Desk) -> None:
    """One tile to the board."""
    with TileSender(Endpoint(address=desk.tiles, bind=False)) as sender:
        assert sender.send(TileMessage.pack(tile_of()), PATIENCE_S)


@pytest.mark.parametrize("file_format", ["geotiff", "envi", "zarr"])
def test_loss_and_a_restart_change_no_byte(
    desk: Desk, small_bundle: Path, tmp_path: Path, file_format: str
) -> None:
    """At 5 % loss, with a ground that ends and starts again in the middle of a tile.

    What it wrote when it ended opens, and its mask is that of the patches that had come; what the
    next one makes of it is, byte for byte, the product of a pass without loss.
    """
    air, up = f"{desk.link}-air", f"{desk.link}-up"
    ground_settings = (
        f"archive.directory={tmp_path / 'archive'}", f"output.format={file_format}",
        f"link.uplink={{address: '{up}', report_s: 0.2, reorder_s: 0.1, retry_s: 1.0}}",
    )  # fmt: skip
    radio = Radio(board=air, ground=desk.link, link=LossyLink(seed=3, loss=0.05))
    radio.start()
    try:
        ground = desk.ground(small_bundle, *ground_settings).until_ready()
        flight = desk.flight(
            small_bundle, SAME_SPEED, SLOWLY, f"link.address={air}", "link.mtu_bytes=512",
            "spool.kind=disk", f"spool.directory={tmp_path / 'spool'}",
            f"link.uplink={{address: '{up}', beacon_s: 0.2}}",
        ).until_ready()  # fmt: skip
        send(desk)
        ground.until_metrics(lambda n: n.total("patches_decoded_total") >= 3, "some patches")
        ground.stop()
        partial, before = item_in(desk.cubes), desk.manifests()[0]
        product = desk.cubes / before["file"]
        samples, valid = read(product)

        ground = desk.ground(small_bundle, *ground_settings).until_ready()
        ground.until_metrics(
            lambda n: n.total("tiles_written_total", state="complete") == 1, "the whole tile"
        )
        flight.stop()
        ground.stop()
    finally:
        radio.stop()
    assert radio.link.lost > 0

    whole = undisturbed(desk, small_bundle, tmp_path / "undisturbed", file_format)
    assert files_of(product) == files_of(whole)
    truth, all_valid = read(product)
    assert all_valid.all()

    missing = [tuple(position) for position in before["patches_missing"]]
    assert 0 < len(missing) < before["patches"] == 16
    grid = PatchGrid(tile_rows=ROWS, tile_cols=COLS)
    expected = np.ones((ROWS, COLS), dtype=np.bool_)
    for position in missing:
        expected[grid.extent(*position).slices] = False
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(samples[:, expected], truth[:, expected])

    final = item_in(desk.cubes)
    assert (partial["version"], partial["prismlink:complete"]) == ("1", False)
    assert partial["prismlink:patches_missing"] == before["patches_missing"]
    assert int(final["version"]) >= 2
    assert final["prismlink:complete"] is True
