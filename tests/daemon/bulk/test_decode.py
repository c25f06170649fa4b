"""Decoding in bulk: every source gives the same cubes, and whatever is wrong costs only itself."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from codec import prism_file
from codec.decoder import Decoder
from codec.errors import BundleError
from codec.tile import Tile
from codec.tile_files import read_tile
from daemon.bulk.catalog import Selection, utc_seconds
from daemon.bulk.decode import Report, Watchers, bundles_of, decode
from daemon.bulk.jobs import Output
from daemon.bulk.pools import Processes, ThisProcess
from daemon.errors import OutputError
from daemon.ground.products import QUALITY, STAC
from daemon.ground.write import MANIFEST
from fakes import recordings
from fakes.bundles import klt_bundle, minmax_bundle
from fakes.captures import packets_of
from fakes.recordings import frames


def wanted(number: int, step: float | None = None) -> Tile:
    """What the codec makes of a tile."""
    return Decoder(klt_bundle()).decode(frames(number, step))


class Run:
    """Decodes into one folder, with the bundle of all tests."""

    def __init__(self, output: Path, bundle: Path, file_format: str = "npy") -> None:
        self.output, self.format = output, file_format
        self.bundles = bundles_of([bundle])
        self.told = list[str]()

    def __call__(self, *paths: Path, **options: Any) -> Report:
        """Decode."""
        options.setdefault("pool", lambda _: ThisProcess(threads=1))
        return decode(
            paths, Output(folder=self.output, file_format=self.format),  # type: ignore[arg-type]
            bundles=options.pop("bundles", self.bundles),
            watchers=Watchers(tell=self.told.append), **options,
        )  # fmt: skip

    def cubes(self) -> dict[int, Tile]:
        """What is there, by the tile's number."""
        tiles = [read_tile(path) for path in self.output.glob("*.npy")]
        return {tile.info.sequence: tile for tile in tiles}

    def check(self, *numbers: int) -> None:
        """Exactly these tiles are there, whole, with an item each, and nothing half written."""
        cubes = self.cubes()
        assert sorted(cubes) == sorted(numbers)
        for number, cube in cubes.items():
            np.testing.assert_array_equal(cube.samples, wanted(number).samples, strict=True)
            assert cube.info == wanted(number).info
        items = [json.loads(path.read_bytes()) for path in self.output.glob("*.stac.json")]
        assert [item["properties"]["prismlink:complete"] for item in items] == [True] * len(numbers)
        assert [path.name for path in self.output.iterdir() if path.name.startswith(".")] == []


@pytest.fixture
def run(tmp_path: Path, bundle_file: Path) -> Run:
    """Into a folder of its own."""
    return Run(tmp_path / "cubes", bundle_file)


def test_every_kind_of_source_gives_the_same(run: Run, tmp_path: Path) -> None:
    """A frame file, an archive at work, a spool, and captures of both kinds, in one go."""
    kept = recordings.archive(tmp_path / "mission" / "archive", frames(1))
    recordings.frame_file(tmp_path / "mission" / "file.prism", 0)
    recordings.spool(tmp_path / "mission" / "spool", recordings.packets(2))
    (tmp_path / "mission" / "passes").mkdir()
    recordings.network_capture(tmp_path / "mission" / "passes" / "a.pcap", [*recordings.packets(3)])
    raw = recordings.raw_capture(tmp_path / "anything.dump", recordings.packets(4)[::-1])
    report = run(tmp_path / "mission", raw)
    kept.close()

    run.check(0, 1, 2, 3, 4)
    assert (report.sources, report.decoded, report.problems) == (5, 5, [])
    assert (report.patches, report.patches_missing) == (15, 0)


@pytest.mark.parametrize("file_format", ["geotiff", "envi", "zarr", "npy"])
def test_cubes_are_the_codec_s_in_every_format(
    tmp_path: Path, bundle_file: Path, file_format: str
) -> None:
    """Tile by tile, sample for sample, with everything known about it."""
    report = Run(tmp_path / "cubes", bundle_file, file_format)(
        recordings.frame_file(tmp_path / "both.prism", 0, 1)
    )

    for number, path in enumerate(report.files):
        np.testing.assert_array_equal(read_tile(Path(path)).samples, wanted(number).samples)
        assert read_tile(Path(path)).info == wanted(number).info


