"""The report's pictures."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from training.bjontegaard import Interval, Point, rate_gaps
from training.curves import HELD_BACK, TRAINING, Curve
from training.evaluate import Curves
from training.synthesis import Statistics

_MOST_COLUMNS: Final = 3
_PANEL_INCHES: Final = (4.2, 3.4)
_DOTS_PER_INCH: Final = 110

_LETTER_INCHES: Final = 0.09
_HANDLE_LETTERS: Final = 7
"""Width of a letter of the legend, and how many of them its line takes."""

_COLORS: Final = ("#0072b2", "#000000", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, which the color-blind tell apart; then once more, dashed and dotted."""
_DASHES: Final = ("-", "--", ":", "-.")


def rate_distortion(curves: Mapping[str, Curves], *, over: Interval) -> bytes:
    """Draw PSNR over the rate, a panel per scene.

    Args:
        curves: By codec, then by scene; the first codec's scenes have panels and its line is thick.
        over: Lowest and highest rate shown [bits per sample].

    Returns:
        A PNG.
    """
    first = next(iter(curves.values()))
    columns = min(_MOST_COLUMNS, math.ceil(math.sqrt(len(first))))
    rows = math.ceil(len(first) / columns)
    figure = _figure(columns, rows)
    panels = [*figure.subplots(rows, columns, squeeze=False).flat]
    for axes in panels[len(first) :]:
        axes.set_visible(False)
    for axes, scene in zip(panels, first, strict=False):
        shown: list[float] = []
        for index, (codec, of_scene) in enumerate(curves.items()):
            line = sorted(of_scene.get(scene, ()))
            _draw(axes, index, codec, line)
            shown += [psnr for rate, psnr in line if _within(rate, over) and math.isfinite(psnr)]
        axes.set_title(scene, fontsize="medium")
        axes.set_xlim(over)
        if shown:
            axes.set_ylim(min(shown) - 1, max(shown) + 1)
        _label_rates(axes)
        axes.set_ylabel("PSNR [dB]")
    return _png(figure)


def rate_changes(ours: Curves, theirs: Curves, *, name: str, over: Interval) -> bytes:
    """Draw the rate at equal PSNR against a baseline, over the baseline's rate, a line per scene.

    Args:
        ours: The codec that is judged.
        theirs: The baseline.
        name: What the baseline is called.
        over: Lowest and highest rate shown [bits per sample].

    Returns:
        A PNG.
    """
    figure = _figure(2, 1.4)
    axes = figure.subplots()
    rates = np.geomspace(*over, 200)
    for index, scene in enumerate(ours):
        gaps = 100 * rate_gaps(ours[scene], theirs.get(scene, ()), [*rates])
        axes.plot(rates, gaps, label=scene, **_style(index))
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xlim(over)
    _label_rates(axes)
    axes.set_ylabel(f"rate at equal PSNR\nagainst {name} [%]")
    return _png(figure)


def _draw(axes: Axes, index: int, codec: str, line: Sequence[Point]) -> None:
    rates, psnr = zip(*line, strict=True) if line else ((), ())
    thick = {} if index else {"linewidth": 3.5, "zorder": 1.9}
    axes.plot(rates, psnr, label=codec, marker=".", markersize=3, **(_style(index) | thick))


def _style(index: int) -> dict[str, Any]:
    return {
        "color": _COLORS[index % len(_COLORS)],
        "linestyle": _DASHES[index // len(_COLORS) % len(_DASHES)],
        "linewidth": 1.2,
    }


def _label_rates(axes: Axes) -> None:
    axes.set_xscale("log")
    ticks = [rate for rate in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2) if _within(rate, axes.get_xlim())]
    axes.set_xticks(ticks)
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    axes.set_xlabel("bits per sample")
    axes.grid(visible=True, color="0.9")
    axes.set_axisbelow(True)


def _within(value: float, limits: Interval) -> bool:
    return limits[0] <= value <= limits[1]


def quality_over_macs(points: Sequence[Mapping[str, float]]) -> bytes:
    """Draw the PSNR of a network pruned to several sizes, the whole one first.

    Args:
        points: With "macs", "psnr_db" and "psnr_db_measured".

    Returns:
        A PNG.
    """
    figure = _figure(1.4, 1.2)
    axes = figure.subplots()
    macs = [point["macs"] / 1e9 for point in points]
    for index, (key, label) in enumerate(
        (("psnr_db", "latents as floats"), ("psnr_db_measured", "quantized and coded"))
    ):
        axes.plot(macs, [p[key] for p in points], marker="o", label=label, **_style(index))
    axes.set_xlabel("multiply-accumulates of a patch, both networks [10⁹]")
    axes.set_ylabel("PSNR [dB]")
    axes.set_xlim(left=0)
    return _png(figure)


def training_curve(fit: Curve, prune: Curve) -> bytes:
    """Draw what crops cost while a network is trained, and then while it is pruned and tuned.

    Args:
        fit: Costs, mean squared errors, by epoch.
        prune: Likewise, after these.

    Returns:
        A PNG.
    """
    figure = _figure(2, 1.2)
    axes = figure.subplots()
    done = max(epoch for epoch, _ in fit[HELD_BACK])
    for index, tag in enumerate((HELD_BACK, TRAINING)):
        epochs, costs = zip(*fit[tag], *((done + e, cost) for e, cost in prune[tag]), strict=True)
        axes.semilogy(epochs, costs, label=tag.removeprefix("cost/"), **_style(index))
    axes.axvline(done, color="0.6", linewidth=0.8)
    axes.text(done, 1, " pruned", transform=axes.get_xaxis_transform(), va="top")
    axes.set_xlabel("epoch")
    axes.set_ylabel("mean squared error of reflectance")
    return _png(figure)


def scene_statistics(real: Mapping[str, Statistics], made: Mapping[str, Statistics]) -> bytes:
    """Draw what synthetic scenes are held against real ones by.

    Args:
        real: By the name of the scene.
        made: Likewise.

    Returns:
        A PNG.
    """
    figure = _figure(2, 1.2)
    values, others = figure.subplots(1, 2)
    for style, scenes in (({"color": "0.6", "lw": 1}, real), ({"color": _COLORS[2]}, made)):
        for one in scenes.values():
            shares = one.eigenvalues[:64]
            values.semilogy(np.arange(1, len(shares) + 1), np.maximum(shares, 1e-9), **style)
            others.plot(one.band_correlation, one.spatial_exponent, "o", color=style["color"])
    values.set_xlabel("component")
    values.set_ylabel("share of the variance")
    values.set_title("eigenvalues: real gray, synthetic colored", fontsize="medium")
    others.set_xlabel("correlation of neighboring bands")
    others.set_ylabel("exponent of the spatial spectrum")
    return _png(figure)


def _figure(columns: float, rows: float) -> Figure:
    size = columns * _PANEL_INCHES[0], rows * _PANEL_INCHES[1]
    return Figure(figsize=size, dpi=_DOTS_PER_INCH, layout="constrained")


def _png(figure: Figure) -> bytes:
    """Place a legend below all panels, and write: equal curves are equal bytes."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    width = (max(map(len, labels), default=0) + _HANDLE_LETTERS) * _LETTER_INCHES
    columns = max(1, min(len(labels), int(figure.get_figwidth() / width)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
