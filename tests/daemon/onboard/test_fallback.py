"""Rules of `daemon.onboard.fallback`: what fails at work costs no patch."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from codec.encoder import AnalysisBackend, Encoder, make_backend
from daemon.onboard.fallback import Fallback
from fakes.bundles import branch_bundle
from fakes.cubes import tile


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


def test_there_is_no_third() -> None:
    """If the other one fails too, that is an error of the batch, for the stage to count."""
    backend = Fallback(Failing(works=0), lambda: Failing(works=1), lambda *_: None)
    patch = np.zeros((3, 8, 8), np.float32)
    assert len(backend.analyze([patch])) == 1
    with pytest.raises(RuntimeError, match="illegal memory"):
        backend.analyze([patch])
