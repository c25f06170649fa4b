"""What a product is, as a STAC item: so that catalogs find it, and it can be checked.

Times are of the acquisition alone: an item has no `created` and no `updated`, so that the same
product has the same item whenever it was written. Fields that STAC has no word for begin with
`prismlink:`.

Source: STAC 1.1.0 and the extensions listed here, https://stac-extensions.github.io.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from codec.crs import crs_from
from codec.tile import Georeference, Tile
from daemon.build import build_versions
from daemon.ground.items import RestoredTile

STAC_VERSION: Final = "1.1.0"
EXTENSIONS: Final = tuple(
    f"https://stac-extensions.github.io/{name}/schema.json"
    for name in (
        "eo/v2.0.0",
        "file/v2.1.0",
        "processing/v1.2.0",
        "projection/v2.0.0",
        "raster/v2.0.0",
        "version/v1.2.0",
    )
)

ANY_TIME_S: Final = (0.0, 9_223_372_036.0)
"""Span in which a tile of unknown time lies [s since 1970-01-01 UTC]: an item without `datetime`
must have one. To its end, in 2262, reach the nanoseconds that catalogs hold."""

_SHA2_256: Final = "1220"
"""Multihash prefix of SHA-256 and its 32 bytes, which `file:checksum` has in front."""

_DEGREES_DIGITS: Final = 7
"""Of longitude and latitude: a centimeter."""

_MEDIA_TYPES: Final = {
    ".tif": "image/tiff; application=geotiff",
    ".zarr": "application/vnd.zarr",
    ".json": "application/json",
    ".hdr": "text/plain",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A file of a product, or a folder.

    Attributes:
        name: Its name.
        size_bytes: Of all files in it [bytes].
        sha256: In hexadecimal digits; of a folder, see `daemon.ground.products.tree_sha256`.
        folder: Whether it is one.
    """

    name: str
    size_bytes: int
    sha256: str
    folder: bool = False


def item_of(
    item: RestoredTile, assets: Sequence[Asset], *, name: str, version: int
) -> dict[str, Any]:
    """Describe a product.

    Args:
        item: The tile as far as it arrived.
        assets: Its files, the samples first.
        name: Of the item.
        version: Of the product, from 1.

    Returns:
        JSON values.
    """
    info, side = item.tile.info, item.side
    packets = [record.packets for record in item.records.values()]
    properties: dict[str, Any] = {
        "processing:lineage": f"Decoded from {item.patches} of {len(side.grid)} patches.",
        "prismlink:complete": not item.missing,
        "prismlink:scene": info.scene,
        "prismlink:tile": [info.tile_row, info.tile_col],
        "prismlink:sequence": info.sequence,
        "prismlink:model": side.model.hex(),
        "prismlink:step": side.step,
        "prismlink:patches": len(side.grid),
        "prismlink:patches_missing": [list(position) for position in item.missing],
        "prismlink:packets_repaired": sum(count.repaired for count in packets if count),
        "prismlink:boot_ids": sorted({boot_id for boot_id, _ in item.frames}),
    }
    return feature(item.tile, properties, assets, name=name, version=version)


def feature(
    tile: Tile,
    properties: Mapping[str, Any],
    assets: Sequence[Asset],
    *,
    name: str,
    version: int,
    links: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """Describe a product of a tile, or of many.

    Args:
        tile: Its samples and all that is known of them.
        properties: What is said of it beside that.
        assets: Its files, the samples first.
        name: Of the item.
        version: Of the product, from 1.
        links: To other items.

    Returns:
        JSON values.
    """
    info = tile.info
    place = _place(info.georeference, tile.samples.shape[1:])
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": list(EXTENSIONS),
        "id": name,
        **place.where,
        "properties": {
            **_when(info.start_utc_s),
            **({"instruments": [info.sensor]} if info.sensor else {}),
            "version": str(version),
            "processing:software": {"prismlink": build_versions()["version"]},
            **properties,
            **place.projection,
        },
        "links": list(links),
        "assets": _assets(tile, assets),
    }


def _when(start_utc_s: float) -> dict[str, str | None]:
    """The time of the first line; one that is not known may be any."""
    if start_utc_s:
        return {"datetime": utc(start_utc_s)}
    start, end = map(utc, ANY_TIME_S)
    return {"datetime": None, "start_datetime": start, "end_datetime": end}


def utc(time_s: float) -> str:
    """A time [s since 1970-01-01 UTC] as RFC 3339 has it."""
    return datetime.fromtimestamp(time_s, UTC).isoformat().replace("+00:00", "Z")


def with_asset(item: Mapping[str, Any], asset: Asset) -> dict[str, Any]:
    """The same item with the size and the checksum that one of its files has now.

    Raises:
        KeyError: If it is none of its files.
    """
    assets = {key: dict(told) for key, told in item["assets"].items()}
    for told in assets.values():
        if told["href"] == f"./{asset.name}":
            told["file:size"], told["file:checksum"] = asset.size_bytes, _SHA2_256 + asset.sha256
            return {**item, "assets": assets}
    raise KeyError(asset.name)


