"""The settings of both processes, and the files in deploy/ that show them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from codec.backend_names import BackendName
from codec.bundle import load_bundle
from codec.tile import SAMPLE_DTYPES
from daemon.config import FlightSettings, GroundSettings, load_flight, load_ground
from daemon.errors import ConfigError

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"

Load = Callable[..., BaseModel]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A file where a bundle should be: settings look no further."""
    path = tmp_path / "any.safetensors"
    path.touch()
    return path


def test_the_flight_file_shows_every_default(bundle: Path) -> None:
    """deploy/flight.yaml loads, and says of each key what the model would have taken anyway."""
    settings = load_flight(DEPLOY / "flight.yaml", [f"model.bundle={bundle}"])

    assert settings == FlightSettings.model_validate(
        {"model": {"bundle": bundle}}, context={"base": bundle.parent}
    )


def test_the_ground_file_shows_every_default(bundle: Path) -> None:
    """deploy/ground.yaml likewise; its output is beside the folder it lies in."""
    settings = load_ground(DEPLOY / "ground.yaml", [f"model.bundles=[{bundle}]"])
    required = {"model": {"bundles": (bundle,)}, "output": {"directory": settings.output.directory}}

    assert settings == GroundSettings.model_validate(required, context={"base": DEPLOY})
    assert settings.output.directory == DEPLOY / "../output"


@pytest.mark.parametrize(
    ("name", "model"), [("flight", FlightSettings), ("ground", GroundSettings)]
)
def test_the_files_show_every_key(name: str, model: type[BaseModel]) -> None:
    """An operator sees in the file all there is to set."""

    def keys(model: type[BaseModel]) -> dict[str, Any]:
        return {
            field.alias or key: keys(kind)
            if isinstance(kind := field.annotation, type) and issubclass(kind, BaseModel)
            else None
            for key, field in model.model_fields.items()
        }

    def shape(value: Any) -> Any:
        return {k: shape(v) for k, v in value.items()} if isinstance(value, dict) else None

    table = yaml.safe_load((DEPLOY / f"{name}.yaml").read_text(encoding="utf-8"))

    assert shape(table) == keys(model)


def test_flight_and_ground_meet(bundle: Path) -> None:
    """Started from the files as they are, the two find each other, and their ports differ."""
    flight = load_flight(DEPLOY / "flight.yaml", [f"model.bundle={bundle}"])
    ground = load_ground(DEPLOY / "ground.yaml", [f"model.bundles=[{bundle}]"])

    assert flight.link.address == ground.link.address
    assert flight.link.bind != ground.link.bind
    assert flight.metrics.port != ground.metrics.port


def test_the_board_is_given_no_decoder() -> None:
    """The bundles that the two files name are one model, and the board's the part it needs."""
    flight, ground = load_flight(DEPLOY / "flight.yaml"), load_ground(DEPLOY / "ground.yaml")
    board, (whole,) = load_bundle(flight.model.bundle), map(load_bundle, ground.model.bundles)

    assert board.name == whole.name
    assert flight.model.bundle.stat().st_size < ground.model.bundles[0].stat().st_size


@pytest.mark.parametrize("name", get_args(BackendName))
def test_settings_take_every_backend(bundle: Path, name: str) -> None:
    """The same names as the commands and the codec."""
    flight = load_flight(
        DEPLOY / "flight.yaml", [f"model.bundle={bundle}", f"model.backend={name}"]
    )

    assert flight.model.backend == name


def test_overload_is_no_slower(bundle: Path) -> None:
    """Tiles that wait are encoded as fast as the others at least."""
    settings = [f"model.bundle={bundle}", "model.speed=2", "model.overload_speed=1"]
    with pytest.raises(ConfigError, match="overload_speed: 1 is below speed"):
        load_flight(DEPLOY / "flight.yaml", settings)


@pytest.mark.parametrize(
    ("first", "second"),
    [("step=64", "rate_bpppc=0.1"), ("step=64", "psnr_db=55"), ("rate_bpppc=0.1", "psnr_db=55")],
)
def test_the_board_has_one_aim(bundle: Path, first: str, second: str) -> None:
    """Of step, rate and quality at most one is set; the error names the two and the remedy."""
    settings = [f"model.bundle={bundle}", f"model.{first}"]
    load_flight(DEPLOY / "flight.yaml", settings)
    with pytest.raises(ConfigError) as caught:
        load_flight(DEPLOY / "flight.yaml", [*settings, f"model.{second}"])

    (line,) = caught.value.problems
    (name, value), other = second.split("="), first.partition("=")[0]
    assert line == f"model.{name}: {value} cannot be met beside {other}; leave one of them null"


