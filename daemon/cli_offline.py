"""The commands that need no other process: `encode` and `bench`; the others are in `cli_frames`.

`daemon.cli` puts them under `prismlink`. What a command needs is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

import typer

from codec.backend_names import BackendName
from codec.prism_file import MAGIC
from daemon.clock import SystemClock
from daemon.console import (
    DEFAULT_BUNDLE,
    REPOSITORY,
    SHIPPED_SCENES,
    JsonFile,
    check_json,
    counted,
    out,
    progress,
    say,
    write_json,
)
from daemon.errors import OutputError

BundleFile = Annotated[
    Path, typer.Option("--bundle", metavar="FILE", help="Model bundle (.safetensors).")
]


def encode(
    inputs: Annotated[list[Path], typer.Argument(help="Files or folders of scenes.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Frame file to write (.prism).")],
    bundle: BundleFile = DEFAULT_BUNDLE,
    step: Annotated[
        float | None,
        typer.Option(
            help="Quantizer step in 10⁻⁴ reflectance, √2 times that at speed 3; the bundle's "
            "if none.",
            min=1e-6,
            max=1e8,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Bits per valid sample of every scene, all bytes counted, met within 5 %.",
            min=1e-4,
            max=32,
        ),
    ] = None,
    psnr: Annotated[
        float | None,
        typer.Option(
            help="PSNR of every scene in dB, MAX = reflectance 1.0, met within 0.3 dB.",
            min=1,
            max=150,
        ),
    ] = None,
    speed: Annotated[
        int, typer.Option(help="0, the fewest bytes, to 3, the least time.", min=0, max=3)
    ] = 0,
    backend: Annotated[BackendName, typer.Option(help="What runs the network.")] = "auto",
    json_file: JsonFile = None,
) -> None:
    """Compress scenes into one frame file.

    A file that is there is replaced only if it is a frame file. --step, --rate and --psnr exclude
    each other. A scene that needs fewer bits than --rate even without loss, or is better than
    --psnr at any step, is named; one that cannot be brought to the target is an error, and no file
    is written.

    Example: prismlink encode tests/data/aviris_salton_sea.npz -o salton.prism --rate 0.1
    """
    from codec.targets import Target
    from codec.tile_files import find_scenes
    from daemon import offline

    if sum(aim is not None for aim in (step, rate, psnr)) > 1:
        raise typer.BadParameter("give one of --step, --rate and --psnr, not more")
    if not _may_be_replaced(output):
        raise typer.BadParameter(f"{output} is there, and no frame file; give another --output")
    target = None
    if rate is not None:
        target = Target(kind="rate", value=rate)
    elif psnr is not None:
        target = Target(kind="psnr", value=psnr)
    check_json(json_file)
    with progress("scenes", sum(len(find_scenes(path)) for path in inputs)) as advance:
        made = offline.encode(
            inputs,
            output,
            bundle=bundle,
            step=step,
            backend=backend,
            speed=speed,
            target=target,
            progress=lambda _: advance(),
        )
    for scene in made.scenes:
        if target is not None and not scene.on_target:
            say(
                f"{scene.path}: no step brings it to {target}; it came to "
                f"{target.value_of(scene.coded):.4g}, at a step of {scene.coded.step:.4g}"
            )
    numbers = made.to_dict()
    write_json(json_file, numbers)
    steps = [scene["step"] for scene in numbers["scenes"]]
    qualities = [scene["psnr_db"] for scene in numbers["scenes"] if scene["psnr_db"] is not None]
    out.print(
        f"{output}: {counted(len(made.scenes), 'tile', 'tiles')}, "
        f"{counted(made.patches, 'patch', 'patches')}, "
        f"{made.bytes_raw / 1e6:.2f} MB → {made.bytes_coded / 1e6:.4f} MB, "
        f"{made.bpppc:.4f} bits per valid sample, step {_span(steps, 'g')}"
        + (f", PSNR {_span(qualities, '.2f')} dB" if qualities else ""),
        highlight=False,
        soft_wrap=True,
    )


def _span(values: Collection[float], form: str) -> str:
    """From the least to the most, or the one that all are."""
    least, most = format(min(values), form), format(max(values), form)
    return least if least == most else f"{least} to {most}"


def _may_be_replaced(output: Path) -> bool:
    """Whether nothing is there, or nothing but a frame file or an empty one: a scene is not lost.

    Raises:
        OutputError: If that cannot be told.
    """
    try:
        if not output.is_file():
            return not output.exists()
        with output.open("rb") as file:
            return file.read(len(MAGIC)) in (b"", MAGIC)
    except OSError as error:
        raise OutputError(output, str(error)) from None


def bench(
    scenes: Annotated[
        list[Path] | None,
        typer.Argument(help="Files or folders of scenes; those that ship if none."),
    ] = None,
    bundle: BundleFile = DEFAULT_BUNDLE,
    settings: Annotated[
        Path, typer.Option(help="Settings of the flight process (YAML).")
    ] = REPOSITORY / "deploy" / "flight.yaml",
    tile: Annotated[
        str, typer.Option(metavar="ROWSxCOLS", help="Scenes are mirrored, or cut, to such tiles.")
    ] = "128x1024",
    batch: Annotated[
        str, typer.Option(metavar="N,N...", help="Patches encoded together; a row for each.")
    ] = "8",
    backend: Annotated[
        BackendName | None, typer.Option(help="What runs the network; the settings' if none.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="Cores one computation may use; the settings' if none.", min=1),
    ] = None,
    step: Annotated[
        float | None,
        typer.Option(
            help="Quantizer step; the settings' or the bundle's if none.", min=1e-6, max=1e8
        ),
    ] = None,
    speed: Annotated[
        int | None,
        typer.Option(
            help="0, the fewest bytes, to 3, the least time; the settings' if none.", min=0, max=3
        ),
    ] = None,
    repeat: Annotated[
        int, typer.Option(help="Tiles of each scene in a run, at least.", min=1)
    ] = 12,
    rounds: Annotated[int, typer.Option(help="Runs of every row, taken in turn.", min=1)] = 5,
    rate: Annotated[
        float,
        typer.Option(
            help="Multiple of EnMAP's line rate at which latency is measured; 0: in the runs that "
            "measure throughput, which are fed as fast as tiles are taken.",
            min=0,
        ),
    ] = 1.0,
    source: Annotated[
        Literal["socket", "memory"],
        typer.Option(help="Tile messages through a ZeroMQ socket, or from memory."),
    ] = "socket",
    interleave: Annotated[Literal["bsq", "bil", "bip"], typer.Option(help="Sample order.")] = "bil",
    json_file: JsonFile = None,
) -> None:
    """Measure the flight side, from tile message to spooled packet, and each of its stages.

    Everything is taken in turn, round by round, and medians are told: so figures of one run can be
    compared, those of two runs only on an idle machine.

    Example: prismlink bench --batch 1,8,32 --json bench.json
    """
    from daemon.bench import run
    from daemon.bench_settings import BenchSettings
    from daemon.bench_tables import show

    try:
        wanted = BenchSettings(
            scenes=tuple(scenes or SHIPPED_SCENES),
            flight_yaml=settings,
            bundle=bundle,
            tile_shape=_numbers(tile, "x"),
            batches=_numbers(batch, ","),
            backend=backend,
            threads=threads,
            step=step,
            speed=speed,
            repeat=repeat,
            rounds=rounds,
            rate=rate,
            source=source,
            interleave=interleave,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    check_json(json_file)
    with progress("rounds", rounds) as advance:
        summary = run(wanted, clock=SystemClock(), tell=say, on_round=advance)
    write_json(json_file, summary)
    show(summary, out)


def _numbers(text: str, separator: str) -> tuple[int, ...]:
    """Whole numbers of an option.

    Raises:
        ValueError: If they are none.
    """
    try:
        return tuple(int(word) for word in text.split(separator))
    except ValueError:
        raise ValueError(
            f"{text!r} is no list of whole numbers with {separator!r} between"
        ) from None
