"""The instrument: streams real files as tiles at a line rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final, Protocol

from codec.patch_grid import PATCH_PX
from codec.tile import Tile
from codec.tile_files import find_scenes, read_tile
from daemon.clock import Clock
from daemon.errors import FeedError, LinkError
from daemon.tile_message import TOPIC, Part, TileMessage

ENMAP_PATCHES_PER_S: Final = 14.4
"""EnMAP's line rate in patches of 128×128 px.

Source: EnMAP's instrument specification, 1000 px across (8 patches, the last one padded) and 4.4 ms
per line (128 of them are 557 ms): 8 patches in 557 ms.
"""
ENMAP_PX_PER_S: Final = ENMAP_PATCHES_PER_S * 128 * 128

SCENES_IN_MEMORY: Final = 8
"""Scenes kept between repeats: reading one takes as long as EnMAP takes for it."""

_NAP_S: Final = 0.2
"""The longest sleep, wait for a listener or offer [s], so that a request to stop is heard."""


class Sender(Protocol):
    """Where messages go; `daemon.link.sockets.TileSender` is one."""

    def wait_for_listener(self, timeout_s: float) -> bool:
        """Wait for somebody to listen; tell whether anybody does."""

    def send(self, parts: Sequence[Part], timeout_s: float) -> bool:
        """Hand one message over; False if nobody took it in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedSettings:
    """How the instrument behaves.

    Attributes:
        rate: Pixels per second as a multiple of EnMAP's; 0: as fast as they are taken.
        repeat: Times the scenes are shown.
        interleave: How samples are ordered in a message: "bsq", "bil" or "bip".
        tile_rows: Lines of a tile [px]; None: a scene is one tile while it keeps below
            `limit_bytes`, else tiles of 128 lines.
        limit_bytes: The largest tile [bytes] while `tile_rows` is None.
        topic: What subscribers filter by.
        send_timeout_s: How long a tile is offered [s] before it counts as refused.
        first_sequence: Sequence of the first tile.

    Raises:
        ValueError: If a number is out of range.
    """

    rate: float = 1.0
    repeat: int = 1
    interleave: str = "bsq"
    tile_rows: int | None = None
    limit_bytes: int = 64 << 20
    topic: bytes = TOPIC
    send_timeout_s: float = 5.0
    first_sequence: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate) and self.rate >= 0):
            raise ValueError(f"rate must be 0 or a positive number, got {self.rate}")
        for name, value in (("repeat", self.repeat), ("tile_rows", self.tile_rows)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedReport:
    """What was fed.

    Attributes:
        tiles: Tiles that were taken.
        patches: Patches of 128×128 px in them, those at an edge included.
        pixels: Their pixels; a patch at an edge has fewer than others.
        bytes_raw: Their samples [bytes].
        refused: Tiles that nobody took in time; their sequence numbers are missing downstream.
        seconds: From the first line to the last tile handed over [s].
        behind_s: The most a tile was handed over later than its last line was due [s].
    """

    tiles: int
    patches: int
    pixels: int
    bytes_raw: int
    refused: int
    seconds: float
    behind_s: float

    @property
    def realtime_factor_enmap(self) -> float:
        """Pixels per second over EnMAP's."""
        return self.pixels / self.seconds / ENMAP_PX_PER_S if self.seconds > 0 else 0.0


def wait_for_listener(
    sender: Sender,
    address: str,
    *,
    wait_s: float,
    clock: Clock,
    should_stop: Callable[[], bool],
    tell: Callable[[str], object],
) -> None:
    """Wait until somebody listens.

    Args:
        sender: Where it is heard of.
        address: What to call it.
        wait_s: The longest wait [s].
        clock: Measures it.
        should_stop: Asked all the while; True ends the wait.
        tell: Told once, in a line, what is waited for; not if somebody is there already.

    Raises:
        LinkError: If nobody does in time.
        FeedError: If it should stop before.
    """
    give_up_s = clock.monotonic_s() + wait_s
    told = False
    while not sender.wait_for_listener(min(wait_s, _NAP_S)):
        if should_stop():
            raise FeedError(f"{address}: asked to end before anybody subscribed")
        if clock.monotonic_s() >= give_up_s:
            raise LinkError(f"{address}: nobody subscribed within {wait_s:.0f} s")
        if not told:
            tell(f"waiting for a listener at {address}")
            told = True


def feed(
    paths: Sequence[Path],
    sender: Sender,
    *,
    settings: FeedSettings,
    clock: Clock,
    should_stop: Callable[[], bool] = lambda: False,
    on_tile: Callable[[Tile, bool], None] = lambda _tile, _taken: None,
) -> FeedReport:
    """Show scenes to the daemon as an instrument would.

    A tile is handed over when its last line would have been seen. The schedule is absolute: a
    tile that comes late does not push the next ones back, so the mean rate holds. A tile that
    nobody takes is lost, as on board, and its sequence number with it.

    Args:
        paths: Files and folders of scenes.
        sender: Where the messages go.
        settings: How.
        clock: What paces it.
        should_stop: Asked before every tile and every nap; True ends the feed, and a tile that is
            on offer just then counts as refused.
        on_tile: Told of every tile, and whether it was taken.

    Raises:
        TileFileError: If there is no scene, or one cannot be read.
        MessageFieldError: If a scene's facts cannot be sent.
    """
    scenes = [scene for path in paths for scene in find_scenes(path)]
    read = lru_cache(maxsize=SCENES_IN_MEMORY)(read_tile)
    for scene in scenes[:SCENES_IN_MEMORY]:  # before the clock starts: a library may load slowly
        read(scene)
    tiles, patches, pixels, bytes_raw, refused, shown_px, behind_s = 0, 0, 0, 0, 0, 0, 0.0
    start_s = clock.monotonic_s()
    for tile in tiles_of(scenes, read, settings):
        rows, cols = tile.samples.shape[1:]
        parts = TileMessage.pack(tile, settings.interleave, topic=settings.topic)
        shown_px += rows * cols
        due_s = start_s + (shown_px / (settings.rate * ENMAP_PX_PER_S) if settings.rate else 0.0)
        if not _sleep_until(due_s, clock, should_stop):
            break
        taken = _offer(parts, sender, settings.send_timeout_s, clock, should_stop)
        if settings.rate:
            behind_s = max(behind_s, clock.monotonic_s() - due_s)
        if taken:
            tiles += 1
            patches += -(-rows // PATCH_PX) * -(-cols // PATCH_PX)
            pixels += rows * cols
            bytes_raw += tile.samples.nbytes
        else:
            refused += 1
        on_tile(tile, taken)
    return FeedReport(
        tiles=tiles,
        patches=patches,
        pixels=pixels,
        bytes_raw=bytes_raw,
        refused=refused,
        seconds=clock.monotonic_s() - start_s,
        behind_s=behind_s,
    )


def cut(scene: Tile, *, tile_rows: int | None, limit_bytes: int) -> Iterator[Tile]:
    """Cut a scene across into tiles of so many lines; the last may have fewer.

    Args:
        scene: The whole scene.
        tile_rows: Lines of a tile [px]; None: all of them while the scene keeps below
            `limit_bytes`, else 128.
        limit_bytes: The largest scene to leave whole [bytes].

    Yields:
        Views of the scene, each with its row, its place and the time of its first line, if known.
    """
    rows, cols = scene.samples.shape[1:]
    if tile_rows is None:
        tile_rows = rows if scene.samples.nbytes <= limit_bytes else PATCH_PX
    for index, row in enumerate(range(0, rows, tile_rows)):
        info, place = scene.info, scene.info.georeference
        if place is not None:
            a, b, c, d, e, f = place.transform
            place = replace(place, transform=(a, b, c + b * row, d, e, f + e * row))
        yield Tile(
            samples=scene.samples[:, row : row + tile_rows],
            info=replace(
                info,
                tile_row=info.tile_row + index,
                georeference=place,
                start_utc_s=info.start_utc_s and info.start_utc_s + row * cols / ENMAP_PX_PER_S,
            ),
        )


def tiles_of(
    scenes: Sequence[Path], read: Callable[[Path], Tile], settings: FeedSettings
) -> Iterator[Tile]:
    """Every tile of every showing, numbered through."""
    sequence = settings.first_sequence
    for _ in range(settings.repeat):
        for scene in scenes:
            for tile in cut(
                read(scene), tile_rows=settings.tile_rows, limit_bytes=settings.limit_bytes
            ):
                yield replace(tile, info=replace(tile.info, sequence=sequence))
                sequence += 1


def _offer(
    parts: Sequence[Part],
    sender: Sender,
    timeout_s: float,
    clock: Clock,
    should_stop: Callable[[], bool],
) -> bool:
    """Hand one message over; False if nobody takes it in time, or before the feed is to stop."""
    give_up_s = clock.monotonic_s() + timeout_s
    while not sender.send(parts, min(timeout_s, _NAP_S)):
        if should_stop() or clock.monotonic_s() >= give_up_s:
            return False
    return True


def _sleep_until(due_s: float, clock: Clock, should_stop: Callable[[], bool]) -> bool:
    """Wait for a moment; False if the feed is to stop."""
    while not should_stop():
        if (left_s := due_s - clock.monotonic_s()) <= 0:
            return True
        clock.sleep(min(left_s, _NAP_S))
    return False
