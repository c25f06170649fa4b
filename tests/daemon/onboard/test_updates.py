"""The model at work: exchanged only for one that passed every check, and tested while it works."""

from __future__ import annotations

import ctypes
import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from codec.bundle import Bundle
from codec.encoder import NO_TIMER, Encoder
from codec.errors import BundleAnswerError
from codec.lifting import direct_latents
from daemon.config_models import FlightModelSettings
from daemon.errors import ConfigError
from daemon.metrics import FlightMetrics, new_registry
from daemon.model_store import ModelStore
from daemon.onboard.models import Model, load_model, make_model
from daemon.onboard.updates import Models
from fakes.clock import FakeClock
from fakes.models import KEY, SPOILED, model, put_model, put_spoiled

TEST_S = 60.0


class Rig:
    """Models of a folder, with the settings' own in another, and a clock that is moved by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "store"
        self.folder.mkdir(mode=0o750, exist_ok=True)
        self.bundle = folder / "own.safetensors"
        self.bundle.write_bytes(model(0).for_flight().to_bytes())
        self.clock, self.made = FakeClock(), list[str]()
        self.watch = True

    def start(self, *, store: bool = True) -> None:
        """Begin a process."""
        settings = FlightModelSettings(bundle=self.bundle, backend="torch-cpu")
        self.metrics = FlightMetrics(new_registry())
        parts = settings, NO_TIMER, self.metrics.runs_on_another

        def make(bundle: Bundle, path: Path) -> Model:
            made = make_model(bundle, *parts, origin=path)
            self.made.append(made.name)
            return made

        self.target = Models(
            self.bundle,
            load=lambda: load_model(*parts),
            make=make,
            store=ModelStore(self.folder, [KEY.public_key()]) if store else None,
            watch=self.watch,
            test_s=TEST_S,
            clock=self.clock,
            metrics=self.metrics,
        )

    def spend(self, seconds: float) -> None:
        """Poll each second, of long times at the end alone."""
        step = 1.0 if seconds < TEST_S else seconds
        for _ in range(int(seconds / step)):
            self.clock.advance(step)
            self.target.poll()

    @property
    def at_work(self) -> int:
        """Number of the model at work."""
        names = {model(number).name: number for number in range(4)}
        return names[self.target.current.name]

    def counts(self, name: str) -> dict[str, float]:
        """A counter by its label, what is not zero."""
        return {
            key.partition('="')[2].removesuffix('"}'): value
            for key, value in self.metrics.totals().items()
            if key.startswith(f"prismlink_{name}_total") and value
        }

    @property
    def told(self) -> list[str]:
        """Models that metrics say are at work."""
        return [key for key in self.metrics.totals() if "model_info" in key]


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Rig]:
    """A process that has not begun."""
    made = Rig(tmp_path)
    yield made
    vars(made).clear()
    gc.collect()  # with the threads of encoders: the rig and its models hold each other


@pytest.fixture
def rig(fresh: Rig) -> Rig:
    """A process that has begun."""
    fresh.start()
    return fresh


def test_it_begins_with_the_settings_model(rig: Rig) -> None:
    """Whatever lies in the store: what was not put to work in flight is no order."""
    put_model(rig.folder, 1)
    rig.start()
    rig.spend(5)
    assert rig.at_work == 0
    assert rig.counts("model_loads") == rig.counts("models_refused") == {}


def test_a_file_that_appears_is_put_to_work(rig: Rig) -> None:
    """Once; metrics name it, and the old one no more."""
    put_model(rig.folder, 1)
    rig.spend(5)
    assert rig.at_work == 1
    assert rig.made == [model(1).name]
    assert rig.counts("model_loads") == {"load": 1}
    assert rig.told == [
        f'prismlink_model_info{{model="{model(1).name}",backend="torch-cpu"}}',
    ]


def test_where_nobody_watches_a_signal_or_a_command_is_needed(fresh: Rig) -> None:
    """SIGHUP takes the latest file, a command the one it names."""
    rig = fresh
    rig.watch = False
    rig.start()
    put_model(rig.folder, 1)
    rig.spend(5)
    assert rig.at_work == 0
    rig.target.look()
    rig.spend(1)
    assert rig.at_work == 1
    put_model(rig.folder, 2)
    assert rig.target.load(model(2).model)
    rig.spend(1)
    assert rig.at_work == 2
    assert rig.counts("model_loads") == {"load": 2}


def test_the_one_before_comes_back(rig: Rig) -> None:
    """By one order; by one more the other again. The settings' own counts as any."""
    put_model(rig.folder, 1)
    rig.spend(3)
    for expected in (0, 1, 0):
        assert rig.target.roll_back()
        rig.spend(1)
        assert rig.at_work == expected
    assert rig.counts("model_loads") == {"load": 1, "rollback": 3}


