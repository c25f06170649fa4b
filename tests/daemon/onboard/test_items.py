"""What passes between stages knows its size, and how many patches are lost with it."""

from __future__ import annotations

import pytest

from codec.patch_grid import PATCH_PX
from daemon.link.lanes import LANES, Lane
from daemon.link.packet import Channel
from daemon.onboard.items import Batch, EncodedFrame, FramePackets, ReceivedTile
from fakes.cubes import tile
from fakes.flight import encoder, opened


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (128, 128), (129, 128), (130, 260)])
def test_a_tile_counts_as_many_patches_as_it_will_be_cut_into(rows: int, cols: int) -> None:
    """What ingest counts is what the encoder makes: the accounts rest on it."""
    received = ReceivedTile(tile=tile(bands=2, rows=rows, cols=cols), received_s=0.0)

    assert received.patches == len(encoder().open(received.tile).patches)
    assert received.size_bytes == 2 * rows * cols * 2


def test_patches_share_out_the_bytes_of_their_tile() -> None:
    """A patch and a batch are as large as the samples behind them."""
    patches = opened(rows=PATCH_PX + 1, cols=8)

    assert [patch.size_bytes for patch in patches] == [4 * PATCH_PX * 8 * 2, 4 * 8 * 2]
    batch = Batch(opened=patches)
    assert (batch.patches, batch.size_bytes) == (2, 4 * (PATCH_PX + 1) * 8 * 2)
    assert [patch.patches for patch in patches] == [1, 1]


@pytest.mark.parametrize(
    ("lane", "patches"), [(lane, int(lane.channel is Channel.PATCH)) for lane in LANES]
)
def test_a_frame_counts_as_a_patch_only_if_it_is_one(lane: Lane, patches: int) -> None:
    """With side information no patch is lost here: those that follow are counted by themselves."""
    frame = EncodedFrame(raw=b"12345", lane=lane, received_s=0.0)
    packets = FramePackets(packets=(b"123", b"4567"), lane=lane, received_s=0.0)

    assert (frame.patches, frame.size_bytes) == (patches, 5)
    assert (packets.patches, packets.size_bytes) == (patches, 7)
