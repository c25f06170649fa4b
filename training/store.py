"""A store of patches: one memory-mapped array that training reads as fast as memory allows.

    STORE/samples.npy      int16, shape (patches, bands, 128, 128): reflectance [10⁻⁴]
    STORE/flags.npy        uint8, shape (patches, 128, 128): bits of `hyspecnet.FLAGS`
    STORE/progress.jsonl   a line for each patch that is on the disk, or could not be read
    STORE/store.json       what is where, and the splits; written last: with it the store is whole

A conversion that was cut off goes on where it stood: a line is written only after the samples it
speaks of have reached the disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TextIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from training.errors import PatchError, ScenesError, TrainingError
from training.files import write_whole
from training.hyspecnet import (
    ALL_BANDS,
    PATCH_PX,
    USABLE,
    Patch,
    PatchFiles,
    find_patches,
    read_patch,
    split_names,
)

FORMAT: Final = "prismlink patches"
VERSION: Final = 1
_FLUSHED_TOGETHER: Final = 32
"""Patches written between two flushes: 200 MB."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatchStore:
    """A store, open for reading.

    Attributes:
        folder: Where it is.
        paths: Paths of its patches below HySpecNet-11k's `patches`.
        rows: Their rows in the arrays.
        checksums: CRC32C of their samples, then flags.
        splits: Paths by difficulty and part.
        samples: Memory-mapped, shape (rows, bands, 128, 128), int16.
        flags: Memory-mapped, shape (rows, 128, 128), uint8.
    """

    folder: Path
    paths: tuple[str, ...]
    rows: tuple[int, ...]
    checksums: tuple[int, ...]
    splits: dict[str, dict[str, list[str]]]
    samples: NDArray[np.int16]
    flags: NDArray[np.uint8]

    def part(self, difficulty: str, part: str, *, most_flagged: float = 1.0) -> list[int]:
        """Rows of a part of a split; patches that could not be read are not among them.

        Args:
            difficulty: "easy" or "hard".
            part: "train", "val" or "test".
            most_flagged: Share of a patch's pixels that may be flagged: clouded, hazy, in shadow,
                under snow or without data.

        Raises:
            ScenesError: If the store has no such split, or nothing of it.
        """
        if difficulty not in self.splits:
            raise ScenesError(
                f"{self.folder}: converted from a tree without splits/{difficulty}; "
                "remedy: unpack HySpecNet-11k's splits there and convert again"
            )
        row_of = dict(zip(self.paths, self.rows, strict=True))
        found = [
            row
            for path in self.splits[difficulty][part]
            if (row := row_of.get(path)) is not None
            and np.count_nonzero(self.flags[row]) <= most_flagged * self.flags[row].size
        ]
        if not found:
            raise ScenesError(f"{self.folder}: no patch of splits/{difficulty}/{part}.csv in it")
        return found

    def verify(self) -> None:
        """Read everything and compare checksums.

        Raises:
            ScenesError: If a patch is not what it was.
        """
        for path, row, checksum in zip(self.paths, self.rows, self.checksums, strict=True):
            if _checksum(self.samples[row], self.flags[row]) != checksum:
                raise ScenesError(f"{self.folder}: {path} is damaged; remedy: convert again")


def is_store(path: Path) -> bool:
    """Whether a folder is a store, whole or begun."""
    return (path / "store.json").exists() or (path / "progress.jsonl").exists()


def open_store(folder: Path) -> PatchStore:
    """Open a store.

    Raises:
        ScenesError: If it is not whole, or of another version.
    """
    path = folder / "store.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if (told["format"], told["version"]) != (FORMAT, VERSION):
            raise ScenesError(f"{path}: {told['format']} {told['version']}, not {FORMAT} {VERSION}")
        samples = np.load(folder / "samples.npy", mmap_mode="r", allow_pickle=False)
        flags = np.load(folder / "flags.npy", mmap_mode="r", allow_pickle=False)
        store = PatchStore(
            folder=folder,
            paths=tuple(told["paths"]),
            rows=tuple(told["rows"]),
            checksums=tuple(told["checksums"]),
            splits=told["splits"],
            samples=samples,
            flags=flags,
        )
        rows_fit = bool(store.rows) and min(store.rows) >= 0 and max(store.rows) < len(samples)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ScenesError(
            f"{path}: {reason}; remedy: prismlink-train convert TREE --out {folder}"
        ) from None
    if len(samples) != len(flags) or not rows_fit:
        raise ScenesError(f"{folder}: its arrays are shorter than store.json says")
    return store


Told = Callable[[PatchFiles, str], None]
"""Takes a patch that is done, and why it was skipped, or nothing."""


