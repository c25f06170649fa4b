"""A library that knows GPUs, as `pynvml` does; what a card does not tell, it refuses one by one."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Final, NoReturn

ALL: Final = ("utilization", "memory", "power", "temperature", "ecc")


class NVMLError(Exception):
    """Whatever the driver says."""


@dataclass
class FakeGpu:
    """One card.

    Attributes:
        tells: What it can be asked for.
        ecc: Errors by (type, counter).
        lost: Whether it has fallen off its bus.
    """

    name: str = "NVIDIA H100"
    tells: tuple[str, ...] = ALL
    ecc: dict[tuple[int, int], int] = field(default_factory=dict)
    lost: bool = False


class FakeNvml:
    """The module, or something with the same names.

    Args:
        gpus: The cards.
        no_driver: Whether there is none to be found.

    Attributes:
        inits: How often it was begun, less how often it was ended.
        go_on: Cleared, a question hangs until it is set.
    """

    NVMLError: Final = NVMLError
    NVML_TEMPERATURE_GPU: Final = 0
    NVML_MEMORY_ERROR_TYPE_CORRECTED: Final = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED: Final = 1
    NVML_VOLATILE_ECC: Final = 0
    NVML_AGGREGATE_ECC: Final = 1

    def __init__(self, *gpus: FakeGpu, no_driver: bool = False) -> None:
        self.gpus, self.no_driver = list(gpus), no_driver
        self.inits = 0
        self.go_on = threading.Event()
        self.go_on.set()

    def nvmlInit(self) -> None:  # noqa: N802  # the library's name, as all of these
        """Find the driver."""
        if self.no_driver:
            raise NVMLError("Driver Not Loaded")
        self.inits += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        """Let it go."""
        self.inits -= 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        """Version."""
        return "580.65"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        """How many cards."""
        self.go_on.wait()
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:  # noqa: N802
        """One of them."""
        if self.gpus[index].lost:
            raise NVMLError("GPU is lost")
        return self.gpus[index]

    def nvmlDeviceGetName(self, gpu: FakeGpu) -> str:  # noqa: N802
        """Its name."""
        return gpu.name

    def nvmlDeviceGetUtilizationRates(self, gpu: FakeGpu) -> SimpleNamespace:  # noqa: N802
        """In percent."""
        return SimpleNamespace(gpu=37) if "utilization" in gpu.tells else self._refuse()

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu) -> SimpleNamespace:  # noqa: N802
        """In bytes."""
        known = "memory" in gpu.tells
        return SimpleNamespace(used=2 << 30, total=80 << 30) if known else self._refuse()

    def nvmlDeviceGetPowerUsage(self, gpu: FakeGpu) -> int:  # noqa: N802
        """In milliwatts."""
        return 71_500 if "power" in gpu.tells else self._refuse()

    def nvmlDeviceGetTemperature(self, gpu: FakeGpu, sensor: int) -> int:  # noqa: N802
        """In degrees Celsius."""
        assert sensor == self.NVML_TEMPERATURE_GPU
        return 41 if "temperature" in gpu.tells else self._refuse()

    def nvmlDeviceGetTotalEccErrors(self, gpu: FakeGpu, kind: int, counter: int) -> int:  # noqa: N802
        """A count."""
        return gpu.ecc.get((kind, counter), 0) if "ecc" in gpu.tells else self._refuse()

    def _refuse(self) -> NoReturn:
        raise NVMLError("Not Supported")
