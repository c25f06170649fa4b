"""Sources in, products out: found, selected, decoded where there is room, and accounted for.

Whatever is wrong with a source, a model or a frame costs one line, is counted, and leaves the rest
as it is.
"""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from codec.bundle_file import has_synthesis, read, unpack
from codec.errors import BundleError, CodecError
from codec.tile_writers import WRITERS
from daemon.bulk.catalog import Catalog, FoundTile, Selection
from daemon.bulk.frames import CRC_BYTES, FrameReader
from daemon.bulk.jobs import DecodedTile, DecodeJob, Output
from daemon.bulk.journal import Journal
from daemon.bulk.pools import Pool, ThisProcess
from daemon.bulk.scenes import scenes_in
from daemon.bulk.sources import Source, find_sources
from daemon.errors import OutputError
from daemon.ground.write import file_stem, make_clean

_BUNDLES: Final = "*.safetensors"


@dataclass(slots=True, kw_only=True)
class Report:
    """What became of all tiles: selected = decoded + kept + empty + unknown + failed.

    Attributes:
        sources: Files and folders that hold frames.
        tiles: Tiles found, each in its newest version.
        selected: Those that are wanted.
        decoded: Those written now.
        kept: Those that were there already, of the same frames or with more patches.
        empty: Those of which no patch could be decoded.
        failed: Those of which something was wrong, and nothing is written.
        unknown: Those of no model at hand, by its name.
        incomplete: Tiles among those decoded and kept that lack patches.
        patches: Patches in those decoded and kept.
        patches_missing: Patches they lack.
        superseded: Other versions of tiles, passed over.
        without_side: Tiles passed over for want of side information.
        frames_incomplete: Frames of which packets are lacking.
        problems: One line for each thing that was wrong.
        files: Products of tiles, those kept included.
        scenes: Products of scenes, likewise.
    """

    sources: int = 0
    tiles: int = 0
    selected: int = 0
    decoded: int = 0
    kept: int = 0
    empty: int = 0
    failed: int = 0
    unknown: dict[str, int] = field(default_factory=dict)
    incomplete: int = 0
    patches: int = 0
    patches_missing: int = 0
    superseded: int = 0
    without_side: int = 0
    frames_incomplete: int = 0
    problems: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    scenes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    def count(self, file: str, patches: int, missing: int) -> None:
        """A product is there."""
        self.files.append(file)
        self.patches += patches
        self.patches_missing += missing
        self.incomplete += missing > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchers:
    """Who is told how it goes; none may raise.

    Attributes:
        on_total: Told how many tiles there are to be decoded.
        on_tile: Called as each ends.
        on_file: Told each product as it is written, or found there.
        tell: Told every problem.
    """

    on_total: Callable[[int], object] = lambda _: None
    on_tile: Callable[[], object] = lambda: None
    on_file: Callable[[Path], object] = lambda _: None
    tell: Callable[[str], object] = lambda _: None


def bundles_of(files: Sequence[Path], folder: Path | None = None) -> dict[bytes, Path]:
    """Find bundles that decode, by their model's name in frames.

    Args:
        files: Each must be one.
        folder: Those in it that are; flight bundles and what is broken are passed over.

    Raises:
        BundleError: If a file is no such bundle, or the folder holds none.
    """
    found = dict[bytes, Path]()
    for path in files:
        model, decodes = read(path, _named)
        if not decodes:
            raise BundleError(f"{path}: is a flight bundle and cannot decode; use the full bundle")
        found[model] = path.absolute()
    if folder is not None:
        before = len(found)
        for path in sorted(folder.glob(_BUNDLES)):
            try:
                model, decodes = read(path, _named)
            except BundleError:
                continue
            if decodes:
                found.setdefault(model, path.absolute())
        if len(found) == before and not files:
            raise BundleError(f"{folder}: no bundle that decodes ({_BUNDLES}) is in it")
    return found


def _named(raw: bytes) -> tuple[bytes, bool]:
    """The model of a bundle's file, and whether it decodes."""
    file = unpack(raw)
    return file.model(), has_synthesis(file.tensors)


