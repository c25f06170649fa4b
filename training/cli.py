"""`prismlink-train`: bundles trained, pruned, scored; the paper reproduced; its data converted.

Exit codes: 0 done; 64 wrong use; 65 a bundle does not fit; 66 scenes missing or unreadable; 70
another error named in one line; 78 wrong settings; 130 interrupted (a later `--resume` goes on).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from codec.errors import CodecError
from codec.memory import keep_freed_memory
from codec.tile import MAX_EDGE_PX
from training.errors import SettingsError, TrainingError
from training.files import write_whole

EXIT_INTERRUPTED: Final = 130

app = typer.Typer(
    name="prismlink-train",
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")
"""Of several processes that train together, the first one tells."""

ScenesOption = Annotated[
    Path, typer.Option("--scenes", help="Folder of scenes, or one scene file.")
]
SettingsOption = Annotated[
    Path | None, typer.Option("--settings", help="YAML file; without it every default holds.")
]
BundleArgument = Annotated[Path, typer.Argument(help="Bundle to start from.")]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on after the last checkpoint, where there is one.")
]
BackendOption = Annotated[
    str, typer.Option("--backend", help="auto, torch, torch-cpu, torch-cuda or openvino.")
]


_SHARED: Final = ("fit", "prune")
"""Commands that several processes can run together."""


@app.callback()
def alone(context: typer.Context) -> None:
    """Refuse several processes where they would get into each other's way."""
    command = context.invoked_subcommand
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and command not in _SHARED:
        raise SettingsError(f"{command} runs on one process; {' and '.join(_SHARED)} on several")


@app.command()
def fit(
    scenes: ScenesOption,
    out: Annotated[Path, typer.Option("--out", help="Bundle to write.")] = Path(
        "runs/fit.safetensors"
    ),
    settings: SettingsOption = None,
    resume: ResumeOption = False,
) -> None:
    """Train both networks, from the linear codec up.

    OUT holds the best epoch so far; OUT with ".checkpoint" before its suffix is for --resume.

    On several processes: accelerate launch --num_processes 2 --module training.cli fit ...

    Example: prismlink-train fit --scenes data --settings deploy/training.yaml
    """
    from training.steps import fit_step  # torch and fastai take seconds to load

    fit_step(scenes, settings, out, resume=resume, console=console)


@app.command()
def prune(
    bundle: BundleArgument,
    scenes: ScenesOption,
    out: Annotated[Path, typer.Option("--out", help="Bundle to write.")] = Path(
        "runs/pruned.safetensors"
    ),
    settings: SettingsOption = None,
    resume: ResumeOption = False,
) -> None:
    """Prune the networks with FasterAI, then train what is left again.

    Example: prismlink-train prune runs/fit.safetensors --scenes data
    """
    from training.steps import prune_step  # as above

    prune_step(bundle, scenes, settings, out, resume=resume, console=console)


@app.command()
def calibrate(
    bundle: BundleArgument,
    scenes: ScenesOption,
    out: Annotated[Path, typer.Option("--out", help="Bundle to write.")] = Path(
        "runs/calibrated.safetensors"
    ),
    settings: SettingsOption = None,
) -> None:
    """Measure coding tables, scales and int8 ranges on the training scenes.

    Example: prismlink-train calibrate runs/pruned.safetensors --scenes data
    """
    from training.steps import calibrate_step  # as above

    calibrate_step(bundle, scenes, settings, out, console=console)


@app.command()
def restore(
    bundle: BundleArgument,
    scenes: ScenesOption,
    out: Annotated[Path, typer.Option("--out", help="Bundle to write.")] = Path(
        "runs/restored.safetensors"
    ),
    settings: SettingsOption = None,
) -> None:
    """Train the network that restores coefficients on the ground, of a calibrated bundle.

    Example: prismlink-train restore runs/calibrated.safetensors --scenes data
    """
    from training.steps import restore_step  # as above

    restore_step(bundle, scenes, settings, out, console=console)


