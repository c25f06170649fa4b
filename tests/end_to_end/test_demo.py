"""The demo, as `make demo` runs it: real scenes, real processes, a radio that loses packets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import rasterio

from codec.tile_files import read_tile
from daemon.ground.write import MANIFEST
from fakes.processes import PATIENCE_S, Desk

FIELDS = {
    "tiles", "patches_sent", "patches_decoded", "packets_sent", "packets_lost", "bytes_raw",
    "bytes_down", "bpppc", "psnr_db_mean", "psnr_db_min", "spectral_angle_deg_mean",
    "realtime_factor_enmap", "outputs",
}  # fmt: skip
PNG = b"\x89PNG\r\n\x1a\n"
LEAST_PSNR_DB = 50.0
MOST_BITS = 0.35


def run_demo(desk: Desk, out: Path, **given: Any) -> dict[str, Any]:
    """Run it with the settings it ships with."""
    return desk.start("demo", "demo", "--out", out, **given).report(timeout_s=3 * PATIENCE_S)


@pytest.mark.usefixtures("shipped_bundle")
def test_the_demo_shows_what_it_promises(
    desk: Desk, tmp_path: Path, enmap: Path, aviris: Path
) -> None:
    """Over a lossy link every tile comes down good and small, with its place and its picture."""
    out = tmp_path / "demo"
    shown = run_demo(desk, out)

    assert shown.keys() >= FIELDS
    assert shown["packets_lost"] > 0
    assert shown["tiles"] == len(shown["outputs"]) > 0
    assert {output["scene"] for output in shown["outputs"]} == {
        read_tile(scene).info.scene for scene in (enmap, aviris)
    }
    for output in shown["outputs"]:
        (path,) = out.glob(f"*_{output['sequence']:06d}_*{MANIFEST}")
        manifest = json.loads(path.read_text())
        missing = len(manifest["patches_missing"])
        assert output["patches"] == output["patches_decoded"] + missing
        assert output["psnr_db"] >= LEAST_PSNR_DB
        assert output["bpppc"] <= MOST_BITS
        assert (out / output["picture"]).read_bytes().startswith(PNG)
    assert shown["bpppc"] <= MOST_BITS
    assert shown["psnr_db_min"] >= LEAST_PSNR_DB
    # Whole: every packet the board sent is in the sum, whatever it carried and wherever it went.
    assert shown["bytes_down"] >= sum(output["bytes_down"] for output in shown["outputs"])
    check_place(enmap, [out / o["file"] for o in shown["outputs"] if o["scene"] in enmap.name])


@pytest.mark.usefixtures("shipped_bundle")
def test_what_a_bad_link_loses_is_sent_again(desk: Desk, tmp_path: Path) -> None:
    """Half of the packets are lost, more than repair packets mend: every patch comes down."""
    out = tmp_path / "demo"
    words = ("--loss", 0.5, "--rate", 4)
    shown = desk.start("demo", "demo", "--out", out, *words).report(timeout_s=3 * PATIENCE_S)

    assert shown["packets_lost"] > 0.25 * shown["packets_sent"]
    assert shown["packets_repeated"] > 0
    assert shown["patches_decoded"] == shown["patches_sent"] == 10


def check_place(scene: Path, restored: list[Path]) -> None:
    """Other software finds the cube where it finds the scene."""
    assert restored
    with rasterio.open(scene) as before:
        for path in restored:
            with rasterio.open(path) as after:
                assert (after.crs, after.transform) == (before.crs, before.transform)
                assert (after.count, after.shape) == (before.count, before.shape)
