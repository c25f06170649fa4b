"""A Zarr store as one zip file: all of it, of one version, piece by piece, or none that opens."""

from __future__ import annotations

import os
import zipfile
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr

from codec.exchange import exchange
from codec.tile_files import write_tile
from daemon.ground.web.answers import CutOffError
from daemon.ground.web.zip_stream import PIECE_BYTES, StoredFolder
from fakes import cubes

TILE = cubes.tile(bands=6, rows=300, cols=200, materials=2)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A tile's store; a chunk of it takes several pieces."""
    return write_tile(TILE, tmp_path / "x", "zarr")


def test_other_software_opens_it(store: Path, tmp_path: Path) -> None:
    """As it opens the store itself; every file is there as it was, and stored."""
    path = tmp_path / "y.zarr.zip"
    path.write_bytes(b"".join(StoredFolder.at(store).zipped()))

    with zarr.storage.ZipStore(path, read_only=True) as zipped:
        cube = xarray.open_zarr(zipped, chunks=None, mask_and_scale=False)
        np.testing.assert_array_equal(cube["samples"], TILE.samples)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {name: archive.read(name) for name in archive.namelist()} == {
            file.relative_to(store).as_posix(): file.read_bytes()
            for file in store.rglob("*")
            if file.is_file()
        }


def test_no_more_is_made_than_is_asked_for(store: Path) -> None:
    """Pieces are small, and what comes later is not even opened before."""
    pieces = list(StoredFolder.at(store).zipped())
    assert len(pieces) > 4
    assert max(map(len, pieces[:-1])) < 2 * PIECE_BYTES + 1000

    folder = StoredFolder.at(store)
    begun = folder.zipped()
    next(begun)
    (store / folder.names[-1]).unlink()
    with pytest.raises(CutOffError, match=r"x\.zarr cannot be sent: .*No such file"):
        list(begun)


@pytest.mark.parametrize("how", ["exchanged", "gone", "written anew"])
def test_a_store_that_is_replaced_is_no_zip(store: Path, tmp_path: Path, how: str) -> None:
    """Whenever that happens: what came has no end, and opens nowhere."""
    count = len(list(StoredFolder.at(store).zipped()))
    (tmp_path / "later").mkdir()
    for taken in range(count):
        folder, got = StoredFolder.at(store), BytesIO()
        pieces = folder.zipped()
        got.writelines(islice(pieces, taken))
        other = write_tile(TILE, tmp_path / "later" / f"{taken}", "zarr")
        if how == "exchanged":
            exchange(other, store)
        else:
            store.rename(tmp_path / "later" / f"{taken}.old")
            if how == "written anew":
                other.rename(store)
        with pytest.raises(CutOffError):
            got.writelines(pieces)
        with pytest.raises(zipfile.BadZipFile):
            zipfile.ZipFile(got)
        if how == "gone":
            other.rename(store)


def _linked(store: Path) -> None:
    store.rename(store.with_name("elsewhere"))
    store.symlink_to("elsewhere")


def _with_a_link(store: Path) -> None:
    (store / "samples" / "0.0.0").unlink()
    (store / "samples" / "0.0.0").symlink_to("/etc/passwd")


def _with_a_linked_folder(store: Path) -> None:
    (store / "more").symlink_to("/etc")


def _with_a_pipe(store: Path) -> None:
    os.mkfifo(store / "pipe")


def _a_file(store: Path) -> None:
    store.rename(store.with_name("elsewhere"))
    store.touch()


@pytest.mark.parametrize(
    "spoil", [_linked, _with_a_link, _with_a_linked_folder, _with_a_pipe, _a_file]
)
def test_nothing_but_folders_of_files_is_sent(store: Path, spoil: object) -> None:
    """Nobody reads what a link leads to, nor waits for a pipe."""
    assert callable(spoil)
    spoil(store)
    with pytest.raises(OSError, match=r"x\.zarr"):
        StoredFolder.at(store)


def test_a_link_that_comes_later_is_not_followed(store: Path) -> None:
    """Between the look and the sending."""
    folder = StoredFolder.at(store)
    _with_a_link(store)
    with pytest.raises(CutOffError):
        list(folder.zipped())
