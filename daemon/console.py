"""What the commands share: two consoles, bars, tables, and `--json FILE`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from daemon.files import check_writable, write_whole

REPOSITORY: Final = Path(__file__).resolve().parents[1]
DEFAULT_BUNDLE: Final = REPOSITORY / "deploy" / "models" / "default.safetensors"
SHIPPED_SCENES: Final = (
    REPOSITORY / "tests" / "data" / "hyspecnet-11k",
    REPOSITORY / "tests" / "data" / "aviris_salton_sea.npz",
)

JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers to a JSON file.")
]

out = Console()
err = Console(stderr=True)


def say(line: str) -> None:
    """Say one line to whoever runs the command, not to who reads its output."""
    err.print(line, markup=False, highlight=False, soft_wrap=True)


def check_json(path: Path | None) -> None:
    """Check that the numbers can be written, before they are made.

    Raises:
        OutputError: If they cannot.
    """
    if path is not None:
        check_writable(path)


def write_json(path: Path | None, numbers: Mapping[str, Any]) -> None:
    """Write the numbers, if somebody asked for them.

    Raises:
        OutputError: If they cannot be written.
    """
    if path is not None:
        write_whole(path, (json.dumps(numbers, indent=1) + "\n").encode())


@contextmanager
def busy(text: str) -> Iterator[None]:
    """Show that something is at work, where somebody watches."""
    with err.status(text) if err.is_terminal else nullcontext():
        yield


class Bar:
    """A bar; called after each step.

    Args:
        bar: Rich's.
        unit: What is counted.
        total: Steps; None: not known yet.
    """

    def __init__(self, bar: Progress, unit: str, total: int | None) -> None:
        self._bar, self._task = bar, bar.add_task(unit, total=total)

    def __call__(self) -> None:
        """Go one step."""
        self._bar.advance(self._task)

    def set_total(self, total: int) -> None:
        """So many steps there are."""
        self._bar.update(self._task, total=total)


@contextmanager
def progress(unit: str, total: int | None) -> Iterator[Bar]:
    """Show a bar; what it gives is called after each of `total` steps."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    # Where nobody watches, rich would still print empty lines; and what goes into a file or a
    # program, rich would take along to where the bar is.
    with Progress(
        *columns,
        console=err,
        transient=True,
        disable=not err.is_terminal,
        redirect_stdout=out.is_terminal,
    ) as bar:
        yield Bar(bar, unit, total)


def table(title: str) -> Table:
    """A table as all commands print them."""
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False)


def counted(count: int, one: str, many: str) -> str:
    """How many of what, in words that fit the number."""
    return f"{count} {one if count == 1 else many}"


def short(scene: str) -> str:
    """The end of a scene's name, as wide as a column."""
    return scene if len(scene) <= 17 else f"…{scene[-16:]}"