def convert(
    root: Path,
    folder: Path,
    *,
    usable_only: bool,
    strict: bool = False,
    workers: int = 2,
    on_patch: Told = lambda *_: None,
) -> PatchStore:
    """Convert a HySpecNet-11k tree, or go on converting it.

    Args:
        root: The tree.
        folder: The store; begun by an earlier call, or not there yet.
        usable_only: The 202 usable bands; else all 224.
        strict: Whether a patch that cannot be read is the end; else it is skipped.
        workers: Patches read at the same time.
        on_patch: Called for each patch, also those of earlier calls.

    Raises:
        PatchError: If `strict`, and a patch cannot be read.
        ScenesError: If the tree has no patch, or the store is of another tree or other bands.
        TrainingError: If the store cannot be written.
    """
    patches, splits = find_patches(root), split_names(root)
    bands = USABLE.size if usable_only else ALL_BANDS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        samples = _array(folder / "samples.npy", (len(patches), bands, PATCH_PX, PATCH_PX), "i2")
        flags = _array(folder / "flags.npy", (len(patches), PATCH_PX, PATCH_PX), "u1")
        with (folder / "progress.jsonl").open("a+", encoding="utf-8") as progress:
            done = _done(progress, patches)
            for row, entry in done.items():
                on_patch(patches[row], entry.get("error", ""))
            rest = [row for row in range(len(patches)) if row not in done]
            read = partial(_read, usable_only=usable_only, strict=strict)
            waiting: list[dict[str, Any]] = []
            for row, patch in zip(rest, _in_order(read, patches, rest, workers), strict=True):
                entry = {"row": row, "path": patches[row].path}
                if isinstance(patch, PatchError):
                    entry["error"] = str(patch)
                else:
                    samples[row], flags[row] = patch.samples, patch.flags
                    entry["crc32c"] = _checksum(patch.samples, patch.flags)
                waiting.append(entry)
                on_patch(patches[row], entry.get("error", ""))
                if len(waiting) == _FLUSHED_TOGETHER or row == rest[-1]:
                    samples.flush()
                    flags.flush()
                    progress.writelines(json.dumps(entry) + "\n" for entry in waiting)
                    progress.flush()
                    done |= {entry["row"]: entry for entry in waiting}
                    waiting = []
    except OSError as error:
        raise TrainingError(
            f"{folder}: cannot be written: {error.strerror}; what is there is kept"
        ) from None
    kept = [entry for _, entry in sorted(done.items()) if "error" not in entry]
    told = {
        "format": FORMAT,
        "version": VERSION,
        "paths": [entry["path"] for entry in kept],
        "rows": [entry["row"] for entry in kept],
        "checksums": [entry["crc32c"] for entry in kept],
        "skipped": {e["path"]: e["error"] for e in done.values() if "error" in e},
        "splits": splits,
    }
    write_whole(folder / "store.json", json.dumps(told, indent=1).encode())
    return open_store(folder)


def reflectance(part: NDArray[Any]) -> NDArray[np.float32]:
    """Bring samples of a store to reflectance within [0, 1], C-ordered; fill becomes 0."""
    limited = np.clip(part, 0, 10_000, out=np.empty(part.shape, part.dtype))
    return np.multiply(limited, np.float32(1e-4), out=np.empty(part.shape, np.float32))


class Rows(Sequence[NDArray[np.int16]]):
    """Some patches of a store, each shape (bands, 128, 128), read when they are asked for."""

    def __init__(self, store: PatchStore, rows: Sequence[int]) -> None:
        self._samples, self._rows = store.samples, tuple(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._samples[self._rows[index]]


def _array(path: Path, shape: tuple[int, ...], dtype: str) -> Any:
    """Open an array to write into; one that is not there is made, all of it.

    Raises:
        OSError: If there is no room; found later, it would kill the process.
        ScenesError: If it is of another tree, or damaged.
    """
    if not path.exists():
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        allocate(path)
        return array
    try:
        array = np.lib.format.open_memmap(path, mode="r+")
    except (EOFError, ValueError):
        raise ScenesError(
            f"{path}: damaged; remedy: remove {path.parent} and convert again"
        ) from None
    if array.shape != shape or array.dtype != dtype:
        raise ScenesError(
            f"{path}: shape {array.shape}, the tree needs {shape}; remedy: another --out"
        )
    return array


def allocate(path: Path) -> None:
    """Take the room a file says it has; one that cannot is removed.

    Raises:
        OSError: If there is not enough.
    """
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError:
            path.unlink()
            raise


def _done(progress: TextIO, patches: Sequence[PatchFiles]) -> dict[int, dict[str, Any]]:
    """Read which patches are on the disk; those that could not be read are tried again."""
    progress.seek(0)
    text = progress.read()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        progress.truncate(len(whole.encode()))
    try:
        every = {entry["row"]: entry for entry in map(json.loads, whole.splitlines())}
    except (ValueError, KeyError, TypeError):
        raise ScenesError(
            f"{progress.name}: damaged; remedy: remove the folder and convert again"
        ) from None
    done = {row: entry for row, entry in every.items() if "error" not in entry}
    for row, entry in done.items():
        if row >= len(patches) or patches[row].path != entry["path"]:
            raise ScenesError(
                f"{progress.name}: begun with another tree; remedy: another --out, or remove it"
            )
    return done


def _read(files: PatchFiles, *, usable_only: bool, strict: bool) -> Patch | PatchError:
    try:
        return read_patch(files, usable_only=usable_only)
    except PatchError as error:
        if strict:
            raise
        return error


def _in_order(
    read: Callable[[PatchFiles], Patch | PatchError],
    patches: Sequence[PatchFiles],
    rows: Sequence[int],
    workers: int,
) -> Iterator[Patch | PatchError]:
    """Read some patches ahead, no more than there is memory for."""
    with ThreadPoolExecutor(workers) as pool:
        for first in range(0, len(rows), _FLUSHED_TOGETHER):
            yield from pool.map(read, (patches[row] for row in rows[first:][:_FLUSHED_TOGETHER]))


def _checksum(samples: NDArray[np.int16], flags: NDArray[np.uint8]) -> int:
    crc = google_crc32c.extend(0, np.ascontiguousarray(samples).tobytes())
    return int(google_crc32c.extend(crc, np.ascontiguousarray(flags).tobytes()))