def test_cubes_are_products(run: Run, tmp_path: Path) -> None:
    """As the ground writes them: with the step of every patch, and the boot, if there was one."""
    kept = recordings.archive(tmp_path / "archive", frames(0)[:-1])
    kept.close()
    files = [
        *run(recordings.frame_file(tmp_path / "x.prism", 1)).files,
        *run(tmp_path / "archive").files,
    ]
    for file, boots, steps in zip(files, ([], [7]), ([32.0] * 3, [32.0, 32.0, None]), strict=True):
        item = json.loads(Path(file).with_suffix(STAC).read_text())["properties"]
        quality = json.loads(Path(file).with_suffix(QUALITY).read_text())
        assert (item["prismlink:complete"], item["prismlink:boot_ids"]) == (not boots, boots)
        assert [patch["step"] for patch in quality["patches"]] == steps
        assert Path(file).with_suffix(MANIFEST).exists() == bool(boots)


def test_captures_complete_each_other(run: Run, tmp_path: Path) -> None:
    """What one station lost another has, packet by packet; repair packets serve all."""
    sent = recordings.packets(0, 1)
    one = recordings.raw_capture(tmp_path / "one.bin", sent[::2])
    other = recordings.network_capture(tmp_path / "other.pcap", sent[1::2])

    assert run(one).selected == 0
    report = run(one, other)
    run.check(0, 1)
    assert report.frames_incomplete == 0


def test_repair_packets_are_used(run: Run, tmp_path: Path) -> None:
    """As on the live link."""
    sent = recordings.packets(0, repair=1)
    report = run(recordings.raw_capture(tmp_path / "x.bin", [*sent[:3], *sent[4:]]))

    run.check(0)
    assert report.problems == []


def test_holes_are_written_and_filled_later(run: Run, tmp_path: Path) -> None:
    """A tile that lacks a patch is written so; with more at hand it is written anew."""
    kept = recordings.archive(tmp_path / "archive", frames(0)[:-1])
    first = run(tmp_path / "archive")
    holes = run.cubes()[0]

    assert (first.decoded, first.incomplete, first.patches_missing) == (1, 1, 1)
    assert first.problems == []
    np.testing.assert_array_equal(holes.samples[:, :256], wanted(0).samples[:, :256])
    recordings.add(kept, frames(0)[-1:], first=99)
    kept.close()
    second = run(tmp_path / "archive")

    assert (second.decoded, second.kept, second.patches_missing) == (1, 0, 0)
    assert (run.cubes()[0].samples == wanted(0).samples).all()


def test_a_tile_sent_anew_is_the_newer_one(run: Run, tmp_path: Path) -> None:
    """By the same boot or by another: nothing of the older is mixed in."""
    kept = recordings.archive(tmp_path / "archive", frames(0), frames(0, 200.0)[:-1])
    recordings.add(kept, frames(1), boot_id=7, first=50)
    recordings.add(kept, frames(1, 300.0), boot_id=3)
    kept.close()
    report = run(tmp_path / "archive")

    assert (report.decoded, report.superseded, report.incomplete) == (2, 2, 1)
    rows = slice(0, 256)
    np.testing.assert_array_equal(
        run.cubes()[0].samples[:, rows], wanted(0, 200.0).samples[:, rows]
    )
    np.testing.assert_array_equal(run.cubes()[1].samples, wanted(1, 300.0).samples)


@pytest.mark.parametrize(
    ("selection", "numbers"),
    [
        (Selection(scene="scene-[12]"), (1, 2)),
        (Selection(since_s=utc_seconds("2026-05-03")), (2, 3)),
        (Selection(until_s=utc_seconds("2026-05-03T00:00:00Z")), (0, 1)),
        (Selection(since_s=1_777_593_600.0, until_s=1_777_593_601.0), (0,)),
        (Selection(model=klt_bundle().name[:5].upper()), (0, 1, 2, 3)),
        (Selection(model="ffff"), ()),
    ],
)
def test_a_selection_is_all_that_is_decoded(
    run: Run, tmp_path: Path, selection: Selection, numbers: Sequence[int]
) -> None:
    """By scene, by time (from then on; before then), by model."""
    source = recordings.frame_file(tmp_path / "all.prism", 0, 1, 2, 3)
    report = run(source, selection=selection)

    run.check(*numbers)
    assert (report.tiles, report.selected) == (4, len(numbers))


