"""What our pages tell people to type can be typed, links lead somewhere, shipped settings load.

`RUN_BY` says, for every command of `PAGES`, which test runs it for real, or why none does.
Every command, run or not, is also checked word by word: click reads all the words of a command
line before it acts on `--help`, so an unknown subcommand or option is an error even then.
"""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
PAGES: Final = (
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("operations", "performance", "training")),
)
EVERY_PAGE: Final = (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))
SCRIPTS: Final[dict[str, str]] = tomllib.loads(
    (ROOT / "pyproject.toml").read_text(encoding="utf-8")
)["project"]["scripts"]
PROGRAMS: Final = {
    name: f"import sys; from {module} import {function}; sys.exit({function}())"
    for name, target in SCRIPTS.items()
    for module, _, function in [target.partition(":")]
}
"""The name of each program and Python code that does what its installed script does."""

PLACES: Final = re.compile(r"^(\.venv|/opt/prismlink)/bin/")
"""Where they are, if a command says so."""

BENCHMARK: Final = re.compile(r"^tests/benchmarks/\w+\.py$")

RUN_BY: Final = {
    "make demo": "tests/end_to_end/test_demo.py",
    "make test": "not run: it is what runs this test",
    "make check": "not run: it is part of make test",
    "make soak": "tests/end_to_end/test_soak.py",
    "make chaos": "tests/end_to_end/test_chaos.py",
    "make drain": "tests/end_to_end/test_drain.py",
    "make report": "tests/training/test_report.py",
    "python benchmark": "not run: it takes minutes to hours, and its figures need a machine",
    "make bench": "not run: it takes minutes; tests/daemon/test_bench.py runs its command",
    "prismlink demo": "tests/end_to_end/test_demo.py",
    "prismlink flight run": "tests/end_to_end/test_demo.py",
    "prismlink flight check-config": "tests/test_docs.py",
    "prismlink ground run": "tests/end_to_end/test_demo.py",
    "prismlink ground check-config": "tests/test_docs.py",
    "prismlink feed": "tests/end_to_end/test_demo.py",
    "prismlink encode": "tests/daemon/test_cli.py",
    "prismlink decode": "tests/daemon/test_cli.py",
    "prismlink inspect": "tests/daemon/test_cli.py",
    "prismlink bench": "tests/daemon/test_bench.py",
    "prismlink keys": "tests/daemon/test_cli.py",
    "prismlink command": "tests/end_to_end/test_commands.py",
    "prismlink-train": "tests/training/test_cli.py",
    "accelerate launch": "tests/training/test_distributed.py",
    "apt-get install": "not run: it changes the machine",
    "sudo deploy/install.sh": "tests/test_deploy.py",
    "sudo systemctl": "tests/end_to_end/test_boot.py",
    "deploy/install.sh": "tests/end_to_end/test_boot.py",
    "systemctl": "tests/end_to_end/test_boot.py",
    "journalctl": "tests/end_to_end/test_boot.py",
    "curl": "not run: tests/end_to_end/test_systemd.py asks the same without it",
    "openssl": "tests/daemon/test_signatures.py",
    "git clone": "not run: tests use no network",
    "cd": "not run: it is of the reader's shell",
    ".": "not run: it is of the reader's shell",
}
"""The beginning of a command, and the test file that runs it or `not run: reason`."""

SETTINGS: Final = {
    "flight.yaml": ("daemon.config", "load_flight"),
    "flight-shared.yaml": ("daemon.config", "load_flight"),
    "ground.yaml": ("daemon.config", "load_ground"),
    "training.yaml": ("training.config", "load_settings"),
    "sscnet.yaml": ("training.config", "load_settings"),
    "reproduce.yaml": ("training.config", "load_settings"),
}
"""A settings file of deploy/ and the module and function that read it."""


