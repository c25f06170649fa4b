"""One training on several processes: who is who, and what they share.

`accelerate launch` or `torchrun` start the processes and say by RANK and WORLD_SIZE which is which.
Each batch is dealt out, crop by crop; gradients are averaged, so all processes hold the same
weights, those of a training on one process but for rounding. The first process alone writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Sampler

from training.errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """The processes of a training.

    Attributes:
        rank: Which one this is, from 0.
        size: How many there are.
        device: What it computes on.
    """

    rank: int
    size: int
    device: str

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes and tells."""
        return self.rank == 0

    def share_of(self, batch_crops: int) -> int:
        """Crops of a batch that are this process's.

        Raises:
            SettingsError: If they cannot be dealt out evenly.
        """
        if batch_crops % self.size:
            raise SettingsError(
                f"batch_crops {batch_crops} cannot be dealt out to {self.size} processes evenly"
            )
        return batch_crops // self.size

    def joined(self, network: nn.Module) -> nn.Module:
        """A network whose gradients are averaged over the processes."""
        if self.size == 1:
            return network
        # The network that restores coefficients has no part in this training.
        return DistributedDataParallel(network, find_unused_parameters=True)

    def summed(self, *values: float) -> list[float]:
        """Sum numbers over the processes."""
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.size > 1:
            distributed.all_reduce(sums)
        return [float(value) for value in sums]

    def wait(self) -> None:
        """Wait until all are here."""
        if self.size > 1:
            distributed.barrier()


class Share(Sampler[int]):
    """A process's numbers of so many: every n-th, so that batches hold what one process's would."""

    def __init__(self, count: int, team: Team) -> None:
        self._numbers = range(team.rank, count - count % team.size, team.size)

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)


def team() -> Team:
    """Join the processes this one was started with; alone it is a team of one."""
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if size > 1:
        if device == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    return Team(rank=rank, size=size, device=device)


def unwrapped(network: nn.Module) -> nn.Module:
    """The network as it was before `Team.joined`."""
    return network.module if isinstance(network, DistributedDataParallel) else network
