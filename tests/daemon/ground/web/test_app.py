"""What the page answers: samples as the file has them, files that are tiles', and nothing else."""

from __future__ import annotations

import json
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.client import HTTPResponse, IncompleteRead
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codec.tile import Tile
from daemon.ground.web import app
from daemon.ground.web.kept_samples import TileSamples
from daemon.ground.web.tile_view import TileView
from daemon.ground.web.zip_stream import StoredFolder
from fakes import cubes
from fakes.ground import parts_of
from fakes.processes import until
from fakes.web import PATIENCE_S, Answer, Site

NM = tuple(np.linspace(420.0, 2450.0, 6).round(2).tolist())
TILE = cubes.tile(
    bands=6, rows=130, cols=140, scene="s", nodata=-9.0, fill_samples=0.02, wavelengths_nm=NM
)
ID = TILE.info.tile_id.hex()


@pytest.fixture
def written(site: Site) -> TileView:
    """A tile on the disk that the page tells of; the patch (0, 1) is missing."""
    view = site.write(TILE, missing=((0, 1),))
    site.show(view)
    return view


def table(answer: Answer) -> dict[str, Any]:
    """An answer as JSON."""
    assert answer.status == 200, answer.body
    told: dict[str, Any] = json.loads(answer.body)
    return told