def test_a_batch_of_the_largest_patches_fits_its_mailbox(bundle: Path) -> None:
    """Defaults never make a batch that its mailbox would have to drop as oversize."""
    settings = load_flight(DEPLOY / "flight.yaml", [f"model.bundle={bundle}"])
    sample_bytes = 4 if "float32" in SAMPLE_DTYPES else 2
    patch_bytes = settings.instrument.limits.max_bands * 128 * 128 * sample_bytes

    assert settings.batch.max_patches * patch_bytes <= settings.mailboxes.batches.max_bytes
    assert patch_bytes <= settings.mailboxes.patches.max_bytes


def test_part_of_a_section_keeps_the_rest(bundle: Path, tmp_path: Path) -> None:
    """A mailbox of which one bound is named keeps its own other defaults, not another's."""
    path = tmp_path / "flight.yaml"
    path.write_text(f"model: {{bundle: {bundle}}}\nmailboxes: {{tiles: {{max_items: 3}}}}\n")
    tiles = load_flight(path).mailboxes.tiles

    assert (tiles.max_items, tiles.max_mib, tiles.policy.value) == (3, 512, "drop_newest")


@pytest.mark.parametrize(
    ("load", "name", "override", "problem"),
    [
        (load_flight, "flight", "model.bundle=nowhere", 'nowhere" names no file; looked for '),
        # As where a folder may not be entered: the system says no, rather than that there is none.
        (load_flight, "flight", f"model.bundle={'n' * 300}", "cannot be looked for: File name too"),
        (
            *(load_flight, "flight", f"model.store.trusted_keys=[{'n' * 300}]"),
            "model.store.trusted_keys.0",
        ),
        (load_ground, "ground", f"model.store.directory={'n' * 300}", "cannot be looked for: File"),
        (load_flight, "flight", "link.apid=2047", "link.apid: 2047 should be less than or equal"),
        (load_flight, "flight", "link.mtu_bytes=64", "link.mtu_bytes: 64 should be greater than"),
        (load_flight, "flight", "link.repair.patch_ratio=-1", "patch_ratio: -1 should be greater"),
        (load_flight, "flight", "instrument.pattern=dealer", "should be 'sub' or 'pull'"),
        (load_flight, "flight", "instrument.limits.max_bands=9999", "max_bands: 9999 should be"),
        (load_flight, "flight", "mailboxes.tiles.policy=drop", "should be 'block', 'drop_newest'"),
        (load_flight, "flight", "mailboxes.tiles.max_age_s=0", "max_age_s: 0 should be greater"),
        (load_flight, "flight", "instrument.max_message_mib=600", "above mailboxes.tiles.max_mib"),
        (
            load_flight,
            "flight",
            "mailboxes.patches.max_mib=31",
            "patches.max_mib should be at least 32",
        ),
        (
            load_flight,
            "flight",
            "mailboxes.batches.max_mib=31",
            "batches.max_mib should be at least 32",
        ),
        (load_flight, "flight", "link.address=tcp://a:70000", "a port from 1 to 65535"),
        (load_flight, "flight", "link.address=tcp://*:47101", "link.bind: false makes of tcp://*"),
        (load_ground, "ground", "link.address=tcp://a:0", "a port from 1 to 65535"),
        (load_flight, "flight", "model.backend=gpu", "should be 'auto', 'torch', 'torch-cpu'"),
        (load_flight, "flight", "model.rate_bpppc=0", "model.rate_bpppc: 0 should be greater"),
        (load_flight, "flight", "model.psnr_db=.inf", "model.psnr_db"),
        (load_flight, "flight", "spool.kind=tape", "spool.kind: \"tape\" should be 'memory'"),
        (load_flight, "flight", "link.kbit_per_s=8", "no more than a packet of 8192"),
        (
            load_flight,
            "flight",
            "link.passes=[{opens: 2026-11-26T10:15:00Z, closes: 2026-11-26T10:10:00Z}]",
            "a pass must close after it opens",
        ),
        (
            load_flight,
            "flight",
            "link.passes=[{opens: 2026-11-26T10:15:00, closes: 2026-11-26T10:20:00Z}]",
            "timezone",
        ),
        (load_flight, "flight", "spool.kind=disk", "directory is needed where kind is disk"),
        (load_flight, "flight", "metrics.port=70000", "metrics.port: 70000 should be less"),
        (load_flight, "flight", "log.level=INFO", "log.level: \"INFO\" should be 'debug'"),
        (load_ground, "ground", "model.bundles=[]", "model.bundles: [] Tuple should have at least"),
        (load_ground, "ground", "output.format=tiff", "should be 'geotiff', 'envi', 'zarr'"),
        (
            *(load_ground, "ground", "output={directory: x, format: zarr, cog: true}"),
            "output.cog: true is of GeoTIFFs",
        ),
        (load_ground, "ground", "tile_deadline_s=1", "not be below collect.max_age_s"),
        (load_ground, "ground", "link.apid=3", "link.apid: unknown key; known here: address, bind"),
    ],
)
def test_wrong_values_are_refused(
    *, load: Load, name: str, override: str, problem: str, bundle: Path
) -> None:
    """Each bound of the settings holds, and says what would be right."""
    good = f"model.bundle={bundle}" if name == "flight" else f"model.bundles=[{bundle}]"
    with pytest.raises(ConfigError) as caught:
        load(DEPLOY / f"{name}.yaml", [good, override])

    (line,) = caught.value.problems
    assert problem in line


