"""Cores are shared, so that stages that compute at a time do not wait for each other."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from daemon.cores import claim


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_settings_decide() -> None:
    """A number in the settings is what PyTorch gets, and what other libraries are told."""
    assert claim(3) == torch.get_num_threads() == 3


@pytest.mark.parametrize(("cores", "share"), [(1, 1), (2, 1), (3, 1), (8, 4)])
def test_otherwise_half_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, share: int
) -> None:
    """Two stages compute at a time; one core is never none."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)))
    assert claim(None) == torch.get_num_threads() == share
