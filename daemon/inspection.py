"""`prismlink inspect`: what is in a bundle, a product, or anything that holds frames.

Every description is plain JSON values under `kind`; `daemon.inspection_tables` shows them.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from codec import prism_file
from codec.errors import BitstreamError, CodecError, TileFileError, WrongModelError
from codec.frame import PatchFrame, SideFrame, parse
from codec.tile import Tile, TileInfo
from codec.tile_files import READERS, find_scenes, read_tile
from daemon.bulk.catalog import FoundTile, Selection
from daemon.bulk.decode import read_all
from daemon.bulk.frames import FrameReader
from daemon.bulk.sources import CAPTURES, Source, find_sources
from daemon.ground.products import QUALITY
from daemon.ground.scenes import is_scene_stem
from daemon.ground.write import MANIFEST
from daemon.link.lanes import LANES
from daemon.link.packet import Channel, Packet
from daemon.link.sequence import SequenceTracker
from daemon.onboard.segment_log import waiting_in

BUNDLE: Final = ".safetensors"
STORE: Final = ".zarr"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was found.

    Attributes:
        description: Plain JSON values.
        tile: A product's tile, the first of a store, or the first of frames, restored if that was
            asked for.
        problems: What is wrong with it, a line each.
    """

    description: dict[str, Any]
    tile: Tile | None = None
    problems: tuple[str, ...] = ()


def inspect(
    path: Path,
    *,
    selection: Selection | None = None,
    unseal: Callable[[bytes], bytes] | None = None,
    bundles: Mapping[bytes, Path] | None = None,
) -> Inspection:
    """Describe a bundle, a product, a frame file, an archive, a spool or a capture.

    Args:
        path: A file or a folder.
        selection: Which tiles of frames are listed; None: all.
        unseal: Opens sealed packets.
        bundles: By model, to restore the first tile of frames with; None: none is restored.

    Raises:
        CodecError: If it is none of these, or cannot be read.
    """
    if path.suffix == BUNDLE:
        from daemon.inspection_bundle import describe  # noqa: PLC0415  # it loads PyTorch

        return Inspection(description=describe(path))
    if not path.exists():
        raise TileFileError(f"{path}: no such file; remedy: check the path")
    if path.suffix == STORE and _members(path):
        return _inspect_store(path)
    if path.suffix.lower() in READERS or _has_header(path):
        tile = read_tile(path)
        return Inspection(description=_describe_product(path, tile), tile=tile)
    return _inspect_frames(path, selection or Selection(), unseal, bundles)


# ---- products ----------------------------------------------------------------------------------


def _describe_product(path: Path, tile: Tile) -> dict[str, Any]:
    """Say what a tile in a file is, and what its manifest tells."""
    info, valid = tile.info, tile.valid()
    samples = tile.samples[valid]
    found = {
        "kind": "product",
        "file": path.name,
        "format": READERS.get(path.suffix.lower(), READERS[".hdr"])[0],
        **_of_info(info),
        "shape": list(tile.samples.shape),
        "dtype": tile.samples.dtype.name,
        "reflectance_scale": info.reflectance_scale,
        "nodata": _plain(info.nodata),
        "crs": info.georeference.crs if info.georeference else None,
        "transform": list(info.georeference.transform) if info.georeference else None,
        "valid_share": float(valid.mean()),
        "least": _plain(float(samples.min())) if samples.size else None,
        "mean": _plain(float(samples.mean(dtype=np.float64))) if samples.size else None,
        "most": _plain(float(samples.max())) if samples.size else None,
    }
    for end, read in ((QUALITY, _of_quality), (MANIFEST, _of_manifest)):
        with suppress(OSError, ValueError, KeyError, TypeError):  # it is not one of ours
            found |= read(json.loads(path.with_name(path.stem + end).read_bytes()), samples.size)
    return found


def _of_quality(told: Mapping[str, Any], _: int) -> dict[str, Any]:
    """What is known of a product's patches."""
    came = [patch for patch in told["patches"] if patch["received"]]
    steps = {float(patch["step"]) for patch in came if patch["step"] is not None}
    return {
        "model": str(told["model"]),
        "steps": [min(steps), max(steps)] if steps else None,
        "patches": len(came),
        "patches_of": len(told["patches"]),
        "version": int(told["version"]),
    }


