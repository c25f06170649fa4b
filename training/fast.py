"""The one place fastai and FasterAI are imported.

Their imports warn of other projects' changes (pandas' option names, torch.jit), which nobody here
can mend; our warnings are errors, so those two are silenced for the time of the import and no
longer.
"""

from __future__ import annotations

import warnings
from typing import Any

with warnings.catch_warnings():
    # pandas 4: fastai sets an option that has no effect any more.
    warnings.filterwarnings("ignore", message=".*mode.chained_assignment.*")
    # torchvision and fastai compile with torch.jit at import.
    warnings.filterwarnings("ignore", message=".*torch.jit.*")
    from fastai.callback.core import (
        Callback,
        CancelBatchException,
        CancelFitException,
        CancelValidException,
    )
    from fastai.callback.schedule import ParamScheduler  # noqa: F401  # adds Learner.fit_one_cycle
    from fastai.callback.training import GradientClip
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader as FastDataLoader
    from fastai.learner import Learner
    from fastai.optimizer import Adam
    from fasterai.core import criteria
    from fasterai.core.schedule import Schedule, sched_agp, sched_iterative
    from fasterai.distill.distillation_callback import KnowledgeDistillationCallback
    from fasterai.prune.prune_callback import PruneCallback
    from fasterai.prune.pruner import Pruner

__all__ = [
    "Adam",
    "Callback",
    "CancelBatchException",
    "CancelFitException",
    "CancelValidException",
    "DataLoaders",
    "FastDataLoader",
    "GradientClip",
    "KnowledgeDistillationCallback",
    "Learner",
    "PruneCallback",
    "Pruner",
    "Schedule",
    "criterion_of",
    "sched_agp",
    "sched_iterative",
]


def criterion_of(name: str) -> Any:
    """FasterAI's criterion of some name."""
    return getattr(criteria, name)
