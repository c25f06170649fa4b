"""Rules of `training.distributed`: two processes train what one does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from training.distributed import Share, Team
from training.errors import SettingsError

LAUNCH = (
    *("-m", "accelerate.commands.launch", "--cpu", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"),
)


def fit(folder: Path, out: Path, processes: int) -> list[float]:
    """Train on so many processes; return what held-back crops cost after each epoch."""
    settings = out.with_suffix(".yaml")
    text = (folder / "training.yaml").read_text(encoding="utf-8")
    longer = text.replace("epochs: 2\n  crops_per_epoch: 8", "epochs: 3\n  crops_per_epoch: 24")
    settings.write_text(longer, encoding="utf-8")
    given = ("--scenes", folder / "scenes", "--settings", settings, "--out", out)
    launched = (*LAUNCH, "--num_processes", processes, "--module", "training.cli", "fit", *given)
    done = subprocess.run(
        [sys.executable, *map(str, launched)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return [float(cost) for cost in re.findall(r"epoch \d: cost ([\d.]+)", done.stderr)]


def test_two_processes_train_what_one_does(folder: Path, tmp_path: Path) -> None:
    """Costs agree within a thousandth after each epoch, weights within what rounding makes of it.

    The first process alone tells: each epoch once.
    """
    one, two = (tmp_path / f"{name}.safetensors" for name in ("one", "two"))
    expected, found = fit(folder, one, 1), fit(folder, two, 2)
    assert len(expected) == len(found) == 4
    assert found == pytest.approx(expected, rel=1e-3)
    weights, others = (
        load_file(path.with_suffix(".checkpoint.safetensors")) for path in (one, two)
    )
    assert weights.keys() == others.keys()
    for name, array in weights.items():
        assert np.allclose(array, others[name], atol=1e-4, rtol=1e-2), name


@pytest.mark.parametrize(("count", "size"), [(24, 2), (25, 2), (7, 3), (4, 1)])
def test_each_crop_is_dealt_out_once(count: int, size: int) -> None:
    """Shares are equal and apart, and each batch of all together is the batch of one process."""
    teams = [Team(rank=rank, size=size, device="cpu") for rank in range(size)]
    shares = [list(Share(count, one)) for one in teams]
    assert [len(Share(count, one)) for one in teams] == [count // size] * size
    assert sorted(chain(*shares)) == list(range(count - count % size))
    batch = 2 * size
    for first in range(0, count // batch):
        together = chain(*(share[2 * first : 2 * first + 2] for share in shares))
        assert sorted(together) == list(range(batch * first, batch * (first + 1)))


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    """Uneven shares would weigh crops unevenly."""
    with pytest.raises(SettingsError, match="batch_crops 4 cannot be dealt out to 3 processes"):
        Team(rank=0, size=3, device="cpu").share_of(4)
