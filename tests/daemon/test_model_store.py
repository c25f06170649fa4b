"""The store: what it takes, what it refuses and why, and what is new in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from codec.errors import CodecError
from daemon.config_models import StoreSettings
from daemon.errors import DaemonError, OutputError, reason_of
from daemon.model_store import ModelStore, open_store, signature_of
from fakes.models import KEY, STRANGER, model, put, put_model, rewritten, without, write_key

FLIGHT = model(1).for_flight().to_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where models are."""
    made = tmp_path / "models"
    made.mkdir(mode=0o750)
    return made


def store(folder: Path) -> ModelStore:
    """One that trusts a key."""
    return ModelStore(folder, [KEY.public_key()])


def refusal(folder: Path, path: Path) -> str:
    """Why a file is not taken."""
    with pytest.raises((CodecError, DaemonError)) as caught:
        store(folder).read(path)
    assert str(path.parent) in str(caught.value)
    assert "\n" not in str(caught.value)
    return reason_of(caught.value)


def test_a_signed_model_is_taken(folder: Path) -> None:
    """Whole, and by the name it gave itself."""
    path = put_model(folder, 1)
    assert store(folder).read(path).name == model(1).name
    assert store(folder).named(model(1).model) == path


def _unsigned(path: Path) -> None:
    put(path, FLIGHT, STRANGER)


def _truncated(path: Path) -> None:
    put(path, FLIGHT)
    path.write_bytes(FLIGHT[:-1])


def _truncated_and_signed_so(path: Path) -> None:
    put(path, FLIGHT[: len(FLIGHT) // 2])


def _flipped(path: Path) -> None:
    put(path, FLIGHT[:-1] + bytes([FLIGHT[-1] ^ 1]))


def _incomplete(path: Path) -> None:
    put(path, without(FLIGHT, "contexts.weights"))


def _later(path: Path) -> None:
    put(path, rewritten(FLIGHT, lambda head: head.update(version=99)))


def _rubbish(path: Path) -> None:
    put(path, b"rubbish")


def _linked(path: Path) -> None:
    put(path.with_name("other.safetensors"), FLIGHT)
    path.symlink_to("other.safetensors")
    signature_of(path).write_bytes(KEY.sign(FLIGHT))


def _signature_linked(path: Path) -> None:
    put(path, FLIGHT)
    signature_of(path).rename(path.with_name("other.sig"))
    signature_of(path).symlink_to("other.sig")


def _open_to_all(path: Path) -> None:
    put(path, FLIGHT).chmod(0o666)


def _in_an_open_folder(path: Path) -> None:
    put(path, FLIGHT)
    path.parent.chmod(0o777)


def _without_signature(path: Path) -> None:
    put(path, FLIGHT, None)


def _long_signature(path: Path) -> None:
    put(path, FLIGHT)
    signature_of(path).write_bytes(KEY.sign(FLIGHT) + b"\n")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_unsigned, "model_signature"),
        (_truncated, "bundle_truncated"),
        (_truncated_and_signed_so, "bundle_truncated"),
        (_flipped, "bundle_digest"),
        (_incomplete, "bundle_tensor"),
        (_later, "bundle_version"),
        (_rubbish, "bundle"),
        (_linked, "model_file"),
        (_signature_linked, "model_file"),
        (_open_to_all, "model_file"),
        (_in_an_open_folder, "model_file"),
        (_without_signature, "model_file"),
        (_long_signature, "model_file"),
    ],
)
def test_what_cannot_be_trusted_is_refused(
    make: Callable[[Path], None], reason: str, folder: Path
) -> None:
    """One line that names the file, and a reason for each."""
    path = folder / "x.safetensors"
    make(path)
    assert refusal(folder, path) == reason


