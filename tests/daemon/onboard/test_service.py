"""The flight process as a whole, between an instrument and a link that the test holds."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.encoder import Encoder
from codec.errors import PayloadError, TileError
from codec.frame import SideFrame, parse
from codec.jobs import PatchJob, TileJob
from codec.tile import Tile
from daemon.clock import SystemClock
from daemon.config import FlightSettings, load_flight
from daemon.config_models import FlightModelSettings
from daemon.errors import AddressError, ConfigError
from daemon.keys import write_keys
from daemon.lifecycle import WARN_S, StopSignal
from daemon.link.lanes import Lane
from daemon.link.packet import Channel, Packet
from daemon.link.reassembly import Reassembler
from daemon.link.seal import OVERHEAD_BYTES, Opener, derived_key
from daemon.link.segment import Segmenter
from daemon.link.sockets import Endpoint, TileSender
from daemon.metrics import FlightMetrics, new_registry
from daemon.notify import LOADING_S, Notifier
from daemon.onboard import service
from daemon.onboard.disk_spool import DiskSpool, DiskSpoolLimits
from daemon.onboard.items import Batch
from daemon.onboard.models import Model, control_steps
from daemon.tile_message import Part, TileMessage
from fakes import cubes
from fakes.bundles import klt_bundle
from fakes.processes import until
from fakes.systemd import UNHEARD, FakeSystemd


class FakeListener:
    """Hands out messages; then says so."""

    def __init__(self, messages: Sequence[Sequence[Part]], exhausted: threading.Event) -> None:
        self._messages, self._exhausted = list(messages), exhausted

    def recv(self, timeout_s: float) -> Sequence[Part] | None:
        """Return the next one."""
        assert timeout_s > 0
        if self._messages:
            return self._messages.pop(0)
        self._exhausted.set()
        return None

    def close(self) -> None:
        """Nothing to close."""


class FakeSender:
    """A link, up or down; notes whether it was closed in the middle of something."""

    def __init__(self, *, up: bool) -> None:
        self._up, self._lock = up, threading.Lock()
        self.took: list[bytes] = []
        self.closed = self.closed_in_use = self.used_closed = False

    def send(self, raw: bytes, timeout_s: float) -> bool:
        """Take it, or wait in vain for a moment."""
        assert timeout_s > 0
        with self._lock:
            self.used_closed |= self.closed
            if self._up:
                self.took.append(raw)
            else:
                threading.Event().wait(0.02)
        return self._up

    def close(self) -> None:
        """Note whether somebody was in `send`."""
        self.closed_in_use |= self._lock.locked()
        self.closed = True


@dataclass
class Moody:
    """An encoder that refuses what the test says, one call after another."""

    open_errors: list[Exception | None] = field(default_factory=list)
    batch_errors: list[Exception | None] = field(default_factory=list)
    encoder: Encoder = field(default_factory=lambda: Encoder(klt_bundle(), backend="torch-cpu"))

    def __post_init__(self) -> None:
        self.bundle, self.backend = self.encoder.bundle, self.encoder.backend
        self.step = self.encoder.step

    def open(self, tile: Tile, step: float | None = None, speed: int | None = None) -> TileJob:
        """Open, or refuse."""
        if self.open_errors and (error := self.open_errors.pop(0)):
            raise error
        return self.encoder.open(tile, step, speed)

    def conditioned(self, job: TileJob) -> Iterator[PatchJob]:
        """As the encoder does."""
        return self.encoder.conditioned(job)

    def encode_batch(self, patches: Sequence[PatchJob]) -> list[bytes]:
        """Encode, or refuse."""
        if self.batch_errors and (error := self.batch_errors.pop(0)):
            raise error
        return self.encoder.encode_batch(patches)


def at_work(encoder: Any, settings: FlightModelSettings, *_: object) -> Model:
    """As if it had been loaded."""
    return Model(encoder, control_steps(settings, encoder), settings.bundle)


class Closable:
    """The metrics endpoint, without a server."""

    port = 1

    def close(self) -> None:
        """Nothing to close."""


class StopAt(StopSignal):
    """Asks to stop once the instrument has nothing more, and what else is waited for is so."""

    def __init__(self, exhausted: threading.Event, is_time: Callable[[], bool]) -> None:
        super().__init__()
        self._exhausted, self._is_time = exhausted, is_time

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the instrument."""
        assert timeout_s in (None, WARN_S)
        until(lambda: self._exhausted.is_set() and self._is_time(), "the moment to stop")
        return True


