"""Rules of `codec.backends.cuda_runtime`, as far as they can be shown without a GPU.

That PyTorch is called as it can be called, and each thing on its stream; not what CUDA does then.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from threading import Barrier, Event
from unittest.mock import MagicMock, create_autospec, patch

import pytest
import torch
from torch import Tensor

from codec.backends.cuda_runtime import CudaRuntime


@pytest.fixture
def cuda() -> Iterator[MagicMock]:
    """PyTorch's CUDA, whose functions take what the real ones do, and do nothing."""
    names = ("current_device", "graph_pool_handle", "stream", "Event", "CUDAGraph", "graph")
    fake = MagicMock()
    for name in names:
        setattr(fake, name, create_autospec(getattr(torch.cuda, name)))
    fake.current_device.return_value = 0
    fake.Stream.side_effect = cycle(["computing", "copying", "recording"])
    with patch.object(torch, "cuda", fake):
        yield fake


def test_each_thing_has_its_stream(cuda: MagicMock) -> None:
    """Copies run beside what is computed."""
    runtime = CudaRuntime()
    assert str(runtime.device) == "cuda:0"
    runtime.computing()
    runtime.copying()
    assert [call.args for call in cuda.stream.call_args_list] == [("computing",), ("copying",)]


def test_an_event_is_recorded(cuda: MagicMock) -> None:
    """In the current stream; who waits for it does not spin."""
    event = CudaRuntime().mark()
    cuda.Event.assert_called_once_with(blocking=True)
    assert event is cuda.Event.return_value
    cuda.Event.return_value.record.assert_called_once_with()


def test_a_copy_is_not_waited_for(cuda: MagicMock) -> None:
    """Its end is known by an event."""
    target, source = create_autospec(Tensor, instance=True), torch.zeros(3)
    CudaRuntime().copy(target, source)
    target.copy_.assert_called_once_with(source, non_blocking=True)
    assert cuda.Stream.call_count == 3


def test_a_function_is_recorded_after_it_has_run(cuda: MagicMock) -> None:
    """On a stream of its own: what other threads start meanwhile is done, and not recorded."""
    calls: list[bool] = []

    def function(source: Tensor) -> Tensor:
        calls.append(cuda.graph.return_value.__enter__.called)
        return source + 1

    recorded = CudaRuntime().record(function, torch.zeros(3))
    assert calls == [False, False, False, True]
    cuda.graph.assert_called_once_with(
        cuda.CUDAGraph.return_value,
        pool=cuda.graph_pool_handle.return_value,
        stream="recording",
        capture_error_mode="thread_local",
    )
    assert recorded.result.tolist() == [1, 1, 1]
    recorded.replay()
    cuda.CUDAGraph.return_value.replay.assert_called_once_with()


def test_one_function_is_recorded_at_a_time(cuda: MagicMock) -> None:
    """In the process: what waits for the whole device meanwhile breaks the recording of another."""
    recording, together = 0, list[int]()

    def begin(*_: object) -> None:
        nonlocal recording
        recording += 1
        together.append(recording)

    def end(*_: object) -> None:
        nonlocal recording
        recording -= 1

    graph = cuda.graph.return_value
    graph.__enter__.side_effect, graph.__exit__.side_effect = begin, end
    runtimes = [CudaRuntime(), CudaRuntime()]
    meet = Barrier(2)

    def record(runtime: CudaRuntime) -> None:
        calls = 0

        def function(source: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if calls == 1:
                meet.wait()
            elif calls == 4:
                lingered.wait(0.1)
            return source

        runtime.record(function, torch.zeros(3))

    lingered = Event()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(record, runtimes))
    assert together == [1, 1]
