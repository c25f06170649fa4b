"""A tile in, a GeoTIFF out, which GDAL and all that stands on it read as the instrument meant it.

Band after band (`INTERLEAVE=BAND`), in blocks of a patch: of the EnMAP patch that ships, a band is
read in 1.8 ms, 13 where pixels lie together; the file is 8 % smaller so, that of the AVIRIS scene
9 % larger. Deflate, for every reader knows it; Zstandard took a third less time and 5 % more room.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from codec.crs import crs_from
from codec.patch_grid import PATCH_PX
from codec.patch_layers import PatchLayers
from codec.tile import Georeference, Tile
from codec.tile_readers import not_georeferenced_is_fine
from codec.tile_tags import declared_fill, import_for, to_text_tags

DEFLATE_LEVEL: Final = 1
"""Of a HySpecNet-11k patch, level 6 takes 141 ms and 3.19 MB, level 1 41 ms and 3.17 MB."""

_BLOCK_STEP_PX: Final = 16
"""Edges of blocks are multiples of it. Source: TIFF 6.0, section 15."""


def write_geotiff(tile: Tile, path: Path, layers: PatchLayers | None = None) -> Sequence[Path]:
    """Write a deflated GeoTIFF: all that GDAL has words for in these, the rest as tags.

    Missing samples are the declared fill value. A tile without one, whose holes no value marks,
    has an internal mask while patches are missing; never both: GDAL would see the mask alone.
    """
    rasterio, samples, info = import_for(path, "rasterio"), tile.samples, tile.info
    bands, rows, cols = samples.shape
    fill, fill_tag = declared_fill(info, samples.dtype)
    profile: dict[str, Any] = {"nodata": fill}
    if info.georeference is not None:
        profile["transform"] = rasterio.Affine(*info.georeference.transform)
        profile["crs"] = crs_of(path, info.georeference)
    blocks = [min(PATCH_PX, -(-n // _BLOCK_STEP_PX) * _BLOCK_STEP_PX) for n in (rows, cols)]
    with (
        not_georeferenced_is_fine(rasterio),
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", driver="GTiff", count=bands, height=rows, width=cols,
            dtype=samples.dtype.name, interleave="band", tiled=True, blockysize=blocks[0],
            blockxsize=blocks[1], compress="deflate", zlevel=DEFLATE_LEVEL,
            predictor=3 if samples.dtype.kind == "f" else 2, bigtiff="if_safer", **profile,
        ) as file,
    ):  # fmt: skip
        file.write(samples)
        if (mask := pixel_mask(tile, layers)) is not None:
            file.write_mask(mask)
        file.update_tags(**to_text_tags(info), **fill_tag)
        _describe_bands(file, tile)
    return [path]


def write_cog(tile: Tile, path: Path, layers: PatchLayers | None = None) -> Sequence[Path]:
    """Write a cloud-optimized GeoTIFF: the same, with overviews where it is above a block's size.

    GDAL makes it of a whole file, so a plain GeoTIFF is written first, and all bands of a pixel
    then lie together: before GDAL 3.11 its driver knows no other order.
    """
    shutil = import_for(path, "rasterio.shutil")
    rasterio = import_for(path, "rasterio")
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        (plain,) = write_geotiff(tile, Path(scratch) / path.name, layers)
        with not_georeferenced_is_fine(rasterio):
            shutil.copy(
                plain, path, driver="COG", compress="deflate", level=DEFLATE_LEVEL,
                predictor="yes", blocksize=PATCH_PX, bigtiff="if_safer",
                overview_resampling="average",
            )  # fmt: skip
    return [path]


def write_mask(path: Path, mask: NDArray[np.uint8], bands: int) -> None:
    """Write GDAL's mask of an image of another format: `.msk` beside it.

    Args:
        path: The mask's.
        mask: Shape (rows, cols): 255 where there is something to see, else 0.
        bands: Of the image, which share it.
    """
    rasterio = import_for(path, "rasterio")
    with (
        not_georeferenced_is_fine(rasterio),
        rasterio.open(
            path, "w", driver="GTiff", count=1, height=mask.shape[0], width=mask.shape[1],
            dtype="uint8", compress="deflate",
        ) as file,
    ):  # fmt: skip
        file.write(mask, 1)
        file.update_tags(
            **{f"INTERNAL_MASK_FLAGS_{band}": _PER_DATASET for band in range(1, bands + 1)}
        )


_PER_DATASET: Final = "2"
"""GMF_PER_DATASET. Source: GDAL RFC 15."""


def pixel_mask(tile: Tile, layers: PatchLayers | None) -> NDArray[np.uint8] | None:
    """The mask of a tile whose holes no value marks, shape (rows, cols); None if it needs none."""
    marked = tile.info.nodata is not None or tile.samples.dtype.kind == "f"
    if marked or layers is None or layers.received.all():
        return None
    return np.where(layers.received_pixels(), np.uint8(255), np.uint8(0))


def crs_of(path: Path, georeference: Georeference) -> Any:
    """A rasterio CRS, or None where the text is none: the tags keep the text, no tile is lost."""
    import_for(path, "rasterio")
    return crs_from(georeference.crs)


def _describe_bands(file: Any, tile: Tile) -> None:
    """Name bands, and say what their samples mean: reflectance = scale · sample + offset."""
    info = tile.info
    file.scales = (1 / info.reflectance_scale,) * file.count
    file.offsets = (0.0,) * file.count
    file.units = ("reflectance",) * file.count
    for band, center_nm in enumerate(info.wavelengths_nm, start=1):
        file.set_band_description(band, f"{center_nm} nm")
        file.update_tags(band, wavelength=f"{center_nm}", wavelength_units="Nanometers")
        file.update_tags(band, ns="IMAGERY", CENTRAL_WAVELENGTH_UM=_micrometers(center_nm))
    for band, width_nm in enumerate(info.fwhm_nm, start=1):
        file.update_tags(band, ns="IMAGERY", FWHM_UM=_micrometers(width_nm))


def _micrometers(length_nm: float) -> str:
    return str(round(length_nm / 1000, 9))
