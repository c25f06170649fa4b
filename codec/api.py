"""The codec for notebooks: arrays in, bytes out, and back.

    data = encode(cube, bundle, rate_bpppc=0.1, wavelengths_nm=centers)
    tile = decode(data, bundle)
    array = to_xarray(tile)             # an xarray.DataArray on (band, y, x)
    array, profile = to_rasterio(tile)  # for rasterio.open(path, "w", **profile)

Bytes are those of a `.prism` file. xarray and rasterio, which a board lacks, are imported where
they are used. `codec.xarray_accessor` has the same behind `array.prismlink`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from codec import prism_file
from codec.backend_names import BackendName
from codec.bundle import Bundle
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.errors import BitstreamError, TileError
from codec.frame import parse
from codec.targets import Target, code
from codec.tile import Georeference, Samples, Tile, TileInfo
from codec.tile_tags import (
    SAMPLE_TYPE,
    as_samples,
    default_scale,
    from_tags,
    nanometers,
    to_tags,
    usable_nodata,
)
from codec.xarray_place import NOWHERE, pixel_coordinates, place_tags

if TYPE_CHECKING:
    import xarray

DIMENSIONS: Final = ("band", "y", "x")
_BANDS: Final = frozenset({"band", "bands", "wavelength", "wavelength_nm"})
_COLUMNS: Final = frozenset({"x", "lon", "longitude"})
_COORDINATES: Final = {
    "wavelength_nm": "wavelengths_nm",
    "wavelength": "wavelengths_nm",
    "fwhm": "fwhm_nm",
}
_MEANING: Final = frozenset({"reflectance_scale", "nodata"})
_ROUNDING: Final = 0.01
"""Of packed integers: floats of 32 bits are within 0.004 of each that 16 bits hold."""


def encode(
    cube: Tile | NDArray[Any] | xarray.DataArray | xarray.Dataset,
    bundle: Bundle,
    *,
    step: float | None = None,
    rate_bpppc: float | None = None,
    psnr_db: float | None = None,
    speed: int = 0,
    backend: BackendName = "auto",
    **facts: Any,
) -> bytes:
    """Encode a cube.

    Args:
        cube: A tile; an array of numbers, shape (bands, rows, cols); or a DataArray or
            Dataset, see `from_xarray`.
        bundle: The model; a PSNR as target needs one that decodes.
        step: Quantizer step [10⁻⁴ reflectance; min–max: latent units]; the bundle's if None.
        rate_bpppc: Bits per valid sample to be met within 5 %, all bytes of frames counted.
        psnr_db: PSNR to be met within 0.3 dB, MAX = reflectance 1.0.
        speed: 0, the fewest bytes, to 3, the least time; see `codec.speeds`.
        backend: What runs the network.
        facts: What is known of the cube beside its samples: fields of `codec.tile.TileInfo`, as
            `wavelengths_nm`, `nodata`, `reflectance_scale`, `scene`; they win over the cube's own.

    Returns:
        The bytes of a `.prism` file.

    Raises:
        TileError: If the cube is no tile, does not fit the model, or cannot be brought to a target.
        BundleError: If the bundle cannot do what is asked.
        ValueError: If more than one of `step`, `rate_bpppc` and `psnr_db` is given.
    """
    if sum(aim is not None for aim in (step, rate_bpppc, psnr_db)) > 1:
        raise ValueError("give one of step, rate_bpppc and psnr_db, not more")
    target = None
    if rate_bpppc is not None:
        target = Target(kind="rate", value=rate_bpppc)
    elif psnr_db is not None:
        target = Target(kind="psnr", value=psnr_db)
    encoder = Encoder(bundle, step=step, backend=backend, speed=speed)
    decoder = None if psnr_db is None else Decoder(bundle)
    return prism_file.pack(code(encoder, as_tile(cube, **facts), target, decoder).frames)


def decode(data: bytes | bytearray | memoryview, bundle: Bundle) -> Tile:
    """Decode the one tile of a `.prism` file's bytes.

    Raises:
        BitstreamError: If they are damaged, of another model, or hold more tiles or fewer.
        BundleTensorError: If the bundle is a flight bundle.
        TypeError: If they are no bytes.
    """
    tiles = list(_frames_by_tile(data).values())
    if len(tiles) != 1:
        raise BitstreamError(f"{len(tiles)} tiles, not one; remedy: decode_all")
    return Decoder(bundle).decode(tiles[0])


def decode_all(data: bytes | bytearray | memoryview, bundle: Bundle) -> Iterator[Tile]:
    """Decode every tile of a `.prism` file's bytes, in their order; raises as `decode` does."""
    decoder = Decoder(bundle)
    for frames in _frames_by_tile(data).values():
        yield decoder.decode(frames)


