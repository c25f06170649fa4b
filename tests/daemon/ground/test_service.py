"""The ground process as a whole, behind a link that the test holds."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.frame import PatchFrame, SideFrame, parse
from codec.tile import Tile
from codec.tile_files import read_tile
from daemon.clock import SystemClock
from daemon.config import GroundSettings, load_ground
from daemon.config_models import GroundModelSettings
from daemon.errors import EXIT_OUTPUT, AddressError, ConfigError, OutputError
from daemon.files import lock_folder
from daemon.ground import service
from daemon.ground.models import load_decoders
from daemon.ground.write import MANIFEST, file_stem
from daemon.keys import write_keys
from daemon.lifecycle import StopSignal
from daemon.link.fec import RepairPolicy
from daemon.link.packet import Channel, Packet
from daemon.link.seal import DOWNLINK_SPI, Sealer, derived_key
from daemon.link.segment import Segmenter
from daemon.radio import LossyLink
from fakes import cubes
from fakes.bundles import klt_bundle
from fakes.ground import decoder, frames
from fakes.scenes import cut
from fakes.systemd import UNHEARD


class FakeListener:
    """Hands out packets; then says so."""

    def __init__(self, packets: Sequence[bytes], exhausted: threading.Event) -> None:
        self._packets, self._exhausted = list(packets), exhausted

    def recv_many(self, max_items: int, timeout_s: float) -> list[bytes]:
        """Return the next ones."""
        assert timeout_s > 0
        taken, self._packets = self._packets[:max_items], self._packets[max_items:]
        if not taken:
            self._exhausted.set()
        return taken

    def close(self) -> None:
        """Nothing to close."""


class Closable:
    """The metrics endpoint, without a server."""

    port = 1

    def close(self) -> None:
        """Nothing to close."""


class StopAt(StopSignal):
    """Asks to stop once the board has nothing more."""

    def __init__(self, exhausted: threading.Event) -> None:
        super().__init__()
        self._exhausted = exhausted

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the board."""
        assert timeout_s is None
        return self._exhausted.wait(30.0)


def load(bundle: Path, folder: Path, *overrides: str) -> GroundSettings:
    """Settings of the process, the defaults but for paths, format and what is given."""
    path = folder / "ground.yaml"
    path.write_text(f"model: {{bundles: [{bundle}]}}\noutput: {{directory: out, format: npy}}\n")
    return load_ground(path, ("web.port=null", *overrides))


def listen(packets: Sequence[bytes], options: GroundSettings) -> dict[str, float]:
    """Run the process over packets; return its metrics."""
    exhausted = threading.Event()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "PacketListener", lambda *_: FakeListener(packets, exhausted))
        patch.setattr(service, "StatusServer", lambda *_: Closable())
        return service.run(options, stop=StopAt(exhausted), clock=SystemClock(), notifier=UNHEARD)


TILES = [cubes.tile(bands=3, rows=rows, cols=8, sequence=i) for i, rows in enumerate((8, 130, 260))]
PATCHES = 1 + 2 + 3


def packets(*tiles: Tile, repairs: int = 0, mtu_bytes: int = 256) -> list[bytes]:
    """All packets of tiles, as the board sends them."""
    policy = RepairPolicy(minimum=repairs)
    segmenter = Segmenter(
        boot_id=3,
        apid=1,
        mtu_bytes=mtu_bytes,
        repair={Channel.SIDE: policy, Channel.PATCH: policy},
    )
    return [
        packet
        for tile in tiles
        for frame in frames(tile)
        for packet in segmenter.packets(
            frame.raw,
            Channel.SIDE if isinstance(parse(frame.raw), SideFrame) else Channel.PATCH,
            0.0,
        )
    ]


PACKETS = packets(*TILES, repairs=2)


def manifests(directory: Path) -> dict[int, dict[str, object]]:
    """What was written, by sequence."""
    found = [json.loads(path.read_text()) for path in directory.glob(f"*{MANIFEST}")]
    return {said["sequence"]: said for said in found}


def test_what_arrives_is_what_the_decoder_makes_of_it(bundle_file: Path, tmp_path: Path) -> None:
    """Every tile is written, sample for sample the offline decoder's, and nothing is missing."""
    totals = listen(PACKETS, load(bundle_file, tmp_path))

    written = manifests(tmp_path / "out")
    for tile in TILES:
        expected = decoder().decode(frame.raw for frame in frames(tile))
        back = read_tile(tmp_path / "out" / str(written[tile.info.sequence]["file"]))
        np.testing.assert_array_equal(back.samples, expected.samples)
    assert totals['prismlink_tiles_written_total{state="complete"}'] == 3
    assert totals["prismlink_patches_decoded_total"] == PATCHES
    assert totals["prismlink_patches_missing_total"] == 0


