"""Errors the training raises on purpose.

TrainingError
├── SettingsError      the settings file is wrong
├── ScenesError        a scene is missing, unreadable, or on both sides of the split
│   └── PatchError     one patch of many is unreadable
└── CheckpointError    a bundle on disk does not fit what is asked of it
"""

from __future__ import annotations

from typing import ClassVar


class TrainingError(Exception):
    """Base of every error below; only `training.cli` turns one into an exit."""

    exit_code: ClassVar[int] = 70  # EX_SOFTWARE


class SettingsError(TrainingError):
    """The settings file is wrong."""

    exit_code = 78  # EX_CONFIG


class ScenesError(TrainingError):
    """A scene is missing, unreadable, or on both sides of the split."""

    exit_code = 66  # EX_NOINPUT


class PatchError(ScenesError):
    """One patch of many is unreadable: it is named and skipped, or where asked for the end."""


class CheckpointError(TrainingError):
    """A bundle on disk does not fit what is asked of it."""

    exit_code = 65  # EX_DATAERR
