"""The least time a stage could take here: operations over the machine's peak, bytes over its rate.

Both ceilings are measured here, with the threads the daemon gives to one computation. A floor
counts what no implementation can leave out: every input read once, every output written once, and
twice the samples where a transform is first fitted to them. What is small or has no bound worth
telling is left out: the eigenvectors of a tile, the wavelet, which only adds, and all that picks
tables and codes symbols, of which the bytes alone are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import numpy as np
import torch

from codec.bundle import Bundle, make_bundle, untrained_bundle
from codec.conditioning import ConditionerSpec
from codec.encoder import Encoder
from codec.frame import SideFrame, parse
from codec.klt import EFFORTS
from codec.network import SscnetSpec, count_macs
from codec.projection import BYTE_PRODUCTS, in_bytes
from codec.tile import Tile
from daemon.clock import Clock
from daemon.errors import BenchError

_RUNS: Final = 5
_EDGE: Final = 1536
"""Edge of the matrices of the product: 9 MB each, well beyond a cache line, 3.6 GMAC."""
_COPIED_BYTES: Final = 128 << 20
_WIDTH: Final = 256
_PATCH_PX: Final = 64
"""The int8 product: convolutions of 256 to 256 channels, which OpenVINO runs as such. It is built
of our own network, because its backend is the only door to OpenVINO; 6 GMAC."""

_FLOAT_BYTES: Final = 4
_SYMBOL_BYTES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What was measured of the machine.

    Attributes:
        float32_macs_per_s: Multiply-accumulates of a large product in PyTorch.
        int8_macs_per_s: The same of wide int8 convolutions in OpenVINO; None where the model does
            not run there.
        bytes_per_s: Bytes read plus bytes written by a large copy.
    """

    float32_macs_per_s: float
    int8_macs_per_s: float | None
    bytes_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one patch asks of the stages, on average over a tile.

    Attributes:
        pixels: Pixels.
        bands: Bands.
        sample_bytes: Bytes of one sample.
        components: Components of the tile's transform; None: there is none, bands are scaled.
        network_macs: Multiply-accumulates of the network that is run.
        latents: Values the network gives.
        frame_bytes: Bytes of the patch's frame.
        packet_bytes: Bytes of its packets.
        fitted_share: Share of the pixels that the KLT is fitted to.
        quick: Whether symbols are rounded when they are coded, and not before.
        in_bytes: Whether the projection is by products of bytes.
    """

    pixels: float
    bands: int
    sample_bytes: int
    components: int | None
    network_macs: float
    latents: float
    frame_bytes: float
    packet_bytes: float
    fitted_share: float = 1.0
    quick: bool = False
    in_bytes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The least that a stage does for a patch.

    Attributes:
        macs: Multiply-accumulates.
        bytes: Bytes read and written.
        seconds: The longer of the two times this takes at the machine's peaks [s].
    """

    macs: float
    bytes: float
    seconds: float


def measure_machine(
    *, int8_threads: int | None, clock: Clock, edge: int = _EDGE, copied: int = _COPIED_BYTES
) -> Machine:
    """Measure the ceilings, with as many threads as PyTorch has now.

    Args:
        int8_threads: Threads of OpenVINO's product; None: it is left out.
        clock: Times them.
        edge: Edge of the float32 product's matrices.
        copied: Size of the copy [bytes].
    """
    left, right = torch.rand(2, edge, edge)
    float32 = edge**3 / best_s(lambda: torch.mm(left, right), clock)
    source = np.ones(copied, dtype=np.uint8)
    target = np.zeros_like(source)
    bytes_per_s = 2 * copied / best_s(lambda: np.copyto(target, source), clock)
    return Machine(
        float32_macs_per_s=float32,
        int8_macs_per_s=None if int8_threads is None else _int8_rate(int8_threads, clock),
        bytes_per_s=bytes_per_s,
    )


def _int8_rate(threads: int, clock: Clock) -> float:
    from codec.backends.openvino_backend import OpenvinoBackend  # noqa: PLC0415  # slow to load

    widths = (_WIDTH, _WIDTH, _WIDTH, _WIDTH)
    spec = SscnetSpec(
        components=_WIDTH, latent_channels=_WIDTH, encoder_widths=widths, decoder_widths=widths
    )
    conditioner = ConditionerSpec(kind="minmax", components=_WIDTH)
    wide = untrained_bundle(spec, conditioner, default_step=1.0)
    ranges = {"analysis_ranges": np.ones(5, dtype=np.float32)}
    bundle = make_bundle(spec, conditioner, default_step=1.0, tensors={**wide.tensors, **ranges})
    backend = OpenvinoBackend(bundle, threads)
    patch = np.full((_WIDTH, _PATCH_PX, _PATCH_PX), 0.5, dtype=np.float32)
    return count_macs(spec, _PATCH_PX, _PATCH_PX)[0] / best_s(
        lambda: backend.analyze([patch]), clock
    )