@contextmanager
def around(
    messages: Sequence[Sequence[Part]],
    sender: FakeSender,
    encoder: Moody,
    is_time: Callable[[], bool] = lambda: True,
) -> Iterator[StopSignal]:
    """Put fakes where the process would open sockets and load a model."""
    exhausted = threading.Event()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "TileListener", lambda *_, **__: FakeListener(messages, exhausted))
        patch.setattr(service, "PacketSender", lambda *_, **__: sender)
        patch.setattr(service, "load_model", partial(at_work, encoder))
        patch.setattr(service, "StatusServer", lambda *_: Closable())
        yield StopAt(exhausted, is_time)


def load(bundle: Path, folder: Path, *overrides: str) -> FlightSettings:
    """Settings of the process, the defaults but for the bundle and what is given."""
    path = folder / "flight.yaml"
    path.write_text(f"model: {{bundle: {bundle}}}\n")
    return load_flight(path, overrides)


def fly(
    messages: Sequence[Sequence[Part]],
    options: FlightSettings,
    *,
    sender: FakeSender | None = None,
    encoder: Moody | None = None,
    notifier: Notifier = UNHEARD,
    is_time: Callable[[], bool] = lambda: True,
) -> dict[str, float]:
    """Run the process over messages, until it is time, too; return its metrics."""
    sender = sender or FakeSender(up=True)
    with around(messages, sender, encoder or Moody(), is_time) as stop:
        return service.run(options, stop=stop, clock=SystemClock(), notifier=notifier)


def message(sequence: int, rows: int = 8) -> Sequence[Part]:
    """A tile of one patch for each 128 rows begun."""
    return TileMessage.pack(cubes.tile(bands=3, rows=rows, cols=8, sequence=sequence))


def total(totals: dict[str, float], name: str) -> float:
    """Sum over all series of a metric."""
    return sum(v for k, v in totals.items() if k.partition("{")[0] == f"prismlink_{name}_total")


def test_what_goes_in_comes_out_whole(bundle_file: Path, tmp_path: Path) -> None:
    """Every tile's frames leave in packets, its side frame before any of its patches."""
    sender = FakeSender(up=True)
    totals = fly(
        [message(i, rows=130) for i in range(4)], load(bundle_file, tmp_path), sender=sender
    )

    target = Reassembler(max_frames=64, max_bytes=1 << 20, max_age_s=1.0)
    packets = [Packet.unpack(raw) for raw in sender.took]
    frames = [raw for packet in packets if (raw := target.feed(packet, 0.0)) is not None]
    seen: set[bytes] = set()
    for frame in map(parse, frames):
        assert isinstance(frame, SideFrame) or frame.tile_id in seen
        seen.add(frame.tile_id)
    assert (len(seen), len(frames)) == (4, 12)
    assert len({packet.boot_id for packet in packets}) == 1
    assert sorted(packet.counter for packet in packets) == list(range(len(packets)))
    assert total(totals, "packets") == len(packets)
    assert total(totals, "bytes_out") == sum(map(len, sender.took))
    assert totals["prismlink_patches_encoded_total"] == 8


def test_a_rate_is_met_by_what_is_sent(bundle_file: Path, tmp_path: Path) -> None:
    """A target of the settings reaches the encoder: frames take about the bits it allows.

    About: here all tiles may be opened before the first frame is heard of.
    """
    sender, tiles = FakeSender(up=True), [
        cubes.tile(bands=8, rows=140, cols=100, noise_dn=30.0, sequence=i) for i in range(10)
    ]  # fmt: skip
    options = load(bundle_file, tmp_path, "model.rate_bpppc=0.4")
    fly([TileMessage.pack(tile) for tile in tiles], options, sender=sender)

    target = Reassembler(max_frames=64, max_bytes=1 << 20, max_age_s=1.0)
    frames = [target.feed(Packet.unpack(raw), 0.0) for raw in sender.took]
    bits = 8 * sum(len(frame) for frame in frames if frame is not None)
    assert bits / sum(tile.samples.size for tile in tiles) == pytest.approx(0.4, rel=0.2)


POLICIES = st.sampled_from(["block", "drop_newest", "drop_oldest"])
ERRORS = st.sampled_from([None, None, TileError("no"), PayloadError("no"), RuntimeError("a bug")])


