"""The section `security:`: which sockets are refused, and which keys they get."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.config import FlightSettings, GroundSettings, load_flight, load_ground
from daemon.errors import EXIT_CONFIG, ConfigError
from daemon.keys import write_keys
from daemon.link.seal import OVERHEAD_BYTES
from daemon.link.sockets import new_curve_pair

OPEN = "tcp://192.0.2.1:47101"
PAIR, PEER, OTHER = (new_curve_pair() for _ in range(3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Settings files of both sides, with keys beside them."""
    (tmp_path / "any.safetensors").touch()
    (tmp_path / "flight.yaml").write_text("model: {bundle: any.safetensors}\n")
    (tmp_path / "ground.yaml").write_text(
        "model: {bundles: [any.safetensors]}\noutput: {directory: out}\n"
    )
    write_keys(
        {
            tmp_path / "own.secret": PAIR[1],
            tmp_path / "peer.public": PEER[0],
            tmp_path / "other.public": OTHER[0],
            tmp_path / "seal.key": b"07" * 32,
        }
    )
    return tmp_path


def flight(folder: Path, *overrides: str) -> FlightSettings:
    """Settings of the board."""
    return load_flight(folder / "flight.yaml", overrides)


def ground(folder: Path, *overrides: str) -> GroundSettings:
    """Settings of the ground."""
    return load_ground(folder / "ground.yaml", overrides)


@pytest.mark.parametrize(
    "address",
    [
        "tcp://127.0.0.1:5",
        "tcp://127.9.9.9:5",
        "tcp://[::1]:5",
        "tcp://localhost:5",
        "ipc:///run/x",
    ],
)
def test_what_stays_on_the_machine_needs_no_key(folder: Path, address: str) -> None:
    """Loopback in all its forms, and paths."""
    assert ground(folder, f"link.address={address}").exposed == ()


@pytest.mark.parametrize(
    "address",
    ["tcp://0.0.0.0:5", "tcp://*:5", "tcp://192.0.2.1:5", "tcp://[::]:5", "tcp://ground.example:5",
     "tcp://127.0.0.1.example:5", "tcp://eth0:5"],
)  # fmt: skip
def test_what_others_can_reach_needs_keys(folder: Path, address: str) -> None:
    """One line: the key, the address and the remedy; the process ends with 78."""
    with pytest.raises(ConfigError) as caught:
        ground(folder, f"link.address={address}")

    (line,) = caught.value.problems
    assert line == (
        f"link.address: {address} is open to other machines without keys; set "
        "security.curve_secret_key and security.curve_peers.link (`prismlink keys` makes keys), "
        "or security.insecure to true"
    )
    assert caught.value.exit_code == EXIT_CONFIG


@pytest.mark.parametrize("socket", ["instrument", "link"])
def test_every_socket_of_the_board_is_held_to_it(folder: Path, socket: str) -> None:
    """Also one that connects; keys of the other one are no help."""
    others = "link" if socket == "instrument" else "instrument"
    keys = ["security.curve_secret_key=own.secret", f"security.curve_peers.{others}=[peer.public]"]
    keys = [key.replace("=", f"={folder}/").replace(f"{folder}/[", f"[{folder}/") for key in keys]
    for given in ([], keys):
        with pytest.raises(ConfigError, match=rf"{socket}\.address: {OPEN} is open"):
            flight(folder, f"{socket}.address={OPEN}", *given)


def test_insecure_is_allowed_and_told(folder: Path) -> None:
    """Where it is asked for in so many words; nothing is exposed that is not open."""
    settings = flight(folder, f"link.address={OPEN}", "security.insecure=true")
    assert settings.exposed == ("link.address",)
    assert flight(folder, "security.insecure=true").exposed == ()


def test_metrics_may_be_anywhere(folder: Path) -> None:
    """Prometheus asks from elsewhere; it is told numbers, and takes nothing."""
    assert ground(folder, "metrics.address=0.0.0.0").exposed == ()


