"""`encode`: scenes into a frame file, with no link between. `daemon.bulk` is the way back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from codec import prism_file
from codec.backend_names import BackendName
from codec.bundle import load_bundle
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.errors import TileError, TileFileError
from codec.targets import CodedTile, Target, code
from codec.tile_files import find_scenes, read_tile
from daemon.cores import WORKERS_PER_THREAD, claim
from daemon.files import write_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedScene:
    """What `encode` made of a scene.

    Attributes:
        path: Where it was read.
        patches: Its patches.
        bytes_raw: Bytes of its samples.
        coded: Its frames, and what they come to.
        on_target: Whether the target was met; if not, the scene is better than it.
    """

    path: Path
    patches: int
    bytes_raw: int
    coded: CodedTile
    on_target: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; what is unknown, undefined or infinite becomes None."""
        return {
            "scene": self.path.name,
            "step": self.coded.step,
            "bytes": self.coded.size_bytes,
            "bpppc": _finite(self.coded.bpppc),
            "psnr_db": _finite(self.coded.psnr_db),
            "on_target": self.on_target,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedFile:
    """What `encode` made of its inputs: one tile a scene."""

    scenes: tuple[EncodedScene, ...]

    @property
    def patches(self) -> int:
        """Patches in the file."""
        return sum(scene.patches for scene in self.scenes)

    @property
    def bytes_raw(self) -> int:
        """Bytes of all samples."""
        return sum(scene.bytes_raw for scene in self.scenes)

    @property
    def bytes_coded(self) -> int:
        """Bytes of all frames."""
        return sum(scene.coded.size_bytes for scene in self.scenes)

    @property
    def valid_samples(self) -> int:
        """Samples that are no fill."""
        return sum(scene.coded.samples for scene in self.scenes)

    @property
    def bpppc(self) -> float:
        """Bits per valid sample."""
        return 8 * self.bytes_coded / max(1, self.valid_samples)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values.

        `step` is None where scenes differ in it, `psnr_db` the mean over scenes, None where one
        of them has none: only a target makes `encode` decode.
        """
        scenes = [scene.to_dict() for scene in self.scenes]
        steps = {scene["step"] for scene in scenes}
        qualities = [scene["psnr_db"] for scene in scenes]
        return {
            "tiles": len(scenes),
            "patches": self.patches,
            "bytes_raw": self.bytes_raw,
            "bytes_coded": self.bytes_coded,
            "valid_samples": self.valid_samples,
            "bpppc": self.bpppc,
            "step": steps.pop() if len(steps) == 1 else None,
            "psnr_db": None if not scenes or None in qualities else fmean(qualities),
            "scenes": scenes,
        }


def encode(
    inputs: Sequence[Path],
    output: Path,
    *,
    bundle: Path,
    step: float | None,
    backend: BackendName,
    speed: int = 0,
    target: Target | None = None,
    progress: Callable[[EncodedScene], None] = lambda _: None,
) -> EncodedFile:
    """Encode scenes into one `.prism` file, one tile per scene.

    Args:
        inputs: Files or folders.
        output: The file to write.
        bundle: The model; a PSNR as target needs one that decodes.
        step: Quantizer step; the bundle's own if None. With a target, where to look first.
        backend: What runs the network.
        speed: See `codec.speeds`.
        target: What every scene should come to.
        progress: Called with each scene that is encoded.

    Raises:
        TileFileError: If an input cannot be read, or two are of one name.
        TileError: If a scene does not fit the bundle or the step, or misses the target for worse.
        BundleError: If the bundle cannot be used.
        OutputError: If the file cannot be written.
    """
    threads, loaded = claim(None), load_bundle(bundle)
    decoder = Decoder(loaded) if target is not None and target.kind == "psnr" else None
    encoder = Encoder(
        loaded,
        step=step,
        backend=backend,
        threads=threads,
        coders=WORKERS_PER_THREAD * threads,
        speed=speed,
    )
    scenes: list[EncodedScene] = []
    paths: dict[bytes, Path] = {}
    for path in (scene for given in inputs for scene in find_scenes(given)):
        tile = read_tile(path)
        # Frames find their tile by its name: two of one name could not be told apart again.
        if first := paths.get(tile.info.tile_id):
            raise TileFileError(
                f"{path}: the same scene, tile and sequence as {first}; "
                "remedy: encode it into a file of its own"
            )
        paths[tile.info.tile_id] = path
        try:
            coded = code(encoder, tile, target, decoder)
        except TileError as error:
            raise TileError(f"{path}: {error}") from None
        scenes.append(
            EncodedScene(
                path=path,
                patches=len(coded.frames) - 1,
                bytes_raw=tile.samples.nbytes,
                coded=coded,
                on_target=target is None or not coded.samples or target.is_met_by(coded),
            )
        )
        progress(scenes[-1])
    frames = [frame for scene in scenes for frame in scene.coded.frames]
    write_whole(output, prism_file.pack(frames))
    return EncodedFile(scenes=tuple(scenes))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
