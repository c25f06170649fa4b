"""Real scenes as tile messages of one size, and the instrument that sends them to `bench`."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np

from codec.patch_grid import PatchGrid
from codec.tile import Tile
from codec.tile_files import read_tile
from daemon.clock import Clock
from daemon.feed import ENMAP_PX_PER_S
from daemon.link.sockets import Endpoint, TileListener, TileSender
from daemon.onboard.ingest import Listener
from daemon.tile_message import Part, TileLimits, TileMessage

Source: TypeAlias = Literal["socket", "memory"]
"""How messages come: through a ZeroMQ socket from another thread, or as they lie in memory."""

_POLL_S: Final = 0.1
"""Longest wait of the instrument, so that a stop is noticed [s]."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BenchScene:
    """A scene, extended to whole tiles of one size, as messages.

    Attributes:
        name: Of its file.
        tile: Its samples, shape (bands, rows, cols): a view of every message's last part.
        messages: One for each tile of a run; they differ in their sequence.
        valid_samples: Samples of a tile that are no fill.
    """

    name: str
    tile: Tile
    messages: tuple[Sequence[Part], ...]
    valid_samples: int

    @property
    def patches(self) -> int:
        """Patches of one tile."""
        _, rows, cols = self.tile.samples.shape
        return len(PatchGrid(tile_rows=rows, tile_cols=cols))

    @property
    def seconds_enmap(self) -> float:
        """Time in which EnMAP sees as many pixels as one tile has [s]."""
        _, rows, cols = self.tile.samples.shape
        seconds: float = rows * cols / ENMAP_PX_PER_S
        return seconds


def read_scene(
    path: Path, shape: tuple[int, int], *, tiles: int, interleave: str = "bil"
) -> BenchScene:
    """Read a scene and make it messages.

    Args:
        path: A file that `read_tile` takes.
        shape: Rows and columns of a tile [px]; the scene is mirrored at its edges, or cut.
        tiles: Messages to make.
        interleave: Order of their samples: "bsq", "bil" or "bip".

    Raises:
        TileFileError: If it cannot be read.
        TileError: If the tile is too large.
        TileMessageError: If it cannot be sent.
    """
    tile = mirrored(read_tile(path), *shape)
    shown = [replace(tile, info=replace(tile.info, sequence=i)) for i in range(tiles)]
    topic, header, samples = TileMessage.pack(shown[0], interleave)
    headers = [header, *(TileMessage.pack(other, interleave)[1] for other in shown[1:])]
    messages = tuple((topic, header, samples) for header in headers)
    view = TileMessage.unpack(messages[0], TileLimits(max_bytes=max(1, len(samples))))
    return BenchScene(
        name=path.name,
        tile=view,
        messages=messages,
        valid_samples=int(np.count_nonzero(view.valid())),
    )


def mirrored(tile: Tile, rows: int, cols: int) -> Tile:
    """Extend a tile by its mirror images, as often as it takes, or cut it.

    Returns:
        A tile of shape (bands, rows, cols), its samples new.
    """
    index = [
        np.pad(np.arange(edge), (0, max(0, wanted - edge)), "symmetric")[:wanted]
        for edge, wanted in zip(tile.samples.shape[1:], (rows, cols), strict=True)
    ]
    return replace(tile, samples=tile.samples[:, index[0]][:, :, index[1]])


class Replay:
    """Messages from memory, at a pace.

    Args:
        messages: What comes, one after another.
        tile_s: A tile is there when its last line would have been seen, so long after the one
            before it [s]; 0: at once.
        clock: Paces them.
    """

    def __init__(self, messages: Sequence[Sequence[Part]], tile_s: float, clock: Clock) -> None:
        self._messages, self._tile_s, self._clock = messages, tile_s, clock
        self._next, self._start_s = 0, 0.0

    def recv(self, timeout_s: float) -> Sequence[Part] | None:
        """See `daemon.onboard.ingest.Listener`."""
        if not self._next:
            self._start_s = self._start_s or self._clock.monotonic_s()
        left_s = timeout_s
        if here := self._next < len(self._messages):
            due_s = self._start_s + (self._next + 1) * self._tile_s
            left_s = due_s - self._clock.monotonic_s()
        self._clock.sleep(min(left_s, timeout_s))
        if not here or left_s > timeout_s:
            return None
        self._next += 1
        return self._messages[self._next - 1]


@contextmanager
def opened(replay: Replay, source: Source, *, max_part_bytes: int) -> Iterator[Listener]:
    """Open the way of the messages; what comes is the line's end of it.

    Args:
        replay: What is sent.
        source: How.
        max_part_bytes: Part of a message above which libzmq hangs up.
    """
    if source == "memory":
        yield replay
        return
    with tempfile.TemporaryDirectory(prefix="prismlink-bench-") as folder:
        address = f"ipc://{folder}/tiles"
        with TileListener(
            Endpoint(address=address, bind=True),
            pattern="pull",
            max_part_bytes=max_part_bytes,
        ) as listener:
            done = threading.Event()
            instrument = threading.Thread(target=_send, args=(replay, address, done))
            instrument.start()
            try:
                yield listener
            finally:
                done.set()
                instrument.join()


def _send(replay: Replay, address: str, done: threading.Event) -> None:
    """Play the instrument until told that all has come."""
    with TileSender(
        Endpoint(address=address, bind=False, linger_s=0.0), pattern="pull", queued=1
    ) as sender:
        while not done.is_set():
            if (parts := replay.recv(_POLL_S)) is None:
                continue
            while not (done.is_set() or sender.send(parts, _POLL_S)):
                pass
