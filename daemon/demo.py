"""The main job on one desk: an instrument, a board, a radio that loses packets, and the ground.

    prismlink feed ──► prismlink flight run ──► radio (loses, repeats, reorders) ──► ground run
                                       ▲                                                 │
                                       └──────────── reports: what is lacking ◄──────────┘

Three real processes with the settings files an operator would start from; the radio is this one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from statistics import mean
from typing import IO, Any, Final

from codec.patch_grid import PatchGrid
from codec.patching import split
from codec.quality import psnr_db, spectral_angle_deg
from codec.tile import Tile
from codec.tile_files import find_scenes, read_tile
from daemon.errors import DemoError, OutputError
from daemon.feed import ENMAP_PATCHES_PER_S, FeedSettings, tiles_of
from daemon.ground.write import MANIFEST
from daemon.quicklook import write_quicklook
from daemon.radio import LossyLink, Radio

THREADS: Final = ("patches", "batches", "encode", "packets", "spool")
"""Stages of the flight side, each a thread."""
STAGES: Final = ("condition", "analyze", "quantize", "entropy_code", "packets", "spool")
"""Stages of the flight side whose latency the table shows."""

_LOOK_S: Final = 0.2
"""How often the demo looks whether all processes still run [s]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """What the demo shows.

    Attributes:
        scenes: Files or folders of scenes.
        out: Where cubes and pictures go.
        flight_yaml: Settings of the flight process.
        ground_yaml: Settings of the ground process.
        bundle: The model; the settings files' own if None.
        rate: Multiple of EnMAP's line rate.
        repeat: Times the scenes are shown.
        loss: Share of packets the radio loses.
        seed: Decides which.
        timeout_s: Longest wait for any one process [s].
    """

    scenes: tuple[Path, ...]
    out: Path
    flight_yaml: Path
    ground_yaml: Path
    bundle: Path | None = None
    rate: float = 1.0
    repeat: int = 5
    loss: float = 0.02
    seed: int = 1
    timeout_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TileResult:
    """One tile, from end to end.

    Attributes:
        scene: Its scene.
        sequence: The instrument's count.
        file: What the ground wrote; None if nothing of the tile arrived.
        picture: Before, after, error; None likewise.
        patches: Patches sent.
        patches_decoded: Patches that arrived.
        bytes_raw: Bytes of samples.
        bytes_down: Bytes of packets that carried its frames.
        bpppc: Bits per valid sample, of packets.
        psnr_db: Mean over patches that arrived, MAX = reflectance 1.0; None if none did with a
            valid sample.
        spectral_angle_deg: The same.
    """

    scene: str
    sequence: int
    file: str | None
    picture: str | None
    patches: int
    patches_decoded: int
    bytes_raw: int
    bytes_down: int
    bpppc: float
    psnr_db: float | None
    spectral_angle_deg: float | None


def run(settings: DemoSettings) -> dict[str, Any]:
    """Run the demo; return what `demo --json` writes.

    Raises:
        DemoError: If a process fails, or a patch is neither decoded nor marked missing.
        CodecError: If a scene cannot be read.
        OutputError: If the output directory cannot be made.
    """
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(settings.out, str(error)) from None
    tiles = _expected(settings)
    with tempfile.TemporaryDirectory(prefix="prismlink-demo-") as scratch:
        stream = _stream(settings, Path(scratch))
    results = [_judge(tile, settings.out, stream) for tile in tiles]
    _check_accounts(tiles, results, stream)
    return _summary(results, stream, tiles)


