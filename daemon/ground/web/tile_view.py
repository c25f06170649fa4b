"""What the page says of one tile: all but its samples."""

from __future__ import annotations

import enum
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from codec.errors import TileError
from codec.frame import SideFrame
from codec.patch_grid import PATCH_PX, PatchGrid
from codec.tile import MAX_BANDS, MAX_EDGE_PX
from codec.tile_writers import MASK
from daemon.ground.products import QUALITY, STAC
from daemon.ground.write import MANIFEST

TILE_ID: Final = re.compile(r"[0-9a-f]{16}")
FILE_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")

SAMPLES: Final = (".tif", ".hdr", ".npy")
"""What a file that holds samples may end in."""
BESIDE: Final = (".img", MASK, ".json", MANIFEST, QUALITY, STAC)
"""What files of a tile may end in, beside the one that holds its samples."""

STORE: Final = ".zarr"
ZIPPED_STORE: Final = f"{STORE}.zip"
"""What a folder of samples ends in, and the file that it can be had as."""

MAX_MANIFEST_BYTES: Final = 4 << 20
MAX_PATCHES: Final = 4096
"""Of a tile that the page tells of. Our largest tiles have 1024; what a frame or a manifest claims
beyond that would be told to every visitor, patch by patch."""
TEXT_LIMIT: Final = 200
"""Characters of a text that visitors are told."""
_NONE_OF_OURS: Final = (
    *(LookupError, TypeError, AttributeError, ArithmeticError, ValueError, RecursionError),
    TileError,
)
"""What reading fields of a table that is no manifest may raise."""


class TileState(enum.Enum):
    """How far a tile is."""

    OPEN = "open"
    """Patches are still waited for."""
    CLOSED = "closed"
    """It is on its way to the disk."""
    WRITTEN = "written"


@dataclass(frozen=True, slots=True, kw_only=True)
class TileView:
    """One tile at a moment.

    Attributes:
        tile_id: Sixteen hexadecimal digits that name it.
        sent_as: (boot_id, frame_id) of its side information; None: read from a manifest.
        version: Of the board of tiles when it last changed.
        acquisition: Counts scenes, as one name may come again.
        sensor: Name of the instrument.
        scene: Name of the acquisition it is part of.
        tile_row: Position in the scene, along track.
        tile_col: Position in the scene, across track.
        sequence: The instrument's count of tiles.
        start_utc_s: Time of the first line [s since 1970-01-01 UTC].
        shape: (bands, rows, cols).
        patch_px: Edge of a patch [px].
        coded_bands: Bands that hold anything.
        state: How far it is.
        have: One character for each patch of its grid, row by row: "1" where it came.
        frame_bytes: Bytes of the frames it was made of.
        psnr_db: As measured on board, mean over patches [dB]; None: not known.
        psnr_patches: Patches of which it is known.
        model: Name of the model that coded it, as frames have it.
        step: Its quantizer step.
        file: The file with its samples; None: not written.
        files: All its files that can be had; a Zarr store as a zip file.
    """

    tile_id: str
    sent_as: tuple[int, int] | None
    version: int = 0
    acquisition: int = 0
    sensor: str
    scene: str
    tile_row: int
    tile_col: int
    sequence: int
    start_utc_s: float
    shape: tuple[int, int, int]
    patch_px: int
    coded_bands: int
    state: TileState
    have: str
    frame_bytes: int
    psnr_db: float | None = None
    psnr_patches: int = 0
    model: str
    step: float
    file: str | None = None
    files: tuple[str, ...] = ()

    @classmethod
    def of_side(cls, side: SideFrame, sent_as: tuple[int, int]) -> Self:
        """A tile of which nothing but its side information came."""
        info = side.info
        return cls(
            tile_id=side.tile_id.hex(),
            sent_as=sent_as,
            sensor=info.sensor[:TEXT_LIMIT],
            scene=info.scene[:TEXT_LIMIT],
            tile_row=info.tile_row,
            tile_col=info.tile_col,
            sequence=info.sequence,
            start_utc_s=info.start_utc_s,
            shape=side.shape,
            patch_px=side.patch_px,
            coded_bands=int(side.valid_bands.sum()),
            state=TileState.OPEN,
            have="0" * len(side.grid),
            frame_bytes=0,
            model=side.model.hex(),
            step=side.step,
        )

    @classmethod
    def of_manifest(cls, path: Path) -> Self:
        """A tile that was written, as its manifest tells.

        Raises:
            ValueError: If the file is no manifest of ours.
            OSError: If it cannot be read.
        """
        with path.open("rb") as file:
            raw = file.read(MAX_MANIFEST_BYTES + 1)
        if len(raw) > MAX_MANIFEST_BYTES:
            raise ValueError(f"{path.name}: longer than any manifest")
        try:
            return cls._of_table(json.loads(raw), path)
        except _NONE_OF_OURS as error:
            raise ValueError(f"{path.name}: no manifest of ours: {error!r}") from None

    @classmethod
    def _of_table(cls, table: Any, path: Path) -> Self:
        bands, rows, cols = (int(length) for length in table["shape"])
        patch_px = int(table.get("patch_px", PATCH_PX))
        file, tile_id = str(table["file"]), str(table["tile_id"])
        inside = 0 < bands <= MAX_BANDS and min(rows, cols) > 0 and max(rows, cols) <= MAX_EDGE_PX
        if not inside or not (TILE_ID.fullmatch(tile_id) and is_file_name(file)):
            raise ValueError("a shape, an id or a name is out of range")
        grid = PatchGrid(tile_rows=rows, tile_cols=cols, patch_px=patch_px)
        missing = {(int(row), int(col)) for row, col in table["patches_missing"]}
        psnr_db, psnr_patches = _psnr_in(path)
        numbers = float(table["step"]), float(table["start_utc_s"])
        if len(grid) > MAX_PATCHES or not all(map(math.isfinite, numbers)):
            raise ValueError("a number is out of range")
        return cls(
            tile_id=tile_id,
            sent_as=None,
            sensor=str(table["sensor"])[:TEXT_LIMIT],
            scene=str(table["scene"])[:TEXT_LIMIT],
            tile_row=int(table["tile_row"]),
            tile_col=int(table["tile_col"]),
            sequence=int(table["sequence"]),
            start_utc_s=numbers[1],
            shape=(bands, rows, cols),
            patch_px=patch_px,
            coded_bands=int(table.get("coded_bands", bands)),
            state=TileState.WRITTEN,
            have="".join("01"[place not in missing] for place in grid),
            frame_bytes=int(table["frame_bytes"]),
            model=str(table["model"])[:TEXT_LIMIT],
            step=numbers[0],
            psnr_db=psnr_db,
            psnr_patches=psnr_patches,
            file=file,
            files=_files(path, file),
        )

    @property
    def grid(self) -> PatchGrid:
        """Where its patches sit."""
        _, rows, cols = self.shape
        return PatchGrid(tile_rows=rows, tile_cols=cols, patch_px=self.patch_px)

    @property
    def bits_per_sample(self) -> float | None:
        """Bits per sample that came, in bands that hold anything; None: nothing came."""
        grid = self.grid
        pixels = sum(
            rows * cols
            for place, came in zip(grid, self.have, strict=True)
            if came == "1"
            for rows, cols in [grid.extent(*place).shape]
        )
        samples = pixels * self.coded_bands
        return 8 * self.frame_bytes / samples if samples else None

    def overtakes(self, sent_as: tuple[int, int]) -> bool:
        """Whether patches come of it while another sending of the same tile is on its way out."""
        return self.state is TileState.OPEN and self.sent_as != sent_as

    def with_patch(self, patch_row: int, patch_col: int) -> Self:
        """The same with one more patch."""
        at = patch_row * self.grid.shape[1] + patch_col
        return replace(self, have=f"{self.have[:at]}1{self.have[at + 1 :]}")

    def to_json(self) -> dict[str, Any]:
        """As an object of texts and numbers."""
        return {
            "id": self.tile_id,
            "acquisition": self.acquisition,
            "sensor": self.sensor,
            "scene": self.scene,
            "row": self.tile_row,
            "col": self.tile_col,
            "sequence": str(self.sequence),  # 64 bits are more than a browser's numbers hold
            "start_utc_s": self.start_utc_s,
            "shape": list(self.shape),
            "patch_px": self.patch_px,
            "state": self.state.value,
            "have": self.have,
            "bytes": self.frame_bytes,
            "bits_per_sample": self.bits_per_sample,
            "psnr_db": self.psnr_db,
            "psnr_patches": self.psnr_patches,
            "model": self.model,
            "step": self.step,
            "file": self.file,
            "files": list(self.files),
        }


