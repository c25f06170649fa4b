"""Rules of `daemon.feed`: an instrument that keeps its rate and numbers everything it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest

from codec.errors import TileFileError
from codec.tile import Georeference, Tile, TileInfo
from codec.tile_files import write_tile
from daemon.errors import DaemonError, FeedError, LinkError
from daemon.feed import (
    ENMAP_PX_PER_S,
    FeedReport,
    FeedSettings,
    cut,
    feed,
    wait_for_listener,
)
from daemon.tile_message import Part, TileLimits, TileMessage
from fakes.clock import FakeClock

SCENE = Tile(
    samples=np.arange(2 * 300 * 40, dtype=np.uint16).reshape(2, 300, 40),
    info=TileInfo(
        scene="s",
        start_utc_s=100.0,
        georeference=Georeference(
            crs="EPSG:32633", transform=(30.0, 1.0, 500.0, 2.0, -30.0, 900.0)
        ),
    ),
)


class Ground:
    """Takes tiles, but for those of the sequences it is told to refuse; each takes `slow_s`.

    It is there `comes_s` after the beginning.
    """

    def __init__(
        self,
        clock: FakeClock,
        *,
        refuse: Sequence[int] = (),
        slow_s: float = 0,
        comes_s: float = 0,
    ) -> None:
        self._clock, self._refuse, self._slow_s = clock, refuse, slow_s
        self._there_s = clock.monotonic_s() + comes_s
        self.at_s: list[float] = []
        self.tiles: list[Tile] = []

    def wait_for_listener(self, timeout_s: float) -> bool:
        """Wait in steps, as it is asked to."""
        if self._clock.monotonic_s() < self._there_s:
            self._clock.sleep(timeout_s)
        return self._clock.monotonic_s() >= self._there_s

    def send(self, parts: Sequence[Part], timeout_s: float) -> bool:
        """Take or refuse one message."""
        self._clock.advance(self._slow_s)
        tile = TileMessage.unpack(list(parts), TileLimits())
        if tile.info.sequence in self._refuse:
            self._clock.advance(timeout_s)
            return False
        self.at_s.append(self._clock.monotonic_s())
        self.tiles.append(tile)
        return True


class Wait:
    """A wait for a listener on a fake clock, and what was told of it."""

    def __init__(self, *, comes_s: float, wait_s: float, stop_s: float = inf) -> None:
        clock = FakeClock()
        start_s, self.told = clock.monotonic_s(), list[str]()
        try:
            wait_for_listener(
                Ground(clock, comes_s=comes_s),
                "tcp://board:1",
                wait_s=wait_s,
                clock=clock,
                should_stop=lambda: clock.monotonic_s() - start_s >= stop_s,
                tell=self.told.append,
            )
            self.error: DaemonError | None = None
        except DaemonError as error:
            self.error = error
        self.took_s = clock.monotonic_s() - start_s


def test_what_is_waited_for_is_told_once() -> None:
    """An instrument without a board is no mystery; one with a board says nothing."""
    wait = Wait(comes_s=5.0, wait_s=60.0)
    assert (wait.error, wait.told) == (None, ["waiting for a listener at tcp://board:1"])
    assert Wait(comes_s=0.0, wait_s=60.0).told == []


def test_a_wait_for_a_listener_ends_when_asked() -> None:
    """Within moments of Ctrl-C, with an error: nothing was fed."""
    wait = Wait(comes_s=inf, wait_s=60.0, stop_s=3.0)

    assert isinstance(wait.error, FeedError)
    assert 3.0 <= wait.took_s <= 3.5


@pytest.mark.parametrize("wait_s", [0.0, 0.1, 60.0])
def test_a_wait_for_a_listener_ends_in_time(wait_s: float) -> None:
    """With the address and the time in the error."""
    wait = Wait(comes_s=inf, wait_s=wait_s)

    assert isinstance(wait.error, LinkError)
    assert f"tcp://board:1: nobody subscribed within {wait_s:.0f} s" in str(wait.error)
    assert wait_s <= wait.took_s <= wait_s + 0.5


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Two scenes of 300×40 px in one folder."""
    write_tile(SCENE, tmp_path / "1", "npy")
    write_tile(SCENE, tmp_path / "2", "envi")
    return tmp_path


def run(path: Path, clock: FakeClock, ground: Ground, **settings: object) -> FeedReport:
    """Feed one path with settings."""
    return feed([path], ground, settings=FeedSettings(**settings), clock=clock)  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0.5, 2.0])
def test_the_rate_is_held_by_area(scene: Path, rate: float) -> None:
    """A tile leaves when its last line has been seen, at a multiple of EnMAP's pixel rate.

    The report says that multiple, also of tiles of which no patch is whole.
    """
    clock = FakeClock()
    start_s, ground = clock.monotonic_s(), Ground(clock)

    report = run(scene, clock, ground, rate=rate, tile_rows=100, repeat=2)

    tile_s = 100 * 40 / (rate * ENMAP_PX_PER_S)
    assert ground.at_s == pytest.approx([start_s + tile_s * n for n in range(1, 13)])
    assert report.seconds == pytest.approx(12 * tile_s)
    assert report.realtime_factor_enmap == pytest.approx(rate)
    assert report.behind_s == pytest.approx(0, abs=1e-9)


def test_a_slow_ground_does_not_slow_the_schedule(scene: Path) -> None:
    """What was late is caught up, and the report says how late it was."""
    clock = FakeClock()
    ground = Ground(clock, slow_s=0.01)
    tile_s = 300 * 40 / ENMAP_PX_PER_S

    report = run(scene, clock, ground, rate=1.0)

    assert report.seconds == pytest.approx(2 * tile_s + 0.01)
    assert report.behind_s == pytest.approx(0.01)


