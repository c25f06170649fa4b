"""Models in flight: exchanged under load without a frame lost, and only for what can be trusted."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.link.sockets import TileSender
from daemon.tile_message import TileMessage
from fakes.cubes import tile as fake_tile
from fakes.models import SPOILED, model, put, put_model, put_spoiled, write_key
from fakes.processes import DEPLOY, PATIENCE_S, ROOT, Desk, Numbers, Process, towards

PATCHES = 2
WAITS = ("instrument.pattern=pull", "mailboxes.tiles.policy=block")
"""The instrument waits while the board is busy: what is dropped then is no model's doing."""


class Instrument:
    """Shows tiles as fast as they are taken, until it is told to end."""

    def __init__(self, address: str) -> None:
        self._address, self._end = address, threading.Event()
        self.shown = 0
        self._thread = threading.Thread(target=self._show)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """In here it shows tiles."""
        self._thread.start()
        try:
            yield
        finally:
            self._end.set()
            self._thread.join()

    def _show(self) -> None:
        with TileSender(towards(self._address), pattern="pull") as sender:
            while not self._end.is_set():
                tile = fake_tile(
                    bands=8, rows=128, cols=128 * PATCHES, scene="s", sequence=self.shown
                )
                if sender.send(TileMessage.pack(tile), 0.1):
                    self.shown += 1


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Path, Path]:
    """Folders of models: the board's and the ground's."""
    folders = tmp_path / "board", tmp_path / "ground"
    for folder in folders:
        folder.mkdir(mode=0o750)
    return folders


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The model of the settings, on both sides."""
    path = tmp_path / "own.safetensors"
    path.write_bytes(model(0).to_bytes())
    return path


def at_work(numbers: Numbers) -> set[str]:
    """Names of the models that a process has."""
    found = (key.partition('model="')[2] for key in numbers.samples if "_model_info{" in key)
    return {name.partition('"')[0] for name in found}


def until_at_work(process: Process, number: int) -> None:
    """Wait until a process has a model."""
    name = model(number).name
    process.until_metrics(lambda n: name in at_work(n), f"model {name}")


def test_models_are_exchanged_under_full_load(
    desk: Desk, tmp_path: Path, own: Path, stores: tuple[Path, Path]
) -> None:
    """Every tile of every model comes down whole, whatever was tried and refused meanwhile.

    A file appears and is put to work; five that cannot be trusted are not, each for a reason of its
    own; SIGHUP takes a file again, a command goes back. The ground gets the second model late, and
    has kept what came of it.
    """
    board, ground_store = stores
    key, up = write_key(tmp_path / "key.pem"), f"{desk.link}-up"
    store = (f"model.store.trusted_keys=[{key}]",)
    ground_words = (
        f"link.uplink={{address: {up}}}", f"archive.directory={tmp_path / 'archive'}",
        f"model.store.directory={ground_store}", *store,
    )  # fmt: skip
    ground = desk.ground(own, *ground_words).until_ready()
    flight = desk.flight(
        own, *WAITS, "model.backend=torch-cpu", "spool.kind=disk",
        f"spool.directory={tmp_path / 'spool'}", f"link.uplink={{address: {up}, bind: true}}",
        f"model.store.directory={board}", "model.self_test_s=1.0", *store,
    ).until_ready()  # fmt: skip
    instrument = Instrument(desk.tiles)
    with instrument.at_work():
        flight.until_metrics(lambda n: n.total("patches_encoded_total") > 10, "load")
        put_model(board, 1)
        until_at_work(flight, 1)
        ground.until_metrics(lambda n: n.total("tiles_without_model") > 0, "unknown frames")

        for reason in SPOILED:
            put_spoiled(board, 2, reason)
            refused = flight.until_metrics(
                lambda n, reason=reason: n.total("models_refused_total", reason=reason), reason
            )
            assert at_work(refused) == {model(1).name}
        assert refused.total("models_refused_total") == len(SPOILED)

        put_model(board, 2)
        until_at_work(flight, 2)
        for number in (1, 2):
            put(ground_store / f"{number}.safetensors", model(number).to_bytes())
            until_at_work(ground, number)
        ground.until_metrics(lambda n: n.total("tiles_without_model") == 0, "frames decoded late")

        _command(desk, own, "rollback", up)
        until_at_work(flight, 1)
        flight._process.send_signal(signal.SIGHUP)
        until_at_work(flight, 2)
        _command(desk, own, "model", up, model(1).name)
        until_at_work(flight, 1)
        encoded = flight.metrics().total("patches_encoded_total")
        flight.until_metrics(
            lambda n: n.total("patches_encoded_total") > encoded + 10, "work of the last one"
        )
    tiles = instrument.shown
    flight.until_metrics(lambda n: n.total("tiles_received_total") == tiles, "all tiles")
    ground.until_metrics(
        lambda n: n.total("tiles_written_total", state="complete") >= tiles, "all cubes"
    )
    told = flight.stop()
    ground.stop()

    assert told.total("patches_encoded_total") == PATCHES * tiles
    assert told.total("dropped_patches_total") == told.total("dropped_tiles_total") == 0
    assert told.total("model_loads_total", how="load") == 4
    assert told.total("model_loads_total", how="rollback") == 1
    assert told.total("model_tests_total", result="passed") > 0
    assert told.total("model_tests_total") == told.total("model_tests_total", result="passed")
    manifests = desk.manifests()
    assert [manifest["sequence"] for manifest in manifests] == list(range(tiles))
    assert not any(manifest["patches_missing"] for manifest in manifests)
    assert {manifest["model"] for manifest in manifests} == {model(n).name for n in (0, 1, 2)}

    kept = desk.ground(own, *ground_words).until_ready()
    assert at_work(kept.metrics()) == {model(n).name for n in (0, 1, 2)}


def _command(desk: Desk, own: Path, kind: str, up: str, *words: str) -> None:
    """Have an operator send a command."""
    settings = (
        "--settings", DEPLOY / "ground.yaml", "--set", f"link.uplink={{address: {up}}}",
        "--set", f"model.bundles=[{own}]", "--set", f"output.directory={desk.cubes}",
    )  # fmt: skip
    desk.start("command", "command", kind, *words, *settings).end_well(timeout_s=PATIENCE_S)


def test_a_restart_goes_on_with_the_model_that_was_loaded(
    desk: Desk, tmp_path: Path, own: Path, stores: tuple[Path, Path]
) -> None:
    """Also after `kill -9`, and without anybody's doing."""
    board, _ = stores
    words = (
        f"model.store.directory={board}",
        f"model.store.trusted_keys=[{write_key(tmp_path / 'key.pem')}]",
        "model.backend=torch-cpu",
    )
    flight = desk.flight(own, *words).until_ready()
    put_model(board, 1)
    until_at_work(flight, 1)
    flight.kill()
    again = desk.flight(own, *words).until_ready()
    assert again.events("ready")[0]["model"] == model(1).name