def _assets(tile: Tile, assets: Sequence[Asset]) -> dict[str, Any]:
    """Assets by what they are: `data`, then the endings of the others' names."""
    told: dict[str, Any] = {}
    for number, asset in enumerate(assets):
        _, _, ending = asset.name.rpartition(".")
        fields: dict[str, Any] = {"href": f"./{asset.name}"}
        fields["type"] = _MEDIA_TYPES.get(f".{ending}", "application/octet-stream")
        fields["file:size"] = asset.size_bytes
        if asset.folder:
            fields["prismlink:tree_sha256"] = asset.sha256
        else:
            fields["file:checksum"] = _SHA2_256 + asset.sha256
        key = "data" if number == 0 else _key(asset.name, told)
        told[key] = fields | {"roles": ["data" if number == 0 else "metadata"]}
    told["data"] |= _samples(tile)
    return told


def _key(name: str, taken: dict[str, Any]) -> str:
    """A word for an asset beside the samples."""
    words = name.rsplit(".", 2)
    key = words[-2] if words[-2] in ("quality", "manifest") else words[-1]
    return key if key not in taken else name


def _samples(tile: Tile) -> dict[str, Any]:
    """What the samples are: reflectance = scale · sample + offset."""
    info, dtype = tile.info, tile.samples.dtype.name
    told: dict[str, Any] = {
        "data_type": dtype,
        "unit": "reflectance",
        "raster:scale": 1 / info.reflectance_scale,
        "raster:offset": 0.0,
    }
    if info.nodata is not None:
        told["nodata"] = info.nodata if math.isfinite(info.nodata) else str(info.nodata)
    elif dtype == "float32":
        told["nodata"] = "nan"
    bands: list[dict[str, Any]] = [{"name": f"B{n}"} for n in range(1, tile.samples.shape[0] + 1)]
    for key, lengths_nm in (
        ("eo:center_wavelength", info.wavelengths_nm),
        ("eo:full_width_half_max", info.fwhm_nm),
    ):
        for band, length_nm in zip(bands, lengths_nm, strict=False):
            band[key] = round(length_nm / 1000, 9)
    return told | {"bands": bands}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Geometry and bounding box, and properties of the projection."""

    where: dict[str, Any]
    projection: dict[str, Any]


def _place(georeference: Georeference | None, shape: tuple[int, ...]) -> _Place:
    """Where samples of (rows, cols) lie; those of which that is not known have a null geometry."""
    nowhere, projection = {"geometry": None}, dict[str, Any]({"proj:shape": list(shape)})
    if georeference is None:
        return _Place(where=nowhere, projection=projection)
    projection["proj:transform"] = list(georeference.transform)
    try:
        warp, enums = map(importlib.import_module, ("rasterio.warp", "rasterio.enums"))
        crs = crs_from(georeference.crs)
    except ImportError:  # `decode` to NumPy needs no ground extra
        crs = None
    if crs is None:
        return _Place(where=nowhere, projection=projection)
    if number := crs.to_epsg():
        projection["proj:code"] = f"EPSG:{number}"
    else:
        projection |= {
            "proj:code": None,
            "proj:wkt2": crs.to_wkt(version=enums.WktVersion.WKT2_2019),
        }
    if crs.is_projected and crs.linear_units == "metre":
        across, skew_x, _, skew_y, down, _ = georeference.transform
        projection["gsd"] = max(math.hypot(across, skew_y), math.hypot(skew_x, down))
    return _Place(
        where=_footprint(georeference, crs, shape, warp) or nowhere, projection=projection
    )


def _footprint(
    georeference: Georeference, crs: Any, shape: tuple[int, ...], warp: Any
) -> dict[str, Any] | None:
    """The tile's outline in longitude and latitude; None where it has none in one piece."""
    (rows, cols), (a, b, c, d, e, f) = shape, georeference.transform
    corners = ((0, 0), (0, rows), (cols, rows), (cols, 0))
    xs = [a * col + b * row + c for col, row in corners]
    ys = [d * col + e * row + f for col, row in corners]
    try:
        found = warp.transform(crs, "EPSG:4326", xs, ys)
    except Exception:  # GDAL's own errors: a local CRS has no way to the globe
        return None
    lon, lat = ([round(value, _DEGREES_DIGITS) for value in axis] for axis in found)
    if not all(map(math.isfinite, lon + lat)) or max(lon) - min(lon) > 180:
        return None
    ring = [list(point) for point in zip(lon, lat, strict=True)]
    return {
        "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
        "bbox": [min(lon), min(lat), max(lon), max(lat)],
    }
