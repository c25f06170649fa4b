"""Models on the ground: all that ever came decode, and each more as soon as it is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from codec.decoder import Decoder
from daemon.ground.metrics import GroundMetrics
from daemon.ground.models import GroundModels
from daemon.metrics import new_registry
from daemon.model_store import ModelStore, signature_of
from fakes.clock import FakeClock
from fakes.models import KEY, STRANGER, model, of_another_answer, put, put_model


class Rig:
    """The models of a process, with model 0 from its settings."""

    def __init__(self, folder: Path, *, signed: bool = False, watch: bool = True) -> None:
        self.folder = folder / "store"
        self.folder.mkdir(mode=0o750, exist_ok=True)
        self.own = folder / "own.safetensors"
        put(self.own, model(0).to_bytes(), KEY if signed else None)
        self.clock, self.metrics = FakeClock(), GroundMetrics(new_registry())
        self.came = list[bytes]()
        keys = [KEY.public_key()] if signed else []
        self.target = GroundModels(
            {model(0).model: Decoder(model(0))},
            store=ModelStore(self.folder, keys),
            watch=watch,
            clock=self.clock,
            metrics=self.metrics,
        )
        self.target.on_model = self.came.append

    def spend(self, seconds: int) -> None:
        """Poll each second."""
        for _ in range(seconds):
            self.clock.advance(1.0)
            self.target.poll()

    def refused(self) -> dict[str, float]:
        """By reason."""
        return {
            key.partition('"')[2].partition('"')[0]: value
            for key, value in self.metrics.totals().items()
            if "models_refused" in key and value
        }

    def put(self, number: int) -> Path:
        """Put a whole model there."""
        return put(self.folder / f"{number}.safetensors", model(number).to_bytes())


def test_a_model_decodes_as_soon_as_it_is_there(tmp_path: Path) -> None:
    """Whoever waits for it is told, after it can be used."""
    rig = Rig(tmp_path)
    assert rig.target.has(model(0).model)
    assert not rig.target.has(model(1).model)
    rig.put(1)
    rig.spend(4)
    assert rig.came == [model(1).model]
    assert rig.target.decoders[model(1).model].bundle.name == model(1).name
    assert f'prismlink_model_info{{model="{model(1).name}",backend="torch-cpu"}}' in (
        rig.metrics.totals()
    )


def test_where_nobody_watches_a_signal_is_needed(tmp_path: Path) -> None:
    """It looks at all files, once."""
    rig = Rig(tmp_path, watch=False)
    rig.put(1)
    rig.spend(4)
    assert rig.came == []
    rig.target.look()
    rig.spend(2)
    assert rig.came == [model(1).model]


def test_models_of_the_settings_are_kept(tmp_path: Path) -> None:
    """Their frames can still be decoded when the settings name others; once is enough."""
    rig = Rig(tmp_path)
    for _ in range(2):
        rig.target.keep([rig.own])
        assert [path.name for path in rig.folder.iterdir()] == [f"{model(0).name}.safetensors"]
    later = Rig(tmp_path)
    later.target.decoders.clear()
    later.target.take_all()
    assert later.came == [model(0).model]


def test_a_linked_bundle_of_the_settings_is_kept(tmp_path: Path) -> None:
    """As a file of its own: settings may name a link, the store takes none."""
    rig = Rig(tmp_path)
    link = tmp_path / "default.safetensors"
    link.symlink_to(rig.own.name)
    rig.target.keep([link])
    assert ModelStore(rig.folder, ()).read(rig.folder / f"{model(0).name}.safetensors")


def test_a_model_that_is_there_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file that says it holds one, at a start or later, no more than that is looked at."""
    rig = Rig(tmp_path)
    rig.put(0)
    monkeypatch.setattr(ModelStore, "read", lambda *_: pytest.fail("read"))
    monkeypatch.setattr("codec.bundle_file.load", lambda _: pytest.fail("parsed"))
    rig.target.keep([rig.own])
    rig.target.take_all()
    assert (rig.came, rig.refused()) == ([], {})


def test_they_are_kept_with_their_signatures(tmp_path: Path) -> None:
    """Where those are asked for; a file without one would not be taken, and is not kept."""
    rig = Rig(tmp_path, signed=True)
    rig.target.keep([rig.own])
    (kept,) = ModelStore(rig.folder, [KEY.public_key()]).files()
    assert signature_of(kept).read_bytes() == signature_of(rig.own).read_bytes()
    kept.unlink()
    signature_of(rig.own).unlink()
    rig.target.keep([rig.own])
    assert not kept.exists()


def test_what_is_refused_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By its reason, in a line; it does not keep others from being taken."""
    rig = Rig(tmp_path, signed=True)
    put(rig.folder / "a.safetensors", model(1).to_bytes(), STRANGER)
    put(rig.folder / "b.safetensors", of_another_answer(model(2), model(24)))
    put(rig.folder / "c.safetensors", model(3).to_bytes()[:-1])
    rig.put(4)
    rig.target.take_all()
    assert rig.refused() == {"model_signature": 1, "bundle_answer": 1, "bundle_truncated": 1}
    assert rig.came == [model(4).model]
    assert sum(record.message == "model refused" for record in caplog.records) == 3


def test_a_model_that_the_runtime_refuses_keeps_no_other_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one of the reasons; the next file is looked at all the same."""

    def no_memory(decoder: Decoder) -> None:
        if decoder.bundle.name == model(1).name:
            raise RuntimeError("out of memory")

    monkeypatch.setattr("daemon.ground.models.check_decoder", no_memory)
    rig = Rig(tmp_path)
    for number in (1, 2):
        rig.put(number)
    rig.spend(3)
    assert (rig.came, rig.refused()) == ([model(2).model], {"backend": 1})


def test_a_flight_bundle_is_passed_over(tmp_path: Path) -> None:
    """It cannot decode; where board and ground are one machine it lies in the same folder."""
    rig = Rig(tmp_path)
    put_model(rig.folder, 1)
    rig.target.take_all()
    assert (rig.came, rig.refused()) == ([], {})
