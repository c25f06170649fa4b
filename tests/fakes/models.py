"""Model files as somebody who is trusted makes them, and as somebody does who is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from codec.bundle import Bundle, make_bundle
from codec.known_answer import answered
from fakes.bundles import klt_bundle

KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
"""Whose signature is trusted."""
STRANGER: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


@cache
def model(number: int = 0) -> Bundle:
    """A linear codec with its answer; each number is a model of its own."""
    base = klt_bundle()
    made = make_bundle(
        base.network,
        base.conditioner,
        default_step=base.default_step * (1 + number / 8),
        tensors=base.tensors,
    )
    return answered(made)


SPOILED: Final = (
    "model_signature",
    "bundle_digest",
    "bundle_answer",
    "bundle_truncated",
    "bundle_tensor",
)
"""What `put_spoiled` takes for a reason."""


def write_key(path: Path, key: Ed25519PrivateKey = KEY) -> Path:
    """The public key in PEM."""
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path.write_bytes(pem)
    return path


def put(path: Path, content: bytes, key: Ed25519PrivateKey | None = KEY) -> Path:
    """Put a file with its signature, the signature last."""
    path.write_bytes(content)
    if key is not None:
        path.with_name(f"{path.name}.sig").write_bytes(key.sign(content))
    return path


def put_model(folder: Path, number: int, key: Ed25519PrivateKey | None = KEY) -> Path:
    """Put a model for flight."""
    content = model(number).for_flight().to_bytes()
    return put(folder / f"{number}.safetensors", content, key)


def put_spoiled(folder: Path, number: int, reason: str) -> None:
    """Put a model for flight that is refused for a reason: the label of its metric."""
    path, content = folder / f"{number}.safetensors", model(number).for_flight().to_bytes()
    match reason:
        case "model_signature":
            put(path, content, STRANGER)
        case "bundle_digest":
            put(path, content[:-1] + bytes([content[-1] ^ 1]))
        case "bundle_answer":  # sound, but it does not do here what it did where it was made
            put(path, of_another_answer(model(number), model(24)))
        case "bundle_truncated":
            put(path, content[:-1])
        case "bundle_tensor":
            put(path, without(content, "contexts.weights"))
        case _:
            raise ValueError(reason)


def rewritten(content: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """A bundle with another description; the header's own digests are not made anew."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    head = json.loads(header["__metadata__"]["prismlink"])
    change(head)
    header["__metadata__"]["prismlink"] = json.dumps(head)
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + content[8 + length :]


def of_another_answer(bundle: Bundle, other: Bundle) -> bytes:
    """A model that says of itself what another one does."""
    answer = dict(other.known_answer)
    return rewritten(bundle.to_bytes(), lambda head: head.update(known_answer=answer))


def without(content: bytes, tensor: str) -> bytes:
    """A bundle that lacks a tensor, the last one of its file."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    start, end = header.pop(tensor)["data_offsets"]
    assert all(
        entry["data_offsets"][1] <= start
        for name, entry in header.items()
        if name != "__metadata__"
    )
    raw = json.dumps(header).encode()
    body = content[8 + length :]
    assert end == len(body)
    return len(raw).to_bytes(8, "little") + raw + body[:start]
