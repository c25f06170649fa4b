"""Commands: each does what it says, and nothing that is not one, or not ours, does anything."""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Callable, Iterator
from itertools import count, cycle
from pathlib import Path

import msgpack
import pytest

from contracts.spool import Drops
from daemon.errors import ReplayError
from daemon.link.commands import MAX_OCTAVES, Command, Kind, Report, Wanted, pack_model, pack_value
from daemon.link.lanes import Lane
from daemon.link.packet import Channel
from daemon.link.passes import ContactPlan
from daemon.link.seal import DOWNLINK_SPI, OPERATOR_SPI, UPLINK_SPI, Sealer, derived_key
from daemon.link.segment import Segmenter
from daemon.link.states import PassState
from daemon.metrics import FlightMetrics, new_registry
from daemon.onboard.commands import CommandReceiver
from daemon.onboard.downlink import Downlink, Orders
from daemon.onboard.spool import MemorySpool, SpooledPacket
from daemon.reserved_counter import BLOCK
from daemon.sealed_link import SealedOpener
from fakes.clock import FakeClock

APID, PACKET_BITS = 100, 8192
KEY = bytes(range(32))
HOSTILE = 100_000


class Spool(MemorySpool):
    """Does not wait: nobody moves the clock."""

    def take(self, timeout_s: float) -> SpooledPacket | None:
        """Return what is there."""
        assert timeout_s > 0
        return super().take(0.0)


class Rig:
    """A receiver with all around it, and a downlink whose link is always open."""

    def __init__(
        self, opener: SealedOpener | None = None, max_octaves: float = MAX_OCTAVES
    ) -> None:
        self.clock, self.metrics, self.orders = FakeClock(), FlightMetrics(new_registry()), Orders()
        self.spool = Spool(max_bytes=1 << 20, clock=self.clock, on_drop=Drops(), acknowledged=True)
        self.air, self.coming = list[bytes](), list[bytes]()
        self.losses = list[float]()
        self.downlink = Downlink(
            self.spool, self, ContactPlan(()), packet_bits=PACKET_BITS, clock=self.clock,
            metrics=self.metrics, orders=self.orders,
        )  # fmt: skip
        self.target = CommandReceiver(
            self, self.spool, self.orders, unseal=None if opener is None else opener.open,
            on_loss=self.losses.append, apid=APID, packet_bits=PACKET_BITS,
            max_octaves=max_octaves, models=self, metrics=self.metrics,
        )  # fmt: skip
        self.ordered, self.takes_orders = list[bytes | None](), True
        self.spend(1)  # the link opens

    def send(self, raw: bytes, timeout_s: float) -> bool:
        """Be the link."""
        assert timeout_s > 0
        self.air.append(raw)
        return True

    def recv_many(self, max_items: int, timeout_s: float) -> list[bytes]:
        """Be the uplink."""
        assert timeout_s > 0
        now, self.coming = self.coming[:max_items], self.coming[max_items:]
        return now

    def load(self, model: bytes) -> bool:
        """Be where models come from."""
        self.ordered.append(model)
        return self.takes_orders

    def roll_back(self) -> bool:
        """Likewise."""
        self.ordered.append(None)
        return self.takes_orders

    def hear(self, *raw: bytes) -> None:
        """Have messages come."""
        self.coming += raw
        while self.coming:
            self.target.poll()

    def spend(self, polls: int) -> int:
        """Let the downlink work; return how many packets left."""
        before = len(self.air)
        for _ in range(polls):
            self.downlink.poll()
        return len(self.air) - before

    def fill(self, packets: int = 8) -> None:
        """Have a frame wait."""
        segmenter = Segmenter(boot_id=1, apid=APID, mtu_bytes=256, repair={})
        self.spool.append(segmenter.packets(bytes(208 * packets), Channel.PATCH, 0.0), Lane.PATCH)

    @property
    def state(self) -> tuple[object, ...]:
        """All that a command can change."""
        order, spool = self.orders, self.spool
        waiting = (spool.packets, spool.kept_frames, spool.used_bytes, spool.beacon(0))
        return (order.switch._state, order.bits_per_s, order.octaves, *waiting)

    def refused(self) -> dict[str, float]:
        """How many commands were refused, by reason."""
        return self._counts("refused_total{reason=")

    def obeyed(self) -> dict[str, float]:
        """How many were obeyed, by kind."""
        return self._counts("total{kind=")

    def _counts(self, what: str) -> dict[str, float]:
        start = f"prismlink_commands_{what}"
        return {
            name.removeprefix(start).strip('"}'): value
            for name, value in self.metrics.totals().items()
            if name.startswith(start) and value
        }