@app.command()
def export(
    bundle: BundleArgument,
    scenes: ScenesOption,
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")] = Path("deploy/models"),
    name: Annotated[str, typer.Option("--name", help="Name of the files.")] = "default",
    sign_with: Annotated[
        Path | None, typer.Option("--sign", help="Private key, Ed25519 in PEM, to sign with.")
    ] = None,
    settings: SettingsOption = None,
) -> None:
    """Score a bundle on the held-back scenes and ship it: NAME and NAME.flight, .safetensors.

    The bundle gets a known answer, which daemons ask for when they load it.

    Example: prismlink-train export runs/calibrated.safetensors --scenes data --out deploy/models
    """
    from training.steps import export_step  # as above

    export_step(bundle, scenes, settings, out, name, sign_with=sign_with, console=console)


@app.command()
def sign(
    files: Annotated[list[Path], typer.Argument(help="Bundles to sign.")],
    key: Annotated[Path, typer.Option("--key", help="Private key, Ed25519 in PEM.")],
) -> None:
    """Sign bundles that are there already: each gets a signature beside it, FILE.sig.

    Daemons take a bundle in flight from whoever has a key among their trusted_keys.

    Example: prismlink-train sign deploy/models/default.flight.safetensors --key private.pem
    """
    from training.signing import read_key
    from training.signing import sign as sign_file

    private = read_key(key)
    for path in files:
        console.print(f"{sign_file(path, private)}: signed", highlight=False, soft_wrap=True)


@app.command("onnx")
def onnx_command(
    bundle: BundleArgument,
    out: Annotated[Path, typer.Option("--out", help="File to write.")] = Path("runs/encoder.onnx"),
) -> None:
    """Write the encoder network for TensorRT or ONNX Runtime, in int8 as calibrated.

    Example: prismlink-train onnx deploy/models/reference.safetensors --out encoder.onnx
    """
    from training.bundles import read_bundle  # as above
    from training.onnx_export import write_onnx  # as above

    write_onnx(read_bundle(bundle), out)
    console.print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


@app.command()
def reproduce(
    data: Annotated[
        Path, typer.Argument(help="HySpecNet-11k tree, store made of one, or folder of scenes.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the run.")] = Path("runs/reproduce"),
    settings: SettingsOption = None,
    resume: ResumeOption = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write every number to this file.")
    ] = None,
) -> None:
    """Train, prune and measure the paper's network as the paper did, and then honestly.

    Example: prismlink-train reproduce data --settings deploy/reproduce.yaml
    """
    from training.reproduce import reproduce_step  # as above

    result = reproduce_step(data, settings, out, resume=resume, console=console)
    if json_file is not None:
        write_whole(json_file, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())


@app.command()
def pareto(
    bundle: Annotated[Path, typer.Argument(help="A trained network without a shortcut.")],
    data: Annotated[
        Path, typer.Argument(help="HySpecNet-11k tree, store made of one, or folder of scenes.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the run.")] = Path("runs/pareto"),
    fewer: Annotated[
        str, typer.Option("--fewer", help="Shares of the operations to take, comma-separated.")
    ] = "0.3,0.45,0.6,0.75,0.85",
    settings: SettingsOption = None,
) -> None:
    """Prune a network to several sizes; plot the quality that is left over the operations.

    Example: prismlink-train pareto runs/reproduce/fit.safetensors data --settings
    deploy/reproduce.yaml
    """
    from training.pareto import pareto_step  # as above
    from training.steps import shares_of  # as above

    pareto_step(bundle, data, settings, out, fewer=shares_of(fewer), console=console)


