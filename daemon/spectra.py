"""One picture of a tile: what it looks like, and the spectra of a few of its pixels."""

from __future__ import annotations

import importlib
import io
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from codec.tile import Tile
from daemon.errors import OutputError
from daemon.files import write_whole
from daemon.quicklook import true_color

PIXELS: Final = 5
COLORS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
"""Okabe and Ito's, which people with any color vision tell apart."""
_CANDIDATES_PER_EDGE: Final = 48
_MARGIN: Final = 0.03
_MIN_SHARE_VALID: Final = 0.9
"""Of the bands that a pixel's neighbors have, so much it must have to be shown."""
_CLIP_PERCENT: Final = (2.0, 98.0)
_APART: Final = 0.1
"""Of the longer edge: nearer to each other no two pixels are, for their labels."""
_GAP_STEPS: Final = 3
"""As on the ground's page: `GAP_STEPS` of plot.js."""
_INK: Final = "#1c1e22"
_SOFT_INK: Final = "#70747c"
_PAPER: Final = "#fafaf8"


def choose_pixels(tile: Tile, count: int = PIXELS) -> list[tuple[int, int]]:
    """Choose pixels whose spectra differ: the most usual one, then each the farthest from those.

    Returns:
        (row, col) of at most `count`; fewer where fewer are valid.
    """
    _, rows, cols = tile.samples.shape
    row_at, col_at = _candidates(rows), _candidates(cols)
    valid = tile.valid()[:, row_at][:, :, col_at]
    spectra = tile.samples[:, row_at][:, :, col_at].astype(np.float64)
    bands = valid.any(axis=(1, 2))
    shown = valid[bands].mean(axis=0) >= _MIN_SHARE_VALID if bands.any() else valid.any(axis=0)
    places = np.argwhere(shown)
    if not len(places):
        return []
    values = np.where(valid, spectra, np.nan)[bands][:, shown]
    usual = np.nanmedian(values, axis=1, keepdims=True)
    values = np.where(np.isnan(values), usual, values)
    # Single samples far out are noise, and every pixel has some.
    values = np.clip(values, *np.percentile(values, _CLIP_PERCENT, axis=1)[..., None])
    apart_px = _APART * max(rows, cols)
    at = np.stack([row_at[places[:, 0]], col_at[places[:, 1]]], axis=1)
    chosen = list[int]()
    distance = -np.linalg.norm(values - usual, axis=0)
    while len(chosen) < count and np.isfinite(distance.max()):
        last = int(distance.argmax())
        difference = np.linalg.norm(values - values[:, last, None], axis=0)
        distance = np.minimum(distance, difference) if chosen else difference
        distance[np.linalg.norm(at - at[last], axis=1) <= apart_px] = -np.inf
        chosen.append(last)
    return [(int(row), int(col)) for row, col in at[chosen]]


def _candidates(edge: int) -> NDArray[np.intp]:
    """Some of the rows or columns, not at the very edge, where a mark would be cut."""
    margin = _MARGIN * (edge - 1)
    places = np.linspace(margin, edge - 1 - margin, min(edge, _CANDIDATES_PER_EDGE))
    return np.unique(places.round().astype(np.intp))


def spectrum(tile: Tile, row: int, col: int) -> NDArray[np.float64]:
    """Reflectance of a pixel in each band, shape (bands,); NaN where nothing was measured."""
    pixel = Tile(samples=tile.samples[:, row : row + 1, col : col + 1], info=tile.info)
    values = np.where(pixel.valid(), pixel.samples, np.nan) / tile.info.reflectance_scale
    return np.asarray(values[:, 0, 0], dtype=np.float64)


