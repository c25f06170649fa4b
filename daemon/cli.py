"""`prismlink`: the commands, and the one place where an error becomes an exit status.

Exit status: 0 done; 1 failed; 2 wrong usage; 65 the input is wrong; 69 an address cannot be had, or
nobody is there; 73 an output cannot be written; 78 a settings file or a bundle is wrong (do not
restart).

What a command needs is imported when it runs: `prismlink --help` must not wait for PyTorch.
"""

from __future__ import annotations

import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from codec.errors import BundleError, CodecError
from daemon.cli_frames import decode, inspect
from daemon.cli_offline import bench, encode
from daemon.clock import SystemClock
from daemon.config import load_flight, load_ground
from daemon.console import (
    REPOSITORY,
    SHIPPED_SCENES,
    JsonFile,
    busy,
    check_json,
    counted,
    out,
    progress,
    say,
    short,
    table,
    write_json,
)
from daemon.errors import EXIT_CONFIG, EXIT_DATA, DaemonError, FeedError
from daemon.lifecycle import StopSignal
from daemon.link.passes import ContactPlan
from daemon.process import run_service

app = typer.Typer(
    help="Learned hyperspectral compression between a satellite's sensor and its radio.",
    epilog="Exit status: 0 done; 1 failed; 2 wrong usage; 65 the input is wrong; 69 an address "
    "cannot be had, or nobody is there; 73 an output cannot be written; 78 a settings file or a "
    "bundle is wrong.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
flight = typer.Typer(help="The flight side: tiles in, packets out.", no_args_is_help=True)
ground = typer.Typer(help="The ground side: packets in, cubes out.", no_args_is_help=True)
app.add_typer(flight, name="flight")
app.add_typer(ground, name="ground")

SettingsFile = Annotated[Path, typer.Argument(help="Settings file (YAML).", metavar="FILE")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, as in link.apid=7."),
]


def main() -> None:
    """Run a command; every error raised on purpose becomes one line and an exit status."""
    try:
        app()
    except (DaemonError, CodecError) as error:
        say(f"prismlink: {error}")
        sys.exit(_exit_status(error))


def _exit_status(error: DaemonError | CodecError) -> int:
    if isinstance(error, DaemonError):
        return error.exit_code
    return EXIT_CONFIG if isinstance(error, BundleError) else EXIT_DATA


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"prismlink {version('prismlink')}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Say which it is."),
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    scenes: Annotated[
        list[Path] | None, typer.Argument(help="Scenes; the two that ship if none.")
    ] = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Where cubes and pictures go.")] = Path(
        "demo-output"
    ),
    settings: Annotated[
        Path, typer.Option(help="Folder with flight.yaml and ground.yaml.")
    ] = REPOSITORY / "deploy",
    bundle: Annotated[
        Path | None, typer.Option(help="Model bundle; the settings files' own if none.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Multiple of EnMAP's line rate.")] = 1.0,
    repeat: Annotated[int, typer.Option(help="Times the scenes are shown.", min=1)] = 5,
    loss: Annotated[float, typer.Option(help="Share of packets lost.", min=0, max=1)] = 0.02,
    seed: Annotated[int, typer.Option(help="Decides which packets are lost.")] = 1,
    json_file: JsonFile = None,
) -> None:
    """Run the whole job on real scenes: instrument, board, lossy radio, ground.

    Example: prismlink demo --loss 0.05 --json demo.json
    """
    from daemon.demo import DemoSettings, run

    check_json(json_file)
    with busy("instrument, board, radio and ground at work"):
        summary = run(
            DemoSettings(
                scenes=tuple(scenes or SHIPPED_SCENES),
                out=out_dir,
                flight_yaml=settings / "flight.yaml",
                ground_yaml=settings / "ground.yaml",
                bundle=bundle,
                rate=rate,
                repeat=repeat,
                loss=loss,
                seed=seed,
            )
        )
    write_json(json_file, summary)
    _show_demo(summary, out_dir)


@flight.command("run")
def flight_run(
    settings_file: SettingsFile, overrides: Overrides = None, json_file: JsonFile = None
) -> None:
    """Encode what the instrument sends, until SIGTERM; then finish what was accepted.

    Example: prismlink flight run deploy/flight.yaml --set model.rate_bpppc=0.1
    """
    settings = load_flight(settings_file, overrides or ())
    from daemon.onboard.service import run

    run_service(settings.log, partial(run, settings), json_file)


@flight.command("check-config")
def flight_check_config(settings_file: SettingsFile, overrides: Overrides = None) -> None:
    """Check a settings file and the bundle it names, as `run` does at its start.

    Example: prismlink flight check-config deploy/flight.yaml
    """
    settings = load_flight(settings_file, overrides or ())
    from codec.encoder import NO_TIMER
    from daemon.onboard.models import control_steps, load_encoder

    control_steps(settings.model, load_encoder(settings.model, NO_TIMER))
    _warn_of_an_old_plan(settings_file, "link.passes", settings.link.plan)
    out.print(f"{settings_file}: ok", highlight=False)