def test_a_bad_source_costs_a_line(run: Run, tmp_path: Path) -> None:
    """Whatever is wrong with it: one line that names it, and the others are decoded."""
    good = recordings.frame_file(tmp_path / "good.prism", 0)
    cut = recordings.frame_file(tmp_path / "cut.prism", 1)
    cut.write_bytes(cut.read_bytes()[:-1])
    noise = tmp_path / "noise.bin"
    noise.write_bytes(b"noise" * 100)
    empty = tmp_path / "empty.raw"
    empty.write_bytes(b"")
    other = tmp_path / "other.prism"
    other.write_bytes(b"PRISM\xff")
    report = run(cut, noise, good, empty, tmp_path / "absent", other)

    assert sorted(run.cubes()) == [0, 1]
    lines = [line.partition(":")[0] for line in run.told]
    assert lines == [str(path) for path in (tmp_path / "absent", cut, noise, empty, other, cut)]
    assert report.problems == run.told
    assert "needed" in report.problems[1]
    assert "1 of its 3 patches are missing" in report.problems[-1]


def test_a_damaged_patch_costs_itself(run: Run, tmp_path: Path) -> None:
    """Of a frame file: a line says so; the other patches are written."""
    first, *others = frames(0)
    broken = bytearray(others[1])
    broken[-1] ^= 1
    path = tmp_path / "x.prism"
    path.write_bytes(prism_file.pack([first, others[0], bytes(broken), others[2], *frames(1)]))
    report = run(path)

    assert (report.decoded, report.incomplete, report.patches) == (2, 1, 5)
    assert "CRC32C" in report.problems[0]
    assert (run.cubes()[1].samples == wanted(1).samples).all()


