"""The GPUs of the machine, as NVIDIA's management library knows them; the only module that asks it.

The library (package nvidia-ml-py, extra "gpu") is optional, and so are driver and GPU: where one is
missing there is nothing to tell. So is every number: cards tell what they have. A driver that hangs
costs one answer `TIMEOUT_S`, and the numbers until it goes on.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from daemon.metrics import Readings

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 1.0
"""Longest wait for all numbers [s]: Prometheus waits for ten."""


@dataclass(frozen=True, slots=True)
class _Query:
    """One number of a GPU: of which metric, under which labels beside the GPU's, and how it is had.

    `ask` is given the library and the library's handle of the GPU.
    """

    metric: Readings
    labels: tuple[str, ...]
    ask: Callable[[Any, Any], float]


def _gauge(name: str, text: str) -> Readings:
    return Readings(name=name, text=text, labels=("gpu",))


_INFO: Final = Readings(
    name="gpu_info", text="GPUs of the machine; always 1.", labels=("gpu", "model", "driver")
)
_UTILIZATION: Final = _gauge("gpu_utilization_ratio", "Share of time in which a kernel ran.")
_USED: Final = _gauge("gpu_memory_used_bytes", "Memory in use, by all processes.")
_LIMIT: Final = _gauge("gpu_memory_limit_bytes", "Memory there is.")
_POWER: Final = _gauge("gpu_power_watts", "Power drawn.")
_TEMPERATURE: Final = _gauge("gpu_temperature_celsius", "Temperature of the chip.")
_ECC: Final = Readings(
    name="gpu_ecc_errors",
    text="Errors of memory, by kind, since the driver was loaded or ever.",
    labels=("gpu", "kind", "since"),
    counts=True,
)


def _ecc(kind: str, since: str) -> _Query:
    kinds = {"corrected": "CORRECTED", "uncorrected": "UNCORRECTED"}
    counters = {"driver_load": "VOLATILE_ECC", "ever": "AGGREGATE_ECC"}

    def ask(nvml: Any, gpu: Any) -> float:
        error_type = getattr(nvml, f"NVML_MEMORY_ERROR_TYPE_{kinds[kind]}")
        counter = getattr(nvml, f"NVML_{counters[since]}")
        return float(nvml.nvmlDeviceGetTotalEccErrors(gpu, error_type, counter))

    return _Query(_ECC, (kind, since), ask)


_QUERIES: Final = (
    _Query(_UTILIZATION, (), lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100),
    _Query(_USED, (), lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used),
    _Query(_LIMIT, (), lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).total),
    _Query(_POWER, (), lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000),
    _Query(
        _TEMPERATURE,
        (),
        lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
    ),
    *(
        _ecc(kind, since)
        for kind in ("corrected", "uncorrected")
        for since in ("driver_load", "ever")
    ),
)
METRICS: Final = (_INFO, *dict.fromkeys(query.metric for query in _QUERIES))


class Gpus:
    """Reads all GPUs when asked, from a thread of its own.

    Args:
        load: Imports the library.
        timeout_s: Longest wait for the numbers [s].
    """

    def __init__(
        self,
        load: Callable[[], Any] = lambda: importlib.import_module("pynvml"),
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._load, self._timeout_s = load, timeout_s
        self._lock = threading.Lock()
        self._nvml: Any = None
        self._absent = False
        self._thread: threading.Thread | None = None
        self._found: tuple[Readings, ...] = ()

    def read(self) -> tuple[Readings, ...]:
        """Return what can be told now; nothing where there is nothing to ask, or it hangs."""
        with self._lock:
            if self._absent or (self._thread is not None and self._thread.is_alive()):
                return ()
            self._found = ()
            self._thread = threading.Thread(target=self._sample, name="gpu", daemon=True)
            self._thread.start()
            self._thread.join(self._timeout_s)
            return self._found

    def close(self) -> None:
        """Let the library go, unless it hangs."""
        with self._lock:
            hangs = self._thread is not None and self._thread.is_alive()
            if self._nvml is not None and not hangs:
                with suppress(self._nvml.NVMLError):
                    self._nvml.nvmlShutdown()
            self._absent, self._nvml = True, None

    def _sample(self) -> None:
        if self._nvml is None:
            self._begin()
        nvml = self._nvml  # `close` may come while this hangs
        if nvml is not None:
            try:
                self._found = _readings(nvml)
            except nvml.NVMLError as error:  # a driver that was unloaded, for one
                log.debug("no numbers of GPUs", extra={"why": str(error)})

    def _begin(self) -> None:
        """Load the library and let it find the driver; where it cannot, that is said once."""
        try:
            nvml = self._load()
        except ImportError as error:
            self._give_up(str(error))
            return
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            self._give_up(str(error))
            return
        self._nvml = nvml

    def _give_up(self, why: str) -> None:
        self._absent = True
        log.info("no numbers of GPUs", extra={"why": why})


def _readings(nvml: Any) -> tuple[Readings, ...]:
    """Ask for all numbers of all GPUs; leave out what one does not tell."""
    values: dict[str, list[tuple[tuple[str, ...], float]]] = {one.name: [] for one in METRICS}
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            gpu = nvml.nvmlDeviceGetHandleByIndex(index)
            names = nvml.nvmlDeviceGetName(gpu), nvml.nvmlSystemGetDriverVersion()
        except nvml.NVMLError:
            continue  # it has fallen off its bus
        values[_INFO.name].append(((str(index), *map(str, names)), 1.0))
        for query in _QUERIES:
            try:
                value = query.ask(nvml, gpu)
            except (nvml.NVMLError, AttributeError):  # an older library knows fewer numbers
                continue
            values[query.metric.name].append(((str(index), *query.labels), float(value)))
    return tuple(
        replace(one, values=tuple(values[one.name])) for one in METRICS if values[one.name]
    )
