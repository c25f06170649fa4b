"""`prismlink-train pareto`: what quality is left at fewer operations, point by point."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from training.bundles import read_bundle, write_bundle
from training.calibrate import calibrate
from training.config import load_settings
from training.errors import SettingsError
from training.files import write_whole
from training.plots import quality_over_macs
from training.prune import ratio_of
from training.reproduce import data_of, measure
from training.seeds import seed_everything
from training.training_steps import scheduled_pruning


def pareto_step(
    bundle: Path,
    data: Path,
    settings_path: Path | None,
    out: Path,
    *,
    fewer: Sequence[float],
    console: Console,
) -> list[dict[str, Any]]:
    """Prune a network without a shortcut to several sizes; write each, a table and a plot.

    Args:
        bundle: Trained, not pruned.
        data: As of `reproduce`.
        settings_path: Say how channels are chosen and what is left is trained.
        out: Folder.
        fewer: Shares of the multiply-accumulates to take.
        console: Where progress is shown.

    Returns:
        What was measured, the whole network first.

    Raises:
        SettingsError: If the network has a shortcut, or other bands than the settings.
        CheckpointError: If a share cannot be taken.
    """
    settings = load_settings(settings_path)
    trained = read_bundle(bundle)
    if trained.network.shortcut != "none" or settings.prune.schedule == "one_shot":
        raise SettingsError(
            "points are pruned while they are tuned, without a shortcut; remedy: "
            "--settings deploy/reproduce.yaml, and a bundle of its network"
        )
    if trained.network.components != settings.network.components:
        raise SettingsError(
            f"network.components {settings.network.components}: {bundle} has "
            f"{trained.network.components}"
        )
    seed_everything(settings.seed)
    found = data_of(data, settings, out, console)
    wanted = [
        settings.prune.model_copy(
            update={"fewer_macs": share, "fewer_params": None, "fewer_ms": None}
        )
        for share in fewer
    ]
    for prune in wanted:
        ratio_of(trained, prune)  # an error comes now, and not after hours
    points = [{"fewer_macs": 0.0, **measure(trained, found.held_back)}]
    for share, prune in zip(fewer, wanted, strict=True):
        one = settings.model_copy(update={"prune": prune})
        place = out / f"fewer-{100 * share:.0f}.safetensors"
        pruned = scheduled_pruning(trained, found.cubes, one, place, console)
        pruned = calibrate(pruned, found.calibration, settings.calibrate)
        write_bundle(pruned, place)
        points.append({"fewer_macs": share, **measure(pruned, found.held_back)})
        write_whole(out / "pareto.json", (json.dumps(points, indent=1) + "\n").encode())
        write_whole(out / "pareto.png", quality_over_macs(points))
    for point in points:
        console.print(
            f"{point['macs'] / 1e9:6.2f} GMAC, {point['params'] / 1e6:5.2f} M parameters: "
            f"{point['psnr_db']:.2f} dB; {point['psnr_db_measured']:.2f} dB at "
            f"{point['bpppc_measured']:.3f} bits per sample"
        )
    return points
