"""The stream restores what the files do: link, batches and threads change no sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codec.tile_files import read_tile, write_tile
from fakes.cubes import tile as fake_tile
from fakes.processes import Desk


@pytest.fixture(scope="session")
def edgy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of six patches, none but one whole, with fill; a float would show any difference."""
    scene = fake_tile(
        bands=12, rows=300, cols=200, dtype="float32", fill_samples=0.01, fill_bands=(3,)
    )
    return write_tile(scene, tmp_path_factory.mktemp("scenes") / "edgy", "npy")


def offline(desk: Desk, scene: Path, bundle: Path, backend: str, directory: Path) -> Path:
    """`prismlink encode`, then `decode`; the restored file."""
    frames = directory / "offline.prism"
    desk.start(
        "encode", "encode", scene, "-o", frames, "--bundle", bundle, "--backend", backend
    ).report()
    desk.start("decode", "decode", frames, "-o", directory, "--bundle", bundle).end_well()
    (path,) = directory.glob("*.tif")
    return path


def online(desk: Desk, scene: Path, bundle: Path, backend: str) -> Path:
    """Feed, flight and ground; the restored file."""
    ground = desk.ground(bundle).until_ready()
    flight = desk.flight(bundle, f"model.backend={backend}", "batch.max_patches=4").until_ready()
    desk.feed(scene).report()
    flight.until_metrics(lambda n: n.total("tiles_received_total") == 1, "the tile")
    sent = flight.stop().total("packets_total")
    ground.until_metrics(lambda n: n.total("packets_received_total") == sent, "all packets")
    ground.stop()
    (manifest,) = desk.manifests()
    assert not manifest["patches_missing"]
    return desk.cubes / str(manifest["file"])


def check_same(desk: Desk, scene: Path, bundle: Path, backend: str, directory: Path) -> None:
    """Every sample and every fact."""
    filed = read_tile(offline(desk, scene, bundle, backend, directory / "offline"))
    streamed = read_tile(online(desk, scene, bundle, backend))
    np.testing.assert_array_equal(streamed.samples, filed.samples, strict=True)
    assert streamed.info == filed.info
    assert streamed.samples.shape == read_tile(scene).samples.shape


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_a_tile_of_many_patches(
    desk: Desk, tmp_path: Path, edgy: Path, branch_bundle_file: Path, backend: str
) -> None:
    """The ground writes what `encode` and `decode` give, edges and fill included."""
    check_same(desk, edgy, branch_bundle_file, backend, tmp_path)


def test_a_real_tile_with_the_shipped_model(
    desk: Desk, tmp_path: Path, enmap: Path, shipped_bundle: Path
) -> None:
    """The same with the model, the backend and the scene of the demo."""
    check_same(desk, enmap, shipped_bundle, "auto", tmp_path)