@app.command()
def convert(
    tree: Annotated[Path, typer.Argument(help="HySpecNet-11k: the folder that holds patches/.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the store.")],
    all_bands: Annotated[
        bool, typer.Option("--all-bands", help="All 224 bands, not the 202 usable ones.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="A patch that cannot be read is the end.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read the store afterwards, all of it, and compare.")
    ] = False,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Patches read at once.")] = 2,
) -> None:
    """Convert a HySpecNet-11k tree into a store that training reads at memory's speed.

    Interrupted, it goes on where it stood. Patches that cannot be read are named and skipped.

    Example: prismlink-train convert hyspecnet-11k --out runs/store
    """
    from training.steps import convert_step  # as above

    convert_step(
        tree,
        out,
        usable_only=not all_bands,
        strict=strict,
        verify=verify,
        workers=workers,
        console=console,
    )


@app.command()
def synthesize(
    scenes: ScenesOption,
    out: Annotated[Path, typer.Option("--out", help="Tree to write, or file of the strip.")],
    tiles: Annotated[int, typer.Option("--tiles", min=3, help="Of sixteen patches each.")] = 4,
    strip: Annotated[
        int,
        typer.Option("--strip", min=0, max=MAX_EDGE_PX, help="Lines of one strip, not a tree."),
    ] = 0,
    cols: Annotated[
        int, typer.Option("--cols", min=16, max=4096, help="Width of the strip [px].")
    ] = 1024,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of everything drawn.")] = 0,
    settings: SettingsOption = None,
) -> None:
    """Make plausible scenes: real spectra mixed over fractal ground, seen by a real sensor.

    Beside them lies a picture that holds their statistics against those of the real scenes.

    Example: prismlink-train synthesize --scenes data --out runs/tree --tiles 8
    """
    from training.synthesize import synthesize_step  # as above

    synthesize_step(
        scenes,
        settings,
        out,
        tiles=tiles,
        strip_lines=strip,
        cols=cols,
        seed=seed,
        console=console,
    )


@app.command()
def evaluate(
    bundles: Annotated[
        list[Path], typer.Argument(help="Bundles; all are compared with the first.")
    ],
    scenes: ScenesOption,
    steps: Annotated[
        str, typer.Option("--steps", help="Quantizer steps, comma-separated [1e-4 reflectance].")
    ] = "96,136,192,272,384",
    linear: Annotated[
        bool, typer.Option("--linear", help="Compare with the first bundle's untrained codec.")
    ] = False,
    held_back: Annotated[
        bool, typer.Option("--held-back", help="Only the validation scenes of the settings.")
    ] = False,
    baselines: Annotated[
        Path | None,
        typer.Option(
            "--baselines",
            help="Add KLT + JPEG 2000 and others; their scores are read from this file, or kept.",
        ),
    ] = None,
    backend: BackendOption = "auto",
    settings: SettingsOption = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write every score to this file.")
    ] = None,
) -> None:
    """Encode and decode scenes for real; print rate and quality.

    Example: prismlink-train evaluate deploy/models/default.safetensors --scenes data --linear
    """
    from training.steps import evaluate_step  # as above

    scores = evaluate_step(
        bundles,
        scenes,
        settings,
        steps=steps,
        linear=linear,
        held_back=held_back,
        backend=backend,
        baselines=baselines,
        console=console,
    )
    if json_file is not None:
        text = json.dumps(scores, indent=1, allow_nan=False) + "\n"
        write_whole(json_file, text.encode())


@app.command()
def report(
    bundle: Annotated[Path, typer.Argument(help="Bundle the report is about.")],
    scenes: ScenesOption,
    out: Annotated[Path, typer.Option("--out", help="Folder to write results.* to.")] = Path(
        "docs"
    ),
    ablation: Annotated[
        list[str] | None,
        typer.Option("--ablation", help="LABEL=FILE: a bundle to show beside it; repeatable."),
    ] = None,
    every_scene: Annotated[
        bool, typer.Option("--all", help="Not only the validation scenes of the settings.")
    ] = False,
    baselines: Annotated[
        Path,
        typer.Option("--baselines", help="Where scores of the baselines are read and kept."),
    ] = Path("runs/baselines.json"),
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes for the baselines; 0: one a core.")
    ] = 0,
    backend: BackendOption = "auto",
    settings: SettingsOption = None,
) -> None:
    """Score a bundle, its ablations and every baseline; write tables, plots and JSON.

    Example: prismlink-train report deploy/models/default.safetensors --scenes data --out docs
    """
    from training.report import report_step  # as above

    report_step(
        bundle,
        scenes,
        settings,
        out,
        ablation=ablation or (),
        every_scene=every_scene,
        baselines=baselines,
        workers=workers,
        backend=backend,
        console=console,
    )


def main() -> None:
    """Run a command; an error is one line and an exit code."""
    keep_freed_memory()
    try:
        app()
    except TrainingError as error:
        console.print(f"prismlink-train: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except CodecError as error:
        console.print(f"prismlink-train: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(TrainingError.exit_code)
    except KeyboardInterrupt:
        console.print("prismlink-train: interrupted; --resume goes on from the last checkpoint")
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