def test_nothing_unsigned_is_looked_into(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is not trusted does not reach the parser."""
    monkeypatch.setattr("daemon.model_store.parse_bundle", lambda _: pytest.fail("parsed"))
    assert refusal(folder, put_model(folder, 1, STRANGER)) == "model_signature"


def test_any_cut_of_a_signed_file_is_refused(folder: Path) -> None:
    """However much is missing."""
    path = put_model(folder, 1)
    for length in range(0, len(FLIGHT), len(FLIGHT) // 30):
        path.write_bytes(FLIGHT[:length])
        assert refusal(folder, path) in ("bundle_truncated", "model_signature")


def test_without_keys_nothing_is_asked_for(folder: Path) -> None:
    """The ground may go so, if its folder is its own."""
    path = put_model(folder, 1, None)
    assert ModelStore(folder, ()).read(path).name == model(1).name


def test_what_appears_is_told_once_it_stands_still(folder: Path) -> None:
    """Not while it grows, not without its signature, and not what was there before."""
    put_model(folder, 0)
    target = store(folder)
    assert [target.appeared() for _ in range(3)] == [[], [], []]

    path = put(folder / "1.safetensors", FLIGHT[:99], None)
    assert [target.appeared() for _ in range(2)] == [[], []]
    signature_of(path).write_bytes(KEY.sign(FLIGHT))
    assert target.appeared() == []
    path.write_bytes(FLIGHT)
    assert [target.appeared() for _ in range(3)] == [[], [path], []]


def test_what_is_replaced_has_appeared_again(folder: Path) -> None:
    """A file refused for its signature is tried again with another one."""
    target = store(folder)
    path = put_model(folder, 1, STRANGER)
    assert [target.appeared() for _ in range(3)] == [[], [path], []]
    put_model(folder, 1)
    assert [target.appeared() for _ in range(3)] == [[], [path], []]


def test_the_oldest_comes_first(folder: Path) -> None:
    """By the time it was written, whatever the name."""
    target = store(folder)
    paths = [put_model(folder, number) for number in (2, 1)]
    for age_s, path in zip((20, 10), paths, strict=True):
        os.utime(path, (1e9 - age_s, 1e9 - age_s))
    assert target.appeared() == []
    assert target.appeared() == paths == target.files()


def test_of_two_files_of_a_model_the_later_counts(folder: Path) -> None:
    """A model sent again may have been sent because the first was damaged."""
    first = put_model(folder, 1)
    second = Path(shutil.copy(first, folder / "again.safetensors"))
    shutil.copy(signature_of(first), signature_of(second))
    os.utime(first, (1, 1))
    assert store(folder).named(model(1).model) == second


def test_a_model_that_is_not_there_is_told(folder: Path) -> None:
    """By its name, with what to do; files that are none do not disturb, a pipe least of all."""
    put(folder / "rubbish.safetensors", b"\xff" * 99)
    os.mkfifo(folder / "pipe.safetensors")
    signature_of(folder / "pipe.safetensors").touch()
    with pytest.raises(DaemonError, match=f"no model {model(1).name}; put its file and"):
        store(folder).named(model(1).model)


def test_other_files_are_not_looked_at(folder: Path) -> None:
    """Parts of uploads, notes, and what the daemon itself writes."""
    for name in (".1.safetensors", "1.safetensors.part", "in-use.json"):
        put(folder / name, FLIGHT)
    assert store(folder).files() == []


def test_a_folder_is_made_where_there_is_none(tmp_path: Path) -> None:
    """Closed to others; where it cannot be made, that is told."""
    key = write_key(tmp_path / "key.pem")
    settings = StoreSettings.model_construct(directory=tmp_path / "a" / "b", trusted_keys=(key,))
    opened = open_store(settings)
    assert opened is not None
    assert opened.folder.stat().st_mode & 0o007 == 0
    assert open_store(StoreSettings()) is None
    broken = StoreSettings.model_construct(directory=key / "b", trusted_keys=())
    with pytest.raises(OutputError):
        open_store(broken)