def write_spectra(tile: Tile, path: Path, title: str) -> None:
    """Write a PNG: the tile in true color where its bands allow it, and spectra beside it.

    Raises:
        OutputError: If Matplotlib is not installed or the file cannot be written.
    """
    try:
        figure_module = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise OutputError(
            path, "needs matplotlib; remedy: pip install prismlink[ground]"
        ) from error
    pixels, caption = true_color(tile)
    figure = figure_module.Figure(figsize=(12, 5), dpi=120, facecolor=_PAPER, layout="constrained")
    picture, plot = figure.subplots(1, 2, width_ratios=(1, 1.35))
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=_INK)
    picture.imshow(pixels, interpolation="nearest")
    picture.set_title(caption, fontsize=10, color=_SOFT_INK, loc="left")
    picture.set_xlabel("column", color=_SOFT_INK)
    picture.set_ylabel("row", color=_SOFT_INK)
    for at, (row, col) in enumerate(choose_pixels(tile)):
        color, name = COLORS[at % len(COLORS)], chr(ord("A") + at)
        _mark(picture, row, col, name, color)
        x, y = with_gaps(_axis(tile), spectrum(tile, row, col))
        line = plot.plot(x, y, color=color, linewidth=1.4, label=f"{name}: {row}, {col}")[0]
        if (alone := _alone(y)).any():
            line.set(marker=".", markevery=alone)
    _finish(plot, tile)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    write_whole(path, png.getvalue())


def _mark(picture: Any, row: int, col: int, name: str, color: str) -> None:
    picture.plot(
        col, row, marker="o", markersize=9, markerfacecolor=color, markeredgecolor="white",
        markeredgewidth=1.5,
    )  # fmt: skip
    rows, cols = (round(limit) for limit in (picture.get_ylim()[0], picture.get_xlim()[1]))
    right, low = col < 0.85 * cols, row < 0.1 * rows
    picture.annotate(
        name, (col, row), xytext=(9 if right else -9, -5 if low else 5),
        textcoords="offset points", ha="left" if right else "right", va="top" if low else "bottom",
        color="white", fontsize=11, fontweight="bold",
        bbox={"boxstyle": "round,pad=0.15", "facecolor": color, "edgecolor": "none", "alpha": 0.85},
    )  # fmt: skip


def _axis(tile: Tile) -> NDArray[np.float64]:
    """Wavelength [nm] of each band, or its number."""
    bands = tile.samples.shape[0]
    return np.array(tile.info.wavelengths_nm or range(1, bands + 1), dtype=np.float64)


def with_gaps(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Break a line where nothing was measured, by NaN.

    That is where wavelengths fall back, since there another detector begins, and where they are
    more than three usual steps apart, since bands between were left out.
    """
    steps = np.diff(x)
    usual = np.median(steps[steps > 0]) if (steps > 0).any() else np.inf
    breaks = np.flatnonzero((steps < 0) | (steps > _GAP_STEPS * usual)) + 1
    return np.insert(x, breaks, np.nan), np.insert(y, breaks, np.nan)


def _alone(y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which values have no neighbor, so that no line shows them; shape as given."""
    missing = np.pad(np.isnan(y), 1, constant_values=True)
    return np.asarray(~missing[1:-1] & missing[:-2] & missing[2:], dtype=np.bool_)


def _finish(plot: Any, tile: Tile) -> None:
    """Axes, labels and legend of the spectra."""
    known = bool(tile.info.wavelengths_nm)
    plot.set_xlabel("wavelength [nm]" if known else "band", color=_INK)
    plot.set_ylabel("reflectance", color=_INK)
    plot.set_title(
        f"{tile.samples.shape[0]} bands, {tile.samples.dtype}", fontsize=10, color=_SOFT_INK,
        loc="left",
    )  # fmt: skip
    plot.grid(color="#d8dade", linewidth=0.6)
    plot.spines[["top", "right"]].set_visible(False)
    plot.margins(x=0.01)
    if plot.lines:
        plot.legend(title="row, column", frameon=False, fontsize=9, title_fontsize=9)
    else:
        plot.text(
            0.5, 0.5, "no valid pixel", transform=plot.transAxes, ha="center", color=_SOFT_INK
        )
