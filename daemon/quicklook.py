"""One picture per tile: true colour before, after, and the error."""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from codec.quality import psnr_db
from codec.tile import Tile
from daemon.errors import OutputError
from daemon.files import write_whole

TRUE_COLOR_NM: Final = (640.0, 550.0, 470.0)
"""Red, green, blue: where Landsat and Sentinel-2 have theirs."""
VISIBLE_SLACK_NM: Final = 60.0
"""A band farther from red, green or blue than this does not show that color."""
STRETCH_PERCENT: Final = (2.0, 98.0)
STRETCH_AT_LEAST: Final = 0.018
"""Narrowest stretch of a color [reflectance]. Below it, as over dark water, the three share one
span around the scene's mean hue: stretches of their own would show its noise as a rainbow."""
MIDDLE_BRIGHTNESS: Final = 0.55
"""Where the brightest color's middle then lies between black and full [1]."""
GAMMA: Final = 1 / 1.3
"""Lifts dark scenes a little, as quick looks of L2A products do."""

PANEL_PX: Final = 384
"""Edge that the longer side of a panel is enlarged to, by whole factors."""
MARGIN_PX: Final = 18
CAPTION_PX: Final = 58
SCALE_PX: Final = 74
"""Room for the color scale at the right."""

PAPER: Final = (250, 250, 248)
INK: Final = (28, 30, 34)
SOFT_INK: Final = (112, 116, 124)
HATCH: Final = ((38, 40, 46), (58, 61, 70))
"""Two grays for the stripes over invalid pixels: no image has them side by side."""

INFERNO: Final = (
    (0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85), (227, 89, 51),
    (249, 140, 10), (249, 201, 50), (252, 255, 164),
)  # fmt: skip
"""Nine steps of matplotlib's inferno (van der Walt and Smith, CC0): equal steps look equal."""


def write_quicklook(before: Tile, after: Tile, path: Path, *, note: str = "") -> None:
    """Write a PNG of a tile before and after, and of the error.

    Args:
        before: The tile that went in.
        after: What came back; samples of lost patches are fill.
        path: Where; appears whole or not at all.
        note: A few words under "after", such as the rate.

    Raises:
        OutputError: If Pillow is not installed or the file cannot be written.
    """
    png = io.BytesIO()
    render(before, after, note=note).save(png, format="PNG")
    write_whole(path, png.getvalue())


def render(before: Tile, after: Tile, *, note: str = "") -> Any:
    """Draw the picture.

    Returns:
        A PIL image.

    Raises:
        OutputError: If Pillow is not installed.
    """
    image_module, draw_module, _ = _pillow()
    bands, is_true_color = color_bands(before)
    seen, came = before.valid(), after.valid()
    low, high = _stretch(before, bands)
    error, has_error = rms_error(before, after)
    worst = float(error[has_error].max()) if has_error.any() else 0.0
    panels = [
        _hatched(_colors(tile.samples[list(bands)], low, high), np.asarray(valid.any(axis=0)))
        for tile, valid in ((before, seen), (after, came))
    ]
    panels.append(_hatched(_inferno(error / worst if worst else error), has_error))

    rows, cols = before.samples.shape[1:]
    factor = max(1, round(PANEL_PX / max(rows, cols)))
    width, height = cols * factor, rows * factor
    room = max(width, 220)
    canvas = image_module.new(
        "RGB",
        (3 * (room + MARGIN_PX) + MARGIN_PX + SCALE_PX, height + 2 * MARGIN_PX + CAPTION_PX),
        PAPER,
    )
    draw = draw_module.Draw(canvas)
    psnr = psnr_db(before.samples, after.samples, seen & came, before.info.reflectance_scale)
    captions = (
        ("Before", _color_caption(before, bands, is_true_color)),
        ("After", ", ".join(filter(None, (_psnr_caption(psnr), note)))),
        ("Error", f"RMS over bands, at most {worst:.2g} reflectance"),
    )
    for index, (pixels, (title, line)) in enumerate(zip(panels, captions, strict=True)):
        left = MARGIN_PX + index * (room + MARGIN_PX)
        panel = image_module.fromarray(pixels).resize((width, height), 0)  # 0: nearest
        canvas.paste(panel, (left, MARGIN_PX))
        top = MARGIN_PX + height + 12
        draw.text((left, top), title, fill=INK, font=_font(17))
        draw.text((left, top + 24), line, fill=SOFT_INK, font=_font(13))
    _draw_scale(
        canvas, draw, left=MARGIN_PX + 2 * (room + MARGIN_PX) + width, height=height, worst=worst
    )
    return canvas