def decode(
    paths: Sequence[Path],
    output: Output,
    *,
    bundles: dict[bytes, Path],
    selection: Selection | None = None,
    unseal: Callable[[bytes], bytes] | None = None,
    pool: Callable[[int], Pool] = lambda _: ThisProcess(),
    again: bool = False,
    scenes: bool = True,
    watchers: Watchers | None = None,
) -> Report:
    """Decode every tile that is wanted and not there yet.

    Args:
        paths: Frame files, archives, spools, captures, and folders of these.
        output: Where products go.
        bundles: Files of bundles, by their model's name in frames.
        selection: Which tiles are wanted; None: all.
        unseal: Opens sealed packets; None: they are passed over.
        pool: Makes what runs jobs, told how many there are.
        again: Whether to decode also what is there, and to put its scenes together anew.
        scenes: Whether to put tiles of a scene together, too.
        watchers: Who is told.

    Raises:
        OutputError: If products cannot be written.
        AddressError: If the scheduler of a cluster is lost on the way.
    """
    told = watchers or Watchers()
    report = Report()

    def tell(problem: str) -> None:
        report.problems.append(problem)
        told.tell(problem)

    with ExitStack() as stack:
        journal = stack.enter_context(Journal(output))
        reader = stack.enter_context(FrameReader(tell, unseal=unseal, scratch=output.folder))
        catalog = read_all(paths, reader, tell, report)
        tiles = [tile for tile in catalog.tiles() if _counted(tile, selection, report)]
        report.superseded, report.without_side = catalog.superseded, catalog.without_side
        report.frames_incomplete = reader.frames_incomplete
        todo = list[tuple[FoundTile, str]]()
        for tile in _of_known_models(tiles, bundles, report, tell):
            mark = _mark(tile, output)
            there = None if again else journal.finds(mark) or _kept(tile, output, journal, tell)
            if there is None:
                todo.append((tile, mark))
                continue
            report.kept += 1
            file = output.folder / str(there["file"])
            report.count(str(file), there["patches"], len(there["patches_missing"]))
            told.on_file(file)
        told.on_total(len(todo))
        runs = pool(len(todo))
        jobs = _jobs(todo, output, bundles, threads=runs.threads, tell=tell, report=report)
        for job, made in runs.results(jobs):
            told.on_tile()
            if made.output_error is not None:
                raise OutputError(output.folder / job.name, made.output_error)
            _account(job, made, report, tell)
            if made.file is not None:
                journal.add(job.mark, made, side=job.frames[0][-1][-CRC_BYTES:].hex())
                report.count(str(output.folder / made.file), made.patches, len(made.missing))
                told.on_file(output.folder / made.file)
        anew = {Path(file).stem for file in report.files} if again else set[str]()
        for file in scenes_in(output, journal, tell, anew) if scenes and report.files else ():
            report.scenes.append(str(file))
            told.on_file(file)
        if output.is_store and report.files:
            _describe_store(output.folder)
    return report


def read_all(
    paths: Sequence[Path],
    reader: FrameReader,
    tell: Callable[[str], object],
    report: Report | None = None,
) -> Catalog:
    """Read every source into one catalog; what is wrong with one costs a line."""
    catalog, sources = Catalog(), list[Source]()
    for path in paths:
        try:
            sources += find_sources(path)
        except CodecError as error:
            tell(str(error))
    for source in sources:
        catalog.add(reader.frames(source), source)
    if report is not None:
        report.sources = len(sources)
    return catalog


def _counted(tile: FoundTile, selection: Selection | None, report: Report) -> bool:
    wanted = selection is None or selection.takes(tile.side)
    report.tiles += 1
    report.selected += wanted
    return wanted


def _of_known_models(
    tiles: Sequence[FoundTile],
    bundles: dict[bytes, Path],
    report: Report,
    tell: Callable[[str], object],
) -> Iterator[FoundTile]:
    unknown = Counter(tile.side.model for tile in tiles if tile.side.model not in bundles)
    for model, count in unknown.items():
        report.unknown[model.hex()] = count
        first = next(tile.source.path for tile in tiles if tile.side.model == model)
        known = ", ".join(sorted(name.hex() for name in bundles)) or "none"
        tell(
            f"{first}: {count} tiles are of model {model.hex()}, at hand: {known}; remedy: "
            "--bundle FILE or --models DIR"
        )
    return (tile for tile in tiles if tile.side.model in bundles)