def _of_manifest(told: Mapping[str, Any], valid_samples: int) -> dict[str, Any]:
    """What a product was made of."""
    size = int(told["frame_bytes"])
    return {"bytes_coded": size, "bits_per_sample": 8 * size / max(1, valid_samples)}


def _members(path: Path) -> list[Path]:
    return sorted(path.glob(f"*{STORE}")) if path.is_dir() else []


def _inspect_store(path: Path) -> Inspection:
    """Say which tiles a store of many holds."""
    tiles, first = list[dict[str, Any]](), None
    for member in _members(path):
        tile = read_tile(member)
        first = first or tile
        tiles.append(
            {
                "group": member.name,
                "is_scene": is_scene_stem(member.stem),
                **_of_info(tile.info),
                "shape": list(tile.samples.shape),
                "dtype": tile.samples.dtype.name,
            }
        )
    return Inspection(description={"kind": "store", "file": path.name, "tiles": tiles}, tile=first)


def _has_header(path: Path) -> bool:
    """Whether it is the data file of an ENVI image."""
    return path.is_file() and (
        path.with_suffix(".hdr").is_file() or path.with_name(path.name + ".hdr").is_file()
    )


def _of_info(info: TileInfo) -> dict[str, Any]:
    return {
        "sensor": info.sensor,
        "scene": info.scene,
        "tile_row": info.tile_row,
        "tile_col": info.tile_col,
        "sequence": info.sequence,
        "start_utc": utc(info.start_utc_s) if info.start_utc_s else None,  # 0: nobody told it
        "wavelengths_nm": list(info.wavelengths_nm),
        "fwhm_nm": list(info.fwhm_nm),
    }


