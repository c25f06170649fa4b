"""Sources are known by what is in them; what is hidden or of no kind is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from codec.errors import TileFileError
from daemon.bulk.sources import Source, find_sources, log_files
from fakes import recordings
from fakes.recordings import frames, packets


def test_a_folder_is_searched_to_the_bottom(tmp_path: Path) -> None:
    """Archives and spools are taken whole; other files by their suffix, in order of names."""
    recordings.archive(tmp_path / "a" / "frames", frames(0)).close()
    recordings.spool(tmp_path / "b" / "board", packets(0))
    recordings.frame_file(tmp_path / "c.PRISM", 0)
    for name in ("b/x.bin", "b/y.pcapng", "b/notes.txt", ".hidden.bin"):
        (tmp_path / name).write_bytes(b"?")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "z.bin").write_bytes(b"?")

    assert find_sources(tmp_path) == [
        Source(kind="frame file", path=tmp_path / "c.PRISM"),
        Source(kind="archive", path=tmp_path / "a" / "frames"),
        Source(kind="capture", path=tmp_path / "b" / "x.bin"),
        Source(kind="capture", path=tmp_path / "b" / "y.pcapng"),
        Source(kind="spool", path=tmp_path / "b" / "board"),
    ]


def test_a_file_called_lock_hides_nothing(tmp_path: Path) -> None:
    """Only a folder that holds nothing else is an archive without frames."""
    (tmp_path / "lock").touch()
    assert [source.kind for source in find_sources(tmp_path)] == ["archive"]
    (tmp_path / "a.prism").write_bytes(b"")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.pcap").write_bytes(b"")
    assert [source.kind for source in find_sources(tmp_path)] == ["frame file", "capture"]


def test_a_file_that_is_named_needs_no_suffix(tmp_path: Path) -> None:
    """Its first bytes tell a frame file; anything else may hold packets."""
    path = recordings.frame_file(tmp_path / "x", 0)
    assert find_sources(path) == [Source(kind="frame file", path=path)]
    (tmp_path / "y").write_bytes(b"?")
    assert find_sources(tmp_path / "y") == [Source(kind="capture", path=tmp_path / "y")]


def test_one_lane_of_a_spool_is_a_spool(tmp_path: Path) -> None:
    """Not an archive, whose files have the same names."""
    lane = recordings.spool(tmp_path, packets(0)) / "patch"
    (source,) = find_sources(lane)

    assert source.kind == "spool"
    assert log_files(source) == sorted(lane.glob("*.log"))


def test_nothing_to_read_is_told(tmp_path: Path) -> None:
    """An empty folder, or none at all, with what may be named."""
    with pytest.raises(TileFileError, match="neither frames nor packets there; remedy"):
        find_sources(tmp_path)
    with pytest.raises(TileFileError, match="cannot be read: No such file"):
        find_sources(tmp_path / "absent")
