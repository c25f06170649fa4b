"""What `daemon.inspection` found, as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console, Group, RenderableType

from daemon.console import counted, short, table

_TILES_SHOWN: Final = 200
"""Of more the first are shown; `--json` has all."""


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print a description as tables."""
    console.print(Group(*_tables(found)))


def _tables(found: Mapping[str, Any]) -> list[RenderableType]:
    match found["kind"]:
        case "bundle":
            return [_facts(f"Bundle {found['model']}", _of_bundle(found))]
        case "product":
            return [_facts(f"{found['format']} {found['file']}", _of_product(found))]
        case "store":
            return [_products(found)]
        case _:
            return _of_frames(found)


def _facts(title: str, rows: Mapping[str, object]) -> RenderableType:
    """Two columns: what, and how much."""
    facts = table(title)
    facts.show_header = False
    facts.add_column("", no_wrap=True)
    facts.add_column("", overflow="fold")
    for name, value in rows.items():
        if value not in (None, "", ()):
            facts.add_row(name, str(value))
    return facts


def _of_bundle(found: Mapping[str, Any]) -> dict[str, object]:
    network, conditioner = found["network"], found["conditioner"]
    return {
        "digest": found["digest"],
        "decodes": "no, a flight bundle" if found["flight_only"] else "yes",
        "conditioner": f"{conditioner['kind']}, {conditioner['components']} components",
        "network": _listed(network),
        "default step": f"{found['default_step']:g}",
        "parameters": f"{found['parameters']:,}",
        "operations a patch": f"{found['encoder_macs_per_patch'] / 1e6:,.1f} M encoder, "
        f"{found['decoder_macs_per_patch'] / 1e6:,.1f} M decoder",
        "provenance": _listed(found["provenance"]),
        "scores": f"{scores} numbers: --json FILE has them"
        if (scores := _count(found["scores"]))
        else None,
    }


def _of_product(found: Mapping[str, Any]) -> dict[str, object]:
    return {
        "scene": found["scene"],
        "sensor": found["sensor"],
        "tile": _place(found),
        "first line": _time(found),
        "shape": f"{_shape(found['shape'])}, {found['dtype']}",
        "wavelengths": _wavelengths(found["wavelengths_nm"]),
        "reflectance 1.0": f"{found['reflectance_scale']:g}",
        "fill": found["nodata"],
        "valid samples": f"{100 * found['valid_share']:.4g} %",
        "samples": None
        if found["least"] is None
        else f"{found['least']:g} to {found['most']:g}, mean {found['mean']:.6g}",
        "place": found["crs"],
        "model": found.get("model"),
        "steps": " to ".join(f"{step:g}" for step in sorted(set(found.get("steps") or ()))),
        "bits per valid sample": f"{found['bits_per_sample']:.4f} of frames, packets not counted"
        if "bits_per_sample" in found
        else None,
        "patches": f"{found['patches']} of {found['patches_of']}" if "patches" in found else None,
        "version": found.get("version"),
    }


def _products(found: Mapping[str, Any]) -> RenderableType:
    scenes = sum(tile["is_scene"] for tile in found["tiles"])
    more = f", scenes put together: {scenes}" if scenes else ""
    single = counted(len(found["tiles"]) - scenes, "tile", "tiles")
    tiles = table(f"{found['file']}: {single}{more}")
    for name in ("group", "first line", "bands × rows × cols", "dtype"):
        tiles.add_column(name, no_wrap=name != "group", overflow="fold")
    for tile in found["tiles"]:
        tiles.add_row(tile["group"], _time(tile)[:16], _shape(tile["shape"]), tile["dtype"])
    return tiles


