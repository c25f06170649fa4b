"""A folder of bundles, each taken only if nobody could have slipped it in.

A file is read once: what is checked is what is used. First who may write it, then who signed it,
and only then is it looked into.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from codec.bundle import Bundle, parse_bundle
from codec.bundle_file import check_length, promised_name
from codec.errors import BackendError, BundleError, BundleTruncatedError
from daemon.config_models import StoreSettings
from daemon.errors import ModelFileError, ModelSignatureError, OutputError
from daemon.guarded import check_folder, read_guarded
from daemon.signatures import SIGNATURE_BYTES, PublicKey, is_signed, trusted_key

SUFFIX: Final = ".safetensors"
_MAX_BYTES: Final = 1 << 30
_HEAD_BYTES: Final = 1 << 20
"""Of a file, enough to find its name in."""


class _Stamp(NamedTuple):
    """Tells a file, with its signature, from what was there before."""

    bundle: tuple[int, int, int]
    signature: tuple[int, int, int] | None


class ModelStore:
    """Bundles of a folder, and what is new among them.

    Args:
        folder: Where they are.
        keys: Whoever has signed with one of these is trusted; without any, signatures are not
            asked for.
    """

    def __init__(self, folder: Path, keys: Sequence[PublicKey]) -> None:
        self.folder = folder
        self._keys = tuple(keys)
        self._last = self._known = self._stamps()

    @property
    def asks_for_signatures(self) -> bool:
        """Whether a file without one is not taken."""
        return bool(self._keys)

    def files(self) -> list[Path]:
        """All that are whole, as far as one can tell, the oldest first."""
        stamps = self._stamps()
        return sorted(stamps, key=lambda path: stamps[path].bundle[2])

    def appeared(self) -> list[Path]:
        """Files that came or changed, and then stood still from one call to the next, oldest first.

        Each is told once.
        """
        last, self._last = self._last, self._stamps()
        still = {path: now for path, now in self._last.items() if last.get(path) == now}
        new = [path for path, now in still.items() if self._known.get(path) != now]
        self._known |= {path: still[path] for path in new}
        return sorted(new, key=lambda path: still[path].bundle[2])

    def named(self, model: bytes) -> Path:
        """The latest file that says it is of this model.

        Raises:
            ModelFileError: If none does.
        """
        for path in reversed(self.files()):
            if name_in(path) == model.hex():
                return path
        what = "file and its signature" if self._keys else "file"
        raise ModelFileError(self.folder, f"no model {model.hex()}; put its {what} there first")

    def read(self, path: Path) -> Bundle:
        """Check and read a bundle.

        Raises:
            ModelFileError: If others may write it, or it cannot be read.
            ModelSignatureError: If nobody who is trusted signed it.
            BundleTruncatedError: If it was not, because its end is missing.
            BundleError: As `codec.bundle.parse_bundle`, with the path.
        """
        try:
            check_folder(self.folder)
        except ValueError as error:
            raise ModelFileError(self.folder, str(error)) from None
        raw = _guarded(path, _MAX_BYTES)
        try:
            self._check_signature(path, raw)
            return parse_bundle(raw)
        except BundleError as error:
            raise type(error)(f"{path}: {error}") from None

    def _check_signature(self, path: Path, raw: bytes) -> None:
        if not self._keys:
            return
        if is_signed(raw, _guarded(signature_of(path), SIGNATURE_BYTES), self._keys):
            return
        try:
            check_length(raw)
        except BundleTruncatedError:
            raise
        except BundleError:
            pass  # whatever it is, what matters is that it is not signed
        raise ModelSignatureError(path, "signed by nobody who is trusted; see trusted_keys")

    def _stamps(self) -> dict[Path, _Stamp]:
        """Every bundle, with its signature where one is asked for."""
        found = {}
        with suppress(OSError):
            for path in self.folder.iterdir():
                if not path.name.endswith(SUFFIX) or path.name.startswith("."):
                    continue
                with suppress(OSError):
                    signature = _stamp(signature_of(path)) if self._keys else None
                    found[path] = _Stamp(_stamp(path), signature)
        return found


def open_store(settings: StoreSettings) -> ModelStore | None:
    """Open the store of the settings; None: there is to be none.

    Raises:
        OutputError: If its folder cannot be made.
    """
    if settings.directory is None:
        return None
    try:
        settings.directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(settings.directory, str(error)) from None
    return ModelStore(settings.directory, [trusted_key(path) for path in settings.trusted_keys])


@contextmanager
def refused_by_runtime() -> Iterator[None]:
    """Whatever a runtime cannot do with a model is a reason to refuse it, not the end of a thread.

    Raises:
        BackendError: In place of a RuntimeError: out of memory, a device that is gone.
    """
    try:
        yield
    except RuntimeError as error:
        raise BackendError(str(error).split("\n")[0]) from None


def name_in(path: Path) -> str | None:
    """The model that a file's beginning says it holds, unchecked; None if it says none."""
    with suppress(OSError):
        if stat.S_ISREG(path.lstat().st_mode):
            with path.open("rb") as file:
                return promised_name(file.read(_HEAD_BYTES))
    return None


def signature_of(path: Path) -> Path:
    """Where a file's signature lies."""
    return path.with_name(f"{path.name}.sig")


def _guarded(path: Path, max_bytes: int) -> bytes:
    try:
        return read_guarded(path, max_bytes=max_bytes)
    except ValueError as error:
        raise ModelFileError(path, str(error)) from None


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    return status.st_ino, status.st_size, status.st_mtime_ns
