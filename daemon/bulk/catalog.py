"""Which tiles there are, of what frames, and which of them are wanted.

A patch belongs to its tile's last side frame of the same boot before it, as everywhere on the
ground. A tile that was sent anew, by a later boot or found in a later source, is the newer one: the
older has the same name, and would have the same file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from codec.frame import SideFrame
from daemon.bulk.frames import FoundFrame
from daemon.bulk.sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which tiles are wanted.

    Attributes:
        scene: Glob of scene names.
        since_s: No tile whose first line is before this [s since 1970-01-01 UTC].
        until_s: None whose first line is then or later [s since 1970-01-01 UTC].
        model: Beginning of the model's name, hexadecimal.
    """

    scene: str = "*"
    since_s: float = float("-inf")
    until_s: float = float("inf")
    model: str = ""

    def takes(self, side: SideFrame) -> bool:
        """Whether a tile is wanted."""
        return (
            fnmatchcase(side.info.scene, self.scene)
            and self.since_s <= side.info.start_utc_s < self.until_s
            and side.model.hex().startswith(self.model.lower())
        )


def utc_seconds(text: str) -> float:
    """Read a time: ISO 8601, UTC where it names no zone, or seconds since 1970-01-01 UTC.

    Raises:
        ValueError: If it is neither.
    """
    try:
        return float(text)
    except ValueError:
        pass
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no time; write it like 2026-05-01, 2026-05-01T12:30:00Z or 1777638600"
        ) from None
    return time.replace(tzinfo=time.tzinfo or UTC).timestamp()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoundTile:
    """A tile of which side information and perhaps patches are at hand.

    Attributes:
        side: Its side information.
        source: Where that was found.
        frames: The side frame, then the others in the board's order.
    """

    side: SideFrame
    source: Source
    frames: tuple[FoundFrame, ...]

    @property
    def patches(self) -> int:
        """Patch frames at hand."""
        return len(self.frames) - 1

    @property
    def lacking(self) -> int:
        """Patches of which no frame is at hand."""
        return max(0, len(self.side.grid) - self.patches)

    @property
    def frame_bytes(self) -> int:
        """Bytes of its frames."""
        return sum(frame.place.size for frame in self.frames)


class _Boot(NamedTuple):
    """What one boot sent of a tile."""

    sides: dict[int, tuple[FoundFrame, Source]]
    patches: dict[int, FoundFrame]


class Catalog:
    """Frames in, tiles out.

    Attributes:
        superseded: Tiles of which a newer one is at hand.
        without_side: Tiles of which patches are at hand, and no side information.
    """

    def __init__(self) -> None:
        self._tiles: dict[bytes, dict[int, _Boot]] = {}
        self.superseded = self.without_side = 0

    def add(self, frames: Iterable[FoundFrame], source: Source) -> None:
        """Enter the frames of a source; of those that are there already the first stays."""
        for frame in frames:
            boots = self._tiles.setdefault(frame.tile_id, {})
            boot = boots.setdefault(frame.boot_id, _Boot({}, {}))
            if frame.side is not None:
                boot.sides.setdefault(frame.frame_id, (frame, source))
            else:
                boot.patches.setdefault(frame.frame_id, frame)

    def tiles(self) -> Iterator[FoundTile]:
        """Yield the newest of every tile, in the order in which they were first met."""
        self.superseded = self.without_side = 0
        for boots in self._tiles.values():
            with_side = [boot for boot in boots.values() if boot.sides]
            if not with_side:
                self.without_side += 1
                continue
            newest = with_side[-1]
            self.superseded += sum(len(boot.sides) for boot in with_side) - 1
            last = max(newest.sides)
            found, source = newest.sides[last]
            since = sorted(frame_id for frame_id in newest.patches if frame_id > last)
            if found.side is not None:
                yield FoundTile(
                    side=found.side,
                    source=source,
                    frames=(found, *(newest.patches[frame_id] for frame_id in since)),
                )


def sources_of(tiles: Iterable[FoundTile]) -> list[Path]:
    """Where tiles were found, each place once."""
    return list(dict.fromkeys(tile.source.path for tile in tiles))
