"""A known answer: what a model made of a tile that is given by formula, kept in its bundle.

Symbols are integers on every machine, so they have to come back exactly: that tells damaged
tables, contexts or code. Floats differ in their last bits from machine to machine, so what the
networks make of the tile now may differ from what they made of it then in a few symbols, and the
restored tile by a little; more tells damaged weights or a broken backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from codec.bundle import Bundle
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.errors import BitstreamError, BundleAnswerError
from codec.frame import PatchFrame, SideFrame, parse
from codec.quality import psnr_db
from codec.symbol_coder import SymbolCoder
from codec.tile import Tile, TileInfo

_EDGE_PX: Final = 24
_BANDS: Final = 16
_APART: Final = 0.3
"""How far symbols may lie from the answer's, all together, of all these are: int8 moves some."""
_WORSE_DB: Final = 0.5


def known_tile(bundle: Bundle) -> Tile:
    """The tile: integers by formula, of as many bands as the model takes."""
    bands = _BANDS if bundle.conditioner.kind == "klt" else bundle.conditioner.components
    band, row, col = np.mgrid[0:bands, 0:_EDGE_PX, 0:_EDGE_PX]
    waves = (row * (3 + band % 5) * 7 + col * (5 + band % 3) * 11) % 97
    edges = 900 * ((row + 2 * col) % 23 < 9) - 400 * (row * col % 31 < 7)
    samples = 1500 + 40 * band + edges * (1 + band % 4) // 2 + 6 * waves
    return Tile(samples=samples.astype(np.int16), info=TileInfo(sensor="known answer"))


def answered(bundle: Bundle) -> Bundle:
    """The same model with its answer, as it is on this machine.

    Raises:
        BundleTensorError: If it is a flight bundle.
    """
    tile = known_tile(bundle)
    frames = Encoder(bundle, backend="torch-cpu").encode(tile)
    answer = {
        "frames": [frame.hex() for frame in frames],
        "symbols": _digest(_symbols(bundle, frames[0], frames[1])),
        "psnr_db": _psnr_db(tile, Decoder(bundle).decode(frames)),
    }
    return replace(bundle, known_answer=answer)


def check_encoder(encoder: Encoder) -> None:
    """Let an encoder answer.

    Raises:
        BundleAnswerError: If the answer is another one. A bundle without an answer is not asked.
    """
    bundle = encoder.bundle
    if not bundle.known_answer:
        return
    side, patch = _frames(bundle.known_answer)
    expected = _expected_symbols(bundle, side, patch)
    now = encoder.encode(known_tile(bundle), bundle.default_step, speed=0)
    found = _symbols(bundle, now[0], now[1])
    if found.shape != expected.shape:
        raise BundleAnswerError(f"{found.shape} latents, the known answer has {expected.shape}")
    apart = np.abs(found - expected).sum() / max(1, np.abs(expected).sum())
    if apart > _APART:
        raise BundleAnswerError(
            f"symbols are {100 * apart:.0f} % apart from the known answer's, under "
            f"{encoder.backend.name} in {encoder.backend.precision}"
        )


def check_decoder(decoder: Decoder) -> None:
    """Let a decoder answer.

    Raises:
        BundleAnswerError: If the answer is another one. A bundle without an answer is not asked.
    """
    bundle = decoder.bundle
    if not bundle.known_answer:
        return
    frames = _frames(bundle.known_answer)
    _expected_symbols(bundle, *frames)
    tile = known_tile(bundle)
    try:
        restored = decoder.decode(frames)
        if restored.samples.shape != tile.samples.shape:
            raise BundleAnswerError(f"the known answer is a tile of {restored.samples.shape}")
        found_db = _psnr_db(tile, restored)
        expected_db = float(bundle.known_answer["psnr_db"])
    except (BitstreamError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise BundleAnswerError(f"the known answer does not decode: {error}") from None
    if not abs(found_db - expected_db) <= _WORSE_DB:
        raise BundleAnswerError(
            f"the known answer decodes to {found_db:.2f} dB, not to {expected_db:.2f} dB"
        )


def _frames(answer: Mapping[str, Any]) -> tuple[bytes, bytes]:
    try:
        side, patch = map(bytes.fromhex, answer["frames"])
    except (KeyError, TypeError, ValueError) as error:
        raise BundleAnswerError(f"the known answer is damaged: {error!r}") from None
    return side, patch


def _expected_symbols(bundle: Bundle, side: bytes, patch: bytes) -> NDArray[np.int32]:
    """Decode the symbols of the answer; they are the same on every machine."""
    try:
        symbols = _symbols(bundle, side, patch)
    except BitstreamError as error:
        raise BundleAnswerError(f"the known answer does not decode: {error}") from None
    if _digest(symbols) != bundle.known_answer.get("symbols"):
        raise BundleAnswerError("the known answer decodes to other symbols")
    return symbols


def _symbols(bundle: Bundle, side: bytes, patch: bytes) -> NDArray[np.int32]:
    tile, frame = parse(side), parse(patch)
    if not isinstance(tile, SideFrame) or not isinstance(frame, PatchFrame):
        raise BitstreamError("a side frame and a patch frame were expected")
    coder = SymbolCoder(bundle.tables, bundle.scales, bundle.contexts)
    components = len(tile.levels) if bundle.conditioner.kind == "klt" else 1
    return coder.decode(frame.payload, components * bundle.scales.groups.size, _EDGE_PX, _EDGE_PX)


def _digest(symbols: NDArray[np.int32]) -> str:
    return sha256(str(symbols.shape).encode() + symbols.astype("<i4").tobytes()).hexdigest()


def _psnr_db(tile: Tile, restored: Tile) -> float:
    return psnr_db(tile.samples, restored.samples, tile.valid(), tile.info.reflectance_scale)
