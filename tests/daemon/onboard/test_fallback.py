"""Rules of `daemon.onboard.fallback`: what fails at work costs no patch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from codec.backends.device_backend import DeviceBackend
from codec.decoder import Decoder
from codec.encoder import AnalysisBackend, Encoder, make_backend
from codec.errors import TileError
from codec.tile import Tile, TileInfo
from daemon.onboard.fallback import Fallback
from daemon.onboard.models import Model
from daemon.onboard.steps import StepControl
from fakes.bundles import branch_bundle
from fakes.cubes import tile
from fakes.late_device import LateRuntime


class Failing:
    """Analyzes some batches, then loses its device."""

    name, precision = "torch-cuda", "bfloat16"
    weights, device = (), None

    def __init__(self, works: int) -> None:
        self._works = works
        self._backend = make_backend(branch_bundle(), "torch-cpu", 1)

    def analyze(self, patches: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """As a backend does."""
        self._works -= 1
        if self._works < 0:
            raise RuntimeError("CUDA error: an illegal memory access\nmore of it")
        return self._backend.analyze(patches)


def second() -> AnalysisBackend:
    """What takes over."""
    return make_backend(branch_bundle(), "torch-cpu", 1)


def test_the_tile_in_flight_is_still_encoded(caplog: pytest.LogCaptureFixture) -> None:
    """Before, while and after the failure a tile comes out the same, and who watches knows."""
    told: list[tuple[str, str]] = []
    encoder = Encoder(branch_bundle(), backend="torch-cpu")
    expected = encoder.encode(tile(rows=20, cols=20))
    encoder.backend = Fallback(Failing(works=1), second, lambda *names: told.append(names))
    assert encoder.backend.name == "torch-cuda"
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert encoder.encode(tile(rows=20, cols=20)) == expected
    assert told == [("torch-cuda", "torch-cpu")]
    assert (encoder.backend.name, encoder.backend.precision) == ("torch-cpu", "float32")
    (record,) = caplog.records
    assert "until a restart" in record.getMessage()


@pytest.mark.parametrize(
    "works", [0, 1, 2, 3], ids=["open", "encode", "open again", "encode again"]
)
def test_a_tile_on_a_device_is_still_encoded(works: int, caplog: pytest.LogCaptureFixture) -> None:
    """Wherever the device fails: the host still has the tile, and goes on with it."""
    told: list[tuple[str, str]] = []
    runtime, bundle, one = LateRuntime(), branch_bundle(), tile(rows=20, cols=140)
    encoder = Encoder(bundle, backend="torch-cpu", speed=1)
    device = DeviceBackend(bundle, runtime)
    device.name = "torch-cuda"
    encoder.backend = Fallback(device, second, lambda *names: told.append(names))

    def fail() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore of it")

    with caplog.at_level(logging.ERROR):
        for number in range(4):
            if number == works:
                runtime.fail = fail
            if number % 2 == 0:
                job = encoder.open(one)
            else:
                frames = [job.side_frame, *encoder.encode_batch(job.patches)]
                again = Decoder(bundle).decode(frames).samples.astype(np.float32)
                assert np.abs(again - one.samples).max() < 100
    assert told == [("torch-cuda", "torch-cpu")]
    assert encoder.backend.name == "torch-cpu"
    assert encoder.backend.device is None
    (record,) = caplog.records
    assert record.__dict__["why"].startswith("torch-cuda: CUDA out of memory.")


def test_a_tile_that_is_no_good_is_no_failure() -> None:
    """Of the device, that is: it goes on with the next one."""
    encoder = Encoder(branch_bundle(), backend="torch-cpu")
    encoder.backend = Fallback(
        DeviceBackend(branch_bundle(), LateRuntime()), second, lambda *_: None
    )
    with pytest.raises(TileError, match="too large"):
        encoder.open(Tile(samples=np.full((3, 8, 8), 1e37, np.float32), info=TileInfo()))
    assert encoder.backend.device is not None


def test_a_device_whose_weights_cannot_be_read_has_failed() -> None:
    """A self-test then goes on with the other one; it does not call the model damaged."""
    told: list[tuple[str, str]] = []
    encoder = Encoder(branch_bundle(), backend="torch-cpu")
    device = DeviceBackend(branch_bundle(), runtime := LateRuntime())
    device.name = "torch-cuda"
    encoder.backend = Fallback(device, second, lambda *names: told.append(names))
    model = Model(encoder, StepControl(encoder), Path("any"))
    model.test()

    def lost() -> AbstractContextManager[None]:
        raise RuntimeError("CUDA error: unspecified launch failure")

    runtime.computing = lost  # type: ignore[method-assign]
    for _ in range(3):
        model.test()
    assert told == [("torch-cuda", "torch-cpu")]


def test_there_is_no_third() -> None:
    """If the other one fails too, that is an error of the batch, for the stage to count."""
    backend = Fallback(Failing(works=0), lambda: Failing(works=1), lambda *_: None)
    patch = np.zeros((3, 8, 8), np.float32)
    assert len(backend.analyze([patch])) == 1
    with pytest.raises(RuntimeError, match="illegal memory"):
        backend.analyze([patch])
