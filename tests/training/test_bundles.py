"""Bundles on disk are whole, and tell how they came to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from codec.network import Analysis, Synthesis, count_macs
from fakes.bundles import klt_bundle
from training.bundles import (
    changed,
    checksums_of,
    names_of,
    origin,
    read_bundle,
    size_of,
    stage_of,
    write_bundle,
)
from training.config import Settings
from training.errors import CheckpointError, TrainingError
from training.scenes import Split

MODELS = Path(__file__).resolve().parents[2] / "deploy" / "models"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """A missing folder is made; the record survives."""
    path = tmp_path / "new" / "x.safetensors"
    bundle = changed(klt_bundle(), stage={"stage": "fit", "epoch": 3}, scores={"psnr_db": 50.0})
    write_bundle(bundle, path)

    read = read_bundle(path)

    assert (read.name, read.scores) == (bundle.name, {"psnr_db": 50.0})
    assert stage_of(read, "fit") == {"stage": "fit", "epoch": 3}
    assert [p.name for p in path.parent.iterdir()] == ["x.safetensors"]


def test_a_failed_write_leaves_the_old_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk costs the new bundle, never the old one, and leaves nothing behind."""
    path = tmp_path / "x.safetensors"
    write_bundle(klt_bundle(), path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(TrainingError, match="No space left on device"):
        write_bundle(changed(klt_bundle(), stage={"stage": "fit"}), path)

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_absent_bundle_is_named(tmp_path: Path) -> None:
    """The message holds the path and what to do."""
    with pytest.raises(CheckpointError, match=r"none\.safetensors: no such bundle; remedy"):
        read_bundle(tmp_path / "none.safetensors")


def test_a_damaged_bundle_is_named(tmp_path: Path) -> None:
    """A flipped byte is found by the digest."""
    path = tmp_path / "x.safetensors"
    write_bundle(klt_bundle(), path)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(bytes(raw))

    with pytest.raises(CheckpointError, match=r"x\.safetensors.*digest"):
        read_bundle(path)


def test_the_record_tells_every_stage_in_order() -> None:
    """A stage may come again after others; the last one counts. One done over leaves one line."""
    bundle = klt_bundle()
    for stage in ("fit", "calibrate", "prune", "calibrate"):
        bundle = changed(bundle, stage={"stage": stage, "line": 1})

    again = changed(bundle, stage={"stage": "calibrate", "line": 2})

    names = [entry["stage"] for entry in again.provenance["stages"]]
    assert names == ["fit", "calibrate", "prune", "calibrate"]
    assert stage_of(again, "calibrate") == {"stage": "calibrate", "line": 2}


def test_scores_do_not_outlive_their_model() -> None:
    """A changed model has not been scored."""
    scored = changed(klt_bundle(), scores={"psnr_db": 50.0})

    assert changed(scored, stage={"stage": "fit"}).scores == {}


def test_sizes_are_counted_on_the_networks() -> None:
    """Parameters are those torch holds, multiply-accumulates those of `count_macs`."""
    network = klt_bundle().network
    params = sum(p.numel() for m in (Analysis(network), Synthesis(network)) for p in m.parameters())
    size = size_of(network)

    assert size["params"] == params
    assert (size["macs_encoder"], size["macs_decoder"]) == count_macs(network)


def test_the_origin_names_scenes_and_not_places(split: Split, settings: Settings) -> None:
    """A bundle tells what it was trained on, and nothing of the machine."""
    record = origin(settings, names_of(split), checksums_of(split))

    assert record["scenes"] == {"training": ["north_1", "north_2"], "validation": ["south"]}
    assert record["settings"]["network"]["components"] == 2
    assert record["checksums"].keys() == {"north_1", "north_2", "south"}
    assert len(set(record["checksums"].values())) == 3
    assert str(Path.cwd()) not in str(record)


def test_the_shipped_model_is_whole() -> None:
    """Both files name one model, are small, and tell of its scenes, its pruning and its scores."""
    full, flight = (
        read_bundle(MODELS / f"{name}.safetensors") for name in ("default", "default.flight")
    )
    record = stage_of(full, "prune")

    assert full.name == flight.name
    assert full.has_synthesis
    assert not flight.has_synthesis
    assert max(path.stat().st_size for path in MODELS.glob("default*")) < 15e6
    assert record is not None
    assert record["after"]["params"] <= 0.55 * record["before"]["params"]
    assert size_of(full.network) == record["after"]
    assert full.provenance["scenes"]["training"]
    assert full.scores["held_back"]
    assert "/" not in "".join(full.provenance["scenes"]["training"])
