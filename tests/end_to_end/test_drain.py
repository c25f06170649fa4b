"""SIGTERM of either process, over and over, under load: each time all is finished in time.

`make drain` stops fifty times; CI a few.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Final

import pytest

from fakes.accounts import check_flight
from fakes.instrument import SAME_SPEED, Instrument
from fakes.processes import Desk, Numbers, Process, until

STOPS: Final = int(os.environ.get("PRISMLINK_STOPS", "3"))
DEADLINE_S: Final = 20.0
"""`shutdown_deadline_s` of the settings that ship."""
EXIT_S: Final = 5.0
"""What a process takes besides, to end its libraries."""


@pytest.mark.timeout(300 + 20 * STOPS)
def test_every_stop_finishes_what_was_accepted(
    desk: Desk, small_bundle: Path, tmp_path: Path
) -> None:
    """Status 0, no stage late, even accounts; in the end every tile that was received is a cube.

    The ground has archived more than it can decode whenever it is told to stop; a later one does.
    """
    rng, up = random.Random(STOPS), f"{desk.link}-up"
    settings = {
        "flight": (
            "spool.kind=disk", f"spool.directory={tmp_path / 'spool'}", SAME_SPEED,
            "mailboxes.tiles.max_items=1000", "link.mtu_bytes=512",
            f"link.uplink={{address: '{up}', beacon_s: 0.2}}",
        ),
        "ground": (
            f"archive.directory={tmp_path / 'archive'}", "output.format=npy",
            "mailboxes.frames.max_items=16",
            f"link.uplink={{address: '{up}', report_s: 0.2, reorder_s: 0.1, retry_s: 1.0}}",
        ),
    }  # fmt: skip

    def start(name: str) -> Process:
        begin = desk.flight if name == "flight" else desk.ground
        return begin(small_bundle, f"shutdown_deadline_s={DEADLINE_S}", *settings[name])

    running = {name: start(name) for name in ("ground", "flight")}
    accepted, instrument = 0.0, Instrument(desk.tiles, every_s=0.03)
    try:
        for stop in range(STOPS):
            name = ("flight", "ground")[stop % 2]
            for process in running.values():
                process.until_ready()
            until_under_load(running)
            time.sleep(rng.uniform(0, 0.5))  # anywhere in what it does
            accepted += stopped(running[name], name)
            running[name] = start(name)
        instrument.stop()
        running["flight"].until_ready().until_metrics(
            lambda n: not n.total("spool_packets") + n.total("spool_kept_frames"),
            "all acknowledged",
        )
    finally:
        instrument.stop()
    accepted += stopped(running["flight"], "flight")
    until(lambda: len(whole_tiles(desk)) >= accepted, "every tile that was received")
    stopped(running["ground"], "ground")
    assert len(desk.manifests()) == len(set(whole_tiles(desk))) == accepted
    assert accepted > STOPS


def whole_tiles(desk: Desk) -> list[int]:
    """Numbers of the tiles that are cubes without a gap."""
    return [m["sequence"] for m in desk.manifests() if not m["patches_missing"]]


def until_under_load(running: dict[str, Process]) -> None:
    """Wait until tiles come in on board and out on the ground."""
    busy = {"flight": "tiles_received_total", "ground": "patches_decoded_total"}
    for name, metric in busy.items():
        before = running[name].metrics().total(metric)
        running[name].until_metrics(lambda n, m=metric, b=before: n.total(m) > b, "load")  # type: ignore[misc]


def stopped(process: Process, name: str) -> float:
    """End a process; return the tiles it received, if it is the board's.

    Raises:
        RuntimeError: If it does not end in time, or not with status 0.
    """
    numbers: Numbers = process.stop(timeout_s=DEADLINE_S + EXIT_S)
    assert numbers.total("stages_late") == numbers.total("dropped_patches_total") == 0
    if name == "ground":
        return 0.0
    check_flight(numbers)
    assert numbers.total("spool_dropped_packets_total") == 0
    return numbers.total("tiles_received_total")