def test_rate_zero_does_not_wait(scene: Path) -> None:
    """Rate 0 is as fast as the tiles are taken."""
    clock = FakeClock()
    report = run(scene, clock, Ground(clock), rate=0.0)

    assert clock.slept_s == []
    assert (report.tiles, report.behind_s) == (2, 0.0)


def test_everything_is_numbered_and_counted(scene: Path) -> None:
    """Sequences rise over repeats, scenes and tiles; edge patches count as patches."""
    clock = FakeClock()
    ground = Ground(clock)

    report = run(scene, clock, ground, tile_rows=200, repeat=3, first_sequence=7)

    assert [t.info.sequence for t in ground.tiles] == list(range(7, 19))
    assert [t.info.tile_row for t in ground.tiles] == [0, 1] * 6
    assert (report.tiles, report.patches, report.refused) == (12, 6 * 3, 0)
    assert report.bytes_raw == 6 * SCENE.samples.nbytes
    assert report.pixels == 6 * 300 * 40


def test_a_refused_tile_is_a_gap(scene: Path) -> None:
    """A tile that nobody took is counted and takes its number with it."""
    clock = FakeClock()
    ground = Ground(clock, refuse=[1])

    report = run(scene, clock, ground, tile_rows=100)

    assert [t.info.sequence for t in ground.tiles] == [0, 2, 3, 4, 5]
    assert (report.tiles, report.refused) == (5, 1)
    assert report.behind_s == pytest.approx(FeedSettings().send_timeout_s, abs=0.3)


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
def test_every_interleave_arrives_alike(scene: Path, interleave: str) -> None:
    """How samples are ordered on the wire does not change the tile."""
    clock = FakeClock()
    ground = Ground(clock)
    run(scene, clock, ground, interleave=interleave)
    np.testing.assert_array_equal(ground.tiles[0].samples, SCENE.samples)


def test_a_request_to_stop_is_heard(scene: Path) -> None:
    """The feed ends between two naps and reports what it did until then."""
    clock = FakeClock()
    ground = Ground(clock)
    report = feed(
        [scene], ground, settings=FeedSettings(rate=0.001, tile_rows=1), clock=clock,
        should_stop=lambda: clock.monotonic_s() > 1001.0,
    )  # fmt: skip

    assert report.tiles == len(ground.tiles) == 5
    assert report.seconds < 1.3
    assert max(clock.slept_s) <= 0.2


def test_a_request_to_stop_is_heard_while_nobody_takes_a_tile(scene: Path) -> None:
    """Within moments, however long a tile may be offered; it was not taken."""
    clock = FakeClock()
    start_s = clock.monotonic_s()
    report = feed(
        [scene], Ground(clock, refuse=[0, 1]), settings=FeedSettings(rate=0.0), clock=clock,
        should_stop=lambda: clock.monotonic_s() > start_s + 1.0,
    )  # fmt: skip

    assert (report.tiles, report.refused) == (0, 1)
    assert report.seconds < 1.5


def test_a_tile_knows_its_place_and_time() -> None:
    """A cut moves the place by whole lines, the time by EnMAP's, and copies no sample."""
    tiles = list(cut(SCENE, tile_rows=128, limit_bytes=1))

    assert [t.samples.shape[1] for t in tiles] == [128, 128, 44]
    assert tiles[1].info.georeference == Georeference(
        crs="EPSG:32633", transform=(30.0, 1.0, 500.0 + 128, 2.0, -30.0, 900.0 - 30 * 128)
    )
    assert tiles[1].info.start_utc_s == pytest.approx(100 + 128 * 40 / ENMAP_PX_PER_S)
    assert np.shares_memory(tiles[1].samples, SCENE.samples)
    np.testing.assert_array_equal(np.concatenate([t.samples for t in tiles], 1), SCENE.samples)


def test_a_time_that_is_not_known_stays_so() -> None:
    """No tile of such a scene is of the first second of 1970."""
    scene = replace(SCENE, info=replace(SCENE.info, start_utc_s=0.0))
    assert {t.info.start_utc_s for t in cut(scene, tile_rows=128, limit_bytes=1)} == {0.0}


def test_a_scene_is_one_tile_below_the_limit() -> None:
    """Without a number of lines, the limit decides: whole, or tiles of 128 lines."""
    size = SCENE.samples.nbytes
    assert len(list(cut(SCENE, tile_rows=None, limit_bytes=size))) == 1
    assert len(list(cut(SCENE, tile_rows=None, limit_bytes=size - 1))) == 3


def test_the_line_rate_is_enmaps() -> None:
    """Eight patches across, 128 lines of 4.35 ms: 14.4 patches per second."""
    assert pytest.approx(8 * 128 * 128 / (128 * 4.35e-3), rel=3e-3) == ENMAP_PX_PER_S


@pytest.mark.parametrize(
    ("field", "value"), [("rate", -1.0), ("rate", float("nan")), ("repeat", 0), ("tile_rows", 0)]
)
def test_a_wrong_setting_is_refused(field: str, value: float) -> None:
    """The message names field and value."""
    with pytest.raises(ValueError, match=f"{field} must be .*, got {value}"):
        FeedSettings(**{field: value})  # type: ignore[arg-type]


def test_nothing_to_feed_is_an_error(tmp_path: Path) -> None:
    """An empty folder is an error, not an empty report."""
    clock = FakeClock()
    with pytest.raises(TileFileError, match="no scene there"):
        run(tmp_path, clock, Ground(clock))