def best_s(work: Callable[[], object], clock: Clock) -> float:
    """The shortest time a piece of work takes [s], after one run that warms up."""
    work()
    took = []
    for _ in range(_RUNS):
        start_s = clock.monotonic_s()
        work()
        took.append(clock.monotonic_s() - start_s)
    return max(min(took), 1e-9)


def load_of(
    encoder: Encoder,
    tile: Tile,
    *,
    patches: int,
    frame_bytes: float,
    packet_bytes: float,
    speed: int = 0,
) -> Load:
    """Tell what a patch of a tile asks of the stages.

    Args:
        encoder: Opens the tile, once, to see how many components it sends.
        tile: The tile.
        patches: Its patches.
        frame_bytes: Of a patch's frame, on average.
        packet_bytes: Of a patch's packets, on average.
        speed: How fast it is encoded.

    Raises:
        TileError: If the tile does not fit the model.
    """
    bundle = encoder.bundle
    bands, rows, cols = tile.samples.shape
    components = _components(encoder, tile) if bundle.conditioner.kind == "klt" else None
    px = rows * cols
    pixels = px / patches
    network_macs = _macs_per_px(bundle) * pixels
    # A shortcut gives as many latents as there are coefficients: one for each component and pixel.
    channels = bundle.network.latent_channels / 64 if components is None else components
    return Load(
        pixels=pixels,
        bands=bands,
        sample_bytes=tile.samples.dtype.itemsize,
        components=components,
        network_macs=network_macs,
        latents=channels * pixels,
        frame_bytes=frame_bytes,
        packet_bytes=packet_bytes,
        fitted_share=min(1.0, (EFFORTS[min(speed, len(EFFORTS) - 1)].pixels or px) / px),
        quick=speed > 0 and bundle.contexts is not None,
        in_bytes=in_bytes(tile.samples),
    )


def _components(encoder: Encoder, tile: Tile) -> int:
    side = parse(encoder.open(tile).side_frame)
    if not isinstance(side, SideFrame):
        raise BenchError("an opened tile has no side frame; remedy: report this as a bug")
    return len(side.levels)


def _macs_per_px(bundle: Bundle) -> float:
    if not bundle.analysis().runs_branch:
        return 0.0
    return count_macs(bundle.network, 128, 128)[0] / 128**2


def floors(load: Load, machine: Machine, precision: str) -> dict[str, Floor]:
    """The floor of every stage, by its name.

    Args:
        load: What a patch asks.
        machine: What the machine gives.
        precision: Of the network: "int8", as products of bytes, is held against the int8 peak, and
            all else against float32.
    """
    samples = load.pixels * load.bands * load.sample_bytes
    seen = load.bands if load.components is None else load.components
    components = load.pixels * seen * _FLOAT_BYTES
    latents, symbols = load.latents * _FLOAT_BYTES, load.latents * _SYMBOL_BYTES
    float32 = machine.float32_macs_per_s
    int8 = machine.int8_macs_per_s or float32
    covariance_macs, projection_macs, passes = 0.0, 0.0, 1.0
    if load.components is not None:
        # Half of a covariance is enough, for it is symmetric; then the projection.
        covariance_macs = load.pixels * load.fitted_share * load.bands**2 / 2
        projection_macs = load.pixels * load.bands * load.components
        projection_macs *= BYTE_PRODUCTS if load.in_bytes else 1
        passes = 1 + load.fitted_share
    projection_s = projection_macs / (int8 if load.in_bytes else float32)
    network_s = load.network_macs / (int8 if precision == "int8" else float32)
    work: Mapping[str, tuple[float, float, float]] = {
        "condition": (
            covariance_macs + projection_macs,
            covariance_macs / float32 + projection_s,
            passes * samples + components,
        ),
        "analyze": (load.network_macs, network_s, components + latents),
        "quantize": (0.0, 0.0, 0.0 if load.quick else latents + symbols),
        "entropy_code": (0.0, 0.0, symbols + load.frame_bytes),
        "packetize": (0.0, 0.0, load.frame_bytes + load.packet_bytes),
        "spool": (0.0, 0.0, 0.0),  # in memory packets are handed over, not copied
    }
    return {
        stage: Floor(macs=macs, bytes=size, seconds=max(macs_s, size / machine.bytes_per_s))
        for stage, (macs, macs_s, size) in work.items()
    }


def mean_floors(all_floors: Sequence[Mapping[str, Floor]]) -> dict[str, Floor]:
    """Average the floors of several scenes, stage by stage; at least one."""
    return {
        stage: Floor(
            macs=fmean(each[stage].macs for each in all_floors),
            bytes=fmean(each[stage].bytes for each in all_floors),
            seconds=fmean(each[stage].seconds for each in all_floors),
        )
        for stage in all_floors[0]
    }
