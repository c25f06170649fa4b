"""HySpecNet-11k trees in small: the shipped patch, and patches that have an array only."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.hyspecnet import PATCH_PX, USABLE, PatchFiles

REAL: Final = Path(__file__).parents[1] / "data" / "hyspecnet-11k"
SHAPE: Final = (USABLE.size, PATCH_PX, PATCH_PX)


def add_patch(root: Path, number: int, samples: NDArray[np.generic] | None = None) -> PatchFiles:
    """Add a patch to a tree, two to a tile; without samples it is all of one value."""
    path = f"tile_{number // 2:03d}/tile_{number // 2:03d}-patch_{number % 2}/P{number}"
    folder = root / "patches" / path
    folder.mkdir(parents=True)
    if samples is None:
        samples = np.full(SHAPE, number / 100, np.float32)
    np.save(folder / f"P{number}-DATA.npy", samples)
    return PatchFiles(path=path, folder=folder)
