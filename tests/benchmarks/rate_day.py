"""A day with rate control and without, drawn: what the store holds, and how coarse tiles are.

    python tests/benchmarks/rate_day.py --plot docs/rate-control.png

The day is simulated, see `tests/fakes/orbit.py`: an instrument by daylight, a store of 4 GB, and
twelve passes of ten minutes at 20 Mbit/s.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from matplotlib.figure import Figure

sys.path.append(str(Path(__file__).parents[1]))  # as pytest has it
from fakes.orbit import simulated_day

MAX_BYTES, BITS_PER_S = 4_000_000_000, 20e6


def main() -> None:
    """Fly both, show, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path)
    chosen = parser.parse_args()
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    store, coarser = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    for label, octaves, color in (("steps as given", 0.0, "#888888"), ("controlled", 4.0, "C0")):
        day = simulated_day(
            chosen.seed, most_octaves=octaves, max_bytes=MAX_BYTES, bits_per_s=BITS_PER_S
        )
        print(
            f"{label}: {day.lost_bytes / 1e9:.1f} GB lost; passes filled by "
            + ", ".join(f"{share:.0%}" for share in day.filled)
        )
        store.plot(day.hours, [used / 1e9 for used in day.used_bytes], color=color, label=label)
        coarser.plot(day.hours, day.octaves, color=color)
    store.axhline(MAX_BYTES / 1e9, color="black", linewidth=0.8, linestyle="--")
    store.set_ylabel("waiting [GB]")
    store.legend(frameon=False, loc="upper left")
    coarser.set_ylabel("step [octaves]")
    coarser.set_xlabel("hour of the day")
    if chosen.plot is not None:
        figure.savefig(chosen.plot, dpi=100)


if __name__ == "__main__":
    main()
