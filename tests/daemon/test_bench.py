"""`bench`: what it counts adds up, and what it cannot measure it says. No test asks how fast."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codec.backends.torch_backend import TorchBackend
from codec.bundle import load_bundle
from codec.tile_files import write_tile
from daemon import cli
from daemon.bench import Bench, EagerFloat32, run
from daemon.bench_settings import BenchSettings
from daemon.bench_stream import STAGES
from daemon.clock import SystemClock
from daemon.console import DEFAULT_BUNDLE, REPOSITORY, SHIPPED_SCENES
from daemon.errors import BenchError
from fakes import cubes
from fakes.bundles import branch_bundle, klt_bundle, minmax_bundle

FLIGHT = REPOSITORY / "deploy" / "flight.yaml"
FIELDS = {
    "device", "backend", "precision", "bundle", "patch_shape", "patches_per_s",
    "realtime_factor_enmap", "stage_seconds_per_patch", "peak_rss_bytes",
    "fp32_eager_patches_per_s", "speedup",
}  # fmt: skip
"""What the design fixed."""
MORE = {
    "scenes", "latency_s", "cold_s", "batches", "floors", "tile_shape", "threads", "step",
    "share_beside_condition_and_analyze", "skipped", "machine", "gpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small scene of five bands in a file."""
    folder = tmp_path_factory.mktemp("scenes")
    return write_tile(cubes.tile(bands=5, rows=9, cols=7, scene="small"), folder / "small", "npy")


@pytest.fixture
def small(scene: Path, bundle_file: Path) -> BenchSettings:
    """Tiles of 2 × 2 patches, those at the edges tiny."""
    return BenchSettings(
        scenes=(scene,),
        flight_yaml=FLIGHT,
        bundle=bundle_file,
        tile_shape=(130, 131),
        batches=(3,),
        backend="torch-cpu",
        repeat=2,
        rounds=2,
        rate=50.0,
        source="memory",
    )


def bench(settings: BenchSettings, tell: Callable[[str], object] = lambda _: None) -> Bench:
    """One that is ready."""
    return Bench(settings, clock=SystemClock(), tell=tell)


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    """The default bundle on the scenes that ship, in tiles of one tiny patch."""
    settings = BenchSettings(
        scenes=SHIPPED_SCENES,
        flight_yaml=FLIGHT,
        bundle=DEFAULT_BUNDLE,
        tile_shape=(16, 32),
        batches=(2, 1),
        repeat=3,
        rounds=2,
        source="memory",
    )
    rounds: list[None] = []
    found = run(
        settings, clock=SystemClock(), tell=pytest.fail, on_round=lambda: rounds.append(None)
    )
    assert len(rounds) == settings.rounds
    return found


def test_every_field_is_there(summary: dict[str, Any]) -> None:
    """Those of the design and more, in JSON that any reader takes."""
    assert summary.keys() >= FIELDS | MORE
    assert summary["stage_seconds_per_patch"].keys() == STAGES.keys()
    assert summary["floors"].keys() == STAGES.keys()
    assert "NaN" not in json.dumps(summary, allow_nan=False)
    assert (summary["patch_shape"], summary["tile_shape"]) == ([224, 16, 32], [16, 32])
    assert summary["bundle"] == load_bundle(DEFAULT_BUNDLE).name
    assert (summary["skipped"], summary["rounds"]) == ([], 2)


def test_figures_fit_each_other(summary: dict[str, Any]) -> None:
    """Factors are of what they are factors of; the first batch size is the headline."""
    per_s = summary["patches_per_s"]
    assert summary["realtime_factor_enmap"] == pytest.approx(per_s / 14.4)
    assert summary["speedup"] == pytest.approx(per_s / summary["fp32_eager_patches_per_s"])
    assert [row["batch"] for row in summary["batches"]] == [2, 1]
    assert summary["batches"][0]["patches_per_s"] == per_s
    assert [row["patches_per_batch"] for row in summary["batches"]] == [1.5, 1.0]
    assert 0 < summary["share_beside_condition_and_analyze"] < 1
    assert summary["cold_s"] == pytest.approx(summary["load_s"] + summary["first_tile_s"])
    assert min(summary["stage_seconds_per_patch"].values()) > 0
    assert min(summary["machine"]["float32_macs_per_s"], summary["machine"]["bytes_per_s"]) > 0
    assert (summary["gpu"] is None) == ("cuda" not in summary["backend"])
    # Two rounds of three tiles, at both batch sizes, on both scenes, saturating and paced.
    assert summary["patches"] == 2 * 3 * 2 * 2 * 2
    for row in summary["scenes"]:
        assert 0 < row["frames_bpppc"] < row["bpppc"]


def test_percentiles_are_ordered(summary: dict[str, Any]) -> None:
    """Of every row; and the rate they were measured at is told."""
    for row in (summary, *summary["batches"]):
        latency = row["latency_s"]
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
        assert row["latency_rate_enmap"] == 1.0


@pytest.mark.parametrize("source", ["socket", "memory"])
@pytest.mark.parametrize("rate", [0.0, 50.0])
def test_patches_sent_are_patches_spooled(
    *, small: BenchSettings, source: Any, rate: float
) -> None:
    """Each once, in batches of the size asked for, whichever way they come."""
    made = bench(replace(small, source=source))
    streamed = made.lanes[0].stream(made.scenes[0], rate=rate, source=source)

    assert streamed.patches == len(streamed.latencies_s) == 2 * 4
    assert min(streamed.latencies_s) > 0
    assert streamed.valid_samples == 2 * 5 * 130 * 131
    assert streamed.patch_frame_bytes < streamed.frame_bytes < streamed.packet_bytes
    assert streamed.busy_seconds > sum(streamed.stage_seconds[s] for s in ("condition", "analyze"))
    if not rate:
        assert streamed.batches == 3  # 3 + 3 + 2, across tiles
        assert streamed.seconds >= max(streamed.latencies_s) - 1e-9
        assert made.lanes[0].stopwatch.metrics is None