def test_a_mailbox_need_not_hold_patches_that_cannot_come(bundle: Path) -> None:
    """What the limits on tiles leave is the largest patch."""
    small = [f"model.bundle={bundle}", "mailboxes.patches.max_mib=7", "mailboxes.batches.max_mib=7"]
    for limit in ("limits.max_bands=112", "limits.max_rows=28", "max_message_mib=7"):
        load_flight(DEPLOY / "flight.yaml", [*small, f"instrument.{limit}"])


def test_a_step_that_may_grow_has_no_target(bundle: Path) -> None:
    """A rate or a quality that must be met is no step to be given up."""
    with pytest.raises(ConfigError) as caught:
        load_flight(
            DEPLOY / "flight.yaml",
            [f"model.bundle={bundle}", "model.psnr_db=50", "model.coarser_octaves=2"],
        )
    (line,) = caught.value.problems
    assert "leaves psnr_db unmet" in line


def test_a_ground_that_asks_again_can_hold_the_longest_frame(bundle: Path) -> None:
    """It would ask for it for ever."""
    options = [f"model.bundles=[{bundle}]", "collect.max_mib=9"]
    assert load_ground(DEPLOY / "ground.yaml", options).collect.max_mib == 9
    with pytest.raises(ConfigError, match="max_mib should be at least 10"):
        load_ground(DEPLOY / "ground.yaml", [*options, "link.uplink={}"])


def test_passes_take_the_links_rate_where_they_have_none(bundle: Path) -> None:
    """A plan in UTC, whatever offset its times were written with."""
    passes = (
        "[{opens: 2026-11-26T12:15:00+02:00, closes: 2026-11-26T10:25:00Z}, "
        "{opens: 2026-11-26T11:50:00Z, closes: 2026-11-26T12:00:00Z, kbit_per_s: 512}]"
    )
    settings = load_flight(
        DEPLOY / "flight.yaml",
        [f"model.bundle={bundle}", "link.kbit_per_s=256", f"link.passes={passes}"],
    )
    first, second = settings.link.plan.ahead(0.0, 9)
    assert (first.opens_utc_s, first.closes_utc_s) == (1_795_688_100.0, 1_795_688_700.0)
    assert (first.bits_per_s, second.bits_per_s) == (256_000, 512_000)


def test_a_command_leaves_a_target_alone(tmp_path: Path) -> None:
    """Steps that a rate or a quality sets cannot be ordered coarser."""
    (tmp_path / "any.safetensors").touch()
    path = tmp_path / "flight.yaml"
    path.write_text("model: {bundle: any.safetensors}\n")
    found = {
        given: load_flight(path, [f"model.{given}"]).model.most_ordered_octaves
        for given in ("step=2.0", "rate_bpppc=0.1", "psnr_db=50")
    }
    assert found == {"step=2.0": 8.0, "rate_bpppc=0.1": 0.0, "psnr_db=50": 0.0}