def as_tile(cube: Tile | NDArray[Any] | xarray.DataArray | xarray.Dataset, **facts: Any) -> Tile:
    """Make a tile of a cube and of what is known beside its samples; see `encode`.

    What a masked array masks becomes `nodata`, of floats without one NaN.

    Raises:
        TileError: If it is none.
    """
    _check_names(facts)
    if isinstance(cube, np.ndarray):
        info = TileInfo(**facts)
        samples = _samples(_unmasked(cube, info.nodata))
        scale = facts.get("reflectance_scale", default_scale(samples.dtype))
        return Tile(samples=samples, info=replace(info, reflectance_scale=scale))
    if isinstance(cube, Tile):
        return Tile(samples=cube.samples, info=replace(cube.info, **facts))
    return from_xarray(cube, **facts)


def to_xarray(tile: Tile) -> xarray.DataArray:
    """A tile as a DataArray on (band, y, x).

    Coordinates are `wavelength` and `fwhm` [nm], as in Zarr products, and `x` and `y` of pixel
    centers; where rows and columns do not run along the axes of the CRS, `row` and `col`, counted
    in the tile. Attributes hold everything else, so that `from_xarray` gives the same tile back.

    Raises:
        ImportError: If xarray is not installed.
    """
    xarray_module = importlib.import_module("xarray")
    info, (_, rows, cols) = tile.info, tile.samples.shape
    coords: dict[str, Any] = {}
    for name, values in (("wavelength", info.wavelengths_nm), ("fwhm", info.fwhm_nm)):
        if values:
            coords[name] = ("band", np.array(values), {"units": "nm"})
    if info.georeference is not None:
        coords |= pixel_coordinates(info.georeference, rows, cols)
    attrs = to_tags(info, everything=True) | {SAMPLE_TYPE: tile.samples.dtype.name}
    del attrs["wavelengths_nm"], attrs["fwhm_nm"]
    made: xarray.DataArray = xarray_module.DataArray(
        tile.samples, dims=DIMENSIONS, coords=coords, attrs=attrs, name="samples"
    )
    return made


def from_xarray(cube: xarray.DataArray | xarray.Dataset, **facts: Any) -> Tile:
    """A DataArray, or a Dataset of one cube, as a tile.

    Args:
        cube: Three dimensions: bands, rows, columns. One named `band`, `bands`, `wavelength` or
            `wavelength_nm` is put first, and `x`, `lon` or `longitude` then last; without such a
            name the order is as given. Of a Dataset the variable `samples`, or its only one of
            three dimensions; its attributes count as the variable's. Read are the coordinates
            `wavelength` (or `wavelength_nm`) and `fwhm` with their `units`, the attributes of
            `to_xarray`, and of CF `scale_factor`, `_FillValue` and a number as `units`, also where
            xarray has applied them on opening; what is absent takes defaults, as in
            `codec.tile_files.read_tile`. The place on the ground is told by the grid mapping, as
            `spatial_ref` of rioxarray, or the attributes of `to_xarray`, and by the coordinates
            of rows and columns, which tell which pixels are left.
        facts: See `encode`. `reflectance_scale` and `nodata` must be among them where integers of
            `to_xarray` have become floats: those may count as before, or be reflectance.

    Raises:
        TileError: If it is no tile, or its pixels are not evenly spaced.
    """
    _check_names(facts)
    if not hasattr(cube, "coords"):
        raise TileError(
            f"{type(cube).__name__} is no cube; remedy: a Tile, a NumPy array, a DataArray or a"
            " Dataset; codec.tile_files.read_tile gives that of a file"
        )
    dataset: Any = cube if hasattr(cube, "data_vars") else None
    array: Any = cube if dataset is None else _variable(dataset)
    attrs: dict[str, Any] = {} if dataset is None else dict(dataset.attrs)
    if not _BANDS.isdisjoint(array.dims):
        order = sorted(array.dims, key=lambda name: (name not in _BANDS, name in _COLUMNS))
        array = array.transpose(*order)
    attrs |= array.attrs
    try:
        samples = _samples(_as_stored(np.asarray(array.values), array.encoding))
        _check_meaning(samples, attrs, facts)
        attrs.setdefault("reflectance_scale", _scale(samples, attrs, array.encoding))
        if "nodata" not in attrs:
            fill = array.encoding.get("_FillValue", attrs.get("_FillValue"))
            fill = None if fill is None or math.isnan(fill) else float(fill)
            attrs["nodata"] = usable_nodata(fill, samples.dtype)
        attrs |= _lengths(array)
        if "georeference" not in facts:
            attrs |= place_tags(array, attrs)
        return Tile(samples=samples, info=from_tags(attrs, **facts))
    except (TypeError, ValueError) as error:
        raise TileError(f"an attribute is not what its name says: {error}") from None