def color_bands(tile: Tile) -> tuple[tuple[int, int, int], bool]:
    """Choose the bands shown as red, green and blue.

    Args:
        tile: The tile; bands without a valid sample are passed over.

    Returns:
        Band indices, and whether they are true color. Without wavelengths, or with a sensor that
        does not see the visible, they are the valid bands at 3/4, 1/2 and 1/4 of the list.
    """
    usable = np.flatnonzero(tile.valid().any(axis=(1, 2)))
    if usable.size == 0:
        return (0, 0, 0), False
    if tile.info.wavelengths_nm:
        distance = np.abs(
            np.array(tile.info.wavelengths_nm)[usable] - np.array(TRUE_COLOR_NM)[:, None]
        )
        if (distance.min(axis=1) <= VISIBLE_SLACK_NM).all():
            red, green, blue = (int(b) for b in usable[distance.argmin(axis=1)])
            return (red, green, blue), True
    red, green, blue = (int(usable[usable.size * n // 4]) for n in (3, 2, 1))
    return (red, green, blue), False


def true_color(tile: Tile) -> tuple[NDArray[np.uint8], str]:
    """A tile as the eye would see it, or nearly.

    Returns:
        Colors, shape (rows, cols, 3), stripes where nothing is known; and what they are of.
    """
    bands, is_true_color = color_bands(tile)
    colors = _colors(tile.samples[list(bands)], *_stretch(tile, bands))
    known = np.asarray(tile.valid().any(axis=0))
    return _hatched(colors, known), _color_caption(tile, bands, is_true_color)


def rms_error(before: Tile, after: Tile) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Root mean square error of each pixel over the bands valid before and after.

    Returns:
        Error [reflectance], shape (rows, cols), zero where unknown; and where it is known.
    """
    valid = before.valid() & after.valid()
    squares = np.zeros(valid.shape[1:])
    for band, mask in enumerate(valid):  # band by band: a fraction of the memory
        error = after.samples[band].astype(np.float64) - before.samples[band]
        squares += np.where(mask, error, 0.0) ** 2
    count = valid.sum(axis=0)
    return np.sqrt(squares / np.maximum(count, 1)) / before.info.reflectance_scale, count > 0


def _pillow() -> tuple[Any, Any, Any]:
    """Pillow's modules; the flight part does not install them."""
    try:
        names = ("PIL.Image", "PIL.ImageDraw", "PIL.ImageFont")
        image, draw, font = (importlib.import_module(name) for name in names)
    except ImportError as error:
        raise OutputError(
            "picture", "needs pillow; remedy: pip install prismlink[ground]"
        ) from error
    return image, draw, font


def _font(size_px: int) -> Any:
    return _pillow()[2].load_default(size=size_px)


def _stretch(tile: Tile, bands: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Low and high sample value of each color [DN], shape (3, 1, 1) each."""
    limits = np.zeros((2, 3, 1, 1))
    valid = tile.valid()
    for color, band in enumerate(bands):
        if valid[band].any():
            limits[:, color, 0, 0] = np.percentile(tile.samples[band][valid[band]], STRETCH_PERCENT)
    low, high = limits
    span = max(STRETCH_AT_LEAST * tile.info.reflectance_scale, float((high - low).max()))
    if (high - low).min() < STRETCH_AT_LEAST * tile.info.reflectance_scale:
        middle = (low + high) / 2
        hue = np.clip(middle / max(float(middle.max()), 1e-9), 0.0, 1.0)
        low = middle - MIDDLE_BRIGHTNESS * hue * span
        high = low + span
    return low, high


def _colors(samples: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> NDArray[np.uint8]:
    """Stretch three bands, shape (3, rows, cols), to colors, shape (rows, cols, 3)."""
    with np.errstate(invalid="ignore", over="ignore"):
        share = np.nan_to_num((samples - low) / (high - low))
    colors = np.clip(share, 0.0, 1.0) ** GAMMA * 255
    return np.ascontiguousarray(colors.transpose(1, 2, 0).round().astype(np.uint8))


def _inferno(share: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colors of values from 0 to 1, shape (..., 3)."""
    steps = np.linspace(0.0, 1.0, len(INFERNO))
    channels = [np.interp(share, steps, channel) for channel in np.array(INFERNO).T]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _hatched(colors: NDArray[np.uint8], known: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Lay dark diagonal stripes over the pixels that are not known."""
    rows, cols = np.indices(known.shape)
    stripes = np.array(HATCH, dtype=np.uint8)[(rows + cols) // 2 % 2]
    return np.where(known[..., None], colors, stripes)


def _draw_scale(canvas: Any, draw: Any, *, left: int, height: int, worst: float) -> None:
    """Draw the error's colors beside its panel, with the maximum and zero."""
    bar = _inferno(np.tile(np.linspace(1.0, 0.0, height)[:, None], (1, 12)))
    canvas.paste(_pillow()[0].fromarray(bar), (left + 10, MARGIN_PX))
    for share in (1.0, 0.5, 0.0):
        y = MARGIN_PX + round((1 - share) * (height - 1))
        anchor = {1.0: "lt", 0.5: "lm", 0.0: "ls"}[share]
        draw.text(
            (left + 28, y), f"{share * worst:.2g}", fill=INK if share == 1 else SOFT_INK,
            font=_font(13), anchor=anchor,
        )  # fmt: skip


def _color_caption(tile: Tile, bands: Sequence[int], is_true_color: bool) -> str:
    if not tile.info.wavelengths_nm:
        return "false color, bands " + ", ".join(str(band + 1) for band in bands)
    centers = " / ".join(f"{tile.info.wavelengths_nm[band]:.0f}" for band in bands)
    return f"{'true' if is_true_color else 'false'} color, {centers} nm"


def _psnr_caption(psnr: float) -> str:
    if math.isnan(psnr):
        return "no valid sample"
    return "lossless" if math.isinf(psnr) else f"PSNR {psnr:.1f} dB"