def command(kind: Kind, body: bytes = b"", apid: int = APID) -> bytes:
    """One in clear."""
    return Command(apid=apid, kind=kind, session=1, number=2, body=body).pack()


# ---------------------------------------------------------------- what each does


def test_suspend_and_resume() -> None:
    """Nothing leaves in between."""
    rig = Rig()
    rig.fill()
    assert rig.spend(2) == 2
    rig.hear(command(Kind.SUSPEND))
    assert rig.spend(10) == 0
    rig.hear(command(Kind.RESUME))
    assert rig.spend(2) == 2
    assert rig.obeyed() == {"suspend": 1, "resume": 1}


def test_close_and_open() -> None:
    """Resuming is not opening, and opening not resuming."""
    rig = Rig()
    rig.fill()
    rig.hear(command(Kind.CLOSE), command(Kind.RESUME))
    assert rig.spend(5) == 0
    rig.hear(command(Kind.SUSPEND), command(Kind.OPEN))
    assert rig.spend(5) == 0
    rig.hear(command(Kind.RESUME))
    assert rig.spend(5) == 5


def test_a_rate_holds_until_the_plan_is_asked_for() -> None:
    """In whole numbers and others; no value means the plan's."""
    rig = Rig()
    rig.hear(command(Kind.RATE, pack_value(100)))
    assert rig.orders.bits_per_s == 100_000
    rig.hear(command(Kind.RATE, pack_value(99.5)))
    assert rig.orders.bits_per_s == 99_500
    rig.hear(command(Kind.RATE, pack_value(None)))
    assert rig.orders.bits_per_s is None
    assert rig.obeyed() == {"rate": 3}


def test_a_step_is_octaves() -> None:
    """No value is as none coarser."""
    rig = Rig()
    rig.hear(command(Kind.STEP, pack_value(2)))
    assert rig.orders.octaves == 2.0
    rig.hear(command(Kind.STEP, pack_value(None)))
    assert rig.orders.octaves == 0.0


def test_a_report_is_for_the_spool() -> None:
    """What the ground has is forgotten, what it wants is sent again."""
    rig = Rig()
    rig.fill()
    rig.spend(8)
    wanted = (Wanted(frame_id=0, spans=((1, 3),)),)
    rig.hear(command(Kind.REPORT, Report(loss=0, boot_id=1, below=0, wanted=wanted).pack()))
    assert rig.losses == [0.0]
    assert rig.spend(5) == 2
    assert rig.spool.used_bytes > 0
    done = Command(
        apid=APID, kind=Kind.REPORT, session=1, number=3,
        body=Report(loss=0, boot_id=1, below=1).pack(),
    )  # fmt: skip
    rig.hear(done.pack())
    assert rig.spool.used_bytes == 0


def test_where_a_target_sets_the_step_no_command_does() -> None:
    """It would be counted as obeyed, and told as octaves, and change nothing."""
    rig = Rig(max_octaves=0.0)
    rig.hear(command(Kind.STEP, pack_value(1)), command(Kind.STEP, pack_value(0)))
    assert (rig.refused(), rig.obeyed()) == ({"packet_field": 1}, {"step": 1})
    assert rig.orders.octaves == 0.0


# ---------------------------------------------------------------- what is refused


def test_a_model_and_the_one_before() -> None:
    """Both are ordered, no more: whether they come to work is told elsewhere."""
    rig = Rig()
    rig.hear(command(Kind.MODEL, pack_model(b"8 bytes.")), command(Kind.ROLLBACK))
    assert rig.ordered == [b"8 bytes.", None]
    assert rig.obeyed() == {"model": 1, "rollback": 1}


def test_an_order_that_nobody_takes_is_refused() -> None:
    """Where there is no store, for one; the reason tells the operator what to set."""
    rig = Rig()
    rig.takes_orders = False
    rig.hear(command(Kind.MODEL, pack_model(b"8 bytes.")), command(Kind.ROLLBACK))
    assert (rig.obeyed(), rig.refused()) == ({}, {"packet_field": 2})


