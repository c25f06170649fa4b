"""The file of a model bundle: safetensors, with one JSON description, and a digest of everything.

Nothing here knows what a model does with it, see `codec.bundle`; so whoever asks only which model a
file holds, and whether it is sound, does not wait for PyTorch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from codec.errors import (
    BundleDigestError,
    BundleError,
    BundleTruncatedError,
    BundleVersionError,
)

VERSION: Final = 5
MODEL_BYTES: Final = 8
"""Of a digest, as frames and file names have it."""
NAMED: Final = ("network", "conditioner", "default_step")
"""What of the description is part of a model's name, beside the digests of its tensors."""

_KEY: Final = "prismlink"
"""The one metadata key of the file; its value is a JSON object."""
_METADATA: Final = "__metadata__"
_LENGTH_BYTES: Final = 8
_MAX_HEADER_BYTES: Final = 1 << 24
"""Layout of a safetensors file: the header's length, little-endian, then the header, as JSON."""
_SYNTHESIS: Final = "synthesis."

T = TypeVar("T")
Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BundleFile:
    """What a file holds; every tensor that has a digest matches it.

    Attributes:
        description: Plain JSON values.
        tensors: By name.
    """

    description: Mapping[str, Any] = field(repr=False)
    tensors: Tensors = field(repr=False)

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of every tensor, those that a flight bundle leaves out included."""
        return dict(self.description["tensors"])

    @property
    def promised(self) -> bytes:
        """The model's full name, as the file tells it."""
        return bytes.fromhex(self.description["digest"])

    def model(self) -> bytes:
        """Return the model's name as frames carry it.

        Raises:
            BundleDigestError: If the file tells another one.
            BundleError: If its description is damaged.
        """
        try:
            named = {key: self.description[key] for key in NAMED}
            digest, promised = digest_of(named, self.digests), self.promised
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(error) from None
        check_name(digest, promised)
        return digest[:MODEL_BYTES]


def read(path: Path, parse: Callable[[bytes], T]) -> T:
    """Read a bundle's file with `unpack`, or with `codec.bundle.parse_bundle`.

    Raises:
        BundleError: As there, with the path; or if there is no such file.
    """
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path}: no readable bundle: {error.strerror}") from None
    except BundleError as error:
        raise type(error)(f"{path}: {error}") from None


def unpack(raw: bytes) -> BundleFile:
    """Read what a bundle's file holds, and check its tensors.

    Raises:
        BundleTruncatedError: If bytes lack at its end.
        BundleVersionError: If a later build wrote it.
        BundleDigestError: If a tensor is not the one the description tells of.
        BundleError: If it is no bundle at all.
    """
    header = check_length(raw)
    try:
        tensors = load(raw)
    # ValueError: of NumPy, of a shape beyond all memory that has no bytes.
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleError(f"no readable bundle: {error}") from None
    try:
        description = json.loads(header[_METADATA][_KEY])
        version = description["version"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise BundleError(f"the file has no {_KEY!r} description") from None
    if version != VERSION:
        raise BundleVersionError(f"bundle version {version}, this build reads {VERSION}")
    file = BundleFile(description=description, tensors=tensors)
    try:
        digests = file.digests
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(error) from None
    for name, array in tensors.items():
        if name in digests and tensor_digest(array) != digests[name]:
            raise BundleDigestError(f"tensor {name} does not match its digest")
    return file


def pack(description: Mapping[str, Any], tensors: Tensors) -> bytes:
    """Return the file's bytes; the same bundle always gives the same bytes."""
    arrays = {name: np.ascontiguousarray(a) for name, a in sorted(tensors.items())}
    head = {"version": VERSION, **description}
    return bytes(save(arrays, metadata={_KEY: json.dumps(head, sort_keys=True)}))


def digest_of(named: Mapping[str, Any], digests: Mapping[str, str]) -> bytes:
    """SHA-256 over description and tensor digests: a model's full name."""
    whole = {**named, "tensors": dict(sorted(digests.items()))}
    return sha256(json.dumps(whole, sort_keys=True).encode()).digest()


def tensor_digest(array: NDArray[Any]) -> str:
    """SHA-256 over type, shape and little-endian bytes."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return sha256(f"{array.dtype.name}{array.shape}".encode() + little.tobytes()).hexdigest()


def check_name(digest: bytes, promised: bytes) -> None:
    """See that a model is the one its file promises.

    Raises:
        BundleDigestError: If it is another.
    """
    if digest != promised:
        raise BundleDigestError("the description does not match the digest in the file")


def has_synthesis(tensors: Tensors) -> bool:
    """Whether a model can decode; that of a flight bundle cannot."""
    return any(name.startswith(_SYNTHESIS) for name in tensors)


def damaged(error: Exception) -> BundleError:
    """What is raised of a description that makes no sense."""
    return BundleError(f"the description is damaged: {error!r}")


def check_length(raw: bytes) -> dict[str, Any]:
    """See that a bundle's file is whole, and return its header.

    Raises:
        BundleTruncatedError: If bytes lack at its end.
        BundleError: If it is no bundle.
    """
    header, promised_bytes = _header(raw)
    if len(raw) < promised_bytes:
        raise BundleTruncatedError(f"{len(raw)} bytes of a bundle of {promised_bytes}")
    return header


def promised_name(raw: bytes) -> str | None:
    """The name that a bundle's first bytes say it has, unchecked; None if they are no bundle's."""
    try:
        header, _ = _header(raw)
        digest = json.loads(header[_METADATA][_KEY])["digest"]
        return bytes.fromhex(digest)[:MODEL_BYTES].hex()
    except (BundleError, KeyError, TypeError, ValueError, RecursionError):
        return None


def _header(raw: bytes) -> tuple[dict[str, Any], int]:
    """The head of a safetensors file, and how many bytes the file has by it."""
    length = int.from_bytes(raw[:_LENGTH_BYTES], "little")
    start = _LENGTH_BYTES + length
    if len(raw) < _LENGTH_BYTES or length > _MAX_HEADER_BYTES:
        raise BundleError("no readable bundle: it begins with no safetensors header")
    if len(raw) < start:
        raise BundleTruncatedError(f"{len(raw)} bytes, its header alone has {start}")
    try:
        header = json.loads(raw[_LENGTH_BYTES:start])
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != _METADATA]
        return header, start + max(map(int, ends), default=0)
    except (
        *(AttributeError, LookupError, TypeError, ValueError, RecursionError),
        OverflowError,  # infinity, which is no JSON but is read
    ) as error:
        raise BundleError(f"no readable bundle: {error!r}") from None
