"""What a worker makes of a job: frames in, a product out.

The patches go through the ground's own mosaic and become its products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Final

from codec.bundle import load_bundle
from codec.decoder import Decoder
from codec.errors import BundleError, CodecError, FrameFieldError, TileFileError
from codec.frame import PatchFrame, SideFrame, parse
from codec.threads import each_of
from codec.tile_files import write_tile
from codec.tile_memory import memory_bytes
from daemon.bulk.jobs import DecodedTile, DecodeJob, Output
from daemon.clock import SystemClock
from daemon.cores import claim
from daemon.errors import OutputError
from daemon.ground.items import CollectedFrame, RestoredTile, TilePart
from daemon.ground.metrics import GroundMetrics
from daemon.ground.mosaic import MosaicWorker
from daemon.ground.products import layers_of, write_product
from daemon.ground.write import MANIFEST, file_stem, manifest
from daemon.link.packet import Channel
from daemon.metrics import new_registry

_MEMORY_SHARE: Final = 4
"""A tile may take this part of the machine's memory: the frame tells its size, and may lie."""


def decode(job: DecodeJob) -> DecodedTile:
    """See `daemon.bulk.pools.run`."""
    try:
        restored, problems = restore(job.frames, job.bundle, job.model, threads=job.threads)
    except (BundleError, CodecError) as error:
        return DecodedTile(file=None, problems=(str(error),))
    if restored is None or not restored.patches:
        return DecodedTile(file=None, problems=problems)
    try:
        file = _write(job.output, restored)
    except (OutputError, TileFileError) as error:
        return DecodedTile(file=None, problems=problems, output_error=str(error))
    return DecodedTile(
        file=file.name, patches=restored.patches, missing=restored.missing, problems=problems
    )


def restore(
    frames: Sequence[tuple[int, int, bytes]], bundle: Path, model: bytes, *, threads: int
) -> tuple[RestoredTile | None, tuple[str, ...]]:
    """Put a tile together; what is wrong with a patch costs that patch.

    Args:
        frames: As of `DecodeJob`.
        bundle: The file of its model.
        model: That model's name in frames.
        threads: Patches decoded at a time.

    Returns:
        The tile, None where nothing of it could be used; and what was wrong.

    Raises:
        BundleError: If the bundle cannot be used.
        CodecError: If its side information cannot.
    """
    decoder = _decoder(bundle, model)
    sent_as = [(boot_id, frame_id) for boot_id, frame_id, _ in frames]
    collected = [  # of one boot, for the mosaic: there patches of several boots are several tiles
        CollectedFrame(
            raw=raw, channel=Channel.PATCH if at else Channel.SIDE, boot_id=0, frame_id=at
        )
        for at, (_, _, raw) in enumerate(frames)
    ]
    first = collected[0]
    side = parse(first.raw)
    if not isinstance(side, SideFrame):
        raise FrameFieldError("its first frame is no side information")
    decoder.conditioning(side)  # refused now, or good for every patch

    def decoded(frame: CollectedFrame) -> TilePart | str:
        try:
            patch = parse(frame.raw)
            if not isinstance(patch, PatchFrame):
                return "side information among its patches"
            restored = decoder.decode_patch(side, patch)
        except CodecError as error:
            return str(error)
        return TilePart(side=side, side_frame_id=first.frame_id, patch=restored, frame=frame)

    mosaic = MosaicWorker(
        deadline_s=math.inf, max_bytes=_most_bytes(), clock=SystemClock(), metrics=_metrics()
    )
    tiles = list(
        mosaic.accept(TilePart(side=side, side_frame_id=first.frame_id, patch=None, frame=first))
    )
    problems = list[str]()
    for part in each_of(threads, "decoder")(decoded, collected[1:]):
        if isinstance(part, str):
            problems.append(part)
        else:
            tiles += mosaic.accept(part)
    tiles += mosaic.finish()
    if not tiles:
        return None, tuple(problems)
    used = tuple(sent_as[at] for _, at in tiles[0].frames)
    return replace(tiles[0], sent_as=sent_as[0], frames=used), tuple(problems)


def _write(output: Output, restored: RestoredTile) -> Path:
    """Write a tile.

    Raises:
        OutputError, TileFileError: If it cannot be written.
    """
    path = output.folder / file_stem(restored.tile.info)
    if output.is_store:  # what lies beside a product would be found by whoever lists it
        return write_tile(restored.tile, path, output.file_format, layers_of(restored))
    # A frame file names no boot and no frame.
    named = replace(restored, frames=tuple(key for key in restored.frames if key[0] >= 0))
    if restored.sent_as[0] < 0:
        return write_product(replace(named, sent_as=(0, 0)), path, output.file_format)
    others = {MANIFEST: partial(manifest, named)}
    return write_product(named, path, output.file_format, others)


@cache
def _decoder(bundle: Path, model: bytes) -> Decoder:
    claim(1)  # a patch a thread: of a patch alone most is entropy coding, on one core
    loaded = load_bundle(bundle)
    if loaded.model != model:
        raise BundleError(f"{bundle}: holds model {loaded.name} now, {model.hex()} when it began")
    return Decoder(loaded)


@cache
def _metrics() -> GroundMetrics:
    """What the ground's stages count, told to nobody."""
    return GroundMetrics(new_registry())


def _most_bytes() -> int:
    return memory_bytes() // _MEMORY_SHARE