@given(
    rows=st.lists(st.sampled_from([None, 1, 8, 129, 260]), max_size=6),
    open_errors=st.lists(ERRORS, max_size=4),
    batch_errors=st.lists(ERRORS, max_size=4),
    overrides=st.tuples(
        POLICIES.map("mailboxes.tiles.policy={}".format),
        st.sampled_from([1, 32]).map("mailboxes.tiles.max_items={}".format),
        POLICIES.map("mailboxes.patches.policy={}".format),
        st.sampled_from([1, 64]).map("mailboxes.patches.max_items={}".format),
        st.sampled_from(["null", "1.0e-4"]).map("mailboxes.frames.max_age_s={}".format),
        st.sampled_from([1, 3]).map("batch.max_patches={}".format),
    ),
)  # fmt: skip
@settings(max_examples=25)
def test_received_is_sent_on_plus_dropped_exactly(
    *,
    rows: list[int | None],
    open_errors: list[Exception | None],
    batch_errors: list[Exception | None],
    overrides: tuple[str, ...],
    bundle_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Whatever is refused, fails, is too old or does not fit: no patch, no tile goes uncounted."""
    options = load(bundle_file, tmp_path_factory.mktemp("settings"), *overrides)
    messages = [[b"rubbish"] if n is None else message(i, n) for i, n in enumerate(rows)]
    encoder = Moody(open_errors=list(open_errors), batch_errors=list(batch_errors))
    totals = fly(messages, options, encoder=encoder)

    tiles = [n for n in rows if n is not None]
    received = totals["prismlink_patches_received_total"]
    assert received == sum(-(-n // 128) for n in tiles)
    assert total(totals, "tile_messages_refused") == len(rows) - len(tiles)
    assert received == totals['prismlink_frames_total{channel="patch"}'] + total(
        totals, "dropped_patches"
    )
    assert len(tiles) == totals['prismlink_frames_total{channel="side"}'] + total(
        totals, "dropped_tiles"
    )


def test_drops_are_counted_under_the_stage_they_were_meant_for(
    bundle_file: Path, tmp_path: Path
) -> None:
    """A mailbox's drops are its stage's, beside those of the stage itself, each by its reason."""
    encoder = Moody(open_errors=[TileError("no")], batch_errors=[RuntimeError("a bug")])
    options = load(
        bundle_file, tmp_path, "mailboxes.frames.max_age_s=1.0e-9", "batch.max_patches=1"
    )
    totals = fly([message(i) for i in range(3)], options, encoder=encoder)

    dropped = {k: v for k, v in totals.items() if "dropped_patches" in k and v}
    assert dropped == {
        'prismlink_dropped_patches_total{stage="patches",reason="tile"}': 1,
        'prismlink_dropped_patches_total{stage="encode",reason="internal_error"}': 1,
        'prismlink_dropped_patches_total{stage="packets",reason="age"}': 1,
    }


def told_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, float]]:
    """What gives the metrics of the process that begins next, while it runs."""
    made = FlightMetrics(new_registry())
    monkeypatch.setattr(service, "FlightMetrics", lambda _: made)
    return made.totals


def test_what_the_spool_has_no_room_for_is_counted(
    bundle_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the link down the spool keeps within its limit; every packet is sent, told or left."""
    sender = FakeSender(up=False)
    options = load(
        bundle_file, tmp_path, "spool.max_mib=1", "link.repair.min_patch=64",
        "link.mtu_bytes=4096", "shutdown_deadline_s=0.5",
    )  # fmt: skip
    noisy = [
        TileMessage.pack(
            cubes.tile(bands=12, rows=128, cols=128, noise_dn=900.0, seed=i, sequence=i)
        )
        for i in range(4)
    ]
    told = told_by(monkeypatch)
    totals = fly(
        noisy, options, sender=sender,
        is_time=lambda: told()['prismlink_frames_total{channel="patch"}'] == 4,
    )  # fmt: skip

    assert totals['prismlink_frames_total{channel="patch"}'] == 4
    assert totals['prismlink_spool_dropped_packets_total{reason="evicted"}'] > 0
    assert totals['prismlink_spool_dropped_packets_total{reason="shutdown"}'] > 0
    assert totals["prismlink_spool_packets"] == 0


def test_received_is_sent_on_plus_dropped_past_the_deadline(
    bundle_file: Path, tmp_path: Path
) -> None:
    """With the encoder hanging, what it has in hand, what waits and what is half cut is counted."""
    encoder, go_on = Moody(), threading.Event()

    def hang(_: Sequence[PatchJob]) -> list[bytes]:
        go_on.wait(30.0)
        raise RuntimeError("too late")

    encoder.encode_batch = hang  # type: ignore[method-assign]
    options = load(
        bundle_file, tmp_path, "shutdown_deadline_s=0.1", "batch.max_patches=2",
        "mailboxes.batches.max_items=1", "mailboxes.patches.max_items=3",
    )  # fmt: skip
    try:
        totals = fly([message(i, rows=700) for i in range(4)], options, encoder=encoder)
    finally:
        go_on.set()

    assert totals["prismlink_patches_received_total"] == 24 == total(totals, "dropped_patches")
    assert totals["prismlink_patches_encoded_total"] == 0
    assert totals['prismlink_frames_total{channel="side"}'] + total(totals, "dropped_tiles") == 4
    assert totals["prismlink_stages_late"] > 0


def test_a_batch_given_up_is_not_encoded_as_well(
    bundle_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes out of the encoder while the process still ends: dropped it is, and nothing else."""
    encoder, begun = Moody(), threading.Event()
    given_up, encoded = threading.Event(), threading.Event()
    encode, count_drop = encoder.encode_batch, service._count_drop

    def late(patches: Sequence[PatchJob]) -> list[bytes]:
        begun.set()
        given_up.wait(30.0)
        frames = encode(patches)
        encoded.set()
        return frames

    def count(metrics: FlightMetrics, stage: str, item: service.Item, reason: str) -> None:
        count_drop(metrics, stage, item, reason)
        if isinstance(item, Batch):
            given_up.set()
            encoded.wait(30.0)

    encoder.encode_batch = late  # type: ignore[method-assign]
    monkeypatch.setattr(service, "_count_drop", count)
    options = load(bundle_file, tmp_path, "shutdown_deadline_s=0.5", "batch.max_age_ms=1.0")
    totals = fly([message(0)], options, encoder=encoder, is_time=begun.is_set)

    dropped = 'prismlink_dropped_patches_total{stage="encode",reason="shutdown"}'
    assert (totals[dropped], total(totals, "dropped_patches")) == (1, 1)
    assert totals["prismlink_patches_encoded_total"] == 0


def test_a_tile_above_the_limit_is_counted(
    bundle_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket lets through what is only somewhat too long; the instrument stays connected."""
    address = f"ipc://{tmp_path}/tiles"
    stop = StopSignal()
    options = load(
        bundle_file, tmp_path, f"instrument.address={address}", "instrument.max_message_mib=1",
        "instrument.pattern=pull",
    )  # fmt: skip
    reports: list[dict[str, float]] = []
    told = told_by(monkeypatch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "PacketSender", lambda *_, **__: FakeSender(up=True))
        patch.setattr(service, "load_model", partial(at_work, Moody()))
        patch.setattr(service, "StatusServer", lambda *_: Closable())
        flying = threading.Thread(
            target=lambda: reports.append(
                service.run(options, stop=stop, clock=SystemClock(), notifier=UNHEARD)
            )
        )
        flying.start()
        large = TileMessage.pack(cubes.tile(bands=12, rows=250, cols=250))
        with TileSender(Endpoint(address=address, bind=False), pattern="pull") as sender:
            assert sender.send(large, 10.0)
            assert sender.send(message(0), 10.0)
            until(lambda: told()["prismlink_tiles_received_total"] == 1, "both messages")
        stop.set()
        flying.join(30.0)

    (totals,) = reports
    assert totals['prismlink_tile_messages_refused_total{reason="message_size"}'] == 1
    assert totals["prismlink_tiles_received_total"] == 1


def test_a_stop_with_the_link_down_does_not_pull_the_socket_away(
    bundle_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The downlink is late, what waits is counted, and its socket is closed once it has left it."""
    sender = FakeSender(up=False)
    options = load(bundle_file, tmp_path, "shutdown_deadline_s=0.01")
    told = told_by(monkeypatch)
    totals = fly(
        [message(0)], options, sender=sender,
        is_time=lambda: told()['prismlink_frames_total{channel="patch"}'] == 1,
    )  # fmt: skip

    assert totals['prismlink_spool_dropped_packets_total{reason="shutdown"}'] > 0
    assert total(totals, "packets") == 0
    assert (sender.closed, sender.closed_in_use, sender.used_closed) == (True, False, False)


def test_a_long_spool_is_given_the_time_to_be_opened(bundle_file: Path, tmp_path: Path) -> None:
    """Of systemd more is asked with every file, or it would end a start that goes on well."""
    limits = DiskSpoolLimits(
        max_bytes=1 << 20, max_memory_bytes=1 << 20, segment_bytes=1, sync_packets=1, sync_s=1.0,
        retry_s=1.0,
    )  # fmt: skip
    left = DiskSpool(
        tmp_path / "spool", limits=limits, clock=SystemClock(), on_drop=lambda *_: None
    )
    segmenter = Segmenter(boot_id=1, apid=1, mtu_bytes=1024, repair={})
    for _ in range(5):
        left.append(segmenter.packets(b"a patch", Channel.PATCH, 0.0), Lane.PATCH)
    left.end("shutdown")
    options = load(bundle_file, tmp_path, "spool.kind=disk", f"spool.directory={tmp_path}/spool")
    with FakeSystemd(tmp_path / "notify") as systemd:
        fly([], options, notifier=Notifier(systemd.address, clock=SystemClock()))

    assert systemd.lines.count(f"EXTEND_TIMEOUT_USEC={LOADING_S * 1e6:.0f}") == 2 + 5


def test_an_address_that_cannot_be_had_leaves_nothing_open(
    bundle_file: Path, tmp_path: Path
) -> None:
    """The error comes out, and the metrics endpoint that was open already is closed again."""
    options = load(
        bundle_file, tmp_path, "metrics.port=0", f"instrument.address=ipc://{tmp_path}/no/such",
        "model.backend=torch",
    )  # fmt: skip
    with pytest.raises(AddressError, match="no/such"):
        service.run(options, stop=StopSignal(), clock=SystemClock(), notifier=UNHEARD)


def test_a_bundle_that_cannot_be_used_ends_the_process(tmp_path: Path) -> None:
    """It is an error of the settings, before any socket is opened."""
    bundle = tmp_path / "broken.safetensors"
    bundle.write_bytes(b"")
    with pytest.raises(ConfigError, match="broken"):
        service.run(
            load(bundle, tmp_path), stop=StopSignal(), clock=SystemClock(), notifier=UNHEARD
        )


def test_channels_are_the_labels_of_metrics(bundle_file: Path, tmp_path: Path) -> None:
    """Side information and patches are told apart in every count of packets."""
    sender = FakeSender(up=True)
    totals = fly([message(0)], load(bundle_file, tmp_path), sender=sender)
    channels = Counter(Packet.unpack(raw).channel for raw in sender.took)

    assert totals['prismlink_packets_total{channel="side"}'] == channels[Channel.SIDE] > 0
    assert totals['prismlink_packets_total{channel="patch"}'] == channels[Channel.PATCH] > 0


def test_what_goes_down_is_sealed(bundle_file: Path, tmp_path: Path) -> None:
    """Every packet, within the MTU; opened they are what a board without a key sends."""
    write_keys({tmp_path / "seal.key": b"07" * 32})
    sender, plain = FakeSender(up=True), FakeSender(up=True)
    noisy = cubes.tile(bands=12, rows=128, cols=128, noise_dn=900.0)
    messages = [TileMessage.pack(noisy)]
    sealing = (f"security.seal_key={tmp_path}/seal.key", f"security.seal_state={tmp_path}/state")
    totals = fly(
        messages, load(bundle_file, tmp_path, "link.mtu_bytes=300", *sealing), sender=sender
    )
    fly(
        messages,
        load(bundle_file, tmp_path, f"link.mtu_bytes={300 - OVERHEAD_BYTES}"),
        sender=plain,
    )

    opener = Opener({1: derived_key(b"\7" * 32, 1)}, heard={})
    opened = [Packet.unpack(opener.open(raw)) for raw in sender.took]
    assert sorted(packet.data for packet in opened) == sorted(
        Packet.unpack(raw).data for raw in plain.took
    )
    assert 300 - 8 < max(map(len, sender.took)) <= 300
    assert total(totals, "bytes_out") == sum(map(len, sender.took))
    assert totals['prismlink_seal_degraded{use="seal"}'] == 0


def test_a_seal_without_its_counters_ends_the_process(bundle_file: Path, tmp_path: Path) -> None:
    """It is an error of the settings: nothing may be sealed, and nothing is sent plain."""
    write_keys({tmp_path / "seal.key": b"07" * 32})
    (tmp_path / "state").write_bytes(bytes(24))
    sealing = (f"security.seal_key={tmp_path}/seal.key", f"security.seal_state={tmp_path}/state")
    with pytest.raises(ConfigError, match="state: is damaged"):
        fly([], load(bundle_file, tmp_path, *sealing))


def test_insecure_is_said(
    bundle_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Asked to, it runs, with a warning and a metric; where nothing is open, without."""
    for address, insecure in (("tcp://0.0.0.0:1", 1), ("tcp://127.0.0.1:1", 0)):
        caplog.clear()
        options = load(
            bundle_file, tmp_path, f"instrument.address={address}", "security.insecure=true"
        )
        totals = fly([message(0)], options)
        assert totals["prismlink_insecure"] == insecure
        said = [record for record in caplog.records if "insecure" in record.message]
        assert [record.__dict__["open"] for record in said] == ["instrument.address"] * insecure
