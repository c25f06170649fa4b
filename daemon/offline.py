"""`encode`, `decode` and `inspect`: the codec on files, with no link between."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from codec.backend_names import BackendName
from codec.bundle import Bundle, load_bundle
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.errors import BitstreamError, CodecError, TileError, TileFileError
from codec.frame import PatchFrame, SideFrame, parse
from codec.network import count_macs
from codec.targets import CodedTile, Target, code
from codec.tile import Tile
from codec.tile_files import find_scenes, read_tile, write_tile
from codec.tile_memory import check_fits
from daemon import prism_file
from daemon.cores import WORKERS_PER_THREAD, claim
from daemon.errors import OutputError
from daemon.files import write_whole
from daemon.ground.write import file_stem
from daemon.link.lanes import LANES
from daemon.onboard.segment_log import waiting_in


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


def decode(source: Path, directory: Path, *, bundle: Path, file_format: str) -> Iterator[Path]:
    """Restore every tile of a `.prism` file, yielding each file as it is written.

    Raises:
        TileFileError: If the file cannot be read, or holds a tile larger than memory.
        BitstreamError: If a frame is damaged, missing, or of another model.
        BundleError: If the bundle cannot be used.
        OutputError: If a file cannot be written.
    """
    decoder = Decoder(load_bundle(bundle), WORKERS_PER_THREAD * claim(None))
    for tile in _tiles(source, decoder):
        path = directory / file_stem(tile.info)
        try:
            yield write_tile(tile, path, file_format)
        except TileFileError as error:
            raise OutputError(path, str(error)) from None


def _tiles(source: Path, decoder: Decoder) -> Iterator[Tile]:
    """Decode the tiles in the order of their first frames."""
    tiles: dict[bytes, list[bytes]] = {}
    try:
        for raw in prism_file.unpack(_read(source)):
            frame = parse(raw)
            tiles.setdefault(frame.tile_id, []).append(raw)
            if isinstance(frame, SideFrame):  # its patches, and then the tile beside them
                check_fits(source, 2 * np.dtype(frame.dtype).itemsize * math.prod(frame.shape))
        yield from map(decoder.decode, tiles.values())
    except BitstreamError as error:
        raise BitstreamError(f"{source}: {error}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TileFileError(
            f"{path}: cannot be read: {error.strerror}; remedy: check the path"
        ) from None


def inspect(path: Path) -> dict[str, Any]:
    """Describe a bundle, a `.prism` file, or the folder of a spool.

    Raises:
        CodecError: If it is none of these, or cannot be read.
    """
    if path.suffix == ".safetensors":
        return describe_bundle(load_bundle(path))
    if path.suffix == ".prism":
        try:
            frames = [_describe(raw) for raw in prism_file.unpack(_read(path))]
        except BitstreamError as error:
            raise BitstreamError(f"{path}: {error}") from None
        return {"file": path.name, "frames": frames}
    if logs := [lane.folder for lane in LANES if (path / lane.folder).is_dir()]:
        try:
            return {folder: waiting_in(path / folder) for folder in logs}
        except OSError as error:
            raise CodecError(f"{error.filename or path}: {error.strerror}") from None
    raise CodecError(
        f"{path}: neither a bundle (.safetensors) nor a frame file (.prism) nor a spool's folder"
    )


def describe_bundle(bundle: Bundle) -> dict[str, Any]:
    """Say what a model is, where it came from and what it reached."""
    encoder_macs, decoder_macs = count_macs(bundle.network)
    return {
        "model": bundle.name,
        "digest": bundle.digest.hex(),
        "flight_only": not bundle.has_synthesis,
        "network": bundle.network.to_dict(),
        "conditioner": {
            "kind": bundle.conditioner.kind,
            "components": bundle.conditioner.components,
        },
        "default_step": bundle.default_step,
        "parameters": sum(
            array.size
            for name, array in bundle.tensors.items()
            if name.startswith(("analysis.", "synthesis."))
        ),
        "encoder_macs_per_patch": encoder_macs,
        "decoder_macs_per_patch": decoder_macs,
        "provenance": dict(bundle.provenance),
        "scores": dict(bundle.scores),
    }


def _describe(raw: bytes) -> dict[str, Any]:
    frame = parse(raw)
    common = {"tile_id": frame.tile_id.hex(), "model": frame.model.hex(), "bytes": len(raw)}
    if isinstance(frame, PatchFrame):
        return {"kind": "patch", **common, "patch": [frame.patch_row, frame.patch_col]}
    return {
        "kind": "side",
        **common,
        "scene": frame.info.scene,
        "shape": list(frame.shape),
        "dtype": frame.dtype,
        "step": frame.step,
        "components": len(frame.levels),
    }