def _expected(settings: DemoSettings) -> list[Tile]:
    """The tiles the instrument will send, in its order."""
    scenes = [path for given in settings.scenes for path in find_scenes(given)]
    return list(tiles_of(scenes, lru_cache(read_tile), FeedSettings(repeat=settings.repeat)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stream:
    """What the processes reported, and what the radio saw."""

    flight: Mapping[str, float]
    ground: Mapping[str, float]
    feed: Mapping[str, Any]
    radio: Radio
    manifests: Mapping[int, Mapping[str, Any]]


def _stream(settings: DemoSettings, scratch: Path) -> _Stream:
    """Run the three processes with the radio between; end them in the direction of the data."""
    addresses = {name: f"ipc://{scratch / name}" for name in ("tiles", "board", "ground", "uplink")}
    uplink = f"link.uplink={{address: '{addresses['uplink']}'}}"
    model = settings.bundle and settings.bundle.resolve()
    bundle, bundles = (
        ((f"model.bundle={model}",), (f"model.bundles=[{model}]",)) if model else ((), ())
    )
    radio = Radio(
        board=addresses["board"],
        ground=addresses["ground"],
        link=LossyLink(
            seed=settings.seed,
            loss=settings.loss,
            repeat=settings.loss / 2,
            reorder=settings.loss * 2,
        ),
    )
    with contextlib.ExitStack() as stack:
        start = _Starter(stack, scratch, settings.timeout_s)
        ground = start(
            *("ground", "run", settings.ground_yaml),
            *_set(f"link.address={addresses['ground']}", "metrics.port=0", *bundles),
            *_set("web.port=null"),
            *_set(f"output.directory={settings.out.resolve()}", uplink),
        )
        flight = start(
            *("flight", "run", settings.flight_yaml),
            *_set(f"link.address={addresses['board']}", "metrics.port=0", *bundle),
            *_set(f"instrument.address={addresses['tiles']}", uplink),
        )
        # A radio loses what nobody takes, and at its first start the ground compiles for a while.
        ground.listens(scratch / "ground")
        feed = start(
            *("feed", *settings.scenes, "--address", addresses["tiles"]),
            *("--rate", settings.rate, "--repeat", settings.repeat),
        )
        radio.start()
        stack.callback(radio.stop)
        fed = feed.report(while_run=(ground, flight))
        flown = flight.stop()
        radio.stop()
        landed = ground.stop()
    return _Stream(
        flight=flown,
        ground=landed,
        feed=fed,
        radio=radio,
        manifests=_manifests(settings.out, radio),
    )


def _set(*overrides: str) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


class _Starter:
    """Starts `prismlink` commands that report to a file, and sees to it that they end."""

    def __init__(self, stack: contextlib.ExitStack, scratch: Path, timeout_s: float) -> None:
        self._stack, self._scratch, self._timeout_s = stack, scratch, timeout_s

    def __call__(self, *words: object) -> _Child:
        command = [sys.executable, "-m", "daemon.cli", *map(str, words)]
        report = self._scratch / f"{words[0]}.json"
        log = self._stack.enter_context((self._scratch / f"{words[0]}.log").open("w+b"))
        child = _Child(
            name=str(words[0]),
            process=subprocess.Popen(  # noqa: S603  # our own command
                [*command, "--json", str(report)], stdout=subprocess.DEVNULL, stderr=log
            ),
            path=report,
            log=log,
            timeout_s=self._timeout_s,
        )
        self._stack.callback(child.end)
        return child


@dataclass(frozen=True, slots=True, kw_only=True)
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    path: Path
    log: IO[bytes]
    timeout_s: float

    def listens(self, socket: Path) -> None:
        """Wait until the process has opened its socket.

        Raises:
            DemoError: If it ends before, or does not in time.
        """
        for _ in range(round(self.timeout_s / _LOOK_S)):
            if socket.exists():
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_LOOK_S)
                raise self.failure()
        raise DemoError(f"{self.name} did not listen within {self.timeout_s:.0f} s")

    def stop(self) -> dict[str, Any]:
        """Ask the process to drain and end, as systemd would; return its report."""
        self.process.send_signal(signal.SIGTERM)
        return self.report()

    def report(self, *, while_run: Sequence[_Child] = ()) -> dict[str, Any]:
        """Wait for the process; return its report.

        Args:
            while_run: Processes that must not end before; without one of them it may wait in vain.

        Raises:
            DemoError: If it fails or does not end in time, or another one ends.
        """
        for _ in range(round(self.timeout_s / _LOOK_S)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_LOOK_S)
            for child in while_run:
                if child.process.poll() is not None:
                    raise child.failure()
            if self.process.returncode is not None:
                break
        if self.process.returncode != 0:
            raise self.failure()
        report: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        return report

    def failure(self) -> DemoError:
        """Say how it ended, with the last it said."""
        if self.process.returncode is None:
            return DemoError(f"{self.name} did not end within {self.timeout_s:.0f} s")
        self.log.seek(0)
        said = self.log.read().decode(errors="replace").strip().splitlines()[-5:]
        return DemoError(
            f"{self.name} ended with status {self.process.returncode}: {' / '.join(said)}"
        )

    def end(self) -> None:
        """Leave nothing running."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def _manifests(out: Path, radio: Radio) -> dict[int, dict[str, Any]]:
    """What the ground wrote of what this radio carried, by the instrument's sequence.

    The folder may hold tiles of other runs; the board's boot id tells them apart.
    """
    found = [json.loads(path.read_text()) for path in out.glob(f"*{MANIFEST}")]
    boots = {boot for boot, _ in radio.frame_bytes}
    return {m["sequence"]: m for m in found if {boot for boot, _ in m["frames"]} <= boots}


def _judge(tile: Tile, out: Path, stream: _Stream) -> TileResult:
    """Compare one tile with what the ground wrote of it, and draw both."""
    grid = PatchGrid(tile_rows=tile.samples.shape[1], tile_cols=tile.samples.shape[2])
    manifest = stream.manifests.get(tile.info.sequence)
    if manifest is None:
        return TileResult(
            scene=tile.info.scene, sequence=tile.info.sequence, file=None, picture=None,
            patches=len(grid), patches_decoded=0, bytes_raw=tile.samples.nbytes, bytes_down=0,
            bpppc=0.0, psnr_db=None, spectral_angle_deg=None,
        )  # fmt: skip
    restored = read_tile(out / manifest["file"])
    missing = {(row, col) for row, col in manifest["patches_missing"]}
    arrived = [position not in missing for position in grid]
    triples = zip(
        *(split(array, grid) for array in (tile.samples, restored.samples, tile.valid())),
        strict=True,
    )
    peak = tile.info.reflectance_scale
    pairs = [t for t, here in zip(triples, arrived, strict=True) if here and t[2].any()]
    psnr = [psnr_db(before, after, valid, peak) for before, after, valid in pairs]
    angle = [spectral_angle_deg(before, after, valid) for before, after, valid in pairs]
    bytes_down = sum(stream.radio.frame_bytes[boot, frame] for boot, frame in manifest["frames"])
    bpppc = 8 * bytes_down / max(1, int(tile.valid().sum()))
    picture = out / manifest["file"]
    picture = picture.with_name(picture.name.removesuffix(picture.suffix) + ".png")
    write_quicklook(tile, restored, picture, note=f"{bpppc:.3f} bits per sample")
    return TileResult(
        scene=tile.info.scene,
        sequence=tile.info.sequence,
        file=manifest["file"],
        picture=picture.name,
        patches=len(grid),
        patches_decoded=sum(arrived),
        bytes_raw=tile.samples.nbytes,
        bytes_down=bytes_down,
        bpppc=bpppc,
        psnr_db=mean(psnr) if psnr else None,
        spectral_angle_deg=mean(angle) if angle else None,
    )


def _check_accounts(tiles: Sequence[Tile], results: Sequence[TileResult], stream: _Stream) -> None:
    """Every patch sent has arrived, or is marked missing, or was counted when it was dropped.

    What the files say is held against what the processes counted.

    Raises:
        DemoError: If one is unaccounted for.
    """
    received = stream.flight["prismlink_patches_received_total"]
    spooled = stream.flight['prismlink_frames_total{channel="patch"}']
    dropped = _dropped_patches(stream.flight)
    if received != spooled + dropped:
        raise DemoError(
            f"{received:.0f} patches received, {spooled:.0f} sent, {dropped:.0f} dropped"
        )
    if stream.feed["tiles"] + stream.feed["refused"] != len(tiles):
        raise DemoError(f"the instrument sent {stream.feed['tiles']} of {len(tiles)} tiles")
    decoded = stream.ground["prismlink_patches_decoded_total"] - _dropped_patches(stream.ground)
    missing = stream.ground["prismlink_patches_missing_total"]
    written = sum(r.patches_decoded for r in results)
    marked = sum(r.patches - r.patches_decoded for r in results if r.file is not None)
    if (written, marked) != (decoded, missing):
        raise DemoError(
            f"{decoded:.0f} patches decoded and {missing:.0f} missing on the ground, "
            f"{written} and {marked} in its files"
        )


def _dropped_patches(totals: Mapping[str, float]) -> float:
    return sum(v for k, v in totals.items() if k.startswith("prismlink_dropped_patches_total"))


def _summary(
    results: Sequence[TileResult], stream: _Stream, tiles: Sequence[Tile]
) -> dict[str, Any]:
    psnr = [r.psnr_db for r in results if r.psnr_db is not None]
    if not psnr:
        raise DemoError(f"nothing arrived: {stream.radio.link.lost} packets were lost")
    angle = [r.spectral_angle_deg for r in results if r.spectral_angle_deg is not None]
    valid = sum(int(tile.valid().sum()) for tile in tiles)
    threads = [_stage_seconds(stream.flight, thread) for thread in THREADS]
    # What the flight side would keep up: its busiest thread, or all of them on the cores at hand.
    bound_s = max(*threads, sum(threads) / len(os.sched_getaffinity(0)))
    patches = stream.flight["prismlink_patches_encoded_total"]
    return {
        "tiles": len(results),
        "patches_sent": sum(r.patches for r in results),
        "patches_decoded": sum(r.patches_decoded for r in results),
        "packets_sent": stream.radio.packets,
        "packets_lost": stream.radio.link.lost,
        "packets_repeated": int(stream.flight["prismlink_packets_repeated_total"]),
        "bytes_raw": sum(r.bytes_raw for r in results),
        "bytes_down": stream.radio.bytes_down,
        "bpppc": 8 * stream.radio.bytes_down / valid,
        "psnr_db_mean": mean(psnr),
        "psnr_db_min": min(psnr),
        "spectral_angle_deg_mean": mean(angle),
        "realtime_factor_enmap": patches / bound_s / ENMAP_PATCHES_PER_S,
        "feed_rate_enmap": stream.feed["realtime_factor_enmap"],
        "stage_seconds_per_patch": {
            stage: _stage_seconds(stream.flight, stage) / patches for stage in STAGES
        },
        "outputs": [asdict(result) for result in results],
    }


def _stage_seconds(flight: Mapping[str, float], stage: str) -> float:
    """Seconds a stage took in all."""
    return flight.get(f'prismlink_stage_seconds_sum{{stage="{stage}"}}', 0.0)
