"""What the page answers: the page itself, what is known of tiles, their samples, and their files.

Nothing of a request becomes a path. A tile is found by its id among those told of, and a file by
its name among the names of these, and of products of scenes.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import asdict
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from codec.errors import TileFileError
from codec.tile_files import read_tile
from codec.tile_tags import usable_nodata
from daemon.ground.web.access import LOGIN, WRONG, Access, Guard, log_in
from daemon.ground.web.answers import Pieces
from daemon.ground.web.kept_samples import KeptSamples, TileSamples
from daemon.ground.web.streams import Streams
from daemon.ground.web.tile_view import ZIPPED_STORE, TileView
from daemon.ground.web.watch import Bulletin
from daemon.ground.web.zip_stream import StoredFolder

MAX_PIXELS: Final = 1 << 20
"""Most pixels of one answer: with three bands of floats 12 MiB."""
_READERS: Final = 4
"""Most answers with samples under way, those that are read by slow visitors included."""
_TURN_S: Final = 5.0
"""Longest wait for one of them to be done [s]."""
_CHUNK_BYTES: Final = 64 << 10
_MAX_STRIDE: Final = 64

_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".tif": "image/tiff",
    ".zip": "application/zip",
}
_ALARM_HERE: Final = b"<!-- wrong -->"
_ALARM: Final = b'<p class="alarm" role="alert">This is not the token.</p>'
_STATIC: Final = files("daemon.ground.web") / "static"

T = TypeVar("T")


class WebApp:
    """The routes, and what they need.

    Args:
        directory: Where the files of tiles are.
        bulletin: Gives the latest.
        samples: Those in memory.
        streams: Sends events.
        access: What a visitor must show.
        readers: Runs what would hold up others: reading files, cutting arrays.
    """

    def __init__(
        self,
        directory: Path,
        *,
        bulletin: Callable[[], Bulletin],
        samples: KeptSamples,
        streams: Streams,
        access: Access,
        readers: Executor,
    ) -> None:
        self._directory, self._bulletin, self._samples = directory, bulletin, samples
        self._streams, self._access, self._readers = streams, access, readers
        self._static = {
            entry.name: entry.read_bytes()
            for entry in _STATIC.iterdir()
            if Path(entry.name).suffix in _TYPES
        }
        self._turns = asyncio.Semaphore(_READERS)

    def asgi(self, on_error: Callable[[], object]) -> ASGIApp:
        """The application, guarded.

        Args:
            on_error: Told that a request failed for a reason that nobody foresaw.
        """
        routes = [
            Route("/", self._page),
            Route(LOGIN, self._login, methods=["GET", "POST"]),
            Route("/static/{name}", self._static_file),
            Route("/api/state", self._state),
            Route("/api/events", self._streams),
            Route("/api/tiles/{tile_id}", self._tile),
            Route("/api/tiles/{tile_id}/bands", self._bands),
            Route("/api/tiles/{tile_id}/spectrum", self._spectrum),
            Route("/products/{name}", self._product),
        ]
        return Guard(Starlette(routes=routes), self._access, on_error)

    # ---- the page ------------------------------------------------------------------------------

    async def _page(self, _: Request) -> Response:
        return self._answer_static("index.html")

    async def _static_file(self, request: Request) -> Response:
        return self._answer_static(request.path_params["name"])

    async def _login(self, request: Request) -> Response:
        if not self._access.asks_for_token:
            return RedirectResponse("/", status_code=303)
        if request.method == "POST":
            return await log_in(request, self._access)
        alarm = _ALARM if request.url.query == WRONG else b""
        form = self._static["login.html"].replace(_ALARM_HERE, alarm)
        return Response(form, headers=_type_of(".html"))

    def _answer_static(self, name: str) -> Response:
        content = self._static.get(name)
        if content is None:
            raise HTTPException(404)
        return Response(content, headers=_type_of(Path(name).suffix))

    # ---- what is known -------------------------------------------------------------------------

    async def _state(self, _: Request) -> Response:
        return _json(self._bulletin().to_json())

    async def _tile(self, request: Request) -> Response:
        """Of one tile all but its samples, wavelengths and place included."""
        view = self._view(request)
        samples = await self._in_turn(lambda: self._samples_of(view))
        info = samples.info
        place = info.georeference
        return _json(
            {
                **view.to_json(),
                "dtype": samples.dtype.name,
                "nodata": info.nodata if _is_finite(info.nodata) else None,
                "reflectance_scale": info.reflectance_scale,
                "wavelengths_nm": list(info.wavelengths_nm),
                "valid_bands": [bool(valid) for valid in samples.valid_bands],
                "georeference": None if place is None else asdict(place),
            }
        )

    async def _bands(self, request: Request) -> ASGIApp:
        """Samples of three bands, little-endian, behind a byte for each patch.

        The samples begin at the next multiple of four bytes.
        """
        view = self._view(request)
        query = _numbers(request, "r", "g", "b", "stride")
        stride = query["stride"]
        bands = query["r"], query["g"], query["b"]
        count, rows, cols = view.shape
        if max(bands) >= count or not 0 < stride <= _MAX_STRIDE:
            raise HTTPException(400)
        if -(-rows // stride) * -(-cols // stride) > MAX_PIXELS:
            raise HTTPException(400)

        def cut() -> tuple[bytes, dict[str, str]]:
            kept = self._samples_of(view)
            present, samples = kept.bands(bands, stride)
            nodata = usable_nodata(kept.info.nodata, kept.dtype)
            headers = {
                "content-type": "application/octet-stream",
                "x-dtype": kept.dtype.name,
                "x-nodata": repr(nodata) if _is_finite(nodata) else "",
                "x-scale": repr(kept.info.reflectance_scale),
            }
            return present + bytes(-len(present) % 4) + samples.tobytes(), headers

        await self._turn()
        try:
            body, headers = await self._off_the_loop(cut)
        except BaseException:
            self._turns.release()
            raise
        return Pieces(_cut_up(body), len(body), headers, self._turns.release)

    async def _spectrum(self, request: Request) -> Response:
        """All bands of one pixel, as the file has them; null where that is fill."""
        view = self._view(request)
        query = _numbers(request, "row", "col")
        row, col = query["row"], query["col"]
        if row >= view.shape[1] or col >= view.shape[2]:
            raise HTTPException(400)
        samples = await self._in_turn(lambda: self._samples_of(view))
        values = samples.pixel(row, col)
        if values is None:
            raise HTTPException(404)
        return _json({"row": row, "col": col, "samples": values})

    # ---- files ---------------------------------------------------------------------------------

    async def _product(self, request: Request) -> ASGIApp:
        name = request.path_params["name"]
        if not self._bulletin().has_file(name):
            raise HTTPException(404)
        path = self._directory / name
        headers = {
            "content-type": _TYPES.get(path.suffix, "application/octet-stream"),
            "content-disposition": f'attachment; filename="{name}"',
        }
        if name.endswith(ZIPPED_STORE):
            folder = await self._off_the_loop(lambda: _looked_at(path.with_suffix("")))
            return Pieces(self._zip(folder), None, headers, lambda: None)
        descriptor, size_bytes = await self._off_the_loop(lambda: _opened(path))
        body = self._read(descriptor, size_bytes)
        return Pieces(body, size_bytes, headers, partial(os.close, descriptor))

    async def _zip(self, folder: StoredFolder) -> AsyncIterator[bytes]:
        pieces = folder.zipped()
        while piece := await self._off_the_loop(partial(next, pieces, b"")):
            yield piece

    async def _read(self, descriptor: int, size_bytes: int) -> AsyncIterator[bytes]:
        while size_bytes > 0:
            most = min(size_bytes, _CHUNK_BYTES)
            chunk = await self._off_the_loop(partial(os.read, descriptor, most))
            if not chunk:
                raise OSError("a file became shorter while it was sent")
            size_bytes -= len(chunk)
            yield chunk

    # ---- samples -------------------------------------------------------------------------------

    def _view(self, request: Request) -> TileView:
        view = self._bulletin().tile(request.path_params["tile_id"])
        if view is None:
            raise HTTPException(404)
        return view

    def _samples_of(self, view: TileView) -> TileSamples:
        """Samples at hand, or read back from the tile's file."""
        if (kept := self._samples.get(view.tile_id)) is not None:
            if kept.shape != view.shape:  # sent anew as another; the next bulletin has it
                raise HTTPException(404)
            return kept
        bands, rows, cols = view.shape
        # Two bytes a sample at least: what is too large is not even opened.
        if view.file is None or 2 * bands * rows * cols > self._samples.max_bytes:
            raise HTTPException(404)
        try:
            tile = read_tile(self._directory / view.file)
        except TileFileError:
            raise HTTPException(404) from None
        if tile.samples.shape != view.shape:
            raise HTTPException(404)
        missing = frozenset(
            place for place, came in zip(view.grid, view.have, strict=True) if came == "0"
        )
        samples = TileSamples.of_tile(tile, view.patch_px, missing)
        if self._samples.get(view.tile_id) is None:
            self._samples.put(view.tile_id, samples)
        return samples

    async def _in_turn(self, call: Callable[[], T]) -> T:
        await self._turn()
        try:
            return await self._off_the_loop(call)
        finally:
            self._turns.release()

    async def _turn(self) -> None:
        try:
            await asyncio.wait_for(self._turns.acquire(), _TURN_S)
        except TimeoutError:
            raise HTTPException(503, headers={"retry-after": "2"}) from None

    async def _off_the_loop(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, call)


