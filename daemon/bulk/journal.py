"""What a run has written already: one line of JSON for each tile, behind the file it tells of.

A run that is killed leaves whole products and whole lines, the last line perhaps excepted; the next
one goes on behind them. A line is written after its product, so at worst a product is made again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

from codec.tile_writers import WRITERS
from daemon.bulk.jobs import DecodedTile, Output
from daemon.errors import OutputError
from daemon.files import lock_folder
from daemon.ground.products import listed
from daemon.ground.write import make_clean

NAME = "decoded.jsonl"


class Journal:
    """The products of a folder, or of a store; a context manager, of one process at a time.

    Args:
        output: Where they are; made if it is not there, and rid of what is half written.

    Attributes:
        marks: Of what each product was made, by its file.

    Raises:
        OutputError: If it cannot be made or read, or another process writes into it.
    """

    def __init__(self, output: Output) -> None:
        self._folder, self._is_store = output.folder, output.is_store
        # Beside a store: what is no array would be found by whoever lists it.
        beside = output.folder.with_name(f"{output.folder.name}.jsonl")
        self._path = beside if output.is_store else output.folder / NAME
        self._lock = lock_folder(self._folder)
        make_clean(self._folder)  # only now: half written things may be another's at work
        self._files = self._read()
        self.marks = {str(told["file"]): mark for mark, told in self._files.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        make_clean(self._folder)
        os.close(self._lock)

    def finds(self, mark: str) -> Mapping[str, Any] | None:
        """What is told of the product of these frames, if it is there and whole."""
        told = self._there(mark)
        return told if told is not None and self.is_whole(told) else None

    def is_whole(self, told: Mapping[str, Any]) -> bool:
        """Whether a product in a folder is as its item says.

        That lists other files where the product was written again in another format.
        """
        path = self._folder / str(told["file"])
        return self._is_store or path.name in listed(path.with_suffix(""))

    def of_name(self, name: str) -> Mapping[str, Any] | None:
        """What is told of a product, of whatever frames and in whatever format, if it is there."""
        found = (self._there(self.marks.get(name + suffix, "")) for suffix, _ in WRITERS.values())
        return next(filter(None, found), None)

    def made_of(self, name: str) -> dict[tuple[int, int], tuple[str, str]]:
        """Tiles that a product was made of, as `add` was told, if it is there."""
        told = self.of_name(name) or {}
        try:
            return {(int(r), int(c)): (str(name), str(of)) for r, c, name, of in told["tiles"]}
        except (LookupError, TypeError, ValueError):
            return {}

    def add(
        self, mark: str, made: DecodedTile, tiles: Sequence[Any] = (), *, side: str = ""
    ) -> None:
        """A product was written, of tiles that were before it, or under side information, if any.

        Raises:
            OutputError: If that cannot be noted.
        """
        told = {
            "file": made.file,
            "mark": mark,
            "patches": made.patches,
            "patches_missing": [list(position) for position in made.missing],
            "problems": list(made.problems),
            **({"tiles": list(tiles)} if tiles else {}),
            **({"side": side} if side else {}),
        }
        try:
            with self._path.open("ab") as file:
                file.write((json.dumps(told) + "\n").encode())
        except OSError as error:
            raise OutputError(self._path, str(error)) from None
        self.marks[str(made.file)] = mark

    def _there(self, mark: str) -> Mapping[str, Any] | None:
        told = self._files.get(mark)
        if told is None or not (self._folder / str(told["file"])).exists():
            return None
        return told

    def _read(self) -> dict[str, dict[str, Any]]:
        """The last line of each file, by its mark."""
        try:
            lines = self._path.read_bytes().split(b"\n") if self._path.exists() else []
            if lines and lines[-1]:  # cut off; the next line begins behind it
                with self._path.open("ab") as file:
                    file.write(b"\n")
        except OSError as error:
            raise OutputError(self._path, str(error)) from None
        last = dict[str, dict[str, Any]]()
        for line in lines:
            try:
                told = json.loads(line)
                last[str(told["file"])] = {**told, "mark": str(told["mark"])}
            except (ValueError, TypeError, KeyError):
                continue
        return {told["mark"]: told for told in last.values()}