def _warn_of_an_old_plan(path: Path, key: str, plan: ContactPlan) -> None:
    """A warning, no error: `run` starts with it, as a board has to that restarts after its plan."""
    if not plan.ahead(SystemClock().utc_s(), 1):
        say(f"{path}: {key}: all of them are over; list passes to come")


@ground.command("run")
def ground_run(
    settings_file: SettingsFile, overrides: Overrides = None, json_file: JsonFile = None
) -> None:
    """Restore what the board sends, until SIGTERM; then write what arrived.

    Example: prismlink ground run deploy/ground.yaml --set output.directory=cubes
    """
    settings = load_ground(settings_file, overrides or ())
    from daemon.ground.service import run

    run_service(settings.log, partial(run, settings), json_file)


@ground.command("check-config")
def ground_check_config(settings_file: SettingsFile, overrides: Overrides = None) -> None:
    """Check a settings file and the bundles it names, as `run` does at its start.

    Example: prismlink ground check-config deploy/ground.yaml
    """
    settings = load_ground(settings_file, overrides or ())
    from daemon.ground.models import load_decoders

    load_decoders(settings.model)
    if settings.web.plan is not None:
        _warn_of_an_old_plan(settings_file, "web.passes", settings.web.plan)
    out.print(f"{settings_file}: ok", highlight=False)


@app.command()
def feed(
    scenes: Annotated[list[Path], typer.Argument(help="Files or folders of scenes.")],
    address: Annotated[
        str, typer.Option(help="Where the board listens.")
    ] = "tcp://127.0.0.1:47100",
    bind: Annotated[bool, typer.Option("--bind", help="Own the address.")] = False,
    pattern: Annotated[
        Literal["sub", "pull"], typer.Option(help="What the board's socket is.")
    ] = "sub",
    rate: Annotated[float, typer.Option(help="Multiple of EnMAP's line rate; 0: unpaced.")] = 1.0,
    repeat: Annotated[int, typer.Option(help="Times the scenes are shown.", min=1)] = 1,
    tile_rows: Annotated[
        int | None, typer.Option(help="Lines of a tile; whole scenes if none.", min=1)
    ] = None,
    interleave: Annotated[Literal["bsq", "bil", "bip"], typer.Option(help="Sample order.")] = "bil",
    secret_key: Annotated[
        Path | None, typer.Option(help="File of our secret key (CURVE); in clear if none.")
    ] = None,
    board_key: Annotated[
        Path | None, typer.Option(help="File of the board's public key, with --secret-key.")
    ] = None,
    wait_s: Annotated[float, typer.Option(help="Longest wait for a listener, in seconds.")] = 60.0,
    json_file: JsonFile = None,
) -> None:
    """Play an instrument: stream real scenes as tiles at a line rate.

    Example: prismlink feed tests/data/aviris_salton_sea.npz --rate 2 --repeat 10
    """
    from dataclasses import asdict

    from codec.tile_files import find_scenes
    from daemon.feed import FeedSettings, wait_for_listener
    from daemon.feed import feed as play
    from daemon.keys import CurveKeys, curve_public, curve_secret
    from daemon.link.sockets import Endpoint, TileSender

    try:
        settings = FeedSettings(
            rate=rate, repeat=repeat, tile_rows=tile_rows, interleave=interleave
        )
        curve = None
        if secret_key and board_key:
            secret, peers = curve_secret(secret_key), (curve_public(board_key),)
            curve = CurveKeys(secret=secret, peers=peers)
        elif secret_key or board_key:
            raise ValueError("--secret-key and --board-key go together")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    count = repeat * sum(len(find_scenes(path)) for path in scenes)
    check_json(json_file)
    with (
        TileSender(
            Endpoint(address=address, bind=bind, linger_s=10.0, curve=curve), pattern=pattern
        ) as sender,
        StopSignal() as stop,
        progress("tiles", None if tile_rows else count) as advance,
    ):
        wait_for_listener(
            sender,
            address,
            wait_s=wait_s,
            clock=SystemClock(),
            should_stop=lambda: stop.wait(0),
            tell=say,
        )
        report = play(
            scenes,
            sender,
            settings=settings,
            clock=SystemClock(),
            should_stop=lambda: stop.wait(0),
            on_tile=lambda _tile, _taken: advance(),
        )
        if stop.wait(0):
            sender.hurry(0.5)
    numbers = {**asdict(report), "realtime_factor_enmap": report.realtime_factor_enmap}
    write_json(json_file, numbers)
    out.print(
        f"{counted(report.tiles, 'tile', 'tiles')}, "
        f"{counted(report.patches, 'patch', 'patches')}, {report.bytes_raw / 1e6:.1f} MB in "
        f"{report.seconds:.2f} s: {report.realtime_factor_enmap:.2f} × EnMAP; "
        f"{report.refused} refused",
        highlight=False,
    )
    if report.refused and not report.tiles:
        raise FeedError(f"{address}: nobody took any of {counted(report.refused, 'tile', 'tiles')}")