SOUND = command(Kind.SUSPEND)
BAD = {
    "another APID": (command(Kind.SUSPEND, apid=APID + 1), "packet_field"),
    "a report for another APID": (
        command(Kind.REPORT, Report(loss=0, boot_id=1, below=9).pack(), APID + 1), "packet_field",
    ),
    "nothing": (b"", "packet_truncated"),
    "garbage": (b"\xff" * 40, "packet_field"),
    "a cut": (SOUND[:-1], "packet_truncated"),
    "a flipped bit": (SOUND[:-1] + bytes([SOUND[-1] ^ 1]), "packet_checksum"),
    "bytes behind it": (SOUND + b"x", "packet_field"),
    "an unknown kind": (
        Command(apid=APID, kind=99, session=1, number=2, body=b"").pack(),  # type: ignore[arg-type]
        "packet_field",
    ),
    "an order that carries something": (command(Kind.SUSPEND, pack_value(1)), "packet_field"),
    "a rate below a packet a second": (command(Kind.RATE, pack_value(8.19)), "packet_field"),
    "a rate without end": (command(Kind.RATE, pack_value(float("inf"))), "packet_field"),
    "no number": (command(Kind.RATE, pack_value(float("nan"))), "packet_field"),
    "a negative rate": (command(Kind.RATE, pack_value(-100)), "packet_field"),
    "two rates": (command(Kind.RATE, msgpack.packb([100, 200])), "packet_field"),
    "a rate in words": (command(Kind.RATE, msgpack.packb(["100"])), "packet_field"),
    "a truth": (command(Kind.STEP, msgpack.packb([True])), "packet_field"),
    "too coarse": (command(Kind.STEP, pack_value(8.01)), "packet_field"),
    "finer than given": (command(Kind.STEP, pack_value(-1)), "packet_field"),
    "no MessagePack": (command(Kind.STEP, b"\xc1"), "packet_field"),
    "a model of seven bytes": (command(Kind.MODEL, pack_model(b"7 bytes")), "packet_field"),
    "a model in words": (command(Kind.MODEL, msgpack.packb(["8 bytes."])), "packet_field"),
    "two models": (command(Kind.MODEL, msgpack.packb([b"8 bytes."] * 2)), "packet_field"),
    "a model of nothing": (command(Kind.MODEL), "packet_field"),
    "a rollback to something": (command(Kind.ROLLBACK, pack_model(b"8 bytes.")), "packet_field"),
    "a report of nothing": (command(Kind.REPORT), "packet_field"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_command_is_counted_and_does_nothing(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One line, one count by its reason; a sound one behind it is obeyed."""
    raw, reason = BAD[name]
    rig = Rig()
    rig.fill()
    before = rig.state
    rig.hear(raw)

    assert rig.state == before
    assert (rig.refused(), rig.obeyed()) == ({reason: 1}, {})
    assert [record.message for record in caplog.records] == ["command refused"]
    rig.hear(raw, SOUND)
    assert rig.orders.switch._state is PassState.SUSPENDED
    assert rig.obeyed() == {"suspend": 1}


# ---------------------------------------------------------------- sealed


def sealer(spi: int, key: bytes = KEY, first: int = BLOCK) -> Sealer:
    """One that counts from a number on."""
    source = count(first)
    return Sealer(derived_key(key, spi), spi, lambda: next(source), salt=secrets.token_bytes(4))


def opener(folder: Path) -> SealedOpener:
    """The board's."""
    return SealedOpener(
        KEY, folder / "heard", spis=(UPLINK_SPI, OPERATOR_SPI), clock=FakeClock(),
        degraded=lambda _: None,
    )  # fmt: skip


def test_ground_and_operator_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """Each has numbers of its own, also in the file of what was heard, over restarts."""
    report = command(Kind.REPORT, Report(loss=0, boot_id=1, below=0).pack())
    ground, operator = sealer(UPLINK_SPI, first=7 * BLOCK), sealer(OPERATOR_SPI)
    old = [ground.seal(report), operator.seal(SOUND), ground.seal(report)]
    first = opener(tmp_path)
    rig = Rig(first)
    rig.hear(*old)
    assert rig.obeyed() == {"report": 2, "suspend": 1}
    first.close()

    rig = Rig(opener(tmp_path))
    rig.hear(*old)
    assert (rig.refused(), rig.obeyed()) == ({"replay": 3}, {})
    rig.hear(operator.seal(SOUND), ground.seal(report))
    assert rig.obeyed() == {"report": 1, "suspend": 1}


def test_a_command_held_back_is_void_once_a_later_one_came(tmp_path: Path) -> None:
    """Each `prismlink command` takes a block of numbers, wider than what may come late."""
    held, later = (
        sealer(OPERATOR_SPI, first=n * BLOCK).seal(SOUND if n == 1 else command(Kind.RESUME))
        for n in (1, 2)
    )
    target = opener(tmp_path)
    target.open(later)
    with pytest.raises(ReplayError):
        target.open(held)


def hostile(opened: list[bytes], source: random.Random) -> Iterator[tuple[bytes, str]]:
    """Endless: sealed commands with something wrong, and what each is refused for."""
    given = {Kind.RATE: pack_value(50.0), Kind.MODEL: pack_model(b"8 bytes.")}
    bodies = [(kind, given.get(kind, b"")) for kind in Kind]
    plain = [command(kind, body) for kind, body in bodies if kind is not Kind.REPORT]
    strangers = [sealer(spi, key=KEY[::-1], first=1 << 40) for spi in (UPLINK_SPI, OPERATOR_SPI)]
    board = sealer(DOWNLINK_SPI, first=1 << 40)
    reflected = Sealer(
        derived_key(KEY, DOWNLINK_SPI), OPERATOR_SPI, count(1 << 40).__next__, salt=bytes(4)
    )
    holder = sealer(OPERATOR_SPI, first=1 << 41)

    def flipped(raw: bytes) -> bytes:
        number = int.from_bytes(raw) ^ (source.getrandbits(8 * len(raw)) or 1)
        return number.to_bytes(len(raw))

    def one_bit(raw: bytes) -> bytes:
        return (int.from_bytes(raw) ^ 1 << source.randrange(8 * len(raw))).to_bytes(len(raw))

    def odd_body() -> bytes:
        kind = source.choice((Kind.OPEN, Kind.SUSPEND, Kind.REPORT))
        return command(kind, b"\xff" + source.randbytes(source.randrange(40)))

    makers: list[tuple[Callable[[], bytes], str]] = [
        (lambda: source.randbytes(source.randrange(120)), "seal"),
        (lambda: flipped(source.choice(opened)), "seal"),
        (lambda: one_bit(source.choice(opened)), "seal"),
        (lambda: (raw := source.choice(opened))[: source.randrange(len(raw))], "seal"),
        (lambda: source.choice(opened) + source.randbytes(3), "seal"),
        (lambda: source.choice(opened), "replay"),
        (lambda: source.choice(strangers).seal(source.choice(plain)), "seal"),
        (lambda: board.seal(source.choice(plain)), "seal"),
        (lambda: reflected.seal(source.choice(plain)), "seal"),
        (lambda: source.choice(plain), "seal"),
        (lambda: holder.seal(odd_body()), "packet_field"),
    ]
    for make, reason in cycle(makers):
        yield make(), reason


def test_a_hundred_thousand_hostile_commands_do_nothing(tmp_path: Path) -> None:
    """Random, flipped, cut, replayed, forged, of other keys, directions and bodies: all counted."""
    logging.getLogger("daemon.onboard.commands").disabled = True
    try:
        rig = Rig(opener(tmp_path))
        rig.fill()
        own = [sealer(spi, first=BLOCK) for spi in (UPLINK_SPI, OPERATOR_SPI)]
        opened = [one.seal(command(kind)) for kind in (Kind.OPEN, Kind.RESUME) for one in own]
        rig.hear(*opened, *[one.seal(command(Kind.STEP, pack_value(1))) for one in own])
        before, expected = rig.state, dict[str, float]()
        source = hostile(opened, random.Random(1))
        for _ in range(HOSTILE):
            raw, reason = next(source)
            rig.coming.append(raw)
            expected[reason] = expected.get(reason, 0) + 1
        rig.hear()
    finally:
        logging.getLogger("daemon.onboard.commands").disabled = False

    assert rig.refused() == expected
    assert sum(expected.values()) == HOSTILE
    assert rig.state == before
    assert sum(rig.obeyed().values()) == len(opened) + 2


def test_bytes_are_counted() -> None:
    """Of what is obeyed and of what is refused: all of it used the uplink."""
    rig, good = Rig(), command(Kind.SUSPEND)
    rig.hear(good, b"no command")

    assert rig.metrics.totals()["prismlink_command_bytes_total"] == len(good) + len(b"no command")
