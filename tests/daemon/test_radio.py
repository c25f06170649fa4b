"""The radio on the desk: loses, repeats and reorders what it is told to, and no more."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.link.packet import Channel
from daemon.link.segment import Segmenter
from daemon.link.sockets import Endpoint, PacketListener, PacketSender
from daemon.radio import LossyLink, Radio

PACKETS = [bytes([i]) for i in range(200)]


def through(link: LossyLink, packets: list[bytes]) -> list[bytes]:
    """All that arrives of packets."""
    return [arrived for packet in packets for arrived in link.carry(packet)] + link.flush()


def test_a_good_link_delivers_at_once() -> None:
    """Nothing lost, repeated, or held back."""
    link = LossyLink(seed=1)

    assert [link.carry(packet) for packet in PACKETS] == [[packet] for packet in PACKETS]
    assert (link.flush(), link.lost, link.repeated) == ([], 0, 0)


def test_the_same_seed_does_the_same() -> None:
    """A failure seen once can be seen again; another seed does something else."""
    once, again, other = (
        through(LossyLink(seed=seed, loss=0.1, repeat=0.1, reorder=0.2), PACKETS)
        for seed in (5, 5, 6)
    )
    assert once == again != other


@given(
    seed=st.integers(),
    loss=st.floats(0, 1),
    repeat=st.floats(0, 1),
    reorder=st.floats(0, 1),
    depth=st.integers(1, 20),
)
def test_what_it_does_is_counted(
    *, seed: int, loss: float, repeat: float, reorder: float, depth: int
) -> None:
    """Every packet arrives once, or twice and counted, or not and counted; none is invented."""
    link = LossyLink(seed=seed, loss=loss, repeat=repeat, reorder=reorder, depth=depth)
    arrived = through(link, PACKETS)

    assert len(set(arrived)) == len(PACKETS) - link.lost
    assert len(arrived) == len(set(arrived)) + link.repeated
    assert set(arrived) <= set(PACKETS)


@given(seed=st.integers(), depth=st.integers(1, 20))
def test_only_so_many_packets_overtake_one(seed: int, depth: int) -> None:
    """One that is held back comes before the packet `depth` + 1 places behind it."""
    link = LossyLink(seed=seed, reorder=0.5, depth=depth)
    place = {packet: i for i, packet in enumerate(through(link, PACKETS))}

    for sent, packet in enumerate(PACKETS):
        overtakers = [later for later in PACKETS[sent + 1 :] if place[later] < place[packet]]
        assert len(overtakers) <= depth


@pytest.mark.parametrize(("loss", "lost"), [(0.0, 0), (1.0, len(PACKETS))])
def test_shares_are_shares(loss: float, lost: int) -> None:
    """None and all are exact."""
    link = LossyLink(seed=3, loss=loss)
    through(link, PACKETS)

    assert link.lost == lost


def test_the_radio_carries_from_socket_to_socket(tmp_path: Path) -> None:
    """Everything the board sent before the stop arrives, and is counted by frame, lost or not."""
    board, ground = (f"ipc://{tmp_path}/{name}" for name in ("board", "ground"))
    segmenter = Segmenter(boot_id=7, apid=1, mtu_bytes=128, repair={})
    packets = [p for _ in range(3) for p in segmenter.packets(bytes(200), Channel.PATCH, 0.0)]
    radio = Radio(board=board, ground=ground, link=LossyLink(seed=1, reorder=0.5))
    arrived: list[bytes] = []
    with PacketListener(Endpoint(address=ground, bind=True)) as listener:
        radio.start()
        with PacketSender(Endpoint(address=board, bind=False)) as sender:
            for packet in [*packets, b"no packet"]:
                assert sender.send(packet, 10.0)
        while len(arrived) < len(packets) + 1:
            arrived += listener.recv_many(64, 10.0)
        radio.stop()
        radio.stop()

    assert sorted(arrived) == sorted([*packets, b"no packet"])
    assert radio.packets == len(packets) + 1
    assert radio.bytes_down == sum(map(len, arrived))
    share = sum(map(len, packets)) // 3
    assert radio.frame_bytes == {(7, 0): share, (7, 1): share, (7, 2): share}


def test_a_ground_that_is_gone_does_not_hold_the_radio(tmp_path: Path) -> None:
    """Asked to stop, it stops, whoever listens; what it could not pass on is lost, and counted."""
    radio = Radio(
        board=f"ipc://{tmp_path}/board", ground=f"ipc://{tmp_path}/ground", link=LossyLink(seed=1)
    )
    radio.start()
    with PacketSender(Endpoint(address=f"ipc://{tmp_path}/board", bind=False)) as sender:
        for _ in range(300):
            assert sender.send(b"nobody will hear this", 10.0)
    stopped = threading.Thread(target=radio.stop)
    stopped.start()
    stopped.join(10.0)

    assert not stopped.is_alive()
    assert radio.packets == radio.link.lost == 300


def test_a_radio_never_started_can_be_stopped(tmp_path: Path) -> None:
    """As when what should have started it failed before."""
    board = f"ipc://{tmp_path}/board"
    radio = Radio(board=board, ground=f"ipc://{tmp_path}/ground", link=LossyLink(seed=1))
    radio.stop()
    radio.stop()

    PacketListener(Endpoint(address=board, bind=True)).close()
