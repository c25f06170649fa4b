"""Real scenes: found, split by group, conditioned as on board, cut into crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from codec.bundle import Bundle
from codec.encoder import Encoder
from codec.errors import CodecError
from codec.tile import Tile
from codec.tile_files import find_scenes, read_tile
from training.config import SceneSettings
from training.errors import ScenesError

_SIGNS: Final = np.array([-1, 1], dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """One scene.

    Attributes:
        name: Its path below the scene folder, without suffix.
        group: Name of the group no split may part.
        tile: The whole scene.
    """

    name: str
    group: str
    tile: Tile


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Scenes to train on and scenes held back; no group on both sides."""

    training: tuple[Scene, ...]
    validation: tuple[Scene, ...]


def load_scenes(folder: Path, settings: SceneSettings) -> tuple[Scene, ...]:
    """Read every scene below a folder, or one file.

    Raises:
        ScenesError: If there is none, one cannot be read, or one is in two groups.
    """
    root = folder if folder.is_dir() else folder.parent
    try:
        found = {path.relative_to(root): path for path in find_scenes(folder)}
        tiles = {
            name: read_tile(path)
            for name, path in found.items()
            if not _is_of(name, settings.exclude)
        }
    except CodecError as error:
        raise ScenesError(str(error)) from None
    return tuple(
        Scene(name=path.stem, group=_group(path, settings), tile=tile)
        for path, tile in tiles.items()
    )


def split_scenes(scenes: Sequence[Scene], settings: SceneSettings) -> Split:
    """Hold back the validation groups.

    Raises:
        ScenesError: If a validation group is unknown, or either side is empty.
    """
    known = {scene.group for scene in scenes} | settings.groups.keys()
    if unknown := set(settings.validation) - known:
        raise ScenesError(
            f"scenes.validation names {', '.join(sorted(unknown))}, which is no group and no scene"
        )
    held_back = tuple(s for s in scenes if s.group in settings.validation)
    training = tuple(s for s in scenes if s.group not in settings.validation)
    if not held_back or not training:
        raise ScenesError(
            f"{len(training)} scenes to train on and {len(held_back)} held back; "
            "remedy: name groups of the folder in scenes.validation"
        )
    return Split(training=training, validation=held_back)


def _is_of(path: Path, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path.as_posix(), pattern) for pattern in patterns)


def _group(path: Path, settings: SceneSettings) -> str:
    found = [name for name, patterns in settings.groups.items() if _is_of(path, patterns)]
    if len(found) > 1:
        raise ScenesError(f"{path} is in the groups {', '.join(found)}; remedy: keep one")
    return found[0] if found else path.stem


def condition(tile: Tile, bundle: Bundle, step: float) -> NDArray[np.float32]:
    """Return what the network sees of a whole tile, the quantized side information included.

    Args:
        tile: The scene.
        bundle: Says how tiles are conditioned.
        step: Quantizer step [10⁻⁴ reflectance].

    Returns:
        Components in steps, shape (components, rows, cols); components as the tile has them.
    """
    conditioning = (
        Encoder(bundle, step=step, backend="torch-cpu").open(tile).patches[0].conditioning
    )
    valid = tile.valid()[conditioning.bands]
    return conditioning.condition(tile.samples, None if valid.all() else valid)


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Square crops of conditioned scenes: (components, present).

    `components` has shape (k, crop, crop) with zeros for components the tile does not have;
    `present` has shape (k,) and is 1 for those it has. Scenes smaller than a crop are reflected.

    What is drawn follows from seed, `epoch` and number alone, so a training that was cut off can go
    on anywhere, and the crops of an epoch can be shared out.

    Args:
        images: Conditioned scenes, shape (any, rows, cols) each.
        components: The k of every crop.
        crop_px: Edge of a crop [px].
        count: Crops to draw at random, turned, mirrored and with components' signs flipped (an
            eigenvector has no sign of its own). None: every crop of a fixed grid, as it is.
        seed: Seed of the draws.
        signed: Whether components are flipped: bands have a sign.
    """

    def __init__(
        self,
        images: Sequence[NDArray[Any]],
        *,
        components: int,
        crop_px: int,
        count: int | None = None,
        seed: int = 0,
        signed: bool = True,
    ) -> None:
        self._images = [_reflected(image[:components], crop_px) for image in images if len(image)]
        if not self._images:
            raise ScenesError("no scene has a component above the step; remedy: a smaller step")
        self._components, self._crop_px, self._count = components, crop_px, count
        self._seed, self._signed = seed, signed
        self.epoch = 0
        self._grid = [
            (index, row, col)
            for index, image in enumerate(self._images)
            for row in range(0, image.shape[1] - crop_px + 1, crop_px)
            for col in range(0, image.shape[2] - crop_px + 1, crop_px)
        ]

    def __len__(self) -> int:
        return len(self._grid) if self._count is None else self._count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= len(self):
            raise IndexError(index)
        size = self._crop_px
        if self._count is None:
            image, row, col = self._grid[index]
            return self._tensors(self._images[image][:, row : row + size, col : col + size])
        rng = np.random.default_rng((self._seed, self.epoch, index))
        whole = self._images[int(rng.integers(len(self._images)))]
        row, col = (int(rng.integers(edge - size + 1)) for edge in whole.shape[1:])
        part = whole[:, row : row + size, col : col + size]
        part = np.rot90(part, int(rng.integers(4)), (1, 2))
        if rng.integers(2):
            part = part[:, ::-1]
        crop, present = self._tensors(part)
        if not self._signed:
            return crop, present
        signs = torch.from_numpy(rng.choice(_SIGNS, self._components))
        return crop * signs[:, None, None], present

    def _tensors(self, part: NDArray[Any]) -> tuple[Tensor, Tensor]:
        crop = np.array(part, order="C")  # of a file it is a view, and must not stay one
        if missing := self._components - len(crop):
            crop = np.pad(crop, ((0, missing), (0, 0), (0, 0)))
        present = torch.arange(self._components) < len(part)
        return torch.from_numpy(crop), present.float()


def _reflected(image: NDArray[Any], least_px: int) -> NDArray[Any]:
    below, right = (max(0, least_px - edge) for edge in image.shape[1:])
    if not below and not right:
        return image  # it may be a view of a file
    return np.pad(image, ((0, 0), (0, below), (0, right)), "symmetric")
