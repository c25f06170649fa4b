"""Rules of `training.hyspecnet`: the tree as it really is, and every break of it named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from fakes.patches import REAL, SHAPE, add_patch
from training.errors import PatchError, ScenesError
from training.hyspecnet import (
    ALL_BANDS,
    FILL,
    FLAGS,
    PATCH_PX,
    UNUSABLE_BANDS,
    USABLE,
    PatchFiles,
    find_patches,
    read_patch,
    read_split,
)


def write_layer(files: PatchFiles, name: str, values: NDArray[np.uint8]) -> None:
    """Write a quality layer."""
    path = files.folder / f"{files.name}-QL_QUALITY_{name}.TIF"
    size = {"height": values.shape[0], "width": values.shape[1]}
    with (
        pytest.warns(NotGeoreferencedWarning),
        rasterio.open(path, "w", driver="GTiff", count=1, dtype="uint8", **size) as file,
    ):
        file.write(values, 1)


def test_a_real_patch() -> None:
    """All bands or the usable ones, integers as measured, and nothing flagged that is not."""
    (files,) = find_patches(REAL)
    whole, usable = (read_patch(files, usable_only=only) for only in (False, True))
    assert files.tile == "tile_001"
    assert whole.samples.shape == (ALL_BANDS, PATCH_PX, PATCH_PX)
    assert (whole.samples[list(UNUSABLE_BANDS)] == FILL).all()
    assert np.array_equal(usable.samples, whole.samples[USABLE])
    assert usable.samples.shape == SHAPE
    assert usable.samples.min() < 0  # open water: noise around zero is kept
    assert not usable.flags.any()


def test_an_array_stands_for_the_image(tmp_path: Path) -> None:
    """DATA.npy is reflectance as floats; at 224 bands its missing ones are fill."""
    rng = np.random.default_rng(0)
    files = add_patch(tmp_path, 1, rng.random(SHAPE, np.float32))
    usable, whole = (read_patch(files, usable_only=only) for only in (True, False))
    before = np.load(files.folder / "P1-DATA.npy")
    assert np.abs(usable.samples / 10_000 - before).max() <= 0.501e-4
    assert np.array_equal(whole.samples[USABLE], usable.samples)
    assert (whole.samples[list(UNUSABLE_BANDS)] == FILL).all()


def test_quality_layers_become_flags(tmp_path: Path) -> None:
    """Each layer is a bit; a layer that is not there flags nothing."""
    files, cloud = add_patch(tmp_path, 1), np.zeros((PATCH_PX, PATCH_PX), np.uint8)
    cloud[:, :7] = 1
    write_layer(files, "CLOUD", cloud)
    write_layer(files, "SNOW", 2 * cloud.T.copy())
    flags = read_patch(files, usable_only=True).flags
    assert np.array_equal(flags & FLAGS["CLOUD"] != 0, cloud != 0)
    assert np.array_equal(flags & FLAGS["SNOW"] != 0, cloud.T != 0)
    assert not (flags & ~np.uint8(FLAGS["CLOUD"] | FLAGS["SNOW"])).any()


def test_splits_name_patches(tmp_path: Path) -> None:
    """Rows are paths below patches, in their order."""
    made = [add_patch(tmp_path, number) for number in range(3)]
    folder = tmp_path / "splits" / "hard"
    folder.mkdir(parents=True)
    rows = [f"{files.path}/{files.name}-DATA.npy" for files in (made[2], made[0])]
    (folder / "val.csv").write_text("\n".join(rows) + "\n")
    assert read_split(tmp_path, "hard", "val") == (made[2], made[0])
    assert find_patches(tmp_path) == tuple(made)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(None, r"No such file.*remedy: unpack", id="missing"),
        pytest.param("", "names no patch", id="empty"),
        pytest.param("a/b/P1.npy\n", "'a/b/P1.npy' is no path", id="other ending"),
        pytest.param("../../etc/P-DATA.npy\n", "is no path", id="climbs"),
        pytest.param("/data/x/P-DATA.npy\n", "is no path", id="absolute"),
    ],
)
def test_a_broken_split_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    """The file, what is wrong and the remedy, in one line."""
    path = tmp_path / "splits" / "easy" / "train.csv"
    if text is not None:
        path.parent.mkdir(parents=True)
        path.write_text(text)
    with pytest.raises(ScenesError, match=message) as caught:
        read_split(tmp_path, "easy", "train")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


Break = Callable[[Path], object]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(Path.unlink, "no such file", id="absent"),
        pytest.param(lambda p: p.write_bytes(b""), "not a readable", id="empty"),
        pytest.param(lambda p: p.write_bytes(p.read_bytes()[:5000]), "not a readable", id="cut"),
        pytest.param(lambda p: np.save(p, np.zeros((224, 128, 128), "f4")), "shape", id="bands"),
        pytest.param(lambda p: np.save(p, np.zeros((202, 64, 64), "f4")), "shape", id="pixels"),
        pytest.param(lambda p: np.save(p, np.full(SHAPE, np.nan, "f4")), "no numbers", id="nan"),
        pytest.param(lambda p: np.save(p, np.zeros(SHAPE, "u2")), "uint16", id="type"),
    ],
)
def test_a_broken_patch_is_named(tmp_path: Path, damage: Break, message: str) -> None:
    """The file and what is wrong with it, in one line."""
    files = add_patch(tmp_path, 1)
    path = files.folder / "P1-DATA.npy"
    damage(path)
    with pytest.raises(PatchError, match=message) as caught:
        read_patch(files, usable_only=True)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_layer_is_named(tmp_path: Path) -> None:
    """A quality layer of another size is not silently left out."""
    files = add_patch(tmp_path, 1)
    write_layer(files, "HAZE", np.zeros((64, 64), np.uint8))
    with pytest.raises(PatchError, match=r"QL_QUALITY_HAZE.TIF: shape \(1, 64, 64\)"):
        read_patch(files, usable_only=True)


def test_a_folder_without_patches_is_named(tmp_path: Path) -> None:
    """Naming the wrong folder is the commonest mistake."""
    with pytest.raises(ScenesError, match=r"patches: no .*-SPECTRAL_IMAGE.TIF .*remedy: name"):
        find_patches(tmp_path)
