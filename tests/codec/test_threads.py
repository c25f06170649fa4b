"""Rules of `codec.threads`: at a time, in order, and no library takes more cores for it."""

from __future__ import annotations

import threading

import torch

from codec.threads import each_of


def test_results_come_in_order() -> None:
    """Whatever ends first."""
    both = threading.Barrier(2, timeout=10)

    def negative(number: int) -> int:
        both.wait()  # one alone would wait for ever
        return -number

    assert list(each_of(2, "test")(negative, range(6))) == [0, -1, -2, -3, -4, -5]


def test_one_is_the_caller_itself() -> None:
    """No thread is made where none is asked for."""
    assert [*each_of(1, "test")(lambda _: threading.get_ident(), [0])] == [threading.get_ident()]


def test_threads_compute_on_as_many_cores_as_the_caller() -> None:
    """Or each of them would start a team of its own."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found = [*each_of(2, "test")(lambda _: torch.__config__.parallel_info(), range(2))]
    finally:
        torch.set_num_threads(before)
    assert all("omp_get_max_threads() : 3" in info for info in found)