@pytest.mark.parametrize("wanted", [True, False])
def test_tiles_of_a_scene_are_put_together(bundle_file: Path, tmp_path: Path, wanted: bool) -> None:
    """When the process ends at the latest, unless nobody wants it."""
    scene = cubes.tile(bands=3, rows=138, cols=8, scene="x")
    tiles = cut(scene, (130, 8), (8,)).values()
    totals = listen(
        packets(*tiles), load(bundle_file, tmp_path, f"output.scenes={str(wanted).lower()}")
    )
    assert totals['prismlink_scenes_written_total{state="complete"}'] == wanted
    found = list((tmp_path / "out").glob("x_scene_*.npy"))
    assert len(found) == wanted
    for product in found:
        expected = [decoder().decode(f.raw for f in frames(tile)).samples for tile in tiles]
        np.testing.assert_array_equal(read_tile(product).samples, np.concatenate(expected, axis=1))


def summed(totals: dict[str, float], name: str) -> float:
    """A metric over all its labels."""
    return sum(v for k, v in totals.items() if k.partition("{")[0] == f"prismlink_{name}")


def check_accounts(totals: dict[str, float]) -> float:
    """Every patch frame is accounted for once, as `daemon.metrics` has it; return the failed."""
    decoded, failed = (
        summed(totals, "patches_decoded_total"),
        summed(totals, "patches_failed_total"),
    )
    assert totals["prismlink_patches_waiting"] == 0
    assert totals['prismlink_frames_complete_total{channel="patch"}'] == decoded + failed
    dropped = summed(totals, "dropped_patches_total")
    assert decoded == summed(totals, "patches_written_total") + dropped
    return failed