def _of_frames(found: Mapping[str, Any]) -> list[RenderableType]:
    shown = list[RenderableType]()
    if "lanes" in found:
        lanes = table("What waits for the link")
        lanes.add_column("lane")
        for name in ("files", "packets", "bytes", "damaged bytes"):
            lanes.add_column(name, justify="right")
        for name, lane in found["lanes"].items():
            numbers = ("files", "packets", "packet_bytes", "skipped_bytes")
            lanes.add_row(name, *(f"{lane[number]:,}" for number in numbers))
        shown.append(lanes)
    if "packets" in found:
        shown += _of_packets(found["packets"])
    tiles = found["tiles"]
    passed = {
        "older versions": found["superseded"],
        "without side information": found["without_side"],
    }
    more = "".join(f", {count} {what}" for what, count in passed.items() if count)
    rows = table(
        f"{found['kind'].capitalize()} {found['file']}: "
        f"{counted(len(tiles), 'tile', 'tiles')}{more}\n"
        "(bpppc: bits per valid sample of frames, packets not counted)"
    )
    models = sorted({tile["model"] for tile in tiles})
    rows.add_column("scene", overflow="fold")  # the one that gives way on a narrow screen
    rows.add_column("first line", no_wrap=True)
    places = {(tile["scene"], tile["tile_row"], tile["tile_col"]) for tile in tiles}
    again = ("sequence",) if len(places) < len(tiles) else ()
    steps = sorted({tile["step"] for tile in tiles})
    differ = ("step",) if len(steps) > 1 else ()
    for name in ("tile", *again, "shape", *differ, "patches", "bpppc"):
        rows.add_column(name, justify="right", no_wrap=True)
    if len(models) > 1:
        rows.add_column("model", overflow="fold")
    for tile in tiles[:_TILES_SHOWN]:
        cells = [
            short(tile["scene"]),
            _time(tile)[:16],
            f"r{tile['tile_row']} c{tile['tile_col']}",
            *(str(tile[name]) for name in again),
            "×".join(map(str, tile["shape"])),
            *(f"{tile[name]:g}" for name in differ),
            f"{tile['patches']}/{tile['patches_of']}",
            f"{tile['bits_per_sample']:.4f}",
        ]
        rows.add_row(*cells, *([tile["model"]] if len(models) > 1 else []))
    shown.append(rows)
    same = [f"of model {name}" for name in models if len(models) == 1]
    same += [f"with a step of {step:g}" for step in steps if len(steps) == 1]
    if same:
        shown.append(f" all {', '.join(same)}\n")
    if len(tiles) > _TILES_SHOWN:
        shown.append(f"… and {len(tiles) - _TILES_SHOWN} more: --json FILE has all")
    return shown


def _of_packets(packets: Mapping[str, Any]) -> list[RenderableType]:
    span = f"{packets['first_utc']} to {packets['last_utc']}" if packets["first_utc"] else "none"
    channels = ", ".join(f"{count:,} {name}" for name, count in packets["by_channel"].items())
    facts = {
        "packets": channels or "none",
        "made": span,
        "APIDs": ", ".join(f"{a}: {n:,}" for a, n in packets["by_apid"].items()),
        "repair symbols": f"{packets['repair']:,}",
        "sealed": f"{packets['sealed']:,}" if packets["sealed"] else None,
        "bytes of others": f"{packets['skipped_bytes']:,}",
        "frames that lack packets": f"{packets['frames_incomplete']:,}",
    }
    boots = table("Gaps, boot by boot")
    boots.add_column("boot")
    numbers = ("received", "missing", "missing_before_start", "late", "duplicate")
    for name in ("packets", "missing", "before the first", "late", "repeated"):
        boots.add_column(name, justify="right")
    for boot in packets["boots"]:
        boots.add_row(boot["boot_id"], *(f"{boot[number]:,}" for number in numbers))
    return [_facts("Packets", facts), boots]


def _time(found: Mapping[str, Any]) -> str:
    return found["start_utc"] or "unknown"


def _place(found: Mapping[str, Any]) -> str:
    return f"row {found['tile_row']}, column {found['tile_col']}, sequence {found['sequence']}"


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _wavelengths(centers_nm: Sequence[float]) -> str | None:
    if not centers_nm:
        return None
    return f"{min(centers_nm):g} to {max(centers_nm):g} nm in {len(centers_nm)} bands"


def _listed(values: Mapping[str, Any]) -> str:
    """Names and values, but for those that would take a page."""
    plain = {k: v for k, v in values.items() if not isinstance(v, dict) and len(str(v)) <= 40}
    return ", ".join(f"{name} {_text(value)}" for name, value in plain.items())


def _count(values: object) -> int:
    """Numbers in JSON values."""
    if isinstance(values, dict):
        return sum(map(_count, values.values()))
    if isinstance(values, list):
        return sum(map(_count, values))
    return isinstance(values, (int, float))


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