def test_a_run_fills_the_largest_batch(small: BenchSettings) -> None:
    """However few tiles are asked for."""
    assert replace(small, batches=(3, 9), repeat=1).tiles == 3


def test_without_a_pace_latency_is_that_of_the_saturating_runs(small: BenchSettings) -> None:
    """And it says so."""
    found = run(replace(small, rate=0.0), clock=SystemClock(), tell=pytest.fail)

    assert found["latency_rate_enmap"] is None
    assert found["patches"] == 2 * 8
    assert 0 < found["latency_s"]["p50"] <= found["latency_s"]["p99"]


def test_a_scene_that_does_not_fit_is_named(
    small: BenchSettings, scene: Path, tmp_path: Path
) -> None:
    """In a line and in the numbers; the others are measured."""
    bundle = tmp_path / "minmax.safetensors"
    bundle.write_bytes(minmax_bundle(bands=5).to_bytes())
    other = write_tile(cubes.tile(bands=4, rows=8, cols=8), tmp_path / "other", "npy")
    said: list[str] = []
    found = run(
        replace(small, scenes=(other, scene), bundle=bundle, tile_shape=(16, 8), rounds=1),
        clock=SystemClock(),
        tell=said.append,
    )

    reason = f"4 bands, model {minmax_bundle(bands=5).name} takes 5"
    assert said == [f"{other}: left out: {reason}"]
    assert found["skipped"] == [{"scene": "other.npy", "reason": reason}]
    assert [row["scene"] for row in found["scenes"]] == ["small.npy"]
    assert found["floors"]["analyze"]["macs"] > 0
    with pytest.raises(BenchError, match=r"no scene fits .* takes 5 bands; remedy"):
        bench(replace(small, scenes=(other,), bundle=bundle))


def test_lost_patches_are_an_error(small: BenchSettings, tmp_path: Path) -> None:
    """With what was counted: figures of a line that drops would flatter it."""
    flight = tmp_path / "flight.yaml"
    flight.write_text(
        f"model: {{bundle: {small.bundle}}}\ninstrument: {{limits: {{max_rows: 99}}}}\n"
    )
    with pytest.raises(BenchError, match=r"0 of 4 patches .*message_size.* 1; remedy"):
        bench(replace(small, flight_yaml=flight))


def test_the_baseline_runs_a_branch_that_adds_nothing() -> None:
    """Its time is the network's, its latents are the codec's."""
    patch = np.linspace(-9, 9, 6 * 16 * 24, dtype=np.float32).reshape(6, 16, 24)
    for bundle in (klt_bundle(), branch_bundle()):
        eager = EagerFloat32(bundle)
        assert eager._network.runs_branch
        (found,), (wanted,) = eager.analyze([patch]), TorchBackend(bundle).analyze([patch])
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tile_shape": (128,)},
        {"tile_shape": (0, 8)},
        {"batches": ()},
        {"batches": (0,)},
        {"batches": (2, 2)},
        {"batches": (1025,)},
        {"repeat": 0},
        {"rounds": 0},
        {"rate": -1.0},
        {"rate": float("inf")},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(
    small: BenchSettings, wrong: dict[str, Any]
) -> None:
    """Before anything is loaded."""
    with pytest.raises(ValueError, match=r"must be|rows and columns|given once"):
        replace(small, **wrong)


# ---------------------------------------------------------------- the command


def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[int, str, str]:
    """Run the command; return its status, what it printed, and what it said."""
    monkeypatch.setattr(sys, "argv", ["prismlink", "bench", *map(str, words)])
    status = 0
    try:
        cli.main()
    except SystemExit as ended:
        status = int(ended.code or 0)
    said = capsys.readouterr()
    return status, said.out, said.err


def test_the_command_prints_and_writes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    scene: Path,
    bundle_file: Path,
    tmp_path: Path,
) -> None:
    """Tables for people, the same numbers for programs."""
    status, printed, said = command(
        monkeypatch, capsys, scene, "--bundle", bundle_file, "--tile", "16x32", "--batch", "1,2",
        "--backend", "torch-cpu", "--threads", 1, "--step", 20, "--repeat", 2, "--rounds", 1,
        "--rate", 0, "--json", tmp_path / "bench.json",
    )  # fmt: skip
    found = json.loads((tmp_path / "bench.json").read_text())

    assert (status, said) == (0, "")
    assert (found["step"], found["threads"], found["source"]) == (20.0, 1, "socket")
    for part in (*STAGES, "small.npy", "× EnMAP", "fed as fast as tiles were taken", "16×32 px"):
        assert part in printed


@pytest.mark.parametrize(
    "words",
    [
        ("--tile", "128"),
        ("--tile", "axb"),
        ("--batch", "8,0"),
        ("--batch", "8;9"),
        ("--rate", "-1"),
    ],
    ids=str,
)
def test_wrong_usage_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    """With a message that is no traceback."""
    status, _, said = command(monkeypatch, capsys, *words)
    assert status == 2
    assert "Traceback" not in said
