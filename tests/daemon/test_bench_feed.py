"""Scenes as messages of one size, and the pace at which they come."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codec.tile_files import write_tile
from daemon.bench_feed import Replay, mirrored, read_scene
from daemon.tile_message import TileLimits, TileMessage
from fakes import cubes
from fakes.clock import FakeClock


def test_a_scene_goes_on_as_its_mirror_image() -> None:
    """As often as it takes, along both edges; where it is too large it is cut."""
    tile = cubes.tile(bands=2, rows=3, cols=4)
    large = mirrored(tile, 8, 2).samples

    np.testing.assert_array_equal(large[:, :3], tile.samples[:, :, :2])
    for row, same in enumerate((0, 1, 2, 2, 1, 0, 0, 1)):
        np.testing.assert_array_equal(large[:, row], tile.samples[:, same, :2])


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
def test_messages_differ_in_their_sequence_alone(tmp_path: Path, interleave: str) -> None:
    """And share their samples: a run of many tiles takes the memory of one."""
    tile = cubes.tile(bands=3, rows=5, cols=6, scene="x", nodata=-1, fill_pixels=0.5)
    path = write_tile(tile, tmp_path / "x", "npy")
    scene = read_scene(path, (6, 130), tiles=3, interleave=interleave)
    unpacked = [TileMessage.unpack(parts, TileLimits()) for parts in scene.messages]

    assert [other.info.sequence for other in unpacked] == [0, 1, 2]
    assert len({id(parts[2]) for parts in scene.messages}) == 1
    wanted = mirrored(tile, 6, 130)
    for other in (*unpacked, scene.tile):
        np.testing.assert_array_equal(other.samples, wanted.samples)
        assert replace(other.info, sequence=0) == replace(tile.info, sequence=0)
    assert (scene.name, scene.patches) == ("x.npy", 2)
    assert scene.valid_samples == np.count_nonzero(wanted.valid())
    assert scene.seconds_enmap == pytest.approx(6 * 130 / (14.4 * 128 * 128))


def test_a_tile_comes_when_its_last_line_was_seen() -> None:
    """Whoever polls waits no longer than asked; in the end nothing comes."""
    clock = FakeClock(monotonic_s=100.0)
    replay = Replay([[b"a"], [b"b"]], tile_s=1.0, clock=clock)
    got = []
    while len(got) < 2:
        if parts := replay.recv(0.25):
            got.append((parts, clock.monotonic_s()))

    assert got == [([b"a"], 101.0), ([b"b"], 102.0)]
    assert max(clock.slept_s) <= 0.25
    assert replay.recv(0.25) is None


def test_without_a_pace_tiles_come_at_once() -> None:
    """One for each call."""
    clock = FakeClock()
    replay = Replay([[b"a"], [b"b"]], tile_s=0.0, clock=clock)

    assert [replay.recv(0.25), replay.recv(0.25), replay.recv(0.25)] == [[b"a"], [b"b"], None]
    assert clock.slept_s[-1] == 0.25
    assert max(clock.slept_s[:-1]) <= 0
