"""Models on the ground, by the name that frames carry: all that ever came, and more as they come.

What is decoded is decoded by the model that encoded it. So the store keeps each one, and what was
received of a model that is not there yet waits for it in the archive.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from codec.bundle import load_bundle
from codec.decoder import Decoder
from codec.errors import BundleError, CodecError
from codec.known_answer import check_decoder
from daemon.clock import Clock
from daemon.config_models import GroundModelSettings
from daemon.cores import claim
from daemon.errors import ConfigError, DaemonError, ModelFileError, reason_of
from daemon.files import write_whole
from daemon.ground.metrics import GroundMetrics
from daemon.model_store import SUFFIX, ModelStore, name_in, refused_by_runtime, signature_of

log = logging.getLogger(__name__)

DECODER_BACKEND: Final = "torch-cpu"
"""What runs every `codec.decoder.Decoder`, in the words of `codec.backends`."""
_LOOK_S: Final = 1.0
"""Time between two looks at the folder [s]: a file that is the same in both is whole."""
_WAIT_S: Final = 0.1
"""Longest wait of a poll [s], so that a stop is noticed."""


class GroundModels:
    """Decoders of all models at hand; a source whose `poll` looks for more.

    Args:
        decoders: Those to begin with.
        store: Where more come from; None: there are none.
        watch: Whether to look for them without being asked.
        clock: Times looks.
        metrics: Told which models there are, and what was refused.

    Attributes:
        decoders: By the model's name in frames; grows, while others read it.
        on_model: Told the name of each that comes. Must not raise.
    """

    def __init__(
        self,
        decoders: Mapping[bytes, Decoder],
        *,
        store: ModelStore | None,
        watch: bool,
        clock: Clock,
        metrics: GroundMetrics,
    ) -> None:
        self.decoders = dict(decoders)
        self.on_model: Callable[[bytes], object] = lambda _: None
        self._store, self._watch = store, watch
        self._clock, self._metrics = clock, metrics
        self._asked = False
        self._look_at_s = clock.monotonic_s()
        for decoder in decoders.values():
            metrics.uses(decoder.bundle.name, DECODER_BACKEND)

    def has(self, model: bytes) -> bool:
        """Whether frames of a model can be decoded."""
        return model in self.decoders

    def look(self) -> None:
        """Have all files looked at anew, those that were refused too."""
        self._asked = True

    def poll(self) -> None:
        """Take the files that are to be looked at, or wait a moment."""
        now_s = self._clock.monotonic_s()
        if self._asked:
            self._asked = False
            self.take_all()
        elif self._store is not None and self._watch and now_s >= self._look_at_s:
            self._look_at_s = now_s + _LOOK_S
            self._take(self._store, self._store.appeared())
        self._clock.sleep(_WAIT_S)

    def take_all(self) -> None:
        """Take all that is in the store; what cannot be taken is counted."""
        if self._store is not None:
            self._take(self._store, self._store.files())

    def keep(self, bundles: Iterable[Path]) -> None:
        """Put files of the settings into the store: their frames outlive those settings.

        Raises:
            OutputError: If one cannot be written.
        """
        if self._store is None:
            return
        for path in bundles:
            if (name := name_in(path.resolve())) is not None:
                self._keep(self._store, path, name)

    def _keep(self, store: ModelStore, path: Path, name: str) -> None:
        with suppress(ModelFileError):
            store.named(bytes.fromhex(name))
            return
        kept = store.folder / f"{name}{SUFFIX}"
        if signature_of(path).is_file():
            write_whole(signature_of(kept), signature_of(path).read_bytes())
        elif store.asks_for_signatures:
            log.warning("model is not kept: it has no signature", extra={"file": str(path)})
            return
        write_whole(kept, path.read_bytes())

    def _take(self, store: ModelStore, paths: Sequence[Path]) -> None:
        for path in paths:
            if (name := name_in(path)) is not None and self.has(bytes.fromhex(name)):
                continue
            try:
                bundle = store.read(path)
                if not bundle.has_synthesis:
                    continue  # a board's file has no decoder, and lies here where both are one
                with refused_by_runtime():
                    decoder = Decoder(bundle)
                    check_decoder(decoder)
            except (CodecError, DaemonError) as error:
                reason = reason_of(error)
                self._metrics.models_refused.labels(reason).inc()
                log.error(
                    "model refused",
                    extra={"file": str(path), "reason": reason, "error": str(error)},
                )
            else:
                self.decoders[bundle.model] = decoder
                self._metrics.uses(bundle.name, DECODER_BACKEND)
                log.info("model at hand", extra={"model": bundle.name, "file": str(path)})
                self.on_model(bundle.model)


def load_decoders(settings: GroundModelSettings) -> dict[bytes, Decoder]:
    """Load every bundle and let it answer; return its decoder by the model's name in frames.

    Raises:
        ConfigError: If one cannot be used: a restart would not help.
    """
    claim(settings.threads)
    decoders = {}
    for path in settings.bundles:
        try:
            bundle = load_bundle(path)
            decoders[bundle.model] = decoder = Decoder(bundle)
            check_decoder(decoder)
        except BundleError as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise ConfigError(path, (f"{reason}; change model.bundles",)) from None
    return decoders
