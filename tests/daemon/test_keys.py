"""Keys in files: read whole, secrets kept from others, nothing overwritten."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from daemon.errors import OutputError
from daemon.keys import curve_public, curve_secret, seal_key, web_token, write_keys
from daemon.link.sockets import new_curve_pair

PUBLIC, SECRET = new_curve_pair()
SEAL = bytes(range(32))

Read = Callable[[Path], bytes]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Keys as the command makes them."""
    write_keys(
        {
            tmp_path / "curve.secret": SECRET,
            tmp_path / "curve.public": PUBLIC,
            tmp_path / "seal.key": SEAL.hex().encode(),
        }
    )
    return tmp_path


def test_what_is_written_is_read(folder: Path) -> None:
    """Each key, by its owner alone; a line break at its end is no part of it."""
    assert curve_secret(folder / "curve.secret") == SECRET
    assert curve_public(folder / "curve.public") == PUBLIC
    assert seal_key(folder / "seal.key") == SEAL
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_nothing_is_overwritten(folder: Path) -> None:
    """Not even one of several: a key that is gone takes all that it sealed along."""
    with pytest.raises(OutputError, match=r"seal\.key: is there already"):
        write_keys({folder / "new.key": b"x", folder / "seal.key": b"x"})
    assert seal_key(folder / "seal.key") == SEAL
    assert not (folder / "new.key").exists()


@pytest.mark.parametrize(
    ("read", "name"),
    [(curve_secret, "curve.secret"), (seal_key, "seal.key"), (web_token, "seal.key")],
)
@pytest.mark.parametrize(("mode", "sound"), [(0o600, True), (0o440, True), (0o644, False)])
def test_a_secret_that_everybody_may_read_is_refused(
    *, read: Read, name: str, mode: int, sound: bool, folder: Path
) -> None:
    """One line with the remedy. A group may: credentials of systemd can have one."""
    (folder / name).chmod(mode)
    if sound:
        assert read(folder / name)
    else:
        with pytest.raises(ValueError, match=r"is open to everybody \(mode 644\); chmod 600 it"):
            read(folder / name)


@pytest.mark.parametrize(
    ("read", "name"),
    [(curve_public, "curve.public"), (curve_secret, "curve.secret"), (seal_key, "seal.key")],
)
def test_a_link_to_a_key_is_refused(read: Read, name: str, folder: Path) -> None:
    """Whoever can change where it points could choose the key."""
    (folder / "link").symlink_to(folder / name)
    with pytest.raises(ValueError, match="is a symbolic link; name the file itself"):
        read(folder / "link")


def test_a_public_key_that_everybody_may_change_is_refused(folder: Path) -> None:
    """It says whom to trust; reading it is fine."""
    (folder / "curve.public").chmod(0o644)
    assert curve_public(folder / "curve.public")
    (folder / "curve.public").chmod(0o646)
    with pytest.raises(ValueError, match=r"is open to everybody \(mode 646\); chmod o-w it"):
        curve_public(folder / "curve.public")


@pytest.mark.parametrize(
    ("read", "content"),
    [
        (curve_secret, b""),
        (curve_secret, SECRET[:-1]),
        (curve_secret, SECRET + b"0"),
        (curve_secret, SECRET[:-1] + b"~"),
        (curve_secret, b"#" * 40),  # above what four bytes hold
        (curve_public, b"\xff" * 40),
        (seal_key, b""),
        (seal_key, SEAL),
        (seal_key, SEAL.hex().encode()[:-1]),
        (seal_key, SEAL.hex().encode()[:-1] + b"g"),
    ],
    ids=count(),  # the pair is new each time, and names of tests are not
)
def test_what_is_no_key_is_refused(read: Read, content: bytes, tmp_path: Path) -> None:
    """With the remedy, and without the content."""
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ValueError, match=r"holds no .*key of .*make one with `prismlink keys`"):
        read(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"x" * 31, b"x" * 20 + b" " + b"x" * 20, b"\xff" * 40, b"x" * 40 + b"\n" + b"x"],
)
def test_what_is_no_token_is_refused(content: bytes, tmp_path: Path) -> None:
    """One that is short could be guessed; other than one plain line could not be sent."""
    path = tmp_path / "web.token"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ValueError, match=r"holds no token.*make one with `openssl rand -hex 32`"):
        web_token(path)


def test_a_file_that_is_not_there_is_told() -> None:
    """By what the system said."""
    for read in (curve_public, curve_secret, seal_key, web_token):
        with pytest.raises(ValueError, match="cannot be read: No such file"):
            read(Path("/no/such/key"))


def test_libzmq_takes_what_passes(folder: Path) -> None:
    """Many pairs: our check of Z85 refuses none."""
    for number in range(200):
        path = folder / str(number)
        write_keys({path: new_curve_pair()[1]})
        assert curve_secret(path)
