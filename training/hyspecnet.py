"""HySpecNet-11k as its file tree holds it: patches, their quality, the published splits.

    ROOT/patches/TILE/PATCH/NAME/NAME-SPECTRAL_IMAGE.TIF    224 bands, or NAME-DATA.npy, 202 bands
    ROOT/patches/TILE/PATCH/NAME/NAME-QL_QUALITY_CLOUD.TIF  and other quality layers
    ROOT/splits/{easy,hard}/{train,val,test}.csv            a NAME-DATA.npy per row, below patches/

DATA.npy is not shipped; users make it of the TIF. Where both are there the TIF is read.

Source: Fuchs & Demir, HySpecNet-11k, IGARSS 2023, and its file tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from codec.errors import TileFileError
from codec.tile_files import read_tile
from training.errors import PatchError, ScenesError

PATCH_PX: Final = 128
ALL_BANDS: Final = 224
UNUSABLE_BANDS: Final = (*range(126, 141), *range(160, 167))
"""Counted from 0: water vapor takes the light away. HySpecNet-11k's own code drops them."""
USABLE: Final = np.setdiff1d(np.arange(ALL_BANDS), UNUSABLE_BANDS)
FILL: Final = -32768
PARTS: Final = ("train", "val", "test")
DIFFICULTIES: Final = ("easy", "hard")
"""The splits: patches of a tile are parted by the easy one, and kept together by the hard one."""

FLAGS: Final = {"CLOUD": 1, "CIRRUS": 2, "HAZE": 4, "SNOW": 8, "CLOUDSHADOW": 16, "NO_DATA": 32}
"""Bits of a pixel's flags; all but the last are quality layers of the same name."""

_IMAGE: Final = "-SPECTRAL_IMAGE.TIF"
_ARRAY: Final = "-DATA.npy"


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchFiles:
    """Where a patch lies.

    Attributes:
        path: Its folder below `patches`, as the splits name it.
        folder: The folder.
    """

    path: str
    folder: Path

    @property
    def name(self) -> str:
        """What its files' names begin with."""
        return self.folder.name

    @property
    def tile(self) -> str:
        """The EnMAP tile it was cut from; patches of one adjoin."""
        return self.path.split("/", 1)[0]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Patch:
    """A patch as read.

    Attributes:
        samples: Reflectance [10⁻⁴], shape (bands, 128, 128), int16; `FILL` where there is none.
        flags: Bits of `FLAGS`, shape (128, 128), uint8.
    """

    samples: NDArray[np.int16]
    flags: NDArray[np.uint8]


def find_patches(root: Path) -> tuple[PatchFiles, ...]:
    """Find every patch of a tree, in order of their paths.

    Raises:
        ScenesError: If there is none.
    """
    patches = root / "patches"
    files = [path for end in (_IMAGE, _ARRAY) for path in patches.rglob(f"*{end}")]
    folders = sorted({path.parent for path in files})
    if not folders:
        raise ScenesError(
            f"{patches}: no *{_IMAGE} and no *{_ARRAY} below it; "
            "remedy: name the folder of HySpecNet-11k that holds patches/"
        )
    return tuple(_files(folder, root) for folder in folders)


def read_split(root: Path, difficulty: str, part: str) -> tuple[PatchFiles, ...]:
    """Read which patches belong to a part of a published split.

    Raises:
        ScenesError: If the split is missing or empty, or a row names no patch.
    """
    path = root / "splits" / difficulty / f"{part}.csv"
    try:
        rows = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ScenesError(
            f"{path}: {reason}; remedy: unpack HySpecNet-11k's splits beside patches/"
        ) from None
    if wrong := [row for row in rows if not row.endswith(_ARRAY) or _leads_out(row)]:
        raise ScenesError(f"{path}: {wrong[0]!r} is no path that ends in {_ARRAY}")
    if not rows:
        raise ScenesError(f"{path}: it names no patch")
    return tuple(_files((root / "patches" / row).parent, root) for row in rows)


def _leads_out(row: str) -> bool:
    return row.startswith("/") or ".." in row.split("/")


def read_patch(files: PatchFiles, *, usable_only: bool) -> Patch:
    """Read a patch.

    Args:
        files: Where it lies.
        usable_only: The 202 bands of the published experiments; else all 224.

    Raises:
        PatchError: If it is absent, empty, cut, or not of its shape.
    """
    image, array = (files.folder / f"{files.name}{end}" for end in (_IMAGE, _ARRAY))
    if image.exists():
        samples = _samples(image, (ALL_BANDS, PATCH_PX, PATCH_PX))
        missing = (samples[USABLE] == FILL).any(axis=0)
        return Patch(
            samples=samples[USABLE] if usable_only else samples, flags=_flags(files, missing)
        )
    samples = _samples(array, (USABLE.size, PATCH_PX, PATCH_PX))
    flags = _flags(files, np.zeros(samples.shape[1:], bool))
    if usable_only:
        return Patch(samples=samples, flags=flags)
    whole = np.full((ALL_BANDS, *samples.shape[1:]), FILL, np.int16)
    whole[USABLE] = samples
    return Patch(samples=whole, flags=flags)


def _files(folder: Path, root: Path) -> PatchFiles:
    return PatchFiles(path=folder.relative_to(root / "patches").as_posix(), folder=folder)


def _samples(path: Path, shape: tuple[int, int, int]) -> NDArray[np.int16]:
    """Read a TIF or an array, as int16."""
    try:
        samples = read_tile(path).samples
    except TileFileError as error:
        raise PatchError(str(error)) from None
    if samples.shape != shape:
        raise PatchError(f"{path}: shape {samples.shape}, not {shape}; remedy: fetch it again")
    if samples.dtype == np.int16:
        return np.ascontiguousarray(samples)
    if samples.dtype.kind != "f":
        raise PatchError(f"{path}: samples are {samples.dtype}, neither int16 nor floats")
    if not np.isfinite(samples).all():
        raise PatchError(f"{path}: some samples are no numbers; remedy: make it again")
    scaled: NDArray[np.float32] = np.rint(np.clip(samples, 0, 1) * 10_000)
    return scaled.astype(np.int16)


def _flags(files: PatchFiles, missing: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Put the quality layers together; one that is not there flags nothing."""
    flags = np.where(missing, np.uint8(FLAGS["NO_DATA"]), np.uint8(0))
    for name, bit in FLAGS.items():
        layer = files.folder / f"{files.name}-QL_QUALITY_{name}.TIF"
        if layer.exists():
            flags |= np.where(_layer(layer), np.uint8(bit), np.uint8(0))
    return flags


def _layer(path: Path) -> NDArray[np.bool_]:
    try:
        values = read_tile(path).samples
    except TileFileError as error:
        raise PatchError(str(error)) from None
    if values.shape != (1, PATCH_PX, PATCH_PX):
        raise PatchError(f"{path}: shape {values.shape}, not (1, {PATCH_PX}, {PATCH_PX})")
    return np.asarray(values[0] != 0)


def split_names(root: Path) -> dict[str, dict[str, Sequence[str]]]:
    """Paths by difficulty and part, of the splits that are there."""
    found: dict[str, dict[str, Sequence[str]]] = {}
    for difficulty in DIFFICULTIES:
        if (root / "splits" / difficulty).is_dir():
            found[difficulty] = {
                part: [files.path for files in read_split(root, difficulty, part)] for part in PARTS
            }
    return found