def cut_out(answer: Answer, tile: Tile, stride: int) -> tuple[bytes, Any]:
    """The map of patches and the samples of an answer with three bands."""
    assert answer.status == 200, answer.body
    grid = parts_of(tile)[0].side.grid
    start = -(-len(grid) // 4) * 4
    _, rows, cols = tile.samples.shape
    shape = (3, -(-rows // stride), -(-cols // stride))
    samples = np.frombuffer(answer.body[start:], answer.headers["x-dtype"]).reshape(shape)
    return answer.body[: len(grid)], samples


def test_the_page_is_there(site: Site) -> None:
    """With all that it asks for, and nothing from elsewhere."""
    page = site.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for name, kind in [("app.js", "text/javascript"), ("style.css", "text/css")]:
        answer = site.get(f"/static/{name}")
        assert answer.headers["content-type"].startswith(kind)
    for path in (Path(app.__file__).parent / "static").iterdir():
        text = path.read_text(encoding="utf-8").replace('"http://www.w3.org/2000/svg"', "")
        assert "://" not in text, path
        assert "innerHTML" not in text, path
        if path.suffix == ".html":
            assert "style=" not in text, path
            assert "onclick" not in text, path
    assert site.get("/static/app.py").status == 404


def test_the_state_is_what_visitors_are_told(site: Site, written: TileView) -> None:
    """For programs, at once."""
    told = table(site.get("/api/state"))
    assert told["ids"] == [ID]
    assert told["tiles"][0]["have"] == "1011"
    assert told["link"]["state"] == "waiting"


def test_a_tile_is_described(site: Site, written: TileView) -> None:
    """Wavelengths and all, from its file where it is not in memory."""
    told = table(site.get(f"/api/tiles/{ID}"))
    assert (told["dtype"], told["nodata"], told["reflectance_scale"]) == ("int16", -9.0, 10_000.0)
    assert told["wavelengths_nm"] == list(NM)
    assert told["valid_bands"] == [True] * 6
    assert told["georeference"] is None


@pytest.mark.parametrize("stride", [1, 2, 64])
def test_bands_are_the_files(site: Site, written: TileView, stride: int) -> None:
    """Bit for bit, but for patches that are missing."""
    answer = site.get(f"/api/tiles/{ID}/bands?r=5&g=2&b=0&stride={stride}")
    present, samples = cut_out(answer, TILE, stride)
    expected = TILE.samples[[5, 2, 0]].copy()
    expected[:, :128, 128:] = 0
    assert present == bytes([1, 0, 1, 1])
    np.testing.assert_array_equal(samples, expected[:, ::stride, ::stride])
    assert (answer.headers["x-nodata"], answer.headers["x-scale"]) == ("-9.0", "10000.0")


@pytest.mark.parametrize("file_format", ["npy", "geotiff", "envi", "zarr"])
def test_a_spectrum_is_the_files(site: Site, file_format: str) -> None:
    """Each sample of the pixel, whatever the format; fill is null."""
    site.show(site.write(TILE, file_format=file_format))
    for row, col in [(0, 0), (129, 139), (40, 77)]:
        told = table(site.get(f"/api/tiles/{ID}/spectrum?row={row}&col={col}"))
        assert told == {
            "row": row,
            "col": col,
            "samples": [None if v == -9 else int(v) for v in TILE.samples[:, row, col]],
        }


def test_a_pixel_that_has_not_come_has_no_spectrum(site: Site, written: TileView) -> None:
    """Its fill is not shown as if it had been measured."""
    assert site.get(f"/api/tiles/{ID}/spectrum?row=0&col=128").status == 404


def test_fill_is_told_as_samples_have_it(site: Site) -> None:
    """An instrument names it in double precision, and the page compares with samples."""
    tile = cubes.tile(bands=3, rows=16, cols=16, dtype="float32", nodata=1e20, fill_samples=0.1)
    site.show(TileView.of_side(parts_of(tile)[0].side, (0, 0)))
    site.samples.put(tile.info.tile_id.hex(), TileSamples.of_tile(tile, 128))
    answer = site.get(f"/api/tiles/{tile.info.tile_id.hex()}/bands?r=2&g=1&b=0&stride=1")
    _, samples = cut_out(answer, tile, 1)
    assert (samples == float(answer.headers["x-nodata"])).any()
    assert float(answer.headers["x-nodata"]) == float(np.float32(1e20)) != 1e20


def test_memory_comes_before_the_disk(site: Site) -> None:
    """An open tile has no file yet."""
    view = TileView.of_side(parts_of(TILE)[0].side, (0, 0))
    site.show(view)
    assert site.get(f"/api/tiles/{ID}/spectrum?row=0&col=0").status == 404
    site.samples.put(ID, TileSamples.of_tile(TILE, 128))
    assert site.get(f"/api/tiles/{ID}/spectrum?row=0&col=0").status == 200


def test_what_was_read_back_is_kept(site: Site, written: TileView) -> None:
    """Within the bounds of what is kept in memory."""
    assert site.get(f"/api/tiles/{ID}").status == 200
    (site.folder / str(written.file)).unlink()
    assert site.get(f"/api/tiles/{ID}").status == 200
    assert site.samples.bytes == TILE.samples.nbytes


def test_a_tile_too_large_to_be_kept_is_not_read(open_site: Callable[..., Site]) -> None:
    """Reading it would take the memory that the bound is for."""
    site = open_site(max_bytes=TILE.samples.nbytes - 1)
    site.show(site.write(TILE))
    assert site.get(f"/api/tiles/{ID}").status == 404


@pytest.mark.parametrize("harm", ["cut", "gone", "another", "garbage"])
def test_a_file_that_is_not_as_it_was_is_no_answer(site: Site, harm: str) -> None:
    """And no error either: somebody moved it, or the disk failed."""
    view = site.write(TILE)
    path = site.folder / str(view.file)
    if harm == "another":
        np.save(path, np.zeros((2, 8, 8), np.int16))
    elif harm == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:1000] if harm == "cut" else b"garbage" * 100)
    site.show(view)
    for target in (f"/api/tiles/{ID}", f"/api/tiles/{ID}/spectrum?row=0&col=0"):
        assert site.get(target).status == 404
    assert site.errors == []


@pytest.mark.parametrize(
    "target",
    [
        "bands", "bands?r=0&g=0&b=0", "bands?r=0&g=0&b=6&stride=1", "bands?r=0&g=0&b=0&stride=0",
        "bands?r=0&g=0&b=0&stride=65", "bands?r=-1&g=0&b=0&stride=1", "bands?r=0&r=0&g=0&b=0",
        "bands?r=0&g=0&b=0&stride=1&x=1", "bands?r=9999999&g=0&b=0&stride=1", "bands?r=&g=&b=",
        "bands?r=%D9%A1&g=0&b=0&stride=1", "spectrum", "spectrum?row=130&col=0",
        "spectrum?row=0&col=140", "spectrum?row=1e3&col=0", "spectrum?row=0&col=0&col=0",
        "spectrum?row=0x1&col=0", "spectrum?row= 1&col=0".replace(" ", "+"),
    ],
)  # fmt: skip
def test_wrong_numbers_are_refused(site: Site, written: TileView, target: str) -> None:
    """Before any file is read."""
    assert site.get(f"/api/tiles/{ID}/{target}").status == 400
    assert site.errors == []


def test_no_answer_is_larger_than_allowed(site: Site, written: TileView) -> None:
    """Of a large tile every so many pixels may be had."""
    large = replace(written, shape=(6, 4096, 4096))
    site.show(large)
    assert site.get(f"/api/tiles/{ID}/bands?r=0&g=0&b=0&stride=2").status == 400


def test_a_file_can_be_had(site: Site, written: TileView) -> None:
    """All of it, to be saved and not shown."""
    for name in written.files:
        answer = site.get(f"/products/{name}")
        assert answer.body == (site.folder / name).read_bytes()
        assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
        assert int(answer.headers["content-length"]) == len(answer.body)
    head = site.ask("HEAD", f"/products/{written.file}", b"")
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["content-length"]) > 0


