"""One writer per file format: a tile in, files that appear whole or not at all.

`codec.tile_files.write_tile` chooses among them and words their failures; use that.
"""

from __future__ import annotations

import filecmp
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from codec.exchange import exchange
from codec.geotiff_writer import crs_of, pixel_mask, write_cog, write_geotiff, write_mask
from codec.patch_layers import PatchLayers
from codec.tile import Georeference, Tile
from codec.tile_readers import ENVI_TYPES
from codec.tile_tags import declared_fill, is_north_up, to_tags, to_text_tags
from codec.zarr_writer import write_zarr


class Writer(Protocol):
    """Of one format."""

    def __call__(self, tile: Tile, path: Path, layers: PatchLayers | None = None) -> Sequence[Path]:
        """Write a tile to a path whose folder is ours alone.

        Returns:
            The parts made, the one that `read_tile` opens last.
        """
        ...


ENVI_SUFFIX: Final = ".hdr"
MASK: Final = ".img.msk"
"""What the mask of an ENVI image ends in, where it has one: GDAL looks for it there."""

SCRATCH: Final = ".partial-"
"""What folders begin with that hold what is half written, or on its way out."""


def write_envi(tile: Tile, path: Path, layers: PatchLayers | None = None) -> Sequence[Path]:
    """Write an ENVI image, band by band, little-endian: `.img` and its header `.hdr`.

    The header says nothing of patches: it stays as it is while these are completed. A tile without
    a fill value of its own has a mask beside it as long as some are missing.
    """
    info, (bands, rows, cols) = tile.info, tile.samples.shape
    fill, fill_tag = declared_fill(info, tile.samples.dtype)
    little = tile.samples.dtype.newbyteorder("<")
    codes = {kind: code for code, kind in ENVI_TYPES.items()}
    fields = {
        "samples": cols,
        "lines": rows,
        "bands": bands,
        "header offset": 0,
        "file type": "ENVI Standard",
        "data type": codes[little.str[1:]],
        "interleave": "bsq",
        "byte order": 0,
        "reflectance scale factor": info.reflectance_scale,
        **{name.lower(): text for name, text in (to_text_tags(info) | fill_tag).items()},
    }
    if info.start_utc_s:
        fields["acquisition time"] = datetime.fromtimestamp(info.start_utc_s, UTC).isoformat()
    if fill is not None:
        fields["data ignore value"] = fill
    for name, values in (("wavelength", info.wavelengths_nm), ("fwhm", info.fwhm_nm)):
        if values:
            fields["wavelength units"] = "Nanometers"
            fields[name] = "{" + ", ".join(map(str, values)) + "}"
    if info.georeference is not None:
        fields |= _envi_place(path, info.georeference)
    data = path.with_suffix(".img")
    np.ascontiguousarray(tile.samples, dtype=little).tofile(data)
    lines = ["ENVI", *(f"{name} = {value}" for name, value in fields.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if (mask := pixel_mask(tile, layers)) is None:
        return [data, path]
    beside = path.with_suffix(MASK)
    write_mask(beside, mask, bands)
    return [data, beside, path]


def write_npy(tile: Tile, path: Path, layers: PatchLayers | None = None) -> Sequence[Path]:  # noqa: ARG001
    """Write the samples as `.npy` and everything else as `.json` beside it."""
    beside = path.with_suffix(".json")
    tags = to_tags(tile.info, everything=True)
    beside.write_text(json.dumps(tags, indent=1) + "\n", encoding="utf-8")
    np.save(path, tile.samples, allow_pickle=False)
    return [beside, path]


WRITERS: Final[dict[str, tuple[str, Writer]]] = {
    "geotiff": (".tif", write_geotiff),
    "cog": (".tif", write_cog),
    "envi": (ENVI_SUFFIX, write_envi),
    "zarr": (".zarr", write_zarr),
    "npy": (".npy", write_npy),
}
"""Format to its suffix and its writer."""


def publish(
    tile: Tile,
    path: Path,
    writer: Callable[[Tile, Path], Sequence[Path]],
    before_replacing: Callable[[], object] = lambda: None,
) -> None:
    """Write beside `path`, flush to the disk, then rename: `path` is whole or as it was.

    A folder changes places with the one before. Of a format of several parts, those that are as
    they were stay; where more than one is new, the one that readers open vanishes first and comes
    back last. A mask comes, or goes, after the samples: patches only ever become more, so between
    the two it hides samples and never shows a hole.

    Args:
        tile: What to write.
        path: Where, with the suffix of the format; its folder must exist.
        writer: How.
        before_replacing: Called once all is on the disk, before anything has its name.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=SCRATCH) as scratch:
        parts = writer(tile, Path(scratch) / path.name)
        for part in parts:
            _flush(part)
        before_replacing()
        if parts[-1].is_dir() and path.exists():
            exchange(parts[-1], path)
            return
        new = [part for part in parts if not _is_as(part, path.parent / part.name)]
        told_apart = [part for part in new if not part.name.endswith(MASK)]
        if path.exists() and (len(told_apart) > 1 or path.is_dir()):
            path.rename(Path(scratch) / "replaced")
            new = list(parts)
        for part in new:
            part.replace(path.parent / part.name)
        mask = path.with_suffix(MASK)
        if path.suffix == ENVI_SUFFIX and mask.name not in [part.name for part in parts]:
            mask.unlink(missing_ok=True)


def _is_as(part: Path, other: Path) -> bool:
    """Whether a file is there already, byte for byte."""
    return part.is_file() and other.is_file() and filecmp.cmp(part, other, shallow=False)


def _flush(part: Path) -> None:
    """Have the disk hold a file, or a folder with all in it, before it gets its name."""
    for path in [*part.rglob("*"), part] if part.is_dir() else [part]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _envi_place(path: Path, georeference: Georeference) -> dict[str, str]:
    """Put a place into ENVI's words; other than north-up has none and stays in the tags."""
    if not is_north_up(georeference):
        return {}
    a, _, c, _, e, f = georeference.transform
    place = {"map info": f"{{Arbitrary, 1, 1, {c!r}, {f!r}, {a!r}, {-e!r}}}"}
    if crs := crs_of(path, georeference):
        place["coordinate system string"] = f"{{{crs.to_wkt()}}}"
    return place
