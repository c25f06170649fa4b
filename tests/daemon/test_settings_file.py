"""From a settings file to a model: every mistake is one line with file, key, value, remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import PositiveInt

from daemon.config_sections import Address, Directory, File, LogSettings, Section
from daemon.errors import ConfigError
from daemon.settings_file import MAX_FILE_BYTES, load


class Link(Section):
    """A section."""

    address: Address = "tcp://127.0.0.1:1"
    mtu_bytes: PositiveInt = 1024


class Settings(Section):
    """A small settings file."""

    link: Link = Link()
    log: LogSettings = LogSettings()
    output: Directory | None = None
    bundles: tuple[File, ...] = ()
    rate: float


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the settings file is."""
    (tmp_path / "etc").mkdir()
    return tmp_path / "etc" / "flight.yaml"


def problems(path: Path, *overrides: str) -> list[str]:
    """What is wrong with a file, without its name, which every line must begin with."""
    with pytest.raises(ConfigError) as caught:
        load(path, Settings, overrides)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


def test_what_is_not_said_is_the_default(path: Path) -> None:
    """A file names what it changes; the model has the rest."""
    path.write_text("rate: 2\nlog: {json: true}\n")
    settings = load(path, Settings)

    assert settings == Settings.model_validate({"rate": 2.0, "log": {"json": True}})
    assert (settings.link.mtu_bytes, settings.log.as_json, settings.log.level) == (
        *(1024, True),
        "info",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["rate: is missing; add it"]),
        ("# nothing\n", ["rate: is missing; add it"]),
        ("rate: fast", ['rate: "fast" should be a valid number']),
        ("rate: '2'", ['rate: "2" should be a valid number']),
        ("rate: .nan", ["rate: NaN should be a finite number"]),
        ("rate: 1\nlinc: {}", ["linc: unknown key; did you mean link?"]),
        (
            "rate: 1\nwxyz: {}",
            ["wxyz: unknown key; known here: link, log, output, bundles, rate"],
        ),
        ("rate: 1\nlog: {jsn: true}", ["log.jsn: unknown key; did you mean json?"]),
        ("rate: 1\nlink: {mtu_bytes: 0}", ["link.mtu_bytes: 0 should be greater than 0"]),
        ("rate: 1\nlink: {mtu_bytes: yes}", ["link.mtu_bytes: true should be a valid integer"]),
        ("rate: 1\nlink:\n", ["link: should be a section with keys of its own, or be left out"]),
        ("rate: 1\nlink: 7", ["link: should be a section with keys of its own, or be left out"]),
        ("rate: 1\n1: x", ["1: unknown key; known here: link, log, output, bundles, rate"]),
        ("- rate", ["should hold sections, each a name and a colon"]),
        ("rate: 1\nrate: 2", ["line 2, column 1: key 'rate' stands here twice"]),
        ("log: {json: true,\n json: no}", ["line 2, column 2: key 'json' stands here twice"]),
        ("rate: [", ["line 1, column 8: expected the node content, but found '<stream end>'"]),
        ("rate: 2024-13-45", ["is not YAML: month must be in 1..12"]),
        ("rate: !!python/object:os.system {}", None),
        ("rate: &a [*a]", None),
        ("rate: " + "[" * 1200, None),
        ("2024-01-01: x", None),
        ("? [a]\n: b", None),
        ("\x00", None),
        ("rate: 1\nlink: {address: 'http://x'}", None),
        ("rate: 1\nlink: {address: 'tcp://host'}", None),
    ],
    ids=lambda value: ascii(value)[:40] if isinstance(value, str) else "",
)
def test_every_mistake_is_one_line(path: Path, text: str, expected: list[str] | None) -> None:
    """Key, value and remedy; and never a traceback (None: the words do not matter)."""
    path.write_text(text)
    found = problems(path)

    assert found == expected if expected else len(found) == 1


