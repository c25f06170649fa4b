"""Signatures: whose key is trusted, and what it has signed."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from daemon.signatures import SIGNATURE_BYTES, is_signed, trusted_key
from fakes.models import KEY, STRANGER, write_key

CONTENT = b"any bytes at all"


def test_rfc_8032_holds() -> None:
    """The third vector of section 7.1, as the ground may have signed it with any other tool."""
    public = Ed25519PublicKey.from_public_bytes(
        bytes.fromhex("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025")
    )
    signature = bytes.fromhex(
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
    )
    assert is_signed(b"\xaf\x82", signature, [public])
    assert not is_signed(b"\xaf\x83", signature, [public])


def test_one_of_the_trusted_is_enough() -> None:
    """Keys change while models stay; a stranger's signature counts for nothing."""
    ours, theirs = KEY.public_key(), STRANGER.public_key()
    signature = KEY.sign(CONTENT)
    assert is_signed(CONTENT, signature, [theirs, ours])
    assert not is_signed(CONTENT, signature, [theirs])
    assert not is_signed(CONTENT, signature, [])


def test_any_other_bytes_are_no_signature() -> None:
    """Cut, longer, or with one bit flipped."""
    keys, signature = [KEY.public_key()], KEY.sign(CONTENT)
    assert len(signature) == SIGNATURE_BYTES
    for length in range(SIGNATURE_BYTES):
        assert not is_signed(CONTENT, signature[:length], keys)
    assert not is_signed(CONTENT, signature + b"\0", keys)
    for bit in range(8 * SIGNATURE_BYTES):
        broken = bytearray(signature)
        broken[bit // 8] ^= 1 << bit % 8
        assert not is_signed(CONTENT, bytes(broken), keys)


def test_a_key_is_read(tmp_path: Path) -> None:
    """PEM, as `openssl pkey -pubout` writes it."""
    key = trusted_key(write_key(tmp_path / "key.pem"))
    assert is_signed(CONTENT, KEY.sign(CONTENT), [key])


def test_what_is_no_trusted_key_is_refused(tmp_path: Path) -> None:
    """Rubbish, a key of another kind, and one that everybody could have put there."""
    path = tmp_path / "key.pem"
    other = X25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    for content in (
        b"",
        b"\xff" * 99,
        other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="holds no public key of Ed25519 in PEM"):
            trusted_key(path)
    write_key(path).chmod(0o666)
    with pytest.raises(ValueError, match="is open to everybody"):
        trusted_key(path)
