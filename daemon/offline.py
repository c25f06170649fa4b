"""`encode`, `decode` and `inspect`: the codec on files, with no link between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codec.backend_names import BackendName
from codec.bundle import Bundle, load_bundle
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.errors import BitstreamError, CodecError, TileFileError
from codec.frame import PatchFrame, parse
from codec.network import count_macs
from codec.tile import Tile
from codec.tile_files import find_scenes, read_tile, write_tile
from daemon import prism_file
from daemon.cores import claim
from daemon.errors import OutputError
from daemon.files import write_whole
from daemon.ground.write import file_stem


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedFile:
    """What `encode` made of its inputs.

    Attributes:
        tiles: Tiles in the file.
        patches: Patches in them.
        bytes_raw: Bytes of their samples.
        bytes_coded: Bytes of all frames.
        valid_samples: Samples that are no fill.
    """

    tiles: int
    patches: int
    bytes_raw: int
    bytes_coded: int
    valid_samples: int

    @property
    def bpppc(self) -> float:
        """Bits per valid sample."""
        return 8 * self.bytes_coded / max(1, self.valid_samples)


def encode(
    inputs: Sequence[Path],
    output: Path,
    *,
    bundle: Path,
    step: float | None,
    backend: BackendName,
    progress: Callable[[Path], None] = lambda _: None,
) -> EncodedFile:
    """Encode scenes into one `.prism` file, one tile per scene.

    Raises:
        TileFileError: If an input cannot be read, or two are of one name.
        TileError: If a scene does not fit the bundle, or the step is out of range.
        BundleError: If the bundle cannot be used.
        OutputError: If the file cannot be written.
    """
    threads = claim(None)
    encoder = Encoder(load_bundle(bundle), step=step, backend=backend, threads=threads)
    frames: list[bytes] = []
    paths: dict[bytes, Path] = {}
    raw = valid = 0
    for path in (scene for given in inputs for scene in find_scenes(given)):
        tile = read_tile(path)
        # Frames find their tile by its name: two of one name could not be told apart again.
        if first := paths.get(tile.info.tile_id):
            raise TileFileError(
                f"{path}: the same scene, tile and sequence as {first}; "
                "remedy: encode it into a file of its own"
            )
        paths[tile.info.tile_id] = path
        frames += encoder.encode(tile)
        raw, valid = raw + tile.samples.nbytes, valid + int(tile.valid().sum())
        progress(path)
    write_whole(output, prism_file.pack(frames))
    return EncodedFile(
        tiles=len(paths),
        patches=len(frames) - len(paths),
        bytes_raw=raw,
        bytes_coded=sum(map(len, frames)),
        valid_samples=valid,
    )


def decode(source: Path, directory: Path, *, bundle: Path, file_format: str) -> Iterator[Path]:
    """Restore every tile of a `.prism` file, yielding each file as it is written.

    Raises:
        TileFileError: If the file cannot be read.
        BitstreamError: If a frame is damaged, missing, or of another model.
        BundleError: If the bundle cannot be used.
        OutputError: If a file cannot be written.
    """
    claim(None)
    decoder = Decoder(load_bundle(bundle))
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
            tiles.setdefault(parse(raw).tile_id, []).append(raw)
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
    """Describe a bundle or a `.prism` file.

    Raises:
        CodecError: If it is neither.
    """
    if path.suffix == ".safetensors":
        return describe_bundle(load_bundle(path))
    if path.suffix == ".prism":
        try:
            frames = [_describe(raw) for raw in prism_file.unpack(_read(path))]
        except BitstreamError as error:
            raise BitstreamError(f"{path}: {error}") from None
        return {"file": path.name, "frames": frames}
    raise CodecError(f"{path}: neither a bundle (.safetensors) nor a frame file (.prism)")


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