def commands(text: str) -> list[str]:
    """Every command in the `console` and `sh` blocks of a Markdown text.

    In a `console` block the commands follow `$ ` and the rest is output; in an `sh` block every
    line is one. Lines that end in a backslash go on; comments are left out; a list or a pipe is
    several commands; redirections are left out.
    """
    found: list[str] = []
    for kind, block in re.findall(r"^```(console|sh)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        lines = block.replace("\\\n", " ").splitlines()
        if kind == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        for line in lines:
            words = shlex.shlex(line, posix=True, punctuation_chars=True)
            words.whitespace_split = True
            command: list[str] = []
            for word in [*words, ";"]:
                if word in {";", "&", "&&", "|", "||"}:
                    found += [shlex.join(command)] if command else []
                    command = []
                elif command[-1:] in (["<"], [">"], [">>"]):
                    command.pop()
                else:
                    command.append(word)
    return found


def mentions(text: str) -> list[str]:
    """Every command of make and Python that a sentence or a table of a Markdown text names.

    As those of figures do; placeholders such as N keep the others from being checked.
    """
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`((?:make|python)\s[^`]+)`", outside)]


def anchors(text: str) -> set[str]:
    """What links to headings of a Markdown text end in, as GitHub makes it of them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> list[str]:
    """Links and pictures of a page that lead to no file beside it, or to no heading there."""
    dead: list[str] = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        place, _, heading = link.partition("#")
        target = page.parent / place if place else page
        if "://" in link or (target.exists() and not heading):
            continue
        if not target.is_file() or heading not in anchors(target.read_text(encoding="utf-8")):
            dead.append(link)
    return dead


def runner(command: str) -> str | None:
    """The entry of `RUN_BY` for a command: the one with the longest beginning."""
    words = [BENCHMARK.sub("benchmark", PLACES.sub("", word)) for word in shlex.split(command)]
    fitting = [key for key in RUN_BY if words[: len(key.split())] == key.split()]
    return RUN_BY[max(fitting, key=len)] if fitting else None


def complaint(command: str, programs: dict[str, str], makefile: Path) -> str | None:
    """Tell what is wrong with the words of a command: None if nothing is.

    Args:
        command: One command; programs that are not ours are not looked at.
        programs: The names of our programs and the Python code of each.
        makefile: Where a target of make must be.
    """
    name, *words = shlex.split(command)
    name = PLACES.sub("", name)
    if name in programs:
        run = [sys.executable, "-c", programs[name], *words, "--help"]
    elif name == "make":
        run = ["make", "--dry-run", "--file", str(makefile), *words]
    elif name == "python":  # not run: to import what a benchmark measures takes seconds
        script = ROOT / words[0]
        source = script.read_text(encoding="utf-8") if script.is_file() else ""
        wrong = [word for word in words if word.startswith("--") and f'"{word}"' not in source]
        wrong = wrong if source else words[:1]
        return f"{command}: {', '.join(wrong)}" if wrong else None
    else:
        return None
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    return f"{command}: {done.stderr.strip()}" if done.returncode else None


@pytest.fixture(scope="module")
def documented() -> list[str]:
    """The commands of `PAGES`, in blocks and in sentences."""
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    return [command for text in texts for command in (*commands(text), *mentions(text))]


def test_the_pages_have_commands(documented: list[str]) -> None:
    """The README shows how to run the demo and the tests, the manual how to stop, and so on."""
    assert {
        *("make demo", "make test"),
        "python tests/benchmarks/ground_rate.py --seconds 40",
        "systemctl stop prismlink-flight",
        "python tests/benchmarks/spooling.py",
        "prismlink-train synthesize --scenes tests/data --out runs/tree --tiles 4",
    } <= set(documented)


def test_every_command_is_run_somewhere(documented: list[str]) -> None:
    """Every command has a test that runs it, or a written reason why not."""
    runners = {command: runner(command) for command in documented}

    assert [command for command, test in runners.items() if test is None] == []
    files = {test for test in runners.values() if test and not test.startswith("not run: ")}
    assert [file for file in sorted(files) if not (ROOT / file).is_file()] == []


def test_every_command_is_understood(
    documented: list[str], requires_tool: Callable[[str], str]
) -> None:
    """Every subcommand, option and make target that is named exists."""
    requires_tool("make")
    complaints = [complaint(command, PROGRAMS, ROOT / "Makefile") for command in documented]
    assert [text for text in complaints if text] == []


def test_the_commands_of_frames_are_understood() -> None:
    """docs/ground.md names subcommands and options that exist."""
    named = commands((ROOT / "docs" / "ground.md").read_text(encoding="utf-8"))
    complaints = [complaint(command, PROGRAMS, ROOT / "Makefile") for command in named]

    assert len(named) >= 5
    assert [text for text in complaints if text] == []


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Files and headings that a page links to are there."""
    assert dead_links(page) == []


def test_the_readme_leads_to_every_page() -> None:
    """A page that the README does not name is found by nobody."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = {path.relative_to(ROOT).as_posix() for path in EVERY_PAGE} - {"README.md"}

    assert [page for page in sorted(pages) if f"]({page})" not in readme] == []


# ---------------------------------------------------------------- the notebook


def blocks(text: str) -> list[str]:
    """The Python blocks of a Markdown text, each at the line it has there."""
    return [
        "\n" * text.count("\n", 0, match.start(1)) + match.group(1)
        for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Block by block, as a reader types them, from the root of the checkout."""
    monkeypatch.chdir(ROOT)
    notebook = ROOT / "docs" / "notebook.md"
    found = blocks(notebook.read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    for block in found:
        exec(compile(block, str(notebook), "exec"), names)  # noqa: S102  # our own text

    assert len(found) >= 6
    assert {"restored", "array", "again", "figure"} <= names.keys()


# ---------------------------------------------------------------- the settings


def test_every_settings_file_has_a_loader() -> None:
    """A settings file nobody loads would drift away from the settings."""
    assert {path.name for path in (ROOT / "deploy").glob("*.yaml")} <= SETTINGS.keys()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_shipped_settings_file_loads(name: str) -> None:
    """What we ship as an example is accepted whole, as check-config would."""
    module, function = SETTINGS[name]
    getattr(importlib.import_module(module), function)(ROOT / "deploy" / name)


# ---------------------------------------------------------------- the checks can fail

TEXT: Final = """
```console
$ make demo
a line of output
$ prismlink encode a.tif \\
    -o b.prism   # a comment