def test_a_file_of_a_scene_can_be_had(site: Site) -> None:
    """Whole; one that is not told of cannot."""
    for name in ("s.tif", "t.tif"):
        (site.folder / name).write_bytes(b"all tiles")
    site.bulletin = replace(site.bulletin, scenes={("fake", "s"): ("s.tif",)})

    answer = site.get("/products/s.tif")
    assert (answer.status, answer.body) == (200, b"all tiles")
    assert site.get("/products/t.tif").status == 404


def test_other_files_of_the_folder_cannot(site: Site, written: TileView) -> None:
    """Not even by their names; nor what a name of a tile's file leads to elsewhere."""
    (site.folder / "passes.jsonl").write_text("{}")
    assert site.get("/products/passes.jsonl").status == 404
    assert site.get("/products/").status == 404
    path = site.folder / str(written.file)
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert site.get(f"/products/{written.file}").status == 404
    path.unlink()
    path.mkdir()
    assert site.get(f"/products/{written.file}").status == 404
    assert site.errors == []


def test_a_store_can_be_had_as_a_zip_file(site: Site) -> None:
    """A folder is no file; that it is one is made while it is sent."""
    view = site.write(TILE, file_format="zarr")
    site.show(view)
    name = view.files[0]
    assert name == f"{view.file}.zip"
    answer = site.get(f"/products/{name}")
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
    with zipfile.ZipFile(BytesIO(answer.body)) as archive:
        assert archive.testzip() is None
        assert "samples/0.1.1" in archive.namelist()
    head = site.ask("HEAD", f"/products/{name}", b"")
    assert (head.status, head.body) == (200, b"")
    for other in (f"x{name}", f"{view.file}", ".zarr.zip", f"..{name}", f"{view.file}/.zgroup"):
        assert site.get(f"/products/{other}").status == 404
    (site.folder / str(view.file)).rename(site.folder / "elsewhere")
    assert site.get(f"/products/{name}").status == 404
    (site.folder / str(view.file)).symlink_to("elsewhere")
    assert site.get(f"/products/{name}").status == 404
    assert site.errors == []


def test_a_slow_visitor_costs_no_memory_and_gets_one_version(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store is read as it is taken; if it is replaced meanwhile, the connection is cut."""
    made = list[int]()
    whole = StoredFolder.zipped

    def zipped(folder: StoredFolder) -> Iterator[bytes]:
        for piece in whole(folder):
            made.append(len(piece))
            yield piece

    monkeypatch.setattr(StoredFolder, "zipped", zipped)
    view = site.write(TILE, file_format="zarr")
    store = site.folder / str(view.file)
    (store / "more").write_bytes(bytes(12 << 20))
    site.show(view)
    for replaced in (False, True):
        made.clear()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(PATIENCE_S)
            connection.connect(("127.0.0.1", site.port))
            target = f"GET /products/{view.files[0]} HTTP/1.1\r\nHost: localhost\r\n\r\n"
            connection.sendall(target.encode())
            with HTTPResponse(connection) as answer:
                answer.begin()
                answer.read(1)
                until(lambda: _is_still(made), "the server to wait")
                assert sum(made) < 6 << 20
                if replaced:
                    store.rename(site.folder / "before")
                    store.mkdir()
                    with pytest.raises(IncompleteRead):
                        answer.read()
                else:
                    assert 1 + len(answer.read()) == sum(made)
    assert site.errors == []


def _is_still(made: list[int]) -> bool:
    """Whether nothing more is made for a moment."""
    before = len(made)
    threading.Event().wait(0.2)
    return before == len(made) > 0


@pytest.mark.parametrize(
    "tile_id", ["0" * 16, "x", ID.upper(), "0" * 200, "..", "a.b"], ids=lambda one: one[:20]
)
def test_a_tile_that_is_not_told_of_is_not_there(
    site: Site, written: TileView, tile_id: str
) -> None:
    """Whatever its id looks like."""
    for tail in ("", "/bands?r=0&g=0&b=0&stride=1", "/spectrum?row=0&col=0"):
        assert site.get(f"/api/tiles/{tile_id}{tail}").status == 404


def test_an_error_that_nobody_foresaw_is_counted(
    site: Site, written: TileView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The visitor gets nothing but its status, and the page goes on."""

    def fail(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(site.samples, "get", fail)
    answer = site.get(f"/api/tiles/{ID}")
    assert answer.status == 500
    assert b"secret" not in answer.body
    until(lambda: site.errors, "the count")
    assert len(site.errors) == 1
    assert site.get("/").status == 200