def test_nothing_unfolds(path: Path) -> None:
    """Nine lines of aliases would be 3 GB of settings; lists, sections and merged keys alike."""
    lines = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    path.write_text("\n".join(["a0: &a0 [x, x, x, x]", *lines, "rate: 1"]))
    assert problems(path) == ["line 2, column 10: an alias is not taken here; write it out"]

    path.write_text("log: &log {json: true}\nlink: {<<: [*log, *log]}\nrate: 1")
    assert problems(path) == ["line 2, column 13: an alias is not taken here; write it out"]
    path.write_text("rate: 1")
    said = "--set rate=[&a 1, *a]: the value is not YAML; quote it"
    assert problems(path, "rate=[&a 1, *a]") == [said]


def test_all_mistakes_are_told_at_once(path: Path) -> None:
    """One run of check-config shows everything there is to mend."""
    path.write_text("link: {mtu_bytes: -1, adress: x}\nlog: {level: loud}")

    assert [line.partition(":")[0] for line in problems(path)] == [
        *("link.mtu_bytes", "link.adress", "log.level", "rate"),
    ]


def test_a_file_that_is_not_there(path: Path) -> None:
    """The system's own words, and the path."""
    assert problems(path) == ["cannot be read: No such file or directory"]
    assert problems(path.parent) == ["cannot be read: Is a directory"]


def test_a_tile_named_by_mistake_is_not_read(path: Path) -> None:
    """A gigabyte is not parsed to find that it holds no settings."""
    path.write_bytes(b"#" * (MAX_FILE_BYTES + 1))

    assert problems(path) == [f"is longer than {MAX_FILE_BYTES} bytes: not a settings file"]


@given(st.binary(max_size=60))
def test_no_bytes_make_a_traceback(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    """Whatever a file holds, the answer is settings or a ConfigError."""
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError):
        load(path, Settings)


def test_overrides_win(path: Path) -> None:
    """The value is YAML and may hold `=`; sections need not be in the file."""
    path.write_text("rate: 1\nlink: {mtu_bytes: 512}\nlog:\n")
    settings = load(
        path,
        Settings,
        ["rate=2.5", "link.address=ipc:///tmp/a=b", "log.json=true", "log.level=debug"],
    )

    assert (settings.rate, settings.link.mtu_bytes) == (2.5, 512)
    assert settings.link.address == "ipc:///tmp/a=b"
    assert (settings.log.level, settings.log.as_json) == ("debug", True)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("rate", "--set rate: should be like section.key=value"),
        ("=1", "--set =1: should be like section.key=value"),
        ("link..x=1", "--set link..x=1: should be like section.key=value"),
        ("rate=[", "--set rate=[: the value is not YAML; quote it"),
        ("rate.x=1", "--set rate.x=1: rate is not a section"),
        ("link.mtu_byte=1", "link.mtu_byte: unknown key; did you mean mtu_bytes?"),
        ("link.mtu_bytes=few", 'link.mtu_bytes: "few" should be a valid integer'),
    ],
)
def test_a_wrong_override_is_one_line(path: Path, override: str, expected: str) -> None:
    """It is checked like the file, and told like it."""
    path.write_text("rate: 1\n")

    assert problems(path, override) == [expected]


def test_relative_paths(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the file they start at the file, wherever the daemon was started; in overrides, here."""
    here = path.parent.parent / "here"
    here.mkdir()
    for folder in (here, path.parent):
        (folder / "a.safetensors").touch()
    monkeypatch.chdir(here)
    keys = ("bundles", "output")

    path.write_text("rate: 1\noutput: out\nbundles: [a.safetensors]\n")
    settings = load(path, Settings, path_keys=keys)
    assert settings.output == path.parent / "out"
    assert settings.bundles == (path.parent / "a.safetensors",)

    settings = load(
        "../etc/flight.yaml", Settings, ["output=out", "bundles=[a.safetensors]"], path_keys=keys
    )
    assert settings.output == here / "out"
    assert settings.bundles == (here / "a.safetensors",)

    absolute = load(path, Settings, [f"output={here}"], path_keys=keys)
    assert absolute.output == here


def test_a_file_that_must_be_there(path: Path) -> None:
    """A bundle that is missing is told where it was looked for."""
    path.write_text("rate: 1\nbundles: [a.safetensors]\n")
    place = path.parent / "a.safetensors"

    assert problems(path) == [
        f'bundles.0: "a.safetensors" names no file; looked for {place}',
    ]