def test_there_may_be_none_before(rig: Rig) -> None:
    """Then the order is refused, and counted."""
    rig.target.roll_back()
    rig.spend(1)
    assert (rig.at_work, rig.counts("models_refused")) == (0, {"model_file": 1})


def test_a_model_at_work_is_not_loaded_again(rig: Rig) -> None:
    """What should be is so already."""
    put_model(rig.folder, 1)
    rig.spend(3)
    rig.target.load(model(1).model)
    rig.target.look()
    rig.spend(2)
    assert rig.counts("model_loads") == {"load": 1}
    assert rig.counts("models_refused") == {}


@pytest.mark.parametrize("reason", SPOILED)
def test_whatever_fails_the_old_model_stays(
    reason: str, rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted by its own reason and said in one line; a sound file is taken afterwards."""
    before = rig.target.current
    put_spoiled(rig.folder, 1, reason)
    rig.spend(5)
    assert rig.target.current is before
    assert rig.counts("models_refused") == {reason: 1}
    assert not (rig.folder / "in-use.json").exists()
    assert [record.message for record in caplog.records] == ["model refused"]
    put_model(rig.folder, 1)
    rig.spend(3)
    assert rig.at_work == 1


def test_a_model_that_the_runtime_refuses_is_refused(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU without room for two, for one: the old model stays, and orders go on."""
    put_model(rig.folder, 1)
    with monkeypatch.context() as patch:
        patch.setattr("daemon.onboard.models.check_encoder", _out_of_memory)
        rig.spend(3)
        assert (rig.at_work, rig.counts("models_refused")) == (0, {"backend": 1})
    rig.target.look()
    rig.spend(1)
    assert rig.at_work == 1


def test_a_model_answers_once_before_it_works(fresh: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start on board does not take longer for asking twice."""
    asked = list[Encoder]()
    monkeypatch.setattr("daemon.onboard.models.check_encoder", asked.append)
    fresh.start()
    put_model(fresh.folder, 1)
    fresh.spend(3)
    assert fresh.at_work == 1
    assert len(asked) == 2


def _out_of_memory(_: object) -> None:
    raise RuntimeError("CUDA out of memory\nmore of it")


def test_what_cannot_be_recorded_is_not_put_to_work(rig: Rig) -> None:
    """A restart would go on with another model than the one at work."""
    put_model(rig.folder, 1)
    (rig.folder / ".in-use.json.part").mkdir()
    rig.spend(5)
    assert (rig.at_work, rig.counts("models_refused")) == (0, {"output": 1})


def test_a_restart_goes_on_with_the_model_at_work(rig: Rig) -> None:
    """And still knows which was before."""
    put_model(rig.folder, 1)
    rig.spend(3)
    rig.start()
    assert rig.at_work == 1
    rig.target.roll_back()
    rig.spend(1)
    assert rig.at_work == 0
    rig.start()
    assert rig.at_work == 0


def test_a_restart_finds_another_where_that_one_is_damaged(rig: Rig) -> None:
    """The one before; if that is gone, too, the settings' own. A board encodes with what it has."""
    for number in (1, 2):
        put_model(rig.folder, number)
        rig.spend(3)
    path = rig.folder / "2.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    rig.start()
    assert (rig.at_work, rig.counts("models_refused")) == (1, {"bundle_truncated": 1})
    (rig.folder / "1.safetensors").unlink()
    rig.start()
    assert rig.at_work == 0
    assert rig.counts("models_refused") == {"bundle_truncated": 1, "model_file": 1}


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{",
        b"[]",
        b'{"in_use": 1, "before": null}',
        b'{"in_use": "../own.safetensors", "before": null}',
        b'{"in_use": "in-use.json", "before": null}',
        b'{"in_use": null}',
        b" " * 5000,
        b"[" * 4000,
    ],
)
def test_a_record_that_is_none_is_ignored(record: bytes, rig: Rig) -> None:
    """The process begins as if there was none, and says so."""
    (rig.folder / "in-use.json").write_bytes(record)
    rig.start()
    rig.spend(1)
    assert rig.at_work == 0


def test_the_record_is_plain(rig: Rig) -> None:
    """An operator can read it, and remove it to begin with the settings' own model again."""
    put_model(rig.folder, 1)
    rig.spend(3)
    record = rig.folder / "in-use.json"
    assert json.loads(record.read_text()) == {"in_use": "1.safetensors", "before": None}
    record.unlink()
    rig.start()
    assert rig.at_work == 0


def test_settings_that_cannot_be_used_are_still_an_error(fresh: Rig) -> None:
    """Of the process: there is no model to begin with."""
    rig = fresh
    rig.bundle.write_bytes(b"no bundle")
    with pytest.raises(ConfigError):
        rig.start()


def test_without_a_store_nothing_is_ordered(fresh: Rig) -> None:
    """Whoever orders is told; a signal does nothing."""
    rig = fresh
    rig.start(store=False)
    assert not rig.target.load(model(1).model)
    assert not rig.target.roll_back()
    rig.target.look()
    rig.spend(2)
    assert rig.at_work == 0


def test_orders_are_bounded(rig: Rig) -> None:
    """Of a flood no more wait than a handful."""
    assert sum(rig.target.load(model(1).model) for _ in range(100)) < 20


# ---------------------------------------------------------------- the test of the model at work


def test_a_sound_model_passes(rig: Rig) -> None:
    """Once in each period, and nothing changes."""
    before = rig.target.current
    for _ in range(3):
        rig.spend(TEST_S)
    assert rig.target.current is before
    assert rig.counts("model_tests") == {"passed": 3}


def _flip(array: np.ndarray, bit: int) -> None:
    """Change one bit in place, whoever owns the memory."""
    byte = ctypes.c_uint8.from_address(array.ctypes.data + bit // 8)
    byte.value ^= 1 << bit % 8


def _contexts(at_work: Model) -> np.ndarray:
    return at_work.encoder.bundle.tensors["contexts.states"]


def _counts(at_work: Model) -> np.ndarray:
    return at_work.encoder.bundle.tensors["tables.counts"]


def _quick_tables(at_work: Model) -> np.ndarray:
    return at_work.encoder.coder._quick._starts


def _weights(at_work: Model) -> np.ndarray:
    return next(array for array in at_work.encoder.backend.weights if array.size > 10)


@pytest.mark.parametrize("resident", [_contexts, _counts, _quick_tables, _weights])
def test_a_flipped_bit_is_found_and_mended(
    resident: Callable[[Model], np.ndarray], rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """Within a period, wherever it is: the model is read anew from where it came from."""
    put_model(rig.folder, 1)
    rig.spend(3)
    damaged = rig.target.current
    _flip(resident(damaged), 13)
    caplog.clear()
    rig.spend(TEST_S)

    assert rig.target.current is not damaged
    assert rig.at_work == 1
    assert rig.counts("model_tests") == {"bundle_digest": 1}
    assert rig.counts("model_loads") == {"load": 1, "mended": 1}
    assert [record.message for record in caplog.records] == ["self-test failed"]
    rig.spend(TEST_S)
    assert rig.counts("model_tests") == {"bundle_digest": 1, "passed": 1}
    rig.target.roll_back()  # what is before has not changed
    rig.spend(1)
    assert rig.at_work == 0


def test_the_settings_own_model_is_mended_as_well(fresh: Rig) -> None:
    """Without a store, too."""
    rig = fresh
    rig.start(store=False)
    _flip(_contexts(rig.target.current), 5)
    rig.spend(TEST_S)
    rig.spend(TEST_S)
    assert rig.counts("model_tests") == {"bundle_digest": 1, "passed": 1}


def test_what_no_weight_tells_the_answer_does(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled networks cannot be read: what they make of the known tile has to be the same."""
    monkeypatch.setattr(
        "codec.backends.torch_backend.direct_latents",
        lambda shortcut, patch: direct_latents(shortcut, patch) * np.float32(1.01),
    )
    with pytest.raises(BundleAnswerError, match="makes something else of the known tile"):
        rig.target.current.test()


def test_a_model_that_nothing_runs_any_more_is_read_anew(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the last runtime fails, too: that is counted as any other failure of the test."""
    failing = rig.target.current

    def fail(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(failing.encoder, "encode", fail)
        rig.spend(TEST_S)
    assert rig.counts("model_tests") == {"backend": 1}
    assert rig.counts("model_loads") == {"mended": 1}
    assert rig.target.current is not failing


def test_a_model_that_cannot_be_read_anew_goes_on(rig: Rig) -> None:
    """Frames of a damaged model are better than none; each period tries again."""
    damaged = rig.target.current
    _flip(_contexts(damaged), 3)
    content = rig.bundle.read_bytes()
    rig.bundle.write_bytes(b"")
    rig.spend(TEST_S)
    assert rig.target.current is damaged
    assert rig.counts("models_refused") == {"bundle": 1}
    rig.bundle.write_bytes(content)
    rig.spend(TEST_S)
    assert rig.target.current is not damaged
    assert rig.counts("model_tests") == {"bundle_digest": 2}
