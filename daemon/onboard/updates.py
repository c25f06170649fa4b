"""Which model encodes: exchanged in flight, rolled back, and tested for as long as it is at work.

A new one is read, checked and warmed up beside the one at work, which encodes meanwhile. Tiles that
are opened from then on are the new one's; those opened before stay with the old one to their last
patch. Whatever fails on the way leaves things as they are, says why, and is counted.
"""

from __future__ import annotations

import json
import logging
import queue
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

from codec.bundle import Bundle, load_bundle
from codec.errors import CodecError
from daemon.clock import Clock
from daemon.errors import DaemonError, ModelFileError, reason_of
from daemon.files import write_whole
from daemon.guarded import read_guarded
from daemon.metrics import FlightMetrics
from daemon.model_store import SUFFIX, ModelStore
from daemon.onboard.models import Model

log = logging.getLogger(__name__)

_WAIT_S: Final = 0.1
"""Longest wait for an order, so that a stop is noticed [s]."""
_LOOK_S: Final = 1.0
"""Time between two looks at the folder [s]: a file that is the same in both is whole."""
_MOST_ORDERS: Final = 16
_RECORD: Final = "in-use.json"
_MAX_RECORD_BYTES: Final = 4096

Make = Callable[[Bundle, Path], Model]
"""Makes a model of a bundle and the path of its file; raises CodecErrors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """What a restart goes on with: names of files in the store; None is the settings' own bundle.

    Attributes:
        in_use: At work.
        before: What was at work before, and is again after a rollback.
    """

    in_use: str | None
    before: str | None


class Models:
    """Has the model at work; a source whose `poll` does what was ordered.

    Args:
        bundle: The settings' own bundle.
        load: Loads that one, at the start; its errors are the caller's.
        make: Makes any other.
        store: Where others are; None: there are none.
        watch: Whether a file that appears there is an order to load it.
        test_s: Time between two tests of the model at work [s]; None: it is not tested.
        clock: Times looks and tests.
        metrics: Told which model is at work, and what was refused.
    """

    def __init__(
        self,
        bundle: Path,
        load: Callable[[], Model],
        make: Make,
        *,
        store: ModelStore | None,
        watch: bool,
        test_s: float | None,
        clock: Clock,
        metrics: FlightMetrics,
    ) -> None:
        self._bundle, self._make, self._store = bundle, make, store
        self._watch, self._test_s, self._clock, self._metrics = watch, test_s, clock, metrics
        self._orders: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._look_at_s = clock.monotonic_s() + _LOOK_S
        self._test_at_s = clock.monotonic_s() + (test_s or 0.0)
        self._record = self._recorded()
        self._model = self._first() or load()
        metrics.uses(self._model.name, self._model.encoder.backend.name)

    @property
    def current(self) -> Model:
        """The model that a tile opened now is encoded with."""
        return self._model

    # ---- orders: from any thread, and `look` from a signal's handler ----------------------------

    def load(self, model: bytes) -> bool:
        """Order a model of the store; tell whether the order was taken."""
        return self._order(partial(self._load_named, model))

    def roll_back(self) -> bool:
        """Order the model that was at work before; likewise."""
        return self._order(self._go_back)

    def look(self) -> None:
        """Order the latest file of the store, even if it was refused before."""
        self._order(self._load_latest)

    def _order(self, order: Callable[[], object]) -> bool:
        if self._store is None or self._orders.qsize() >= _MOST_ORDERS:
            return False
        self._orders.put(order)
        return True

    # ---- the thread that polls -----------------------------------------------------------------

    def poll(self) -> None:
        """Do what was ordered, look into the store, test the model: whatever it is time for."""
        try:
            order = self._orders.get(timeout=_WAIT_S)
        except queue.Empty:
            pass
        else:
            order()
        now_s = self._clock.monotonic_s()
        if self._store is not None and self._watch and now_s >= self._look_at_s:
            self._look_at_s = now_s + _LOOK_S
            for path in self._store.appeared()[-1:]:
                self._load(path.name, "load")
        if self._test_s is not None and now_s >= self._test_at_s:
            self._test_at_s = now_s + self._test_s
            self._test()

    def _load_named(self, model: bytes) -> None:
        if self._store is not None:
            try:
                path = self._store.named(model)
            except ModelFileError as error:
                self._refuse(error, error.path)
            else:
                self._load(path.name, "load")

    def _load_latest(self) -> None:
        files = [] if self._store is None else self._store.files()
        if files:
            self._load(files[-1].name, "load")
        else:
            log.info("no model to load", extra={"folder": str(self._store and self._store.folder)})

    def _go_back(self) -> None:
        if self._record is None:
            none = ModelFileError(self._bundle, "no model was at work before this one")
            self._refuse(none, none.path)
        else:
            self._load(self._record.before, "rollback")

    def _load(self, name: str | None, how: str) -> None:
        """Put a file's model to work; None: the settings' own."""
        try:
            bundle = self._read(name)
            if how == "load" and bundle.name == self._model.name:
                log.info("model is at work already", extra={"model": bundle.name})
                return
            model = self._make(bundle, self._path(name))
            self._note(_Record(in_use=name, before=self._in_use))
        except (CodecError, DaemonError) as error:
            self._refuse(error, self._path(name))
        else:
            self._put_to_work(model, how)

    def _test(self) -> None:
        """Test the model at work; one that is not as it was is read anew."""
        model = self._model
        try:
            model.test()
        except CodecError as error:
            self._metrics.model_tests.labels(reason_of(error)).inc()
            log.error("self-test failed", extra={"model": model.name, "error": str(error)})
        else:
            self._metrics.model_tests.labels("passed").inc()
            return
        try:
            self._put_to_work(self._make(self._read(self._in_use), model.origin), "mended")
        except (CodecError, DaemonError) as error:
            self._refuse(error, model.origin)

    def _put_to_work(self, model: Model, how: str) -> None:
        old, self._model = self._model, model
        if self._test_s is not None:
            self._test_at_s = self._clock.monotonic_s() + self._test_s
        self._metrics.model_loads.labels(how).inc()
        backend = model.encoder.backend.name
        if old.name != model.name:
            self._metrics.leaves(old.name, old.encoder.backend.name)
        self._metrics.uses(model.name, backend)
        fields = {"model": model.name, "was": old.name, "how": how, "backend": backend}
        log.info("model at work", extra=fields | {"file": str(model.origin)})

    def _refuse(self, error: CodecError | DaemonError, path: Path) -> None:
        reason = reason_of(error)
        self._metrics.models_refused.labels(reason).inc()
        fields = {"file": str(path), "reason": reason, "error": str(error)}
        log.error("model refused", extra=fields)

    # ---- files ---------------------------------------------------------------------------------

    @property
    def _in_use(self) -> str | None:
        return None if self._record is None else self._record.in_use

    def _path(self, name: str | None) -> Path:
        if name is None or self._store is None:
            return self._bundle
        return self._store.folder / name

    def _read(self, name: str | None) -> Bundle:
        if name is None or self._store is None:
            return load_bundle(self._bundle)
        return self._store.read(self._store.folder / name)

    def _first(self) -> Model | None:
        """The model that an earlier process was left with, or the one before; None: neither is."""
        if self._record is None:
            return None
        kept = self._record
        for name, before in ((kept.in_use, kept.before), (kept.before, kept.in_use)):
            self._record = _Record(in_use=name, before=before)
            if name is None:
                return None
            try:
                return self._make(self._read(name), self._path(name))
            except (CodecError, DaemonError) as error:
                self._refuse(error, self._path(name))
        self._record = _Record(in_use=None, before=kept.in_use)
        return None

    def _recorded(self) -> _Record | None:
        if self._store is None:
            return None
        path = self._store.folder / _RECORD
        if not path.exists():
            return None
        try:
            fields = json.loads(read_guarded(path, max_bytes=_MAX_RECORD_BYTES))
            names = [fields["in_use"], fields["before"]]
            if not all(name is None or _is_name(name) for name in names):
                raise ValueError("names no files of its folder")
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            log.error(
                "record of the model in use is ignored",
                extra={"file": str(path), "error": str(error)},
            )
            return None
        return _Record(in_use=names[0], before=names[1])

    def _note(self, record: _Record) -> None:
        """Have a restart go on with this; what is at work has been noted before."""
        if self._store is not None:
            write_whole(self._store.folder / _RECORD, json.dumps(asdict(record)).encode() + b"\n")
        self._record = record


def one_model(model: Model, clock: Clock, metrics: FlightMetrics) -> Models:
    """A model that is never exchanged, nor tested."""
    return Models(
        model.origin,
        load=lambda: model,
        make=lambda *_: model,
        store=None,
        watch=False,
        test_s=None,
        clock=clock,
        metrics=metrics,
    )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value == Path(value).name and value.endswith(SUFFIX)
