"""How fast one core decodes patches of 128 × 128 pixels, whole and by stage.

    python tests/benchmarks/decoding.py --scenes data --steps 384,192,96,48

Smaller scenes are mirrored to the size of a patch. Of seven runs the median counts; a stage is
measured alone, so the stages need not add up to the whole.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codec.bundle import Bundle, load_bundle
from codec.contexts import step_ratio
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.frame import PatchFrame, SideFrame, parse
from codec.lifting import inverse_wavelet
from codec.patch_grid import PATCH_PX
from codec.restoration import restore
from codec.symbol_coder import SymbolCoder
from codec.tile import Tile
from codec.tile_files import find_scenes, read_tile

ROOT = Path(__file__).parents[2]
RUNS = 7


def main() -> None:
    """Print a row for each scene and step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=Path, default=ROOT / "tests" / "data")
    parser.add_argument("--steps", default="384,192,96,48")
    parser.add_argument(
        "--bundle", type=Path, default=ROOT / "deploy" / "models" / "default.safetensors"
    )
    chosen = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    bundle = load_bundle(chosen.bundle)
    print(f"{'scene':28} {'step':>5} {'bit/sample':>10} {'PSNR':>6}  ms: ", end="")
    print("  symbols  restore  synthesis  uncondition    whole   patches/s")
    for path in find_scenes(chosen.scenes):
        tile = patch_sized(read_tile(path))
        for step in map(float, chosen.steps.split(",")):
            print(f"{path.stem[-28:]:28} {step:5.0f} " + row(bundle, tile, step), flush=True)


def row(bundle: Bundle, tile: Tile, step: float) -> str:
    """Measure a tile of one patch at one step."""
    frames = Encoder(bundle, step=step).encode(tile)
    decoder = Decoder(bundle)
    side, patch = map(parse, frames)
    if not isinstance(side, SideFrame) or not isinstance(patch, PatchFrame):
        raise SystemExit("a tile of one patch has two frames")
    conditioning = decoder.conditioning(side)
    coder = SymbolCoder(bundle.tables, bundle.scales, bundle.contexts)
    network, size = bundle.synthesis(), (PATCH_PX, PATCH_PX)
    channels = conditioning.levels.size * bundle.scales.groups.size
    symbols, symbols_ms = timed(lambda: coder.decode(patch.payload, channels, *size))
    latents, restore_ms = timed(lambda: restore(symbols, *size, network.branch))
    latents *= np.float32(conditioning.latent_step * step_ratio(patch.step_offset))

    components, synthesis_ms = timed(lambda: inverse_wavelet(latents, *size))
    _, uncondition_ms = timed(lambda: conditioning.restore(components))
    decoded, whole_ms = timed(lambda: decoder.decode_patch(side, patch))
    valid = tile.valid()
    error = (decoded.samples.astype(np.float64) - tile.samples)[valid] / tile.info.reflectance_scale
    return (
        f"{8 * sum(map(len, frames)) / valid.sum():10.4f} {-10 * np.log10(np.mean(error**2)):6.2f}"
        f"       {symbols_ms:8.1f} {restore_ms:8.1f} {synthesis_ms:10.1f} {uncondition_ms:12.1f} "
        f"{whole_ms:8.1f} {1000 / whole_ms:11.1f}"
    )


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return what it returns, and how long it takes [ms]."""
    result, took_ms = run(), []
    for _ in range(RUNS):
        start_s = time.perf_counter()
        run()
        took_ms.append(1000 * (time.perf_counter() - start_s))
    return result, statistics.median(took_ms)


def patch_sized(tile: Tile) -> Tile:
    """Mirror or cut a scene to one patch."""
    rows, cols = (
        np.pad(np.arange(edge), (0, PATCH_PX), "symmetric") for edge in tile.samples.shape[1:]
    )
    return replace(tile, samples=tile.samples[:, rows[:PATCH_PX]][:, :, cols[:PATCH_PX]].copy())


if __name__ == "__main__":
    main()
