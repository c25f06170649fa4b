"""How fast one core feeds patches to a network: from GeoTIFFs, and from a converted store.

    python tests/benchmarks/feeding.py --patches 48

The shipped HySpecNet-11k patch stands for all of them, so the disk's cache holds what is read: what
is measured is decoding, drawing, turning and gathering batches of shape (n, 202, 128, 128).
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from training.hyspecnet import PATCH_PX, USABLE, find_patches, read_patch
from training.scenes import Crops
from training.store import Rows, convert

BATCH = 4
"""As in deploy/reproduce.yaml. Beyond 32 MB glibc asks the system for fresh pages each time."""
SHIPPED = Path(__file__).parents[1] / "data" / "hyspecnet-11k"


def main() -> None:
    """Print three rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patches", type=int, default=48)
    count = parser.parse_args().patches
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        (source,) = find_patches(SHIPPED)
        for number in range(count):
            target = tree / "patches" / f"tile_{number}" / f"patch_{number}" / source.name
            target.mkdir(parents=True)
            for path in source.folder.glob("*.TIF"):
                shutil.copy(path, target)
        files = find_patches(tree)

        start_s = time.perf_counter()
        for one in files:
            read_patch(one, usable_only=True)
        told("from GeoTIFFs, quality layers included", count, start_s)

        start_s = time.perf_counter()
        store = convert(tree, Path(folder) / "store", usable_only=True, workers=1)
        told("converted, with checksums", count, start_s)

        crops = Crops(
            Rows(store, range(count)),
            components=USABLE.size,
            crop_px=PATCH_PX,
            count=4 * count,
            signed=False,
        )
        for turn in ("first", "second"):
            start_s, seen = time.perf_counter(), 0
            for samples, _ in DataLoader(crops, batch_size=BATCH):
                seen += len(samples)
                if samples.shape[1:] != (USABLE.size, PATCH_PX, PATCH_PX) or not samples.any():
                    raise SystemExit("these are no batches of patches")
            told(f"from the store, drawn, turned and mirrored, {turn} time", seen, start_s)


def told(what: str, patches: int, start_s: float) -> None:
    """Print a rate."""
    print(f"{patches / (time.perf_counter() - start_s):8.1f} patches/s {what}")


if __name__ == "__main__":
    main()
