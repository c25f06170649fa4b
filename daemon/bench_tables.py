"""What `bench` found, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from codec.patch_grid import PATCH_PX
from daemon.console import short, table


def show(summary: Mapping[str, Any], out: Console) -> None:
    """Print the summary of a bench: stages with their floors, rows, scenes, and the whole.

    Args:
        summary: As `daemon.bench.run` returns it.
        out: Where.
    """
    for part in (_stages(summary), _rows(summary["batches"]), _scenes(summary["scenes"])):
        out.print(part)
    latency = {name: f"{value * 1e3:.0f}" for name, value in summary["latency_s"].items()}
    rows, cols = summary["tile_shape"]
    edge = summary["patch_shape"][1:]
    small = "" if edge == [PATCH_PX] * 2 else f"; a patch here is {edge[0]}×{edge[1]} px, not 128²"
    machine = summary["machine"]
    int8 = machine["int8_macs_per_s"]
    lines = [
        f"{summary['device']}, {summary['cores']} cores, {summary['threads']} a computation; "
        f"{summary['backend']}, {summary['precision']}; bundle {summary['bundle']}, "
        f"step {summary['step']:g}; tiles of {rows}×{cols}, {summary['interleave']}, "
        f"from {summary['source']}",
        f"measured peaks: {machine['float32_macs_per_s'] / 1e9:.0f} GMAC/s float32, "
        + (f"{int8 / 1e9:.0f} GMAC/s int8, " if int8 is not None else "")
        + f"{machine['bytes_per_s'] / 1e9:.1f} GB/s",
        f"{summary['patches_per_s']:.1f} patches/s: {summary['realtime_factor_enmap']:.2f} × "
        f"EnMAP{small}; float32 eager {summary['fp32_eager_patches_per_s']:.1f} patches/s, "
        f"so {summary['speedup']:.2f} times that",
        f"from tile message to spool {latency['p50']} ms in the median, {latency['p95']} ms p95, "
        f"{latency['p99']} ms p99, {_pace(summary)}",
        f"beside conditioning and network {summary['share_beside_condition_and_analyze']:.0%} of "
        f"the time; cold {summary['cold_s']:.2f} s (model {summary['load_s']:.2f} s, first tile "
        f"{summary['first_tile_s']:.2f} s); {summary['peak_rss_bytes'] / 2**20:.0f} MiB at most",
        *_gpu(summary["gpu"]),
        *(f"{scene['scene']}: left out: {scene['reason']}" for scene in summary["skipped"]),
    ]
    out.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _gpu(gpu: Mapping[str, Any] | None) -> list[str]:
    if gpu is None:
        return ["GPU: none at work, nothing measured"]
    return [
        f"GPU: {gpu['bfloat16_macs_per_s'] / 1e12:.1f} TMAC/s bfloat16, "
        f"{gpu['host_to_device_bytes_per_s'] / 1e9:.1f} GB/s to it; {gpu['binding']} binds",
        *(
            f"GPU, {row['batch']} patches at a time: {row['patches_per_s']:.0f} patches/s, "
            f"{row['share_of_ceiling']:.0%} of what it could"
            for row in gpu["batches"]
        ),
    ]


def _pace(summary: Mapping[str, Any]) -> str:
    rate = summary["latency_rate_enmap"]
    if not rate:
        return "fed as fast as tiles were taken"
    slow = "" if summary["realtime_factor_enmap"] > rate else ", which is too fast: queues grow"
    return f"paced at {rate:g} × EnMAP{slow}"


def _stages(summary: Mapping[str, Any]) -> Table:
    stages = _columns(
        f"Stages, per patch, in batches of {summary['batches'][0]['batch']}",
        ("stage",),
        ("ms", "floor ms", "× floor", "MMAC", "MB"),
    )
    for stage, seconds in summary["stage_seconds_per_patch"].items():
        floor = summary["floors"][stage]
        stages.add_row(
            stage,
            f"{seconds * 1e3:.2f}",
            f"{floor['seconds'] * 1e3:.2f}",
            f"{seconds / floor['seconds']:.1f}" if floor["seconds"] else "",
            f"{floor['macs'] / 1e6:.0f}" if floor["macs"] else "",
            f"{floor['bytes'] / 1e6:.2f}",
        )
    return stages


def _rows(batches: Sequence[Mapping[str, Any]]) -> Table:
    rows = _columns(
        "Batches", (), ("batch", "mean", "patches/s", "× EnMAP", "p50", "p95", "p99 ms")
    )
    for row in batches:
        rows.add_row(
            f"{row['batch']}",
            f"{row['patches_per_batch']:.1f}",
            f"{row['patches_per_s']:.1f}",
            f"{row['realtime_factor_enmap']:.2f}",
            *(f"{value * 1e3:.0f}" for value in row["latency_s"].values()),
        )
    return rows


def _scenes(scenes: Sequence[Mapping[str, Any]]) -> Table:
    rows = _columns(
        "Scenes (bpppc: bits per valid sample, repair packets counted)",
        ("scene",),
        ("bpppc", "patches/s", "condition", "analyze", "entropy ms"),
    )
    for scene in scenes:
        stages = scene["stage_seconds_per_patch"]
        rows.add_row(
            short(scene["scene"]),
            f"{scene['bpppc']:.4f}",
            f"{scene['patches_per_s']:.1f}",
            *(f"{stages[name] * 1e3:.2f}" for name in ("condition", "analyze", "entropy_code")),
        )
    return rows


def _columns(title: str, names: Sequence[str], numbers: Sequence[str]) -> Table:
    made = table(title)
    for name in names:
        made.add_column(name, no_wrap=True)
    for name in numbers:
        made.add_column(name, justify="right", no_wrap=True)
    return made