@app.command()
def keys(folder: Annotated[Path, typer.Argument(help="Where they go.", metavar="DIR")]) -> None:
    """Make keys: a pair for ZeroMQ (curve.secret, curve.public) and one for the seal (seal.key).

    Each machine has a pair of its own and the public keys of others; board and ground share the
    seal's key. Nothing is overwritten.

    Example: prismlink keys keys
    """
    import secrets

    from daemon.keys import write_keys
    from daemon.link.seal import KEY_BYTES
    from daemon.link.sockets import new_curve_pair

    public, secret = new_curve_pair()
    files = {
        folder / "curve.secret": secret,
        folder / "curve.public": public,
        folder / "seal.key": secrets.token_hex(KEY_BYTES).encode(),
    }
    write_keys(files)
    for path in files:
        out.print(str(path), highlight=False, markup=False, soft_wrap=True)


@app.command()
def command(
    kind: Annotated[
        Literal["open", "close", "suspend", "resume", "rate", "step", "model", "rollback"],
        typer.Argument(help="What the board shall do."),
    ],
    settings_file: Annotated[
        Path, typer.Option("--settings", metavar="FILE", help="The ground's settings file (YAML).")
    ],
    value: Annotated[
        str | None,
        typer.Argument(
            help="rate: kbit/s, or `plan`; step: octaves coarser, 0 to 8; model: its name."
        ),
    ] = None,
    overrides: Overrides = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", help="Longest wait for the board, in seconds.", min=0)
    ] = 5.0,
) -> None:
    """Command the board: open or close the link, suspend or resume it, set its rate, step or model.

    It is sent to link.uplink, also while the ground runs. See docs/link.md for how long it holds.

    Example: prismlink command rate 512 --settings deploy/ground.yaml
    """
    from daemon.link.commands import Kind
    from daemon.telecommand import body_of, send

    try:
        body = body_of(asked := Kind[kind.upper()], value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    settings = load_ground(settings_file, overrides or ())
    address = send(settings, settings_file, asked, body, timeout_s=timeout_s)
    words = kind if value is None else f"{kind} {value}"
    how = "sealed" if settings.security.seal_key else "not sealed"
    out.print(f"{words}: sent to {address}, {how}", highlight=False, markup=False, soft_wrap=True)


for _command in (encode, decode, inspect, bench):  # listed by --help in this order
    app.command()(_command)


def _show_demo(summary: dict[str, Any], out_dir: Path) -> None:
    """The demo's table: a row per tile, then the whole."""
    tiles = table("What came down (bpppc: bits per valid sample, packets counted)")
    tiles.add_column("tile", no_wrap=True)
    for name in ("patches", "raw kB", "sent kB", "bpppc", "PSNR dB", "angle °"):
        tiles.add_column(name, justify="right", no_wrap=True)
    for tile in summary["outputs"]:
        arrived = tile["psnr_db"] is not None
        tiles.add_row(
            f"{tile['sequence']} {short(tile['scene'])}",
            f"{tile['patches_decoded']}/{tile['patches']}",
            f"{tile['bytes_raw'] / 1e3:.0f}",
            f"{tile['bytes_down'] / 1e3:.1f}",
            f"{tile['bpppc']:.4f}",
            f"{tile['psnr_db']:.2f}" if arrived else "missing",
            f"{tile['spectral_angle_deg']:.2f}" if arrived else "missing",
        )
    out.print(tiles)
    stages = table("Flight side, per patch")
    stages.add_column("stage")
    stages.add_column("ms", justify="right")
    for stage, seconds in summary["stage_seconds_per_patch"].items():
        stages.add_row(stage, f"{seconds * 1e3:.2f}")
    out.print(stages)
    out.print(
        f"{counted(summary['tiles'], 'tile', 'tiles')}, {summary['patches_decoded']} of "
        f"{counted(summary['patches_sent'], 'patch', 'patches')} decoded; "
        f"{summary['packets_lost']} of {summary['packets_sent']} packets lost, "
        f"{summary['packets_repeated']} sent again\n"
        f"{summary['bytes_raw'] / 1e6:.1f} MB → {summary['bytes_down'] / 1e6:.3f} MB: "
        f"{summary['bpppc']:.4f} bits per valid sample, all headers and repair packets counted\n"
        f"PSNR {summary['psnr_db_mean']:.2f} dB (least {summary['psnr_db_min']:.2f}), "
        f"spectral angle {summary['spectral_angle_deg_mean']:.2f}°; "
        f"{summary['realtime_factor_enmap']:.1f} × EnMAP's line rate on board\n"
        f"cubes and pictures: {out_dir}",
        highlight=False,
    )


if __name__ == "__main__":
    main()