def _type_of(suffix: str) -> dict[str, str]:
    return {"content-type": _TYPES[suffix], "cache-control": "no-cache"}


async def _cut_up(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _CHUNK_BYTES):
        yield body[start : start + _CHUNK_BYTES]


def _opened(path: Path) -> tuple[int, int]:
    """Open a file that is no link and no folder; return its descriptor and its size [bytes]."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        raise HTTPException(404) from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise HTTPException(404)
    return descriptor, found.st_size


def _looked_at(path: Path) -> StoredFolder:
    try:
        return StoredFolder.at(path)
    except OSError:
        raise HTTPException(404) from None


def _numbers(request: Request, *names: str) -> dict[str, int]:
    """The numbers of a query that has these, once each, and nothing else."""
    given = request.query_params.multi_items()
    sound = sorted(name for name, _ in given) == sorted(names)
    if not sound or not all(re.fullmatch(r"\d{1,6}", text, re.ASCII) for _, text in given):
        raise HTTPException(400)
    return {name: int(text) for name, text in given}


def _json(table: dict[str, Any]) -> Response:
    text = json.dumps(table, separators=(",", ":"), allow_nan=False)
    return Response(text, media_type="application/json")


def _is_finite(value: float | None) -> bool:
    return value is not None and abs(value) < float("inf")
