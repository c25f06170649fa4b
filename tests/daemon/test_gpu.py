"""Numbers of GPUs: all that a card tells, nothing that it does not, and never an error."""

from __future__ import annotations

import inspect
import logging
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pynvml
import pytest

from daemon.gpu import METRICS, Gpus
from daemon.metrics import FlightMetrics, Readings, new_registry
from fakes.nvml import ALL, FakeGpu, FakeNvml


@contextmanager
def reading(library: Any, timeout_s: float = 60.0) -> Iterator[Gpus]:
    """GPUs that this library knows; let go in the end."""
    gpus = Gpus(lambda: library, timeout_s)
    try:
        yield gpus
    finally:
        gpus.close()


def values(readings: tuple[Readings, ...]) -> dict[tuple[str, ...], float]:
    """Each value by the name of its metric and its labels."""
    return {(one.name, *labels): value for one in readings for labels, value in one.values}


def test_all_that_a_card_tells() -> None:
    """In base units: shares, bytes, watts; memory errors by kind and since when."""
    nvml = FakeNvml(FakeGpu(ecc={(0, 0): 1, (0, 1): 2, (1, 0): 3, (1, 1): 4}))
    with reading(nvml) as gpus:
        found = values(gpus.read())
        assert nvml.inits == 1

    assert nvml.inits == 0
    assert found == {
        ("gpu_info", "0", "NVIDIA H100", "580.65"): 1,
        ("gpu_utilization_ratio", "0"): 0.37,
        ("gpu_memory_used_bytes", "0"): 2 << 30,
        ("gpu_memory_limit_bytes", "0"): 80 << 30,
        ("gpu_power_watts", "0"): 71.5,
        ("gpu_temperature_celsius", "0"): 41,
        ("gpu_ecc_errors", "0", "corrected", "driver_load"): 1,
        ("gpu_ecc_errors", "0", "corrected", "ever"): 2,
        ("gpu_ecc_errors", "0", "uncorrected", "driver_load"): 3,
        ("gpu_ecc_errors", "0", "uncorrected", "ever"): 4,
    }


@pytest.mark.parametrize("lacking", ALL)
def test_what_a_card_does_not_tell_is_left_out(lacking: str) -> None:
    """Each number by itself; a card beside it tells it, and those that tell nothing are named."""
    some = FakeGpu(tells=tuple(one for one in ALL if one != lacking))
    with reading(FakeNvml(some, FakeGpu())) as gpus:
        found = {name for name in values(gpus.read()) if lacking in name[0]}

    assert found
    assert {name[1] for name in found} == {"1"}
    with reading(FakeNvml(FakeGpu(tells=()))) as gpus:
        assert [key[0] for key in values(gpus.read())] == ["gpu_info"]


def test_a_card_that_is_lost_is_left_out() -> None:
    """The others go on being told; so does it, once it is back."""
    lost = FakeGpu(lost=True)
    with reading(FakeNvml(lost, FakeGpu())) as gpus:
        assert {key[1] for key in values(gpus.read())} == {"1"}
        lost.lost = False
        assert {key[1] for key in values(gpus.read())} == {"0", "1"}


def test_an_older_library_tells_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that it lacks is a number that is left out."""
    monkeypatch.delattr(FakeNvml, "nvmlDeviceGetPowerUsage")
    with reading(FakeNvml(FakeGpu())) as gpus:
        names = {key[0] for key in values(gpus.read())}

    assert {one.name for one in METRICS} - names == {"gpu_power_watts"}


def absent() -> Any:
    """As importing a library does that is not there."""
    raise ModuleNotFoundError("No module named 'pynvml'")


@pytest.mark.parametrize(
    ("load", "why"),
    [
        pytest.param(absent, "No module named 'pynvml'", id="no library"),
        pytest.param(lambda: FakeNvml(no_driver=True), "Driver Not Loaded", id="no driver"),
    ],
)
def test_where_there_is_none_nothing_is_told(
    load: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One line says why, however often it is asked for; it is no warning."""
    gpus = Gpus(load)
    with caplog.at_level(logging.DEBUG):
        assert [gpus.read() for _ in range(3)] == [(), (), ()]
    gpus.close()

    (line,) = caplog.records
    assert (line.levelno, line.__dict__["why"]) == (logging.INFO, why)


def test_no_card_is_nothing_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    """A driver without a card."""
    with caplog.at_level(logging.DEBUG), reading(FakeNvml()) as gpus:
        assert gpus.read() == ()
    assert caplog.records == []


def test_a_driver_that_hangs_holds_nobody_up() -> None:
    """One answer comes late, those after it at once, without numbers; then all is as before."""
    nvml = FakeNvml(FakeGpu())
    with reading(nvml, timeout_s=0.1) as gpus:
        nvml.go_on.clear()
        assert gpus.read() == ()
        hanging = gpus._thread
        assert gpus.read() == ()
        assert gpus._thread is hanging  # not one more at each question
        nvml.go_on.set()
        assert hanging is not None
        hanging.join()
        gpus._timeout_s = 60.0
        assert gpus.read()


def test_a_driver_that_hangs_does_not_hold_up_the_end() -> None:
    """It is left behind; the process ends without it."""
    nvml = FakeNvml(FakeGpu())
    nvml.go_on.clear()
    gpus = Gpus(lambda: nvml, 0.05)
    gpus.read()
    gpus.close()
    assert nvml.inits == 1
    nvml.go_on.set()


def test_nothing_is_told_after_the_end() -> None:
    """The last numbers of a process are taken when its library is gone."""
    gpus = Gpus(lambda: FakeNvml(FakeGpu()))
    assert gpus.read()
    gpus.close()
    assert gpus.read() == ()


def test_they_are_among_the_metrics() -> None:
    """As gauges, and the errors as a counter, under our prefix."""
    metrics = FlightMetrics(new_registry())
    with reading(FakeNvml(FakeGpu(ecc={(1, 1): 4}))) as gpus:
        metrics.tell(gpus.read)
        lines = metrics.exposition().decode().splitlines()

    assert 'prismlink_gpu_memory_used_bytes{gpu="0"} 2.147483648e+09' in lines
    assert 'prismlink_gpu_ecc_errors_total{gpu="0",kind="uncorrected",since="ever"} 4.0' in lines
    for one in METRICS:
        name = f"{one.name}_total counter" if one.counts else f"{one.name} gauge"
        assert f"# TYPE prismlink_{name}" in lines


def test_the_library_has_the_names_that_the_fake_has() -> None:
    """What is asked for is there, and takes what it is given; a real driver needs no test's."""
    asked = [name for name in dir(FakeNvml) if name.lower().startswith("nvml")]
    assert len(asked) > 10
    for name in asked:
        real, fake = getattr(pynvml, name), getattr(FakeNvml(), name)
        if inspect.ismethod(fake):
            given = len(inspect.signature(fake).parameters)
            inspect.signature(real).bind(*range(given))
        else:
            assert isinstance(real, type) or real == fake
    assert issubclass(pynvml.NVMLError, Exception)


def test_the_exposition_is_sound(requires_tool: Callable[[str], str]) -> None:
    """`promtool check metrics` has nothing to say of names, units and help."""
    metrics = FlightMetrics(new_registry())
    with reading(FakeNvml(FakeGpu(), FakeGpu())) as gpus:
        metrics.tell(gpus.read)
        text = metrics.exposition()
    run = [requires_tool("promtool"), "check", "metrics"]
    done = subprocess.run(run, input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
