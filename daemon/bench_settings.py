"""What `bench` measures, and the settings of the flight line that it measures it with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from codec.backend_names import BackendName
from codec.patch_grid import PATCH_PX, PatchGrid
from daemon.bench_feed import Source
from daemon.config import FlightSettings, load_flight
from daemon.config_sections import MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """What is measured.

    Attributes:
        scenes: Files or folders of scenes.
        flight_yaml: Settings of the flight process; where tiles wait, `bench` lets the instrument
            wait too, so that nothing is dropped.
        bundle: The model; the settings' own if None.
        tile_shape: Rows and columns of a tile [px]; the default is EnMAP's swath, a row of eight
            patches, which it sees in 557 ms.
        batches: Patches encoded together at most: a row for each, the first one is the headline.
        backend: What runs the network; the settings' own if None.
        threads: Cores one computation may use; the settings' own if None.
        step: Quantizer step; the settings' own if None.
        speed: How fast tiles are encoded, whatever waits; the settings' own if None.
        repeat: Tiles of a scene in each run, at least.
        rounds: Runs of each row and scene.
        rate: Multiple of EnMAP's line rate at which latency is measured; 0: in the runs for
            throughput.
        source: Whether messages come through a socket.
        interleave: Order of their samples.

    Raises:
        ValueError: If a number is out of range.
    """

    scenes: tuple[Path, ...]
    flight_yaml: Path
    bundle: Path | None = None
    tile_shape: tuple[int, ...] = (PATCH_PX, 8 * PATCH_PX)
    batches: tuple[int, ...] = (8,)
    backend: BackendName | None = None
    threads: int | None = None
    step: float | None = None
    speed: int | None = None
    repeat: int = 12
    rounds: int = 5
    rate: float = 1.0
    source: Source = "socket"
    interleave: str = "bil"

    def __post_init__(self) -> None:
        if len(self.tile_shape) != 2 or min(self.tile_shape) < 1:
            raise ValueError(f"a tile has rows and columns, as in 128x1024; got {self.tile_shape}")
        if not self.batches or min(self.batches) < 1 or max(self.batches) > 1024:
            raise ValueError(f"batches must be of 1 to 1024 patches, got {self.batches}")
        if len(set(self.batches)) != len(self.batches):
            raise ValueError(f"each batch size can be given once, got {self.batches}")
        if min(self.repeat, self.rounds) < 1:
            raise ValueError("repeat and rounds must be at least 1")
        if not (math.isfinite(self.rate) and self.rate >= 0):
            raise ValueError(f"rate must be 0 or a positive number, got {self.rate}")

    @property
    def rows_cols(self) -> tuple[int, int]:
        """Shape of a tile [px]."""
        rows, cols = self.tile_shape
        return rows, cols

    @property
    def tiles(self) -> int:
        """Tiles of a run: as many as `repeat` says, and enough to fill the largest batch."""
        rows, cols = self.rows_cols
        patches = len(PatchGrid(tile_rows=rows, tile_cols=cols))
        return max(self.repeat, -(-max(self.batches) // patches))


def line_settings(settings: BenchSettings, batch: int, tile_bytes: int = 0) -> FlightSettings:
    """Settings of the line: the operator's, but for the model and what must hold the tiles.

    Args:
        settings: What is measured.
        batch: Patches encoded together at most.
        tile_bytes: Samples of the largest tile [bytes].

    Raises:
        ConfigError: If the file, or something given beside it, cannot be used.
    """
    model = {
        "bundle": settings.bundle,
        "backend": settings.backend,
        "threads": settings.threads,
        "step": settings.step,
        "speed": settings.speed,
    }
    own = load_flight(
        settings.flight_yaml,
        [
            *(f"model.{key}={value}" for key, value in model.items() if value is not None),
            f"batch.max_patches={batch}",
            # No tile is dropped: the instrument waits. And few wait, for they count as memory.
            *("mailboxes.tiles.policy=block", "mailboxes.tiles.max_items=2"),
        ],
    )
    rows, cols = settings.rows_cols
    patch_bytes = tile_bytes * min(PATCH_PX, rows) * min(PATCH_PX, cols) // (rows * cols)
    batches, spool = own.mailboxes.batches, own.spool
    batches = batches.model_copy(
        update={"max_mib": max(batches.max_mib, 1 + 2 * batch * patch_bytes // MIB)}
    )
    # Nothing is evicted: all is counted in the end.
    spool = spool.model_copy(
        update={"max_mib": spool.max_mib + 2 * settings.tiles * tile_bytes // MIB}
    )
    return own.model_copy(
        update={
            "mailboxes": own.mailboxes.model_copy(update={"batches": batches}),
            "spool": spool,
        }
    )
