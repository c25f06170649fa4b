"""Rules of `codec.backends.cuda_runtime`, as far as they can be shown without a GPU.

That PyTorch is called as it can be called, and each thing on its stream; not what CUDA does then.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    fake.Stream.side_effect = ["computing", "copying", "recording"]
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
