"""The commands that read frames, wherever they are: `decode` and `inspect`.

`daemon.cli` puts them under `prismlink`. What a command needs is imported when it runs.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from codec.errors import TileFileError
from daemon.console import (
    DEFAULT_BUNDLE,
    JsonFile,
    busy,
    check_json,
    counted,
    out,
    progress,
    say,
    write_json,
)
from daemon.errors import EXIT_DATA

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.bulk.catalog import Selection
    from daemon.bulk.decode import Report
    from daemon.bulk.pools import Pool

Format = Literal["geotiff", "envi", "zarr", "npy"]
Bundles = Annotated[
    list[Path] | None,
    typer.Option(
        "--bundle", metavar="FILE", help="Model bundle; again for each; the one that ships if none."
    ),
]
ModelsFolder = Annotated[
    Path | None, typer.Option("--models", metavar="DIR", help="Folder of further bundles.")
]
SceneGlob = Annotated[
    str, typer.Option("--scene", metavar="GLOB", help="Only tiles of such scenes.")
]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Only tiles from then on: ISO 8601, UTC, or seconds; none of unknown time.",
    ),
]
Until = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Only tiles before then; none of unknown time."),
]
ModelName = Annotated[
    str, typer.Option("--model", metavar="HEX", help="Only tiles of models that begin so.")
]
SealKey = Annotated[
    Path | None,
    typer.Option("--seal-key", metavar="FILE", help="Opens the sealed packets of captures."),
]


def decode(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="Frame files (.prism), folders of archives and spools, captures (.pcap, .pcapng, "
            "or Space Packets on end), and folders of these.",
            metavar="SOURCE...",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Where the cubes go; NAME.zarr: one zarr store."
        ),
    ],
    file_format: Annotated[
        Format | None,
        typer.Option("--format", help="Of the cubes; geotiff if none, in a store zarr."),
    ] = None,
    cog: Annotated[
        bool, typer.Option("--cog", help="GeoTIFFs are cloud-optimized: see docs/products.md.")
    ] = False,
    bundle: Bundles = None,
    models: ModelsFolder = None,
    scene: SceneGlob = "*",
    since: Since = None,
    until: Until = None,
    model: ModelName = "",
    seal_key: SealKey = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes; if none as many as cores, where that is worth it.", min=1),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Of a dask scheduler, tcp://HOST:PORT, whose workers decode."
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Decode also what is there already.")
    ] = False,
    scenes: Annotated[
        bool, typer.Option("--scenes/--no-scenes", help="Put tiles of a scene together, too.")
    ] = True,
    json_file: JsonFile = None,
) -> None:
    """Restore the cubes of frames, wherever these are: files, archives, spools, captures.

    Each cube has a STAC item and its quality beside it, as those of the ground have.
    A run that was ended goes on where it was; what is there complete is not decoded again. What is
    damaged, or of a model that is not at hand, costs a line, and the exit status is 65 in the end.

    Example: prismlink decode archive pass-12.pcapng -o cubes --scene "ENMAP*" --since 2026-05-01
    """
    from contextlib import ExitStack

    from daemon.bulk import server

    if workers != 1 and scheduler is None:
        server.begin()  # before what is imported here: it imports that, too, meanwhile
    from daemon.bulk.cluster import Cluster
    from daemon.bulk.decode import Watchers
    from daemon.bulk.decode import decode as decode_all
    from daemon.bulk.jobs import Output
    from daemon.bulk.pools import pool_of

    chosen = _selection(scene, since, until, model)
    if scheduler is not None and workers is not None:
        raise typer.BadParameter("give --workers or --scheduler, not both")
    store = output.suffix == ".zarr"
    if store and file_format not in (None, "zarr"):
        raise typer.BadParameter(f"{output} is a zarr store; leave --format out")
    kind = file_format or ("zarr" if store else "geotiff")
    if cog and kind != "geotiff":
        raise typer.BadParameter(f"--cog is of GeoTIFFs, not of {kind}")
    found = _bundles(bundle, models)
    unseal = _unseal(seal_key)
    check_json(json_file)
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(scheduler)) if scheduler is not None else None
        bar = stack.enter_context(progress("tiles", None))

        def pool(tiles: int) -> Pool:
            return cluster or pool_of(workers, tiles)

        report = decode_all(
            sources,
            Output(folder=output, file_format="cog" if cog else kind),
            bundles=found,
            selection=chosen,
            unseal=unseal,
            pool=pool,
            again=again,
            scenes=scenes,
            watchers=Watchers(
                on_total=bar.set_total,
                on_tile=bar,
                on_file=lambda path: out.print(
                    str(path), highlight=False, markup=False, soft_wrap=True
                ),
                tell=lambda problem: say(f"prismlink: {problem}"),
            ),
        )
    write_json(json_file, report.to_dict())
    silent = not (report.selected or report.problems)
    partly = report.kept or report.without_side or report.frames_incomplete
    if silent or report.tiles > 1 or partly:
        _say_summary(report)
    if report.problems:
        raise typer.Exit(EXIT_DATA)


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            help="A bundle (.safetensors), a product (GeoTIFF, ENVI, Zarr, NumPy), a frame file "
            "(.prism), the folder of an archive or a spool, or a capture."
        ),
    ],
    scene: SceneGlob = "*",
    since: Since = None,
    until: Until = None,
    model: ModelName = "",
    seal_key: SealKey = None,
    png: Annotated[
        Path | None,
        typer.Option(
            "--png",
            metavar="FILE",
            help="Draw the product, or the first tile of frames or a store, and spectra of a few "
            "pixels.",
        ),
    ] = None,
    bundle: Bundles = None,
    models: ModelsFolder = None,
    json_file: JsonFile = None,
) -> None:
    """Say what a bundle, a product, frames or packets hold, also while a process writes them.

    Tiles of frames can be selected as by `decode`; bundles are needed for a picture of them alone.

    Example: prismlink inspect archive --scene "ENMAP*" --png first.png
    """
    from daemon.inspection import inspect as look
    from daemon.inspection_tables import show
    from daemon.spectra import write_spectra

    chosen, unseal = _selection(scene, since, until, model), _unseal(seal_key)
    check_json(json_file)
    bundles = None if png is None else _bundles(bundle, models)
    with busy(f"reading {path.name}"):
        found = look(path, selection=chosen, unseal=unseal, bundles=bundles)
    show(found.description, out)
    write_json(json_file, found.description)
    if png is not None and found.tile is None:
        raise TileFileError(f"{path}: no tile to draw; remedy: leave --png out")
    if png is not None and found.tile is not None:
        write_spectra(found.tile, png, found.tile.info.scene or path.name)
    for problem in found.problems:
        say(f"prismlink: {problem}")
    if found.problems:
        raise typer.Exit(EXIT_DATA)


def _selection(scene: str, since: str | None, until: str | None, model: str) -> Selection:
    """What the options select.

    Raises:
        BadParameter: If one of them makes no sense.
    """
    from daemon.bulk.catalog import Selection, utc_seconds

    try:
        return Selection(
            scene=scene,
            since_s=-math.inf if since is None else utc_seconds(since),
            until_s=math.inf if until is None else utc_seconds(until),
            model=model,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _bundles(files: list[Path] | None, folder: Path | None) -> dict[bytes, Path]:
    """Bundles that the options name; the one that ships if they name none."""
    from daemon.bulk.decode import bundles_of

    default = [] if folder else [DEFAULT_BUNDLE]
    return bundles_of(files or default, folder)


def _unseal(key_file: Path | None) -> Callable[[bytes], bytes] | None:
    """What opens sealed packets of a recording.

    Raises:
        BadParameter: If the file holds no key.
    """
    if key_file is None:
        return None
    from daemon.keys import seal_key
    from daemon.link.seal import DOWNLINK_SPI, Opener, derived_key

    try:
        key = derived_key(seal_key(key_file), DOWNLINK_SPI)
    except ValueError as error:
        raise typer.BadParameter(f"{key_file}: {error}") from None
    return Opener({DOWNLINK_SPI: key}, heard={}).read


def _say_summary(report: Report) -> None:
    """One line for who waited: what came of all tiles."""
    parts = [f"{report.decoded} of {counted(report.selected, 'tile', 'tiles')} decoded"]
    counts = {
        "there already": report.kept,
        "lack patches": report.incomplete,
        "have no patch": report.empty,
        "are damaged": report.failed,
        "are of unknown models": sum(report.unknown.values()),
        "lack side information": report.without_side,
        "were sent anew": report.superseded,
        "frames lack packets": report.frames_incomplete,
        "not selected": report.tiles - report.selected,
        "scenes": len(report.scenes),
    }
    parts += [f"{count} {what}" for what, count in counts.items() if count]
    say("; ".join(parts))