def _jobs(
    todo: Sequence[tuple[FoundTile, str]],
    output: Output,
    bundles: dict[bytes, Path],
    *,
    threads: int,
    tell: Callable[[str], object],
    report: Report,
) -> Iterator[DecodeJob]:
    """Make jobs as they are asked for: only then are frames read."""
    # Workers have working directories of their own.
    output = replace(output, folder=output.folder.absolute())
    for tile, mark in todo:
        frames, lost = list[tuple[int, int, bytes]](), 0
        for frame in tile.frames:
            try:
                frames.append((frame.boot_id, frame.frame_id, frame.place.read()))
            except OSError:  # an archive makes room while it is read
                lost += 1
                if frame.side is not None:
                    break
        name = f"{tile.source.path}: {tile.side.info.scene or 'tile'} {tile.side.tile_id.hex()}"
        if lost:
            tell(f"{name}: {lost} of its frames are no longer there")
        if not frames or tile.frames[0].side is None:
            report.failed += 1
            continue
        if tile.source.kind == "frame file" and tile.lacking:
            tell(f"{name}: {tile.lacking} of its {len(tile.side.grid)} patches are missing")
        yield DecodeJob(
            name=name,
            frames=tuple(frames),
            bundle=bundles[tile.side.model],
            model=tile.side.model,
            output=output,
            threads=threads,
            mark=mark,
        )


def _account(
    job: DecodeJob, made: DecodedTile, report: Report, tell: Callable[[str], object]
) -> None:
    if made.problems:
        many = f"{len(made.problems)} problems, the first: " if len(made.problems) > 1 else ""
        tell(f"{job.name}: {many}{made.problems[0]}")
    if made.file is not None:
        report.decoded += 1
    elif made.problems:
        report.failed += 1
    else:
        report.empty += 1


def _kept(
    tile: FoundTile, output: Output, journal: Journal, tell: Callable[[str], object]
) -> Mapping[str, Any] | None:
    """What is told of a tile's product that is there, if it has patches that are not at hand.

    If of those at hand some are not in it, or they are of other side information, or it is in
    another format or not whole, a line says so.
    """
    there = journal.of_name(file_stem(tile.side.info))
    if there is None:
        return None
    file = Path(str(there["file"]))
    grid = tile.side.grid
    rows, cols = grid.shape
    found = {at for at in tile.positions if at[0] < rows and at[1] < cols}
    missing = {(int(row), int(col)) for row, col in there["patches_missing"]}
    lost = len(grid) - len(found | missing)
    if lost <= 0:
        return None
    crc = tile.frames[0].crc.hex()
    if there.get("side", crc) != crc:
        why, remedy = "was sent anew", "--again replaces it all the same"
    elif found & missing:
        why, remedy = f"has {len(found & missing)} other patches", "give all sources in one command"
    elif file.suffix != WRITERS[output.file_format][0]:
        why, remedy = f"is wanted as {output.file_format}", "--again replaces it all the same"
    elif not journal.is_whole(there):
        why, remedy = "is not as its item says", "give all sources in one command"
    else:
        return there
    tell(
        f"{tile.source.path}: {tile.side.info.scene or 'tile'} {tile.side.tile_id.hex()} {why}, "
        f"but lacks {lost} of those in {file}, which is kept; remedy: {remedy}"
    )
    return there


def _mark(tile: FoundTile, output: Output) -> str:
    """Tells a product: of which frames it was made, by which build, in which format.

    Of which model, the side frame says.
    """
    digest = blake2b(digest_size=16)
    build = importlib.metadata.version("prismlink")
    digest.update(f"{build} {output.file_format} {tile.side.model.hex()}".encode())
    digest.update(tile.side.tile_id)
    for crc in (tile.frames[0].crc, *sorted(frame.crc for frame in tile.frames[1:])):
        digest.update(crc)
    return digest.hexdigest()


def _describe_store(folder: Path) -> None:
    """Make the store's root a group that lists what is in it.

    Raises:
        OutputError: If it cannot be written.
    """
    make_clean(folder)  # what a worker that died left is no member
    zarr: Any = importlib.import_module("zarr")
    try:
        member = min(path for path in folder.iterdir() if path.suffix == folder.suffix)
        version = 2 if (member / ".zgroup").exists() else 3
        zarr.open_group(folder, mode="a", zarr_format=version)
        zarr.consolidate_metadata(folder, zarr_format=version)
    except (OSError, ValueError) as error:
        raise OutputError(folder, str(error)) from None