def test_a_flipped_bit_is_found_and_mended_in_flight(desk: Desk, own: Path, tmp_path: Path) -> None:
    """Within the period, while tiles flow; none is lost, and the model at work is sound again."""
    period_s = 2.0
    words = (
        *WAITS, "model.backend=torch-cpu", f"model.self_test_s={period_s}",
        "spool.kind=disk", f"spool.directory={tmp_path / 'spool'}",
    )  # fmt: skip
    flight = desk.flight(own, *words, module="fakes.flips", env=_with_fakes()).until_ready()
    instrument = Instrument(desk.tiles)
    with instrument.at_work():
        flight.until_metrics(lambda n: n.total("model_tests_total", result="passed"), "a test")
        flight._process.send_signal(signal.SIGUSR1)
        flight.until_metrics(lambda n: n.total("model_loads_total", how="mended"), "mended")
        passed = flight.metrics().total("model_tests_total", result="passed")
        flight.until_metrics(
            lambda n: n.total("model_tests_total", result="passed") > passed, "soundness"
        )
    tiles = instrument.shown
    flight.until_metrics(lambda n: n.total("tiles_received_total") == tiles, "all tiles")
    told = flight.stop()
    assert told.total("model_tests_total", result="bundle_digest") == 1
    assert told.total("model_loads_total", how="mended") == 1
    assert told.total("patches_encoded_total") == PATCHES * tiles
    (found,) = flight.events("self-test failed")
    assert found["model"] == model(0).name


def _with_fakes() -> dict[str, str]:
    """An environment in which tests' own modules are found."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