def to_rasterio(tile: Tile) -> tuple[Samples, dict[str, Any]]:
    """A tile as rasterio has one: an array, and the profile to open a file with.

    Returns:
        Samples, shape (bands, rows, cols), and `driver`, `count`, `height`, `width`, `dtype`,
        `nodata`, and `crs` and `transform` where the place is known.

    Raises:
        ImportError: If rasterio is not installed.
    """
    rasterio = importlib.import_module("rasterio")
    bands, rows, cols = tile.samples.shape
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "count": bands,
        "height": rows,
        "width": cols,
        "dtype": tile.samples.dtype.name,
        "nodata": tile.info.nodata,
        "interleave": "band",
    }
    if tile.info.georeference is not None:
        profile["crs"] = tile.info.georeference.crs
        profile["transform"] = rasterio.Affine(*tile.info.georeference.transform)
    return tile.samples, profile


def from_rasterio(array: NDArray[Any], profile: Mapping[str, Any], **facts: Any) -> Tile:
    """An array and its profile, as `rasterio.open(path)` gives them, as a tile.

    Args:
        array: Shape (bands, rows, cols), masked or not.
        profile: Of which `nodata`, `crs` and `transform` are read; that of the window where the
            array is one, bands aside.
        facts: See `encode`.

    Raises:
        TileError: If it is no tile, or the place is that of an image of another size.
    """
    nodata = profile.get("nodata")
    samples = _samples(_unmasked(array, facts.get("nodata", nodata)))
    facts.setdefault("nodata", usable_nodata(nodata, samples.dtype))
    transform = tuple(profile.get("transform") or NOWHERE)[:6]
    if transform != NOWHERE and "georeference" not in facts:
        _check_window(samples, profile)
        crs = profile.get("crs") or ""
        text = crs if isinstance(crs, str) else crs.to_string()
        facts["georeference"] = Georeference(crs=text, transform=transform)
    return as_tile(samples, **facts)


def _check_names(facts: Mapping[str, Any]) -> None:
    """Refuse words that are no facts of a tile, and facts that cannot be unknown."""
    known = {field.name for field in fields(TileInfo)}
    for name, value in facts.items():
        if name not in known:
            raise TileError(f"a tile has no such fact: {name}; remedy: one of {sorted(known)}")
        if value is None and name not in ("nodata", "georeference"):
            raise TileError(f"{name} must not be None; remedy: leave it out")


