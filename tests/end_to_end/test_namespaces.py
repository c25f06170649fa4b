"""Flight and ground in networks of their own; a relay in a third, between them, is the radio.

Passes as of an hour, in a minute and a half: with gaps, signal that comes late or is lost in the
middle, loss, bursts, reordering, repeats and flipped bits, both ways.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import pytest

from fakes.instrument import PATCHES, SAME_SPEED, Instrument, undisturbed_run
from fakes.link import LinkFaults
from fakes.namespaces import TOOLS, Namespace, NotAllowedError
from fakes.processes import ROOT, Desk, Numbers, Process, until
from fakes.relay import Hop, RelayReport, settings

BOARD, AIR_UP = "10.77.1.1", "10.77.1.2"
"""Both ends of what joins the board and the radio."""
GROUND, AIR_DOWN = "10.77.2.1", "10.77.2.2"
DOWN_PORT, UP_PORT = 47101, 47102

KBIT_PER_S = 160
MTU_BYTES = 512
TILE_EVERY_S = 0.5
"""So the short passes are filled, and little is left for the last one [s]."""
HICCUP_S = 0.2
"""By so much, and as late as the relay looks, may packets come that left in time: what comes in a
second left in a second and this [s]."""

LEAD_S = 10.0
"""From the plan to its first pass: the board takes a few seconds to begin [s]."""
PASSES, PASS_S, EVERY_S = 6, 9.0, 13.0
"""And one more, that goes on until all is down."""
SHADOWS = [(13.0, 15.5), (30.0, 32.0), (58.5, 61.0)]
"""Times from the first pass on in which nothing gets through although one is open: the signal
comes late, is lost in the middle, and goes early [s]."""
DEAF = [(40.0, 45.0)]
"""The same, for reports alone."""

WAY = LinkFaults(delay_s=0.03, jitter_s=0.04, duplicate=0.01, flip=0.005)
DOWN = replace(WAY, loss=0.05, burst=0.004, burst_messages=6)
UP = replace(WAY, loss=0.1, burst=0.02, duplicate=0.08, flip=0.08)
REPEATS_PER_LOSS = 1.2


@dataclass(frozen=True, slots=True)
class Networks:
    """Three, in a row."""

    board: Namespace
    air: Namespace
    ground: Namespace


@pytest.fixture
def networks(requires_tool: Callable[[str], str]) -> Iterator[Networks]:
    """Board and ground see the air between them, and not each other."""
    for tool in TOOLS:
        requires_tool(tool)
    with ExitStack() as stack:
        try:
            made = Networks(*(stack.enter_context(Namespace()) for _ in range(3)))
            made.board.join(made.air, here=f"{BOARD}/30", there=f"{AIR_UP}/30")
            made.ground.join(made.air, here=f"{GROUND}/30", there=f"{AIR_DOWN}/30")
        except NotAllowedError as error:
            # In CI, too: whether they are is up to who runs it, and no package helps.
            pytest.skip(f"network namespaces are not allowed here: {error}")
        yield made


def tcp(host: str, port: int) -> str:
    """An address."""
    return f"tcp://{host}:{port}"


class Sky:
    """Board, radio and ground, each in its network, with keys for the seal.

    Args:
        desk: Starts them.
        networks: Where.
        bundle: The model.
        folder: Of keys, spool, archive.
        curve: Whether the sockets have keys; otherwise `security.insecure` lets them pass.
    """

    def __init__(
        self, desk: Desk, networks: Networks, bundle: Path, folder: Path, *, curve: bool
    ) -> None:
        self._desk, self._networks, self._bundle = desk, networks, bundle
        self._folder, self._curve = folder, curve
        for name in ("board", "air", "ground") if curve else ("board",):
            desk.start("keys", "keys", self._keys(name)).end_well()

    def relay(self, *, down: LinkFaults, up: LinkFaults) -> Process:
        """Start the radio."""
        board, ground = (
            str(self._keys(name) / "curve.public") if self._curve else None
            for name in ("board", "ground")
        )
        path = self._folder / "relay-settings.json"
        text = settings(
            seed=1,
            secret=self._keys("air") / "curve.secret" if self._curve else None,
            down=Hop(
                source=tcp(AIR_UP, DOWN_PORT),
                target=tcp(GROUND, DOWN_PORT),
                faults=down,
                bits_per_s=1000 * KBIT_PER_S,
                source_key=board,
                target_key=ground,
            ),
            up=Hop(
                source=tcp(AIR_DOWN, UP_PORT),
                target=tcp(BOARD, UP_PORT),
                faults=up,
                bits_per_s=1000 * KBIT_PER_S,
                source_key=ground,
                target_key=board,
            ),
        )
        path.write_text(text)
        env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        inside = self._networks.air
        return self._desk.start("relay", path, module="fakes.relay", env=env, inside=inside)

    def flight(self, passes: str, *others: str) -> Process:
        """Start the board."""
        uplink = f"{{address: '{tcp(BOARD, UP_PORT)}', beacon_s: 0.5}}"
        return self._desk.flight(
            self._bundle,
            *("spool.kind=disk", f"spool.directory={self._folder / 'spool'}", SAME_SPEED),
            *(f"link.address={tcp(AIR_UP, DOWN_PORT)}", f"link.uplink={uplink}"),
            *(f"link.mtu_bytes={MTU_BYTES}", f"link.kbit_per_s={KBIT_PER_S}"),
            f"link.passes={passes}",
            *self._security("board"),
            *others,
            inside=self._networks.board,
        )

    def ground(self) -> Process:
        """Start the ground."""
        uplink = f"{{address: '{tcp(AIR_DOWN, UP_PORT)}', report_s: 0.5, reorder_s: 0.2, "
        uplink += f"retry_s: 2.0, contact_s: 2.0, mtu_bytes: {MTU_BYTES}}}"
        return self._desk.ground(
            self._bundle,
            *("output.format=npy", f"archive.directory={self._folder / 'archive'}"),
            *(f"link.address={tcp(GROUND, DOWN_PORT)}", f"link.uplink={uplink}"),
            *self._security("ground"),
            inside=self._networks.ground,
        )

    def _keys(self, name: str) -> Path:
        return self._folder / name

    def _security(self, name: str) -> tuple[str, ...]:
        seal = (
            f"security.seal_key={self._keys('board') / 'seal.key'}",
            f"security.seal_state={self._folder / f'{name}.state'}",
        )
        if not self._curve:
            return (*seal, "security.insecure=true")
        peer = self._keys("air") / "curve.public"
        return (
            *seal,
            f"security.curve_secret_key={self._keys(name) / 'curve.secret'}",
            f"security.curve_peers.link=[{peer}]",
            f"security.curve_peers.uplink=[{peer}]",
        )


def plan(first_s: float, count: int) -> tuple[str, list[tuple[float, float]]]:
    """So many short passes from a moment on [s, UTC], and a long one: settings, and gaps."""
    opens = [first_s + EVERY_S * number for number in range(count + 1)]
    closes = [*(at + PASS_S for at in opens[:-1]), opens[-1] + 3600]

    def text(at_s: float) -> str:
        return datetime.fromtimestamp(at_s, UTC).isoformat()

    passes = [
        f"{{opens: {text(start)}, closes: {text(stop)}}}"
        for start, stop in zip(opens, closes, strict=True)
    ]
    return f"[{', '.join(passes)}]", list(zip(closes[:-1], opens[1:], strict=True))


def until_all_is_down(flight: Process, ground: Process, tiles: int) -> None:
    """Wait until all is spooled, the board has nothing left of it, and the ground wrote it."""
    flight.until_metrics(
        lambda n: (
            n.total("frames_total", channel="patch") == tiles * PATCHES
            and not n.total("spool_packets") + n.total("spool_kept_frames")
        ),
        "all acknowledged",
    )
    ground.until_metrics(
        lambda n: n.total("tiles_written_total", state="complete") == tiles, "every tile"
    )


def told_by(relay: Process) -> RelayReport:
    """End the relay; return its report."""
    relay.terminate()
    return RelayReport.read(relay.report())


def check_books(flown: Numbers, landed: Numbers, radio: RelayReport, tiles: int) -> None:
    """Nothing is lost but by the radio, each packet is accounted for, each tile is whole."""
    assert flown.total("tiles_received_total") == tiles
    assert flown.total("dropped_tiles_total") == flown.total("dropped_patches_total") == 0
    assert flown.total("spool_dropped_packets_total") == 0
    assert flown.total("packets_total") == len(radio.down.came)
    assert flown.total("bytes_out_total") == sum(size for _, size in radio.down.came)
    assert radio.down.overrun == radio.down.not_taken == 0
    assert landed.total("packets_received_total") == radio.down.whole
    assert landed.total("frames_lost_total") == landed.total("frames_incomplete_total") == 0
    assert landed.total("tiles_written_total", state="complete") == tiles
    assert 0 < flown.total("packets_repeated_total") <= REPEATS_PER_LOSS * radio.down.gone
    assert 0 < flown.total("commands_total", kind="report") <= radio.up.whole


def test_an_hour_of_passes(
    networks: Networks, desk: Desk, small_bundle: Path, tmp_path: Path
) -> None:
    """Every tile comes whole and as if nobody had disturbed it, within the budget of every second.

    What was lost is sent again, and little else; what the ground tells of the loss is near the
    truth. Packets are sealed, and of those that the radio damaged or repeated none is taken.
    """
    sky = Sky(desk, networks, small_bundle, tmp_path, curve=False)
    ground = sky.ground().until_ready()
    first_s = time.time() + LEAD_S
    passes, gaps = plan(first_s, PASSES)

    def outages(*shadows: tuple[float, float]) -> list[tuple[float, float]]:
        return gaps + [(first_s + start, first_s + stop) for start, stop in shadows]

    relay = sky.relay(
        down=replace(DOWN, outages=outages(*SHADOWS)),
        up=replace(UP, outages=outages(*SHADOWS, *DEAF)),
    ).until_ready()
    flight = sky.flight(passes).until_ready()
    instrument, told = Instrument(desk.tiles, every_s=TILE_EVERY_S), list[float]()
    try:
        while time.time() < gaps[-1][1]:
            time.sleep(0.5)
            told.append(ground.metrics().total("link_loss_ratio"))
    finally:
        instrument.stop()
    until_all_is_down(flight, ground, instrument.sent)
    flown, radio, landed = flight.stop(), told_by(relay), ground.stop()

    check_books(flown, landed, radio, instrument.sent)
    assert flown.total("insecure") == landed.total("insecure") == 1
    for reason in ("seal", "replay"):
        assert landed.total("packets_refused_total", reason=reason) > 0
        assert flown.total("commands_refused_total", reason=reason) > 0

    late_s = radio.late_s + HICCUP_S
    for window_s in (1.0, PASS_S):
        assert radio.down.most_bits(window_s) <= 1000 * KBIT_PER_S * (window_s + late_s), window_s
    for closes_s, opens_s in gaps:
        assert not [at_s for at_s, _ in radio.down.came if closes_s + late_s < at_s < opens_s]
    assert radio.down.loss / 1.5 < median(told) < 1.5 * radio.down.loss

    whole = {m["sequence"]: m["file"] for m in desk.manifests() if not m["patches_missing"]}
    assert sorted(whole) == list(range(instrument.sent))
    undisturbed = undisturbed_run(desk, small_bundle, tmp_path / "undisturbed", sorted(whole))
    for sequence, file in whole.items():
        assert (desk.cubes / file).read_bytes() == undisturbed[sequence], sequence


def test_a_relay_with_keys_of_its_own(
    networks: Networks, desk: Desk, small_bundle: Path, tmp_path: Path
) -> None:
    """With CURVE from hop to hop nobody is insecure, and all comes down through a bad radio."""
    sky = Sky(desk, networks, small_bundle, tmp_path, curve=True)
    ground = sky.ground().until_ready()
    relay = sky.relay(down=replace(DOWN, loss=0.2), up=UP).until_ready()
    flight = sky.flight("[]").until_ready()
    instrument = Instrument(desk.tiles)
    try:
        until(lambda: instrument.sent >= 20, "twenty tiles")
    finally:
        instrument.stop()
    until_all_is_down(flight, ground, instrument.sent)
    flown, radio, landed = flight.stop(), told_by(relay), ground.stop()
    check_books(flown, landed, radio, instrument.sent)
    assert flown.total("insecure") == landed.total("insecure") == 0


def test_a_board_without_keys_does_not_start(
    networks: Networks, desk: Desk, small_bundle: Path
) -> None:
    """On a real network it wants keys, or to be told that it goes without: status 78, one line."""
    refused = desk.flight(
        small_bundle, f"link.address={tcp(AIR_UP, DOWN_PORT)}", inside=networks.board
    )
    with pytest.raises(RuntimeError, match="ended with status 78"):
        refused.end_well()
    (line,) = refused.log.splitlines()
    assert (
        f"link.address: tcp://{AIR_UP}:{DOWN_PORT} is open to other machines without keys" in line
    )
