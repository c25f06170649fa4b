"""Rules of `training.store`: what went in comes out, cut off it goes on, and damage is found."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from fakes.patches import REAL, add_patch
from training import store
from training.errors import PatchError, ScenesError, TrainingError
from training.hyspecnet import FILL, PARTS, PatchFiles, find_patches, read_patch
from training.store import Rows, convert, is_store, open_store, reflectance


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five patches, one of them cut, and the easy splits of them."""
    root = tmp_path_factory.mktemp("tree")
    made = [add_patch(root, number) for number in range(5)]
    cut = made[3].folder / "P3-DATA.npy"
    cut.write_bytes(cut.read_bytes()[:9999])
    folder = root / "splits" / "easy"
    folder.mkdir(parents=True)
    for part, members in zip(PARTS, ([0, 3, 4], [1], [2]), strict=True):
        rows = [f"{made[m].path}/{made[m].name}-DATA.npy\n" for m in members]
        (folder / f"{part}.csv").write_text("".join(rows))
    return root


def test_what_goes_in_comes_out(tree: Path, tmp_path: Path) -> None:
    """Every readable patch, bit for bit; the other one is told by name, and in no part."""
    told: dict[str, str] = {}

    def tell(files: PatchFiles, error: str) -> None:
        told[files.name] = error

    converted = convert(tree, tmp_path, usable_only=True, on_patch=tell)
    assert [name for name, error in told.items() if error] == ["P3"]
    assert "P3-DATA.npy" in told["P3"]
    assert len(told) == 5
    opened = open_store(tmp_path)
    opened.verify()
    for files in find_patches(tree):
        if files.name != "P3":
            row = opened.rows[opened.paths.index(files.path)]
            patch = read_patch(files, usable_only=True)
            assert np.array_equal(opened.samples[row], patch.samples)
            assert np.array_equal(opened.flags[row], patch.flags)
    assert [converted.part("easy", part) for part in PARTS] == [[0, 4], [1], [2]]
    assert is_store(tmp_path)
    assert not is_store(tree)


def test_strictly_a_broken_patch_is_the_end(tree: Path, tmp_path: Path) -> None:
    """Who asks for it is not given less than all."""
    with pytest.raises(PatchError, match=r"P3-DATA\.npy"):
        convert(tree, tmp_path, usable_only=True, strict=True)
    with pytest.raises(ScenesError, match="remedy: prismlink-train convert"):
        open_store(tmp_path)


def test_cut_off_it_goes_on(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on the disk is not read again; half a line of progress counts for nothing."""
    monkeypatch.setattr(store, "_FLUSHED_TOGETHER", 1)
    seen: list[str] = []

    def interrupt(files: PatchFiles, _: str) -> None:
        seen.append(files.name)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(tree, tmp_path, usable_only=True, on_patch=interrupt)
    with (tmp_path / "progress.jsonl").open("a") as progress:
        progress.write('{"row": 2, "pa')
    read: list[str] = []

    def counted(files: PatchFiles, *, usable_only: bool) -> object:
        read.append(files.name)
        return read_patch(files, usable_only=usable_only)

    monkeypatch.setattr(store, "read_patch", counted)
    convert(tree, tmp_path, usable_only=True).verify()
    assert sorted(read) == ["P2", "P3", "P4"]
    read.clear()
    convert(tree, tmp_path, usable_only=True)
    assert read == ["P3"]  # it may have been mended
    assert open_store(tmp_path).rows == (0, 1, 2, 4)


def test_a_mended_patch_is_read(tmp_path: Path) -> None:
    """Once it is whole, the next conversion has it; strictly, a broken one is the end again."""
    tree, folder = tmp_path / "tree", tmp_path / "store"
    add_patch(tree, 0)
    path = add_patch(tree, 1).folder / "P1-DATA.npy"
    sound = path.read_bytes()
    path.write_bytes(sound[:99])
    assert convert(tree, folder, usable_only=True).rows == (0,)
    with pytest.raises(PatchError, match="P1-DATA"):
        convert(tree, folder, usable_only=True, strict=True)
    path.write_bytes(sound)
    assert convert(tree, folder, usable_only=True, strict=True).rows == (0, 1)


def test_a_full_disk_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known before anything is written, and nothing is left in the way."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(TrainingError, match="No space left on device"):
        convert(REAL, tmp_path, usable_only=True)
    assert not (tmp_path / "samples.npy").exists()


def test_clouded_patches_can_be_left_out(tree: Path, tmp_path: Path) -> None:
    """By the share of pixels that are flagged."""
    converted = convert(tree, tmp_path, usable_only=True)
    flags = np.lib.format.open_memmap(tmp_path / "flags.npy", mode="r+")
    flags[4, :32] = 1
    flags.flush()
    assert converted.part("easy", "train", most_flagged=0.3) == [0, 4]
    assert converted.part("easy", "train", most_flagged=0.2) == [0]


def test_a_store_is_of_one_tree(tree: Path, tmp_path: Path) -> None:
    """Another tree, or other bands, need a store of their own."""
    convert(tree, tmp_path / "a", usable_only=True)
    with pytest.raises(ScenesError, match="remedy: another --out"):
        convert(tree, tmp_path / "a", usable_only=False)
    other = tmp_path / "other"
    for number in range(5, 10):
        add_patch(other, number)
    with pytest.raises(ScenesError, match="begun with another tree"):
        convert(other, tmp_path / "a", usable_only=True)


def test_damage_is_found(tree: Path, tmp_path: Path) -> None:
    """A changed sample, a short array, another version and a missing split are each named."""
    convert(tree, tmp_path, usable_only=True)
    samples = np.lib.format.open_memmap(tmp_path / "samples.npy", mode="r+")
    samples[1, 5, 6, 7] ^= 4
    samples.flush()
    with pytest.raises(ScenesError, match="P1 is damaged"):
        open_store(tmp_path).verify()
    with pytest.raises(ScenesError, match="without splits/hard"):
        open_store(tmp_path).part("hard", "train")
    path = tmp_path / "store.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "version": 9}))
    with pytest.raises(ScenesError, match="patches 9, not prismlink patches 1"):
        open_store(tmp_path)
    for rows in ([], [-1], ["x"]):
        path.write_text(json.dumps({**told, "rows": rows}))
        with pytest.raises(ScenesError, match=str(tmp_path)):
            open_store(tmp_path)
    (tmp_path / "progress.jsonl").write_text("\0\0\n")
    with pytest.raises(ScenesError, match="damaged; remedy: remove the folder"):
        convert(tree, tmp_path, usable_only=True)
    path.write_text(json.dumps({**told, "rows": [0, 1, 2, 99]}))
    with pytest.raises(ScenesError, match="shorter than"):
        open_store(tmp_path)


def test_reflectance_lies_between_zero_and_one(tmp_path: Path) -> None:
    """Fill and negative reflectance are 0, and what saturates is 1; the rest is in proportion."""
    part = np.array([FILL, -5, 0, 1, 5000, 10_000, 32_767], np.int16)
    assert reflectance(part).tolist() == pytest.approx([0, 0, 0, 1e-4, 0.5, 1, 1])
    assert reflectance(part).dtype == np.float32
    converted = convert(REAL, tmp_path, usable_only=False)
    (patch,) = Rows(converted, [0])
    assert np.shares_memory(patch, converted.samples)  # nothing is read before it is asked for
