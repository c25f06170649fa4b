"""Which tiles there are, of what frames, and which of them are wanted.

A patch belongs to its tile's last side frame of the same boot before it, as everywhere on the
ground. Patches of the same side information, byte for byte, are of one tile wherever they are from:
a copy that is damaged hides nothing of one that is whole. Under another side information a tile was
sent anew: the newer one counts, by boots and frames in the order in which they were met. Frame
files tell of no boot, and their order means nothing: of theirs and of what boots sent last, that
with the most patches counts.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
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
        until_s: None whose first line is then or later [s since 1970-01-01 UTC]. With either none
            of which that is not known.
        model: Beginning of the model's name, hexadecimal.

    Raises:
        ValueError: If the model's name is not hexadecimal.
    """

    scene: str = "*"
    since_s: float = -math.inf
    until_s: float = math.inf
    model: str = ""

    def __post_init__(self) -> None:
        if set(self.model.lower()) - set("0123456789abcdef"):
            raise ValueError(f"{self.model!r} is no beginning of a model; write hexadecimal digits")

    def takes(self, side: SideFrame) -> bool:
        """Whether a tile is wanted."""
        return (
            fnmatchcase(side.info.scene, self.scene)
            and self._spans(side.info.start_utc_s)
            and side.model.hex().startswith(self.model.lower())
        )

    def _spans(self, start_utc_s: float) -> bool:
        """Whether a first line is in the span; one of unknown time is in none but that of all."""
        if not start_utc_s:
            return (self.since_s, self.until_s) == (-math.inf, math.inf)
        return self.since_s <= start_utc_s < self.until_s


def utc_seconds(text: str) -> float:
    """Read a time: ISO 8601, UTC where it names no zone, or seconds since 1970-01-01 UTC.

    Raises:
        ValueError: If it is neither.
    """
    with suppress(ValueError):  # first: 20260501 is a day, not one of 1970
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=time.tzinfo or UTC).timestamp()
    with suppress(ValueError):
        if math.isfinite(seconds := float(text)):
            return seconds
    raise ValueError(
        f"{text!r} is no time; write it like 2026-05-01, 2026-05-01T12:30:00Z or 1777638600"
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoundTile:
    """A tile of which side information and perhaps patches are at hand.

    Attributes:
        side: Its side information.
        source: Where that was found.
        frames: The side frame, then one of each patch, as they were met.
    """

    side: SideFrame
    source: Source
    frames: tuple[FoundFrame, ...]

    @property
    def patches(self) -> int:
        """Patch frames at hand."""
        return len(self.frames) - 1

    @property
    def positions(self) -> set[tuple[int, int]]:
        """(row, col) of those."""
        return {frame.at for frame in self.frames if frame.at is not None}

    @property
    def lacking(self) -> int:
        """Patches of which no frame is at hand."""
        return max(0, len(self.side.grid) - self.patches)

    @property
    def frame_bytes(self) -> int:
        """Bytes of its frames."""
        return sum(frame.place.size for frame in self.frames)


class _Boot(NamedTuple):
    """What one boot sent of a tile, or one frame file holds."""

    sides: dict[int, tuple[FoundFrame, Source]]
    patches: dict[int, FoundFrame]

    def sent(self) -> Iterator[tuple[FoundFrame, Source, dict[tuple[int, int], FoundFrame]]]:
        """Yield each side frame, where it was found, and the first of each patch up to the next."""
        starts, frame_ids = sorted(self.sides), sorted(self.patches)
        for start, end in zip(starts, [*starts, math.inf][1:], strict=True):
            patches = dict[tuple[int, int], FoundFrame]()
            for frame_id in frame_ids[bisect_left(frame_ids, start) : bisect_left(frame_ids, end)]:
                frame = self.patches[frame_id]
                if frame.at is not None:
                    patches.setdefault(frame.at, frame)
            yield *self.sides[start], patches


@dataclass(slots=True)
class _Version:
    """A tile under one side information."""

    side: FoundFrame
    source: Source
    patches: dict[tuple[int, int], FoundFrame] = field(default_factory=dict)


class Catalog:
    """Frames in, tiles out.

    Attributes:
        superseded: Versions of tiles that were passed over for another.
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
        """Yield one version of every tile, in the order in which these were first met."""
        self.superseded = self.without_side = 0
        for boots in self._tiles.values():
            versions, newest = dict[bytes, _Version](), list[_Version]()
            # Frame files first: where a boot sent the same, it is known what that was.
            for boot_id, boot in sorted(boots.items(), key=lambda item: item[0] >= 0):
                for side, source, patches in boot.sent():
                    version = versions.setdefault(side.crc, _Version(side, source))
                    version.side, version.source = side, source
                    version.patches |= patches
                    if boot_id >= 0 and (version.patches or not newest):
                        newest = [version]
            if not versions:
                self.without_side += 1
                continue
            self.superseded += len(versions) - 1
            of_files = [version for version in versions.values() if version.side.boot_id < 0]
            best = max([*newest, *reversed(of_files)], key=lambda version: len(version.patches))
            if best.side.side is not None:
                yield FoundTile(
                    side=best.side.side,
                    source=best.source,
                    frames=(best.side, *best.patches.values()),
                )


def sources_of(tiles: Iterable[FoundTile]) -> list[Path]:
    """Where tiles were found, each place once."""
    return list(dict.fromkeys(tile.source.path for tile in tiles))