```
```sh
cd x && make test > log
```
```python
print("$ no command")
```
"""

PROGRAM: Final = """
import typer
app = typer.Typer()
flight = typer.Typer()
app.add_typer(flight, name="flight")

@app.command()
def encode(tile: str, out: str = typer.Option(..., "-o"), step: float = 1.0) -> None:
    raise SystemExit(3)

@flight.command()
def run(config: str = typer.Option(...)) -> None:
    raise SystemExit(3)

app()
"""


def test_commands_are_found() -> None:
    """Prompts, continued lines, comments, lists and redirections are read as a shell would."""
    assert commands(TEXT) == ["make demo", "prismlink encode a.tif -o b.prism", "cd x", "make test"]


@pytest.mark.parametrize(
    ("command", "test"),
    [
        ("make demo", "tests/end_to_end/test_demo.py"),
        (".venv/bin/prismlink flight check-config deploy/flight.yaml", "tests/test_docs.py"),
        ("prismlink-train fit x.yaml", "tests/training/test_cli.py"),
        ("python tests/benchmarks/soak.py", RUN_BY["python benchmark"]),
        ("python elsewhere.py", None),
        ("prismlink unheard-of", None),
        ("rm x", None),
    ],
)
def test_the_runner_of_a_command_is_found(command: str, test: str | None) -> None:
    """The longest beginning decides, and a command nobody runs is seen."""
    assert runner(command) == test


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("prismlink encode a.tif -o b.prism --step 2", None),
        ("prismlink flight run --config x", None),
        ("ls --no-such-option", None),
        ("make there", None),
        ("python tests/benchmarks/soak.py --minutes 3", None),
        ("python tests/benchmarks/soak.py --hours 3", "--hours"),
        ("python tests/benchmarks/nothing.py", "nothing"),
        ("prismlink encode a.tif --setp 2", "--setp"),
        ("prismlink flight fly", "fly"),
        ("prismlink decode x", "decode"),
        ("make nowhere", "nowhere"),
    ],
)
def test_a_wrong_word_is_reported(
    command: str, wrong: str | None, tmp_path: Path, requires_tool: Callable[[str], str]
) -> None:
    """A command with an unknown subcommand, option or target is told with that word."""
    requires_tool("make")
    (tmp_path / "Makefile").write_text("there:\n\ttrue\n", encoding="utf-8")

    said = complaint(command, {"prismlink": PROGRAM}, tmp_path / "Makefile")

    assert said is None if wrong is None else wrong in str(said)


def test_commands_in_sentences_are_found() -> None:
    """Spans of code that begin with make or python are, over the end of a line too; blocks not."""
    text = "See `make\ndemo`, `--step` and (`python x.py --n 3`).\n```sh\necho `make no`\n```\n"

    assert mentions(text) == ["make demo", "python x.py --n 3"]


def test_dead_links_are_found(tmp_path: Path) -> None:
    """A file that is not there, and a heading that is not there, are each told."""
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n## `key`: what, and why\n"
        "[a](#a-page) [b](page.md#key-what-and-why) [c](https://example.org/#x) [d](.)\n"
        "![e](picture.png) [f](page.md#nothing) [g](#nowhere)\n",
        encoding="utf-8",
    )

    assert dead_links(page) == ["picture.png", "page.md#nothing", "#nowhere"]