def test_keys_open_a_socket_to_their_holders(folder: Path) -> None:
    """Files beside the settings file; the others' keys are each socket's own."""
    text = (folder / "flight.yaml").read_text() + (
        f"instrument: {{address: 'tcp://*:47100'}}\nlink: {{address: '{OPEN}'}}\n"
        "security:\n  curve_secret_key: own.secret\n"
        "  curve_peers: {instrument: [peer.public, other.public], link: [other.public]}\n"
    )
    (folder / "flight.yaml").write_text(text)
    settings = flight(folder)
    instrument, link = (settings.security.curve(name) for name in ("instrument", "link"))

    assert settings.exposed == ()
    assert instrument is not None
    assert link is not None
    assert (instrument.secret, instrument.peers) == (PAIR[1], (PEER[0], OTHER[0]))
    assert (link.secret, link.peers) == (PAIR[1], (OTHER[0],))


def test_without_peers_a_socket_has_no_keys(folder: Path) -> None:
    """On loopback that is no error: another socket may have some."""
    settings = ground(folder, f"security.curve_secret_key={folder}/own.secret")
    assert settings.security.curve("link") is None


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("security.curve_peers.link=[peer.public]", "curve_peers.link is of no use without"),
        ("security.curve_secret_key=nowhere", "names no file; looked for"),
        ("security.curve_secret_key=seal.key", "holds no CURVE key of 40 characters"),
        ("security.seal_key=own.secret", "holds no key of 64 hexadecimal digits"),
        ("security.seal_key=seal.key", "seal_state is needed where seal_key is given"),
        ("security.seal_key=open.key", r"seal_key: .*open\.key.* is open to everybody"),
        ("security.curve_peer=[]", "did you mean curve_peers?"),
    ],
)
def test_wrong_keys_are_refused(
    folder: Path, override: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By check-config already, in one line with the key of the setting."""
    (folder / "open.key").write_text("07" * 32)
    (folder / "open.key").chmod(0o644)
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match=problem) as caught:
        ground(folder, override)
    assert len(caught.value.problems) == 1
    assert "security" in str(caught.value)


def test_who_connects_knows_who_is_there(folder: Path) -> None:
    """CURVE wants the server's key before it begins; several would be a guess."""
    peers = f"security.curve_peers.link=[{folder}/peer.public, {folder}/other.public]"
    with pytest.raises(ConfigError, match="should name one file: link connects"):
        flight(folder, f"security.curve_secret_key={folder}/own.secret", peers)


def test_the_seal_has_its_key_and_counters(folder: Path) -> None:
    """And makes packets longer by what the downlink takes off the MTU."""
    settings = flight(
        folder, f"security.seal_key={folder}/seal.key", f"security.seal_state={folder}/state"
    )
    assert settings.security.seal == (b"\7" * 32, folder / "state")
    assert settings.security.seal_bytes == OVERHEAD_BYTES
    assert flight(folder).security.seal is None
    assert flight(folder).security.seal_bytes == 0


def test_processes_that_share_an_instrument_do_not_share_a_key(folder: Path) -> None:
    """Each would count from the same number, and one number under one key voids the seal."""
    sealing = (f"security.seal_key={folder}/seal.key", f"security.seal_state={folder}/state")
    with pytest.raises(ConfigError, match="two processes under one key"):
        flight(folder, "instrument.shared=true", *sealing)


def test_credentials_of_systemd_will_do(folder: Path) -> None:
    """As LoadCredential leaves them: read-only, in a folder of the unit's own."""
    credentials = folder / "credentials"
    write_keys({credentials / "seal_key": b"07" * 32})
    (credentials / "seal_key").chmod(0o440)
    settings = flight(
        folder, f"security.seal_key={credentials}/seal_key", f"security.seal_state={folder}/state"
    )
    assert settings.security.seal_key == credentials / "seal_key"