def utc(seconds: float) -> str:
    """A time [s since 1970-01-01 UTC] in ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _plain(value: float | None) -> float | str | None:
    """A number for JSON, which knows neither NaN nor infinity."""
    return value if value is None or np.isfinite(value) else str(value)


# ---- frames ------------------------------------------------------------------------------------


def _inspect_frames(
    path: Path,
    selection: Selection,
    unseal: Callable[[bytes], bytes] | None,
    bundles: Mapping[bytes, Path] | None,
) -> Inspection:
    problems, packets = list[str](), _Packets()
    try:
        sources = find_sources(path)
    except TileFileError as error:
        raise _none_of_the_kinds(path, str(error)) from None
    with FrameReader(problems.append, unseal=unseal, on_packet=packets.note) as reader:
        catalog = read_all([path], reader, problems.append)
        unnamed = sources[0].path == path and path.suffix.lower() not in CAPTURES
        ours = packets.by_channel or reader.stream.sealed
        if sources[0].kind == "capture" and unnamed and not ours:
            raise _none_of_the_kinds(path, "no packet of ours is in it")
        tiles = tuple(tile for tile in catalog.tiles() if selection.takes(tile.side))
        restored = _first(tiles, bundles) if bundles is not None and tiles else None
        found: dict[str, Any] = {
            "kind": sources[0].kind if sources[0].path == path else "folder",
            "file": path.name,
            "sources": len(sources),
        }
        if any(source.kind in ("capture", "spool") for source in sources):
            found["packets"] = {
                **packets.to_dict(),
                "sealed": reader.stream.sealed,
                "skipped_bytes": reader.stream.skipped_bytes,
                "frames_incomplete": reader.frames_incomplete,
            }
    if sources == [Source(kind="frame file", path=path)]:
        found["frames"] = _frames_of(path)
    if sources == [Source(kind="spool", path=path)]:
        found["lanes"] = _lanes_of(path)
    found["tiles"] = [_of_tile(tile) for tile in tiles]
    found["superseded"] = catalog.superseded
    found["without_side"] = catalog.without_side
    found["problems"] = problems
    return Inspection(description=found, tile=restored, problems=tuple(problems))


def _none_of_the_kinds(path: Path, reason: str) -> CodecError:
    if path.is_dir():
        with suppress(TileFileError):
            products = find_scenes(path)
            reason = f"products or scenes are there ({len(products)}); remedy: name one, such as"
            return TileFileError(f"{path}: {reason} {products[0]}")
    return CodecError(
        f"{path}: neither a bundle ({BUNDLE}), a product ({', '.join(READERS)}), frames nor "
        f"packets: {reason}"
    )


def _first(tiles: Sequence[FoundTile], bundles: Mapping[bytes, Path]) -> Tile:
    """Restore the first tile.

    Raises:
        CodecError: If it cannot be.
    """
    model = tiles[0].side.model
    if model not in bundles:
        raise WrongModelError(
            f"{tiles[0].source.path}: no bundle of model {model.hex()}; remedy: --bundle FILE"
        )
    try:
        frames = [(frame.boot_id, frame.frame_id, frame.place.read()) for frame in tiles[0].frames]
    except OSError as error:
        raise TileFileError(f"{tiles[0].source.path}: {error}; remedy: try again") from None
    from daemon.bulk.work import restore  # noqa: PLC0415  # it loads PyTorch

    restored, problems = restore(frames, bundles[model], model, threads=1)
    if restored is None:
        raise BitstreamError(f"{tiles[0].source.path}: {'; '.join(problems)}")
    return restored.tile


@dataclass(slots=True)
class _Packets:
    """What came as packets: how many, from when to when, and what is lacking between."""

    by_channel: Counter[str] = field(default_factory=Counter)
    by_apid: Counter[int] = field(default_factory=Counter)
    boots: dict[int, SequenceTracker] = field(default_factory=lambda: defaultdict(SequenceTracker))
    repair: int = 0
    first_s: float = float("inf")
    last_s: float = float("-inf")

    def note(self, packet: Packet) -> None:
        """Count a packet."""
        self.by_channel[packet.channel.name.lower()] += 1
        self.by_apid[packet.apid] += 1
        self.repair += packet.is_repair
        self.first_s, self.last_s = (
            min(self.first_s, packet.time_s),
            max(self.last_s, packet.time_s),
        )
        if packet.channel is not Channel.HOUSEKEEPING:  # has counts of its own
            self.boots[packet.boot_id].note(packet.boot_id, packet.counter)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        counts = {boot_id: tracker.counts for boot_id, tracker in self.boots.items()}
        return {
            "by_channel": dict(self.by_channel),
            "by_apid": {str(apid): count for apid, count in sorted(self.by_apid.items())},
            "repair": self.repair,
            "first_utc": utc(self.first_s) if self.by_channel else None,
            "last_utc": utc(self.last_s) if self.by_channel else None,
            "boots": [
                {
                    "boot_id": f"{boot_id:08x}",
                    "received": count.received,
                    "missing": count.missing,
                    "missing_before_start": count.missing_before_start,
                    "duplicate": count.duplicate,
                    "late": count.late,
                }
                for boot_id, count in counts.items()
            ],
        }


def _of_tile(tile: FoundTile) -> dict[str, Any]:
    side = tile.side
    samples = int(side.valid_bands.sum()) * side.shape[1] * side.shape[2]
    return {
        "tile_id": side.tile_id.hex(),
        **_of_info(side.info),
        "shape": list(side.shape),
        "dtype": side.dtype,
        "model": side.model.hex(),
        "step": side.step,
        "patches": tile.patches,
        "patches_of": len(side.grid),
        "bytes": tile.frame_bytes,
        "bits_per_sample": 8 * tile.frame_bytes / max(1, samples),
        "source": str(tile.source.path),
    }


def _frames_of(path: Path) -> list[dict[str, Any]]:
    """Every sound frame of a frame file; what is wrong with others is told elsewhere."""
    found = list[dict[str, Any]]()
    try:
        for raw in prism_file.unpack(path.read_bytes()):
            found.append(_describe(parse(raw), len(raw)))
    except BitstreamError:
        pass
    return found


def _describe(frame: SideFrame | PatchFrame, size: int) -> dict[str, Any]:
    common = {"tile_id": frame.tile_id.hex(), "model": frame.model.hex(), "bytes": size}
    if isinstance(frame, PatchFrame):
        return {"kind": "patch", **common, "patch": [frame.patch_row, frame.patch_col]}
    return {
        "kind": "side",
        **common,
        "scene": frame.info.scene,
        "shape": list(frame.shape),
        "dtype": frame.dtype,
        "step": frame.step,
        "components": len(frame.levels),
    }


def _lanes_of(path: Path) -> dict[str, dict[str, int]]:
    """What waits in each lane of a spool.

    Raises:
        CodecError: If it cannot be read.
    """
    folders = [path / lane.folder for lane in LANES if (path / lane.folder).is_dir()] or [path]
    try:
        return {folder.name: waiting_in(folder) for folder in folders}
    except OSError as error:
        raise CodecError(f"{error.filename or path}: {error.strerror}") from None
