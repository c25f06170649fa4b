"""Rules of `codec.known_answer`: a sound model answers, a damaged one is found out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codec.bundle import Bundle, load_bundle, make_bundle
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.errors import BundleAnswerError
from codec.known_answer import answered, check_decoder, check_encoder, known_tile
from fakes.bundles import branch_bundle, klt_bundle, minmax_bundle

MODELS = Path(__file__).resolve().parents[2] / "deploy" / "models"


@pytest.mark.parametrize("made", [klt_bundle, branch_bundle, minmax_bundle])
def test_a_sound_model_answers(made: Callable[[], Bundle], tmp_path: Path) -> None:
    """Also from a file, also a flight bundle, and under its own name as before."""
    bundle = answered(made())
    assert bundle.name == made().name
    path = tmp_path / "x.safetensors"
    path.write_bytes(bundle.to_bytes())
    loaded = load_bundle(path)
    check_encoder(Encoder(loaded, step=77.0, backend="torch-cpu"))
    check_encoder(Encoder(loaded.for_flight(), backend="torch-cpu"))
    check_decoder(Decoder(loaded))


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.safetensors")), ids=lambda p: p.stem)
def test_shipped_models_answer(path: Path) -> None:
    """Under the backend a daemon would choose."""
    bundle = load_bundle(path)
    assert bundle.known_answer
    check_encoder(Encoder(bundle))
    if bundle.has_synthesis:
        check_decoder(Decoder(bundle))


def test_no_answer_is_no_fault() -> None:
    """A model on its way through training has none yet."""
    check_encoder(Encoder(klt_bundle(), backend="torch-cpu"))
    check_decoder(Decoder(klt_bundle()))


def damaged(prefix: str, factor: float) -> Bundle:
    """A bundle whose tensors of some name are wrong, but fit their digests."""
    bundle = answered(branch_bundle())
    tensors = {
        name: (array * factor).astype(array.dtype) if name.startswith(prefix) else array
        for name, array in bundle.tensors.items()
    }
    worse = make_bundle(
        bundle.network, bundle.conditioner, default_step=bundle.default_step, tensors=tensors
    )
    return replace(worse, known_answer=bundle.known_answer)


def test_damaged_contexts_are_found() -> None:
    """On board and on the ground: symbols are exact on every machine."""
    bundle = damaged("contexts.weights", 2)
    with pytest.raises(BundleAnswerError, match="known answer"):
        check_encoder(Encoder(bundle, backend="torch-cpu"))
    with pytest.raises(BundleAnswerError, match="known answer"):
        check_decoder(Decoder(bundle))


def test_a_damaged_network_is_found() -> None:
    """The encoder's by its symbols."""
    bundle = damaged("analysis.branch", 40)
    with pytest.raises(BundleAnswerError, match="apart from the known answer's, under torch"):
        check_encoder(Encoder(bundle, backend="torch-cpu"))


@pytest.mark.parametrize(
    "answer",
    [
        {"frames": ["00"], "symbols": "", "psnr_db": 0.0},
        {"frames": ["xx", "yy"]},
        {"frames": ["00", "00"], "symbols": "", "psnr_db": 0.0},
        {"symbols": ""},
    ],
)
def test_a_damaged_answer_is_found(answer: dict[str, object]) -> None:
    """It is one clear error, whatever is wrong with it."""
    bundle = replace(answered(klt_bundle()), known_answer=answer)
    with pytest.raises(BundleAnswerError):
        check_encoder(Encoder(bundle, backend="torch-cpu"))
    with pytest.raises(BundleAnswerError):
        check_decoder(Decoder(bundle))


def test_an_answer_of_another_tile_is_found() -> None:
    """Hostile answers are refused as well as wrong ones, and never with a traceback."""
    bundle = answered(klt_bundle())
    small = known_tile(bundle)
    small = replace(small, samples=small.samples[:, :16, :16].copy())
    side, patch = Encoder(bundle, backend="torch-cpu").encode(small)
    for frames, psnr in (([side.hex(), patch.hex()], 30.0), (None, 10**400)):
        answer = {**bundle.known_answer, "psnr_db": psnr}
        answer |= {} if frames is None else {"frames": frames}
        with pytest.raises(BundleAnswerError):
            check_decoder(Decoder(replace(bundle, known_answer=answer)))


def test_a_worse_restoration_is_found() -> None:
    """The ground's networks are looked at by what they restore."""
    bundle = answered(minmax_bundle())
    answer = {**bundle.known_answer, "psnr_db": bundle.known_answer["psnr_db"] + 1}
    with pytest.raises(BundleAnswerError, match="dB, not to"):
        check_decoder(Decoder(replace(bundle, known_answer=answer)))


def test_the_known_tile_is_frozen() -> None:
    """It is the same on every machine, or answers would not be comparable."""
    tile = known_tile(klt_bundle())
    assert tile.samples.shape == (16, 24, 24)
    assert int(tile.samples.astype(np.int64).sum()) == 22_016_320
    assert tile.samples[3, 5, 7] == 898
