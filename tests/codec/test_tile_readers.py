"""Rules of `codec.tile_readers`: what a file names is not opened, run, or given memory for."""

from __future__ import annotations

import json
import os
import pickle
import socket
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import scipy.io
import zarr

from codec import tile_memory
from codec.errors import TileFileError
from codec.tile import Tile, TileInfo
from codec.tile_files import read_tile, write_tile

TILE = Tile(samples=np.arange(48, dtype=np.int16).reshape(3, 4, 4), info=TileInfo())


@pytest.fixture
def ear() -> Iterator[socket.socket]:
    """A port of this machine that hears whoever connects, and answers nobody."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def heard(ear: socket.socket) -> bool:
    """Whether somebody has connected."""
    try:
        ear.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def vrt(source: str) -> str:
    """A scene in GDAL's own format: samples are somewhere else."""
    return (
        '<VRTDataset rasterXSize="4" rasterYSize="4">'
        '<VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand">'
        f'<SourceFilename relativetoVRT="0">{source}</SourceFilename><PixelOffset>1</PixelOffset>'
        "<LineOffset>4</LineOffset></VRTRasterBand></VRTDataset>"
    )


def test_no_other_format_goes_by_the_name_of_a_geotiff(tmp_path: Path, ear: socket.socket) -> None:
    """GDAL knows formats that are lists of other files, of this machine and of any other."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret" * 99)
    far = f"http://127.0.0.1:{ear.getsockname()[1]}/x"
    path = tmp_path / "a.tif"
    for text in (
        vrt(str(secret)),
        vrt(f"/vsicurl/{far}"),
        f"<GDAL_WMS><Service name='TMS'><ServerUrl>{far}</ServerUrl></Service></GDAL_WMS>",
        far,
    ):
        path.write_text(text)
        with pytest.raises(TileFileError, match="does not start as a TIFF does"):
            read_tile(path)
    assert not heard(ear)


def test_files_beside_a_geotiff_open_nothing(tmp_path: Path, ear: socket.socket) -> None:
    """Overviews, masks and notes that GDAL looks for may name other places."""
    path = write_tile(TILE, tmp_path / "a", "geotiff")
    far = f"/vsicurl/http://127.0.0.1:{ear.getsockname()[1]}/x"
    for suffix in (".ovr", ".msk"):
        path.with_name(f"a.tif{suffix}").write_text(vrt(far))
    path.with_name("a.tif.aux.xml").write_text(
        '<PAMDataset><Metadata domain="OVERVIEWS">'
        f'<MDI key="OVERVIEW_FILE">{far}</MDI></Metadata></PAMDataset>'
    )

    np.testing.assert_array_equal(read_tile(path).samples, TILE.samples)
    assert not heard(ear)


class Owned:
    """What runs if it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        """See `object`."""
        return os.mkdir, ("owned",)


def _pickled_npy(path: Path) -> None:
    np.save(path, np.array([Owned()], dtype=object), allow_pickle=True)


def _pickled_npz(path: Path) -> None:
    np.savez(path, cube=np.array([[[Owned()]]], dtype=object))


def _pickled_beside(path: Path) -> None:
    np.savez(path, cube=TILE.samples, sensor=np.array([Owned()], dtype=object))


def _zarr(path: Path, dtype: str, filters: list[dict[str, str]]) -> None:
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("samples", shape=(3, 4, 4), chunks=(3, 4, 4), dtype="int16", fill_value=0)
    about = path / "samples" / ".zarray"
    told = json.loads(about.read_text()) | {"dtype": dtype, "filters": filters, "compressor": None}
    about.write_text(json.dumps(told | {"fill_value": "" if dtype == "|O" else 0}))
    (path / "samples" / "0.0.0").write_bytes(pickle.dumps(Owned()))


def _pickled_texts(path: Path) -> None:
    _zarr(path, "|O", [{"id": "vlen-utf8"}, {"id": "pickle"}])


def _pickled_numbers(path: Path) -> None:
    _zarr(path, "<i2", [{"id": "pickle"}])


