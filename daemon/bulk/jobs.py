"""One tile to decode, and what became of it: what goes to a worker process, and comes back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

Format: TypeAlias = Literal["geotiff", "cog", "envi", "zarr", "npy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where tiles go.

    Attributes:
        folder: A folder, or one zarr store with a group for each tile.
        file_format: Of each tile.
    """

    folder: Path
    file_format: Format

    @property
    def is_store(self) -> bool:
        """Whether all tiles go into one zarr store."""
        return self.folder.suffix == ".zarr"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodeJob:
    """A tile to decode.

    Attributes:
        name: What problems of it are told of.
        frames: (boot_id, frame_id, bytes) of each frame, that of the side information first.
        bundle: The file of its model.
        model: That model's name in frames.
        output: Where it goes.
        threads: Patches decoded at a time.
        mark: Tells these frames and this decoder from others.
    """

    name: str
    frames: tuple[tuple[int, int, bytes], ...] = field(repr=False)
    bundle: Path
    model: bytes
    output: Output
    threads: int
    mark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedTile:
    """What became of a job.

    Attributes:
        file: Name of what was written in the output's folder; None: nothing was.
        patches: Patches in it.
        missing: (row, col) of the others.
        problems: What was wrong with the frames.
        output_error: Why it could not be written.
    """

    file: str | None
    patches: int = 0
    missing: tuple[tuple[int, int], ...] = ()
    problems: tuple[str, ...] = ()
    output_error: str | None = None
