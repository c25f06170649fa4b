"""Tables for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from rich.table import Table

from training.evaluate import Curves, Score, compare

_NAME_LENGTH: Final = 18
"""Characters a table has for the name of a scene."""


def size_table(before: Mapping[str, Any], after: Mapping[str, Any]) -> Table:
    """Show what pruning took."""
    table = Table("", "before", "after", "change", title="pruning")
    for key in ("params", "macs_encoder", "macs_decoder"):
        change = after[key] / before[key] - 1
        table.add_row(key, f"{before[key]:,}", f"{after[key]:,}", f"{100 * change:+.1f} %")
    return table


def score_table(scores: Sequence[Score]) -> Table:
    """Show rate and quality of every score."""
    runs = dict.fromkeys(f"{s.codec}: {s.backend} {s.precision}" for s in scores if s.bundle)
    # No lines between columns: nine of them have to fit a terminal of 80.
    table = Table(title=", ".join(runs) or None, box=None, padding=(0, 1, 0, 0))
    table.add_column("scene", no_wrap=True)
    table.add_column("codec", no_wrap=True)
    numbers = ("step", "bytes", "bpppc", "PSNR dB", "angle °", "SSIM", "max DN")
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    for s in scores:
        table.add_row(
            *(_short(s.scene), s.codec, f"{s.step:g}", str(s.bytes), f"{s.bpppc:.4f}"),
            *(f"{s.psnr_db:.2f}", f"{s.spectral_angle_deg:.2f}", f"{s.ssim:.3f}"),
            f"{s.max_abs_error:g}",
        )
    return table


def _short(scene: str) -> str:
    """The end of a long name: that is where HySpecNet's differ."""
    return scene if len(scene) <= _NAME_LENGTH else f"…{scene[1 - _NAME_LENGTH :]}"


def comparison_table(ours: Mapping[str, Curves], theirs: Curves, name: str) -> Table:
    """Show each codec against a baseline, scene by scene and averaged."""
    title = f"against {name}, over the rates both reach"
    table = Table("codec", "scene", "bytes at equal PSNR", "PSNR at equal bytes", title=title)
    for codec, found in ours.items():
        deltas = compare(found, theirs)
        changes = np.array([(d.rate_change, d.psnr_change_db) for d in deltas.values()])
        changes = changes.reshape(-1, 2)
        both = changes[np.isfinite(changes).all(axis=1)]
        rows = [*zip(map(_short, deltas), changes, strict=True)]
        rows += [("mean", both.mean(axis=0))] if len(both) else []
        for scene, (rate, psnr) in rows:
            cells = (f"{100 * rate:+.2f} %", f"{psnr:+.3f} dB")
            table.add_row(codec, scene, *("–" if "nan" in cell else cell for cell in cells))
    return table
