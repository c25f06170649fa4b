"""Signatures of model files: who checks them knows who made a model, whoever carried it.

A signature lies beside its file, NAME.safetensors.sig: 64 bytes, Ed25519 over all of the file's.
`prismlink-train sign` makes it.

Source: RFC 8032.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from daemon.guarded import read_guarded

PublicKey: TypeAlias = Ed25519PublicKey
SIGNATURE_BYTES: Final = 64
_MAX_KEY_BYTES: Final = 4096


def trusted_key(path: Path) -> PublicKey:
    """Read a public key, PEM.

    Raises:
        ValueError: If the file holds none of Ed25519, or everybody can change it.
    """
    raw = read_guarded(path, max_bytes=_MAX_KEY_BYTES)
    try:
        key = load_pem_public_key(raw)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("holds no public key of Ed25519 in PEM; see docs/operations.md")
    return key


def is_signed(content: bytes, signature: bytes, keys: Iterable[PublicKey]) -> bool:
    """Whether one of the keys made the signature."""
    for key in keys:
        try:
            key.verify(signature, content)
        except InvalidSignature:
            continue
        return True
    return False
