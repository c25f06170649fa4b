"""Signatures of bundles: who checks them knows who made the model, whoever carried it.

A signature lies beside its file, NAME.safetensors.sig: 64 bytes, Ed25519 over all of the file's.
Source: RFC 8032.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from training.errors import CheckpointError, SettingsError
from training.files import write_whole


def read_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key, PEM without a passphrase.

    Raises:
        SettingsError: If it is none of Ed25519.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError:
        raise SettingsError(
            f"{path}: no such key; remedy: openssl genpkey -algorithm ed25519 -out {path}"
        ) from None
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}; remedy: name a readable key") from None
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise SettingsError(
            f"{path}: no private key in PEM, or under a passphrase; remedy: name another"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError(f"{path}: a key, but not of Ed25519; remedy: name another")
    return key


def sign(path: Path, key: Ed25519PrivateKey) -> Path:
    """Sign a file; return the path of the signature.

    Raises:
        CheckpointError: If there is no such file.
        TrainingError: If the signature cannot be written.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; remedy: name a bundle") from None
    signature = path.with_name(f"{path.name}.sig")
    write_whole(signature, key.sign(content))
    return signature
