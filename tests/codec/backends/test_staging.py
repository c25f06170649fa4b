"""Rules of `codec.backends.staging`: nothing is read or overwritten before its copy is done."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from codec.backends.staging import Staging
from fakes.late_device import LateRuntime

RNG: Final = np.random.default_rng(0)
CUBE: Final = RNG.integers(-30_000, 30_000, (5, 7, 9)).astype(np.int16)


def uploaded(array: NDArray[Any], *, buffer_bytes: int = 100, buffers: int = 2) -> NDArray[Any]:
    """What the device has of an array, that went through small buffers."""
    runtime = LateRuntime()
    with runtime.computing():
        found = Staging(runtime, buffers, buffer_bytes).upload(array)
    return found.numpy()


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (1, 2, 0), (2, 1, 0)])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "float32", "bool"])
def test_what_arrives_is_what_was_there(order: tuple[int, int, int], dtype: str) -> None:
    """Any type, in any order of bands, lines and pixels, of either byte order, whole or in part."""
    stored = np.ascontiguousarray(CUBE.transpose(order)).astype(dtype)
    array = stored.transpose(np.argsort(order))
    assert np.array_equal(uploaded(array), array)
    assert np.array_equal(uploaded(array[1:4, 2:, 3:8]), array[1:4, 2:, 3:8])


def test_what_lies_together_is_copied_together() -> None:
    """Pixel by pixel stays pixel by pixel: nobody sorts samples on the host."""
    by_pixel = np.ascontiguousarray(CUBE.transpose(1, 2, 0)).transpose(2, 0, 1)
    runtime = LateRuntime()
    with runtime.computing():
        assert Staging(runtime).upload(by_pixel).stride() == (1, 45, 5)


def test_unsigned_samples_come_as_their_bits() -> None:
    """int16 of the same bits, as `DeviceSamples.unsigned` then says."""
    array = np.array([[0, 1, 40_000, 65_535]], np.uint16)
    found = uploaded(array)
    assert found.dtype == np.int16
    assert np.array_equal(found.view(np.uint16), array)


def test_nothing_has_no_samples() -> None:
    """An array without elements is one on the device."""
    assert uploaded(np.zeros((0, 3, 4), np.float32)).shape == (0, 3, 4)
    assert uploaded(np.zeros((3, 0, 4), np.float32)).shape == (3, 0, 4)


@pytest.mark.parametrize("buffers", [1, 2, 3])
def test_a_buffer_is_filled_again_after_its_copy(buffers: int) -> None:
    """Of uploads of many times the buffers' size none loses a sample, though copies come late."""
    runtime = LateRuntime()
    staging = Staging(runtime, buffers, 200)
    arrays = [RNG.integers(0, 99, (11, 9, 8)).astype(np.int16) for _ in range(3)]
    with runtime.computing():
        found = [staging.upload(array) for array in arrays]
    for array, tensor in zip(arrays, found, strict=True):
        assert np.array_equal(tensor.numpy(), array)
    assert runtime.pinned_bytes == [200] * buffers


def test_threads_do_not_share_a_buffer() -> None:
    """Whoever fills one has it until its copy is done."""
    runtime = LateRuntime()
    staging = Staging(runtime, 2, 2000)
    arrays = [np.full((40, 500), number, np.int16) for number in range(24)]
    alone: list[bool] = []
    runtime.fail = lambda: alone.append(staging._filling.locked())

    def upload(array: NDArray[np.int16]) -> bool:
        with runtime.computing():
            return np.array_equal(staging.upload(array).numpy(), array)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(upload, arrays))
    assert all(alone)
    assert len(runtime.pinned_bytes) == 2


def test_a_buffer_grows_to_the_longest_row() -> None:
    """And only then."""
    runtime = LateRuntime()
    staging = Staging(runtime, 1, 64)
    with runtime.computing():
        for cols in (16, 100, 50, 100, 200):
            array = RNG.integers(0, 99, (2, cols)).astype(np.int16)
            assert np.array_equal(staging.upload(array).numpy(), array)
    assert runtime.pinned_bytes == [64, 200, 400]


def test_samples_go_beside_what_is_computed() -> None:
    """On the stream of copies; symbols come back in the order of what is computed."""
    runtime = LateRuntime()
    staging = Staging(runtime)
    with runtime.computing():
        tensor = staging.upload(CUBE)
        assert runtime.streams == ["copying"]
        staging.download([tensor])
    assert runtime.streams == ["copying", "computing"]


def test_a_download_is_there_and_stays() -> None:
    """All of it, with the types it had; a later one goes elsewhere."""
    runtime = LateRuntime()
    staging = Staging(runtime)
    with runtime.computing():
        first, second = staging.download([torch.arange(6).reshape(2, 3), torch.ones(2).short()])
        staging.download([torch.zeros(2, 3, dtype=torch.int64)])
    assert np.array_equal(first, np.arange(6).reshape(2, 3))
    assert (second.dtype, second.tolist()) == (np.int16, [1, 1])