def mean_psnr(psnr_db: Iterable[object]) -> tuple[float | None, int]:
    """The mean over patches of which it is known [dB], and how many; None: of none."""
    known = [one for one in psnr_db if isinstance(one, float) and math.isfinite(one)]
    return sum(known) / len(known) if known else None, len(known)


def is_file_name(text: str) -> bool:
    """Whether a text is the name of a file beside others, as those of tiles are."""
    return FILE_NAME.fullmatch(text) is not None


def _psnr_in(manifest: Path) -> tuple[float | None, int]:
    """What is known of patches lies beside the manifest, in a file of its own, or does not."""
    path = manifest.with_name(manifest.name.removesuffix(MANIFEST) + QUALITY)
    try:
        with path.open("rb") as file:
            table = json.loads(file.read(MAX_MANIFEST_BYTES))
        return mean_psnr(patch["psnr_db"] for patch in table["patches"])
    except (OSError, *_NONE_OF_OURS):
        return None, 0


def scene_files(directory: Path, stem: str) -> tuple[str, ...]:
    """The files of a scene's product that can be had, the one with its samples first."""
    return _at_hand(directory, (f"{stem}{suffix}" for suffix in (STORE, *SAMPLES, *BESIDE)))


def _files(manifest: Path, file: str) -> tuple[str, ...]:
    """The files of a tile that can be had, the one with its samples first."""
    stem = manifest.name.removesuffix(MANIFEST)
    return _at_hand(
        manifest.parent, dict.fromkeys([file, *(f"{stem}{suffix}" for suffix in BESIDE)])
    )


def _at_hand(folder: Path, names: Iterable[str]) -> tuple[str, ...]:
    """Which of these are there; a store as a zip file."""
    found = list[str]()
    for name in names:
        if name.endswith(STORE) and is_file_name(f"{name}.zip") and (folder / name).is_dir():
            found.append(f"{name}.zip")
        elif is_file_name(name) and (folder / name).is_file():
            found.append(name)
    return tuple(found)