def _check_meaning(samples: Samples, attrs: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Refuse to guess what integers have become that are floats now."""
    was = str(attrs.get(SAMPLE_TYPE, "float32"))
    if samples.dtype.kind == "f" and was != "float32" and not facts.keys() >= _MEANING:
        raise TileError(
            f"samples were {was} and are {samples.dtype}: still DN, or reflectance? "
            f"remedy: give {' and '.join(sorted(_MEANING))}"
        )


def _check_window(samples: Samples, profile: Mapping[str, Any]) -> None:
    """Refuse the place of a whole file for a window of it."""
    rows, cols = samples.shape[1:]
    height, width = profile.get("height", rows), profile.get("width", cols)
    if (height, width) != (rows, cols):
        raise TileError(
            f"samples are {rows} × {cols} px, their profile is of {height} × {width}; remedy: that"
            ' of the window, profile | {"height": …, "width": …, "transform":'
            " file.window_transform(window)}, or georeference=None"
        )


def _unmasked(values: NDArray[Any], nodata: float | None) -> NDArray[Any]:
    """An array without a mask: fill stands where it was masked."""
    if not np.ma.is_masked(values) or values.dtype.kind not in "iuf":
        return np.asarray(values)
    fill = usable_nodata(nodata, values.dtype)
    if fill is None and values.dtype.kind != "f":
        raise TileError(
            f"samples are masked, and no {values.dtype} stands for that; remedy: give nodata"
        )
    filled: NDArray[Any] = np.ma.filled(values, math.nan if fill is None else fill)
    return filled


def _variable(dataset: xarray.Dataset) -> xarray.DataArray:
    """The cube of a Dataset, with what is scalar beside it: the grid mapping is."""
    cubes = [name for name, array in dataset.data_vars.items() if array.ndim == 3]
    if "samples" in cubes:
        cubes = ["samples"]
    if len(cubes) != 1:
        raise TileError(f"{len(cubes)} cubes {cubes}, not one; remedy: give dataset[NAME]")
    scalars = [name for name, array in dataset.data_vars.items() if array.ndim == 0]
    return dataset.set_coords(scalars)[cubes[0]]


def _as_stored(values: NDArray[Any], stored: Mapping[str, Any]) -> NDArray[Any]:
    """Undo what xarray does on opening: NaN for fill, floats for scaled integers.

    Values that are not those of the store any more stay as they are.
    """
    fill, kind = stored.get("_FillValue"), np.dtype(stored.get("dtype", values.dtype))
    if values.dtype.kind != "f" or (kind.kind == "f" and "scale_factor" in stored):
        return values
    missing = np.isnan(values)
    if kind.kind != "f":
        packed = (values - stored.get("add_offset", 0)) / stored.get("scale_factor", 1)
        whole = np.rint(np.where(missing, 0 if fill is None else fill, packed))
        limits = np.iinfo(kind)
        is_stored = (np.abs(whole - packed)[~missing] < _ROUNDING).all()
        if (fill is None and missing.any()) or not is_stored or stored.get("add_offset"):
            return values
        inside = limits.min <= whole.min(initial=0) and whole.max(initial=0) <= limits.max
        return whole.astype(kind) if inside else values
    return np.where(missing, values.dtype.type(fill), values) if fill is not None else values


def _scale(samples: Samples, attrs: Mapping[str, Any], stored: Mapping[str, Any]) -> float:
    """The sample value of reflectance 1.0, as CF tells it."""
    factor = attrs.get("scale_factor", stored.get("scale_factor"))
    if factor is None:
        try:
            factor = float(attrs["units"])
        except (KeyError, TypeError, ValueError):
            factor = 1.0
    elif "scale_factor" in stored and samples.dtype.kind == "f":
        factor = 1.0  # xarray has applied it
    if not factor > 0 or factor == 1:  # no integers count whole reflectances
        return default_scale(samples.dtype)
    return float(f"{1 / factor:.9g}")


def _lengths(array: xarray.DataArray) -> dict[str, list[float]]:
    """Band centers and widths [nm]; widths without a unit have that of the centers."""
    found, unit = dict[str, list[float]](), ""
    for name, field in _COORDINATES.items():
        if name not in array.coords:
            continue
        coordinate = array.coords[name]
        values = [float(str(value)) for value in np.ravel(coordinate.values)]
        told = str(coordinate.attrs.get("units", "")).strip()
        unit = "nm" if name.endswith("_nm") else told or unit
        if not unit:
            unit = "um" if all(value < 100 for value in values) else "nm"
        found[field] = nanometers(values, unit)
        if values and not found[field]:
            raise TileError(f"{name} is in {unit!r}; remedy: give it in nm or um")
    return found


def _samples(values: NDArray[Any]) -> Samples:
    if values.ndim != 3 or 0 in values.shape:
        raise TileError(f"a cube is (bands, rows, cols), got {values.shape}")
    try:
        return as_samples(np.ascontiguousarray(values))
    except ValueError as error:
        raise TileError(str(error)) from None


def _frames_by_tile(data: bytes | bytearray | memoryview) -> dict[bytes, list[bytes]]:
    tiles: dict[bytes, list[bytes]] = {}
    for raw in prism_file.unpack(data if isinstance(data, bytes) else bytes(memoryview(data))):
        tiles.setdefault(parse(raw).tile_id, []).append(raw)
    return tiles