@pytest.mark.parametrize(
    ("suffix", "make"),
    [
        (".npy", _pickled_npy),
        (".npz", _pickled_npz),
        (".npz", _pickled_beside),
        (".zarr", _pickled_texts),
        (".zarr", _pickled_numbers),
    ],
)
def test_nothing_is_unpickled(
    suffix: str, make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pickle in a scene would be a program of a stranger."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("numcodecs.pickles.Pickle.decode", _unpickle)  # some versions refuse
    path = tmp_path / f"a{suffix}"
    make(path)
    with pytest.raises(TileFileError):
        read_tile(path)
    assert not (tmp_path / "owned").exists()


def _unpickle(_: object, buf: Any, out: object = None) -> object:
    return pickle.loads(bytes(buf))  # noqa: S301  # what the test is about


def _sparse_geotiff(path: Path) -> None:
    with rasterio.open(
        path, "w", driver="GTiff", width=1024, height=1024, count=9, dtype="int16",
        sparse_ok=True, tiled=True, compress="deflate", transform=rasterio.Affine(1, 0, 7, 0, -1, 9)
    ):  # fmt: skip
        pass


def _sparse_envi(path: Path) -> None:
    with path.with_suffix(".img").open("wb") as file:
        file.truncate(9 << 21)
    path.write_text("ENVI\nsamples = 1024\nlines = 1024\nbands = 9\ndata type = 2\n")


def _sparse_npy(path: Path) -> None:
    np.lib.format.open_memmap(path, mode="w+", dtype=np.int16, shape=(9, 1024, 1024))


def _deflated_npz(path: Path) -> None:
    np.savez_compressed(path, cube=np.zeros((9, 1024, 1024), np.int16))


def _deflated_beside(path: Path) -> None:
    np.savez_compressed(path, cube=TILE.samples, sensor=np.zeros((9, 1024, 1024), np.int16))


def _deflated_mat(path: Path) -> None:
    scipy.io.savemat(path, {"a": np.zeros((1024, 1024, 9), np.int16)}, do_compression=True)


def _chunk_of_zarr(path: Path) -> None:
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("samples", shape=(3, 4, 4), chunks=(9, 1024, 1024), dtype="int16")


@pytest.mark.parametrize(
    ("suffix", "make"),
    [
        (".tif", _sparse_geotiff),
        (".hdr", _sparse_envi),
        (".npy", _sparse_npy),
        (".npz", _deflated_npz),
        (".npz", _deflated_beside),
        (".mat", _deflated_mat),
        (".zarr", _chunk_of_zarr),
    ],
)
def test_what_is_larger_than_memory_is_refused(
    suffix: str, make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few bytes say so: before it is there, by both numbers."""
    path = tmp_path / f"a{suffix}"
    make(path)
    monkeypatch.setattr(tile_memory, "memory_bytes", lambda: 9 << 20)
    monkeypatch.setattr("codec.tile_readers.memory_bytes", lambda: 9 << 20)
    with pytest.raises(TileFileError, match=str(9 << 20)):
        read_tile(path)


def test_a_directory_of_an_archive_cannot_lie(tmp_path: Path) -> None:
    """What a member unfolds to beyond what the directory says is not read."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, cube=np.zeros((9, 64, 64), np.int16))
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        (member,) = archive.infolist()
    size = member.file_size.to_bytes(4, "little")
    path.write_bytes(raw.replace(size, (200).to_bytes(4, "little")))
    with pytest.raises(TileFileError, match="not a readable NumPy archive"):
        read_tile(path)


@pytest.mark.parametrize("suffix", [".hdr", ".json"])
def test_a_header_has_an_end(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of samples, or a hole, by the name of a header is not read to its end."""
    monkeypatch.setattr("codec.tile_readers._MAX_TEXT_CHARS", 999)
    np.save(tmp_path / "a.npy", TILE.samples)
    (tmp_path / f"a{suffix}").write_text(" " * 1000)
    with pytest.raises(TileFileError, match=rf"a\{suffix}: more than 999 characters are no header"):
        read_tile(tmp_path / ("a.hdr" if suffix == ".hdr" else "a.npy"))


@pytest.mark.parametrize("suffix", [".tif", ".hdr", ".npy", ".npz", ".mat", ".zarr"])
def test_a_pipe_is_no_scene(suffix: str, tmp_path: Path) -> None:
    """A pipe nobody writes to would be waited for."""
    os.mkfifo(tmp_path / f"a{suffix}")
    with pytest.raises(TileFileError, match="no regular file"):
        read_tile(tmp_path / f"a{suffix}")
