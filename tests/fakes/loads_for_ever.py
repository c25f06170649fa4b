"""`prismlink` with a model that takes for ever to load."""

from __future__ import annotations

from typing import NoReturn

import daemon.ground.service
import daemon.onboard.service
from daemon.cli import main
from fakes.hangs import hang_for_ever


def load(*_: object) -> NoReturn:
    """Never return."""
    hang_for_ever()
    raise RuntimeError


if __name__ == "__main__":
    daemon.onboard.service.load_model = load
    daemon.ground.service.load_decoders = load
    main()