def test_a_tile_larger_than_memory_costs_itself(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame tells how large its tile is, and may lie: nothing is allocated for it."""
    monkeypatch.setattr("daemon.bulk.work._MEMORY_SHARE", 1 << 50)
    report = run(recordings.frame_file(tmp_path / "x.prism", 0))

    assert (report.decoded, report.failed) == (0, 1)
    assert "bytes; 0 are allowed" in report.problems[0]


def test_order_in_a_frame_file_does_not_matter(run: Run, tmp_path: Path) -> None:
    """The format asks for none."""
    path = tmp_path / "x.prism"
    path.write_bytes(prism_file.pack([*frames(1), *frames(0)][::-1]))

    assert run(path).problems == []
    run.check(0, 1)


def test_an_unknown_model_is_named_and_counted(run: Run, tmp_path: Path) -> None:
    """With what is at hand and what to do; tiles of other models are decoded."""
    paths = [recordings.frame_file(tmp_path / f"{n}.prism", n) for n in (0, 1)]
    stranger = minmax_bundle(bands=3)
    path = tmp_path / "stranger.safetensors"
    path.write_bytes(stranger.to_bytes())
    report = run(*paths, bundles=bundles_of([path]))

    assert report.unknown == {klt_bundle().name: 2}
    assert (report.decoded, run.cubes()) == (0, {})
    (line,) = run.told
    for word in (str(paths[0]), "2 tiles", klt_bundle().name, stranger.name, "--models DIR"):
        assert word in line


def test_bundles_come_from_files_and_a_folder(tmp_path: Path, bundle_file: Path) -> None:
    """In a folder flight bundles and broken ones are passed over; a file must be one."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(minmax_bundle(bands=3).to_bytes())
    (folder / "b.safetensors").write_bytes(klt_bundle().for_flight().to_bytes())
    (folder / "c.safetensors").write_bytes(b"?")

    assert bundles_of([bundle_file], folder) == {
        klt_bundle().model: bundle_file, minmax_bundle(bands=3).model: folder / "a.safetensors",
    }  # fmt: skip
    for wrong in ([folder / "b.safetensors"], [folder / "c.safetensors"], [folder / "d"]):
        with pytest.raises(BundleError):
            bundles_of(wrong)
    with pytest.raises(BundleError, match="no bundle that decodes"):
        bundles_of([], tmp_path / "absent")


def test_what_is_there_is_kept(run: Run, tmp_path: Path) -> None:
    """The same frames again are not decoded; what is gone, or asked for again, is."""
    source = recordings.frame_file(tmp_path / "all.prism", 0, 1)
    run(source)
    files = {path: path.stat().st_ino for path in run.output.glob("*.npy")}
    kept = run(source)

    assert (kept.decoded, kept.kept, kept.patches) == (0, 2, 6)
    assert {path: path.stat().st_ino for path in run.output.glob("*.npy")} == files
    next(iter(files)).unlink()
    assert (run(source).decoded, run(source, again=True).decoded) == (1, 2)
    run.check(0, 1)


@pytest.mark.parametrize("name", ["cubes", "cubes.zarr"])
@pytest.mark.parametrize("old", [False, True])
def test_a_product_never_gets_poorer(
    tmp_path: Path, bundle_file: Path, name: str, *, old: bool
) -> None:
    """What has other patches than one that is there is kept out, with a remedy; this helps."""
    run = Run(tmp_path / name, bundle_file, "zarr" if name.endswith("zarr") else "npy")
    side, first, *rest = packets_of(frames(0), mtu_bytes=1 << 15)
    one, other = (
        recordings.raw_capture(tmp_path / f"{at}.bin", [side, *part])
        for at, part in enumerate(([first], rest))
    )
    run(one)
    journal = next(path for path in tmp_path.rglob("*.jsonl"))
    if old:  # of a build that did not note the side information
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        journal.write_text(
            "".join(json.dumps({k: v for k, v in t.items() if k != "side"}) + "\n" for t in lines)
        )
    report = run(other)

    (line,) = report.problems
    for word in (
        str(other),
        "2 other patches",
        "lacks 1 of those in scene-0",
        "all sources in one",
    ):
        assert word in line
    assert (report.decoded, report.kept, report.patches, report.patches_missing) == (0, 1, 1, 2)
    together = run(one, other)
    assert (together.decoded, together.patches_missing, together.problems) == (1, 0, [])
    assert (run(one).kept, run(other).kept, run.told) == (1, 1, [line])
    assert (read_tile(Path(together.files[0])).samples == wanted(0).samples).all()
    assert run(one, again=True).patches_missing == 2


def test_a_damaged_file_leaves_a_whole_product(run: Run, tmp_path: Path) -> None:
    """Found in a later run: the damage is told, the product is as it was."""
    run(recordings.frame_file(tmp_path / "x.prism", 0))
    items = [path.read_bytes() for path in run.output.glob("*.stac.json")]
    report = run(damaged(tmp_path / "y.prism", -1))

    assert (report.decoded, report.kept, len(report.problems)) == (0, 1, 1)
    assert [path.read_bytes() for path in run.output.glob("*.stac.json")] == items
    run.check(0)


def test_a_tile_sent_anew_replaces_unless_it_lacks_patches(run: Run, tmp_path: Path) -> None:
    """Of other side information, too; and then a line says what would."""
    paths = [tmp_path / "poorer.bin", tmp_path / "whole.bin"]
    run(recordings.frame_file(tmp_path / "x.prism", 0))
    for path, end in zip(paths, (-1, None), strict=True):
        recordings.raw_capture(path, packets_of(frames(0, 200.0)[:end]))
    poorer = run(paths[0])
    assert (poorer.kept, len(poorer.problems)) == (1, 1)
    assert "was sent anew, but lacks 1 of those" in poorer.problems[0]
    run.check(0)

    assert (run(paths[1]).decoded, len(run.told)) == (1, 1)
    np.testing.assert_array_equal(run.cubes()[0].samples, wanted(0, 200.0).samples)


def damaged(path: Path, *at: int) -> Path:
    """A frame file of a tile of which some frames are damaged."""
    found = list(frames(0))
    for index in at:
        found[index] = found[index][:-1] + bytes([found[index][-1] ^ 1])
    path.write_bytes(prism_file.pack(found))
    return path


@pytest.mark.parametrize("names", ["ab", "ba"])
@pytest.mark.parametrize("at", [(0,), (1,), (-1,), (0, 2), (1, 2, 3)])
def test_a_damaged_copy_hides_nothing(
    run: Run, tmp_path: Path, names: str, at: tuple[int, ...]
) -> None:
    """Whichever of two frame files is read first."""
    sources = tmp_path / "sources"
    sources.mkdir()
    recordings.frame_file(sources / f"{names[0]}.prism", 0)
    damaged(sources / f"{names[1]}.prism", *at)

    assert run(sources).superseded == 0
    run.check(0)


def test_damaged_copies_complete_each_other(run: Run, tmp_path: Path) -> None:
    """Patches of the same side information are of one tile."""
    run(damaged(tmp_path / "a.prism", 1, 2), damaged(tmp_path / "b.prism", 3))

    run.check(0)


@pytest.mark.parametrize("order", [1, -1])
def test_of_unlike_frame_files_the_richer_counts(run: Run, tmp_path: Path, order: int) -> None:
    """The order of their names means nothing."""
    poorer = tmp_path / "poorer.prism"
    poorer.write_bytes(prism_file.pack(frames(0, 200.0)[:-1]))
    paths = [recordings.frame_file(tmp_path / "whole.prism", 0), poorer][::order]

    assert run(*paths).superseded == 1
    run.check(0)


def test_boots_that_sent_the_same_complete_each_other(run: Run, tmp_path: Path) -> None:
    """And a frame file both; the product names the frames of boots, and those boots."""
    side, *patches = frames(0)
    kept = recordings.archive(tmp_path / "archive", [side, patches[0]])
    recordings.add(kept, [side, patches[2]], boot_id=3)
    kept.close()
    report = run(tmp_path / "archive")
    assert (report.patches, report.superseded) == (2, 0)
    again = run(damaged(tmp_path / "x.prism", 1), tmp_path / "archive")

    run.check(0)
    path = Path(again.files[0])
    told = json.loads(path.with_suffix(MANIFEST).read_text())
    assert sorted(map(tuple, told["frames"])) == [(3, 0), (3, 1), (7, 1)]
    assert told["frame_bytes"] == sum(map(len, frames(0)))
    item = json.loads(path.with_suffix(STAC).read_text())["properties"]
    assert item["prismlink:boot_ids"] == [3, 7]


def test_a_tile_of_which_nothing_came_anew_hides_nothing(run: Run, tmp_path: Path) -> None:
    """Side information alone is nothing newer."""
    kept = recordings.archive(tmp_path / "archive", frames(0), frames(0, 200.0)[:1])
    kept.close()
    run(tmp_path / "archive")

    run.check(0)


def test_another_source_of_the_same_frames_is_the_same(run: Run, tmp_path: Path) -> None:
    """Frames tell what a product is of, not where they came from."""
    run(recordings.frame_file(tmp_path / "x.prism", 0))
    report = run(recordings.raw_capture(tmp_path / "x.bin", recordings.packets(0)))

    assert (report.decoded, report.kept) == (0, 1)


def test_a_run_that_was_killed_goes_on(run: Run, tmp_path: Path) -> None:
    """Half a line and half a product are as nothing; what is whole is kept."""
    source = recordings.frame_file(tmp_path / "all.prism", 0, 1, 2)
    run(recordings.frame_file(tmp_path / "first.prism", 0))
    half = run.output / ".partial-abcdefgh"
    half.mkdir()
    (half / "x.npy").write_bytes(b"half")
    journal = run.output / "decoded.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"file": "x')
    report = run(source)

    assert (report.decoded, report.kept) == (2, 1)
    run.check(0, 1, 2)
    assert run(source).kept == 3


def test_a_product_that_was_being_replaced_is_made_again(run: Run, tmp_path: Path) -> None:
    """A run that is killed just then leaves no item, and the next one gives it back."""
    source = recordings.frame_file(tmp_path / "all.prism", 0, 1)
    run(source)
    next(run.output.glob(f"*{STAC}")).unlink()
    report = run(source)

    assert (report.decoded, report.kept) == (1, 1)
    run.check(0, 1)


def test_a_name_has_one_product_whatever_its_format(tmp_path: Path, bundle_file: Path) -> None:
    """Of other frames in another format it takes the first one's place, and back again."""
    coarse = tmp_path / "coarse.prism"
    coarse.write_bytes(prism_file.pack(frames(0, 200.0)))
    one = Run(tmp_path / "cubes", bundle_file, "zarr")
    other = Run(tmp_path / "cubes", bundle_file, "geotiff")
    sources = recordings.frame_file(tmp_path / "fine.prism", 0), coarse
    for run, source, step in [
        (one, sources[0], None), (other, coarse, 200.0), (one, sources[0], None)
    ]:  # fmt: skip
        report = run(source)
        (file,) = (path for path in run.output.iterdir() if path.suffix in (".zarr", ".tif"))
        item = json.loads(file.with_suffix(STAC).read_text())

        assert (report.decoded, report.files) == (1, [str(file)])
        assert item["assets"]["data"]["href"] == f"./{file.name}"
        np.testing.assert_array_equal(read_tile(file).samples, wanted(0, step).samples)
        assert run(source).kept == 1


def test_what_another_product_s_item_lists_is_not_there(run: Run, tmp_path: Path) -> None:
    """A folder in which an earlier build left one name in two formats: each is made again."""
    source = recordings.frame_file(tmp_path / "x.prism", 0)
    run(source)
    (file,) = run.output.glob("*.npy")
    before = [(path, path.read_bytes()) for path in (file, file.with_suffix(".json"))]
    Run(run.output, run.bundles[klt_bundle().model], "geotiff")(source)
    for path, raw in before:
        path.write_bytes(raw)

    assert run(source).decoded == 1
    assert not list(run.output.glob("*.tif"))
    run.check(0)


def test_a_product_that_was_cut_off_is_told(run: Run, tmp_path: Path) -> None:
    """Frames that lack some of its patches do not replace it, but it is not called whole."""
    run(recordings.frame_file(tmp_path / "x.prism", 0))
    (file,) = run.output.glob("*.npy")
    os.truncate(file, file.stat().st_size // 2)
    poorer = recordings.raw_capture(tmp_path / "x.bin", packets_of(frames(0)[:-1]))
    report = run(poorer)

    (line,) = report.problems
    assert "is not as its item says, but lacks 1 of those in scene-0" in line
    assert (report.kept, report.decoded) == (1, 0)


def test_a_product_never_gets_poorer_in_another_format(tmp_path: Path, bundle_file: Path) -> None:
    """It is kept as it is, and a line says so, with what replaces it."""
    run = Run(tmp_path / "cubes", bundle_file, "npy")
    run(recordings.frame_file(tmp_path / "x.prism", 0))
    poorer = recordings.raw_capture(tmp_path / "x.bin", packets_of(frames(0)[:-1]))
    other = Run(tmp_path / "cubes", bundle_file, "geotiff")
    report = other(poorer)

    (line,) = report.problems
    assert "is wanted as geotiff, but lacks 1 of those in scene-0" in line
    assert ".npy, which is kept; remedy: --again" in line
    assert report.kept == 1
    run.check(0)
    assert other(poorer, again=True).decoded == 1
    assert run.cubes() == {}


def test_two_runs_do_not_share_a_folder(run: Run, tmp_path: Path) -> None:
    """The second is told so, before it removes what the first has begun."""
    source = recordings.frame_file(tmp_path / "x.prism", 0)

    class Nested(ThisProcess):
        """Begins a second run inside the first."""

        def results(self, jobs: Any) -> Any:
            (run.output / ".partial-abcdefgh").mkdir()
            with pytest.raises(OutputError, match="another process writes into it"):
                run(source)
            assert (run.output / ".partial-abcdefgh").exists()
            return super().results(jobs)

    assert run(source, pool=lambda _: Nested(threads=1)).decoded == 1
    run.check(0)


def test_an_output_that_cannot_be_written_ends_the_run(run: Run, tmp_path: Path) -> None:
    """The next tile would fail as well."""
    run.output.mkdir()
    source = recordings.frame_file(tmp_path / "x.prism", 0)
    for path in list(run.output.iterdir()):
        path.unlink()
    run.format = "nonsense"
    with pytest.raises(OutputError, match="nonsense"):
        run(source)


def test_all_tiles_go_into_one_store(tmp_path: Path, bundle_file: Path) -> None:
    """A group a tile, listed at the root, that xarray and zarr open without a warning."""
    store = tmp_path / "mission.zarr"
    run = Run(store, bundle_file, "zarr")
    source = recordings.frame_file(tmp_path / "x.prism", 0, 1)
    report = run(source)

    assert (report.decoded, run(source).kept) == (2, 2)
    groups = dict(zarr.open_group(store, mode="r").groups())
    assert len(groups) == 2
    for name, group in groups.items():
        number = int(str(name).split("_")[-2])
        np.testing.assert_array_equal(np.asarray(group["samples"]), wanted(number).samples)
        assert read_tile(store / str(name)).info == wanted(number).info
    with xr.open_datatree(store, engine="zarr", mask_and_scale=False) as tree:
        assert set(tree.children) == set(groups)


def test_an_archive_is_read_while_it_is_written(run: Run, tmp_path: Path) -> None:
    """Nothing of it changes, and a record half written at the end is the next reader's."""
    kept = recordings.archive(tmp_path / "archive", frames(0))
    *_, last = sorted((tmp_path / "archive").glob("*.log"))
    whole = {path: path.read_bytes() for path in (tmp_path / "archive").iterdir()}
    with last.open("ab") as file:
        file.write(whole[last][: len(whole[last]) // 2][:40])
    half = {path: path.read_bytes() for path in (tmp_path / "archive").iterdir()}
    report = run(tmp_path / "archive")

    assert (report.decoded, report.problems) == (1, [])
    assert {path: path.read_bytes() for path in (tmp_path / "archive").iterdir()} == half
    with last.open("r+b") as file:
        file.truncate(len(whole[last]))
    recordings.add(kept, frames(1), first=50)
    kept.close()
    assert run(tmp_path / "archive").decoded == 1
    run.check(0, 1)


def test_damage_inside_an_archive_is_told(run: Run, tmp_path: Path) -> None:
    """Frames behind it are read."""
    recordings.archive(tmp_path / "archive", frames(0)).close()
    first = min((tmp_path / "archive").glob("*.log"))
    raw = bytearray(first.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    first.write_bytes(bytes(raw))
    report = run(tmp_path / "archive")

    assert (report.decoded, report.incomplete) == (1, 1)
    assert "in the middle are damaged" in report.problems[0]


def test_a_frame_that_goes_meanwhile_is_told(run: Run, tmp_path: Path) -> None:
    """An archive makes room while it is read: then what is left is decoded."""
    kept = recordings.archive(tmp_path / "archive", frames(0), frames(1))
    kept.close()
    files = sorted((tmp_path / "archive").glob("*.log"))

    class Late(ThisProcess):
        """The oldest file is removed once all frames were found."""

        def results(self, jobs: Any) -> Any:
            files[0].unlink()
            return super().results(jobs)

    report = run(tmp_path / "archive", pool=lambda _: Late(threads=1))

    assert len(files) > 1
    assert "no longer there" in report.problems[0]
    assert report.decoded + report.failed + report.empty == report.selected


def test_processes_make_the_same_files(run: Run, tmp_path: Path, bundle_file: Path) -> None:
    """Every byte of every cube, in two processes as in one."""
    source = recordings.frame_file(tmp_path / "x.prism", *range(6))
    run(source)
    other = Run(tmp_path / "other", bundle_file)
    report = other(source, pool=lambda _: Processes(2))

    assert report.decoded == 6
    for path in run.output.glob("*.npy"):
        assert (other.output / path.name).read_bytes() == path.read_bytes()
    assert sorted(os.listdir(run.output)) == sorted(os.listdir(other.output))