@given(seed=st.integers(0, 2**32), loss=st.floats(0.0, 0.6))
@settings(max_examples=10)
def test_every_patch_is_there_or_marked_missing(
    seed: int, loss: float, bundle_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever the link does: of a tile that was heard of each patch is decoded or listed."""
    folder = tmp_path_factory.mktemp("lossy")
    link = LossyLink(seed=seed, loss=loss, repeat=0.2, reorder=0.3)
    arrived = [got for packet in PACKETS for got in link.carry(packet)] + link.flush()
    totals = listen(arrived, load(bundle_file, folder))

    patches = missing = 0
    for said in manifests(folder / "out").values():
        holes, count = said["patches_missing"], said["patches"]
        assert isinstance(holes, list)
        assert isinstance(count, int)
        patches, missing = patches + count, missing + len(holes)
    assert totals["prismlink_patches_missing_total"] == missing
    assert totals["prismlink_patches_decoded_total"] == patches - missing
    failed = check_accounts(totals)
    assert failed == totals.get('prismlink_patches_failed_total{reason="no_side"}', 0)


def test_side_information_that_is_lost_is_counted(bundle_file: Path, tmp_path: Path) -> None:
    """Its tile's patches are counted, no file is made of them, and other tiles are whole."""
    sent = packets(*TILES[1:])
    heard = [packet for packet in sent if Packet.unpack(packet).frame_id != 0]
    totals = listen(heard, load(bundle_file, tmp_path))

    assert totals['prismlink_patches_failed_total{reason="no_side"}'] == 2
    assert list(manifests(tmp_path / "out")) == [2]


def test_rubbish_is_counted_and_passed_over(bundle_file: Path, tmp_path: Path) -> None:
    """Bytes that are no packet cost nothing but their count."""
    mixed = [raw for packet in PACKETS for raw in (packet, b"rubbish")]
    totals = listen(mixed, load(bundle_file, tmp_path))

    assert totals['prismlink_packets_refused_total{reason="packet_truncated"}'] == len(PACKETS)
    assert totals['prismlink_tiles_written_total{state="complete"}'] == 3


@pytest.mark.parametrize(
    ("mailbox", "lost"),
    [
        ("packets", {"dropped_packets_total": len(PACKETS)}),
        ("collected", {"dropped_frames_total": 3, "patches_failed_total": 6}),
        ("frames", {"dropped_frames_total": 3, "patches_failed_total": 6}),
        ("patches", {"dropped_frames_total": 3, "dropped_patches_total": 6}),
        ("tiles", {"dropped_tiles_total": 3, "dropped_patches_total": 6}),
    ],
)
def test_drops_are_counted_in_the_unit_they_are_lost_in(
    mailbox: str, lost: dict[str, int], bundle_file: Path, tmp_path: Path
) -> None:
    """What waits too long: packets; side frames and patches; tiles, and the patches in them."""
    totals = listen(PACKETS, load(bundle_file, tmp_path, f"mailboxes.{mailbox}.max_age_s=1.0e-9"))

    losses = ("dropped_packets_total", "dropped_frames_total", "patches_failed_total",
              "dropped_patches_total", "dropped_tiles_total")  # fmt: skip
    assert {name: n for name in losses if (n := summed(totals, name))} == lost
    check_accounts(totals)


def test_a_tile_that_is_refused_costs_its_patches_and_no_more(
    bundle_file: Path, tmp_path: Path
) -> None:
    """Its side information is no patch: it is counted as a frame, each patch once."""
    huge = cubes.tile(bands=3, rows=1024, cols=512)
    totals = listen(packets(huge), load(bundle_file, tmp_path, "mailboxes.tiles.max_mib=1"))

    assert totals['prismlink_dropped_frames_total{stage="mosaic",reason="tile"}'] == 1
    assert totals['prismlink_dropped_patches_total{stage="mosaic",reason="tile"}'] == 8 * 4
    check_accounts(totals)


def test_a_tile_that_cannot_be_written_costs_its_patches(bundle_file: Path, tmp_path: Path) -> None:
    """Decoded = written + dropped holds past the last stage, too."""
    stem = file_stem(TILES[2].info)
    (tmp_path / "out" / f"{stem}{MANIFEST}").mkdir(parents=True)
    totals = listen(PACKETS, load(bundle_file, tmp_path))

    assert totals['prismlink_dropped_patches_total{stage="write",reason="output"}'] == 3
    assert totals['prismlink_dropped_tiles_total{stage="write",reason="output"}'] == 1
    check_accounts(totals)


def test_an_unknown_model_is_counted(tmp_path: Path) -> None:
    """Frames of a model that is not at hand are refused by name, and nothing is written."""
    other = tmp_path / "other.safetensors"
    other.write_bytes(klt_bundle(step=31.0).to_bytes())
    totals = listen(PACKETS, load(other, tmp_path))

    assert totals['prismlink_dropped_frames_total{stage="decode",reason="wrong_model"}'] == 3
    assert totals['prismlink_patches_failed_total{reason="wrong_model"}'] == PATCHES
    assert check_accounts(totals) == PATCHES
    assert manifests(tmp_path / "out") == {}


def test_a_patch_that_does_not_decode_is_counted_once(bundle_file: Path, tmp_path: Path) -> None:
    """As a patch that failed, and not as a frame as well."""
    segmenter = Segmenter(boot_id=3, apid=1, mtu_bytes=256, repair={})
    side, patch, *_ = (frame.raw for frame in frames(TILES[0]))
    frame = parse(patch)
    assert isinstance(frame, PatchFrame)
    bad = replace(frame, payload=b"\xff" * 3).pack()
    sent = [(side, Channel.SIDE), (bad, Channel.PATCH), (b"?", Channel.PATCH)]
    totals = listen(
        [packet for raw, channel in sent for packet in segmenter.packets(raw, channel, 0.0)],
        load(bundle_file, tmp_path),
    )

    assert totals['prismlink_patches_failed_total{reason="payload"}'] == 1
    assert totals['prismlink_patches_failed_total{reason="truncated"}'] == 1
    assert summed(totals, "dropped_frames_total") == 0
    assert check_accounts(totals) == 2


def test_an_output_folder_is_of_one_process(bundle_file: Path, tmp_path: Path) -> None:
    """A second ground, or `decode`, would take the first one's half written files away."""
    half, options = tmp_path / "out" / ".partial-abcdefgh", load(bundle_file, tmp_path)
    lock = lock_folder(half.parent)
    half.mkdir()
    with pytest.raises(OutputError, match="out: another process writes into it; remedy: ") as told:
        listen(PACKETS, options)
    assert (told.value.exit_code, half.exists()) == (EXIT_OUTPUT, True)

    os.close(lock)
    assert summed(listen(PACKETS, options), "tiles_written_total") == 3
    assert not half.exists()
    os.close(lock_folder(half.parent))  # it is free once the ground has ended


def test_every_bundle_loaded_is_named(bundle_file: Path, tmp_path: Path) -> None:
    """An operator sees what the ground can decode."""
    other = tmp_path / "other.safetensors"
    other.write_bytes(klt_bundle(step=31.0).to_bytes())
    totals = listen([], load(bundle_file, tmp_path, f"model.bundles=[{bundle_file},{other}]"))

    assert {key: value for key, value in totals.items() if "model_info" in key} == {
        f'prismlink_model_info{{model="{bundle.name}",backend="torch-cpu"}}': 1
        for bundle in (klt_bundle(), klt_bundle(step=31.0))
    }


def test_threads_are_limited_as_told(bundle_file: Path) -> None:
    """The networks take no more cores than the settings give them."""
    before = torch.get_num_threads()
    try:
        load_decoders(GroundModelSettings(bundles=(bundle_file,), threads=before + 1))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_a_flight_bundle_is_an_error_of_the_settings(tmp_path: Path) -> None:
    """It cannot decode: named once, on one line, with what to change."""
    path = tmp_path / "flight.safetensors"
    path.write_bytes(klt_bundle().for_flight().to_bytes())
    with pytest.raises(ConfigError) as caught:
        listen([], load(path, tmp_path))

    text = str(caught.value)
    assert "flight bundle" in text
    assert "change model.bundles" in text
    assert (text.count(str(path)), text.count("\n")) == (1, 0)


def test_an_address_that_cannot_be_had_leaves_nothing_open(
    bundle_file: Path, tmp_path: Path
) -> None:
    """The error comes out, and the metrics endpoint that was open already is closed again."""
    options = load(
        bundle_file, tmp_path, "metrics.port=0", f"link.address=ipc://{tmp_path}/no/such"
    )
    with pytest.raises(AddressError, match="no/such"):
        service.run(options, stop=StopSignal(), clock=SystemClock(), notifier=UNHEARD)


def test_a_directory_that_cannot_be_made_ends_the_process(
    bundle_file: Path, tmp_path: Path
) -> None:
    """Before it takes any packet."""
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(OutputError):
        listen(PACKETS, load(bundle_file, tmp_path))


def test_sealed_packets_are_opened_once_in_all_restarts(bundle_file: Path, tmp_path: Path) -> None:
    """With a key plain packets are refused; heard again by the next process, so are sealed ones."""
    write_keys({tmp_path / "seal.key": b"07" * 32})
    sealing = (f"security.seal_key={tmp_path}/seal.key", f"security.seal_state={tmp_path}/state")
    source, key = count(1), derived_key(b"\7" * 32, DOWNLINK_SPI)
    sealer = Sealer(key, DOWNLINK_SPI, lambda: next(source), salt=bytes(4))
    sent = [sealer.seal(raw) for raw in PACKETS]
    first, second = (
        listen([*sent, *PACKETS], load(bundle_file, tmp_path, *sealing)) for _ in range(2)
    )

    assert first['prismlink_tiles_written_total{state="complete"}'] == 3
    assert first['prismlink_packets_refused_total{reason="seal"}'] == len(PACKETS)
    assert first['prismlink_packets_refused_total{reason="replay"}'] == 0
    assert second['prismlink_packets_refused_total{reason="replay"}'] == len(PACKETS)
    assert summed(second, "packets_received_total") == 0


def test_a_ground_goes_on_with_what_an_earlier_one_archived(
    bundle_file: Path, tmp_path: Path
) -> None:
    """Stopped in the middle of a tile: the rest of its packets completes it, in place."""
    options = load(bundle_file, tmp_path, f"archive.directory={tmp_path}/archive")
    half = packets(TILES[2])
    cut = next(at for at, raw in enumerate(half) if Packet.unpack(raw).frame_id == 2)
    first = listen(half[:cut], options)
    second = listen(half[cut:], options)
    third = listen(half, options)

    assert first['prismlink_tiles_written_total{state="partial"}'] == 1
    assert second['prismlink_tiles_written_total{state="complete"}'] == 1
    assert second["prismlink_archive_recovered_frames"] == 2
    assert summed(second, "frames_read_back_total") == 3
    assert second["prismlink_archive_limit_bytes"] == 4096 << 20
    assert third["prismlink_patches_decoded_total"] == 0
    assert summed(third, "frames_set_aside_total") == 4
    (said,) = manifests(tmp_path / "out").values()
    expected = decoder().decode(frame.raw for frame in frames(TILES[2]))
    back = read_tile(tmp_path / "out" / str(said["file"]))
    np.testing.assert_array_equal(back.samples, expected.samples)


@pytest.mark.parametrize("cut", [1, -1])
def test_a_ground_goes_on_with_packets_that_came(
    bundle_file: Path, tmp_path: Path, cut: int
) -> None:
    """Stopped in the middle of a frame: nothing is counted as lost, and the rest completes it."""
    options = load(bundle_file, tmp_path, f"archive.directory={tmp_path}/archive")
    sent = packets(TILES[1], mtu_bytes=96)
    first, second = listen(sent[:cut], options), listen(sent[cut:], options)

    assert second["prismlink_half_received_recovered_packets"] > 0
    assert second['prismlink_tiles_written_total{state="complete"}'] == 1
    assert summed(first, "frames_incomplete_total") == 0
    assert summed(second, "frames_incomplete_total") == 0
    assert second["prismlink_half_received_bytes"] == 0


def test_an_archive_that_cannot_be_used_costs_no_tile(bundle_file: Path, tmp_path: Path) -> None:
    """The process runs without, says so, and takes frames that are sent again."""
    (tmp_path / "archive").write_bytes(b"a file in its place")
    options = load(bundle_file, tmp_path, f"archive.directory={tmp_path}/archive")
    totals = listen([*PACKETS, *PACKETS], options)

    assert totals["prismlink_archive_degraded"] == 1
    assert totals['prismlink_tiles_written_total{state="complete"}'] == 3
