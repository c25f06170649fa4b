"""Rules of `codec.crs`: what a tile says of its place opens nothing, in any format."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS

from codec.tile import Georeference, Tile, TileInfo
from codec.tile_files import read_tile, write_tile

WKT = CRS.from_epsg(32611).to_wkt()


def placed(crs: str) -> Tile:
    """A tile that says where it lies."""
    place = Georeference(crs=crs, transform=(30.0, 0.0, 0.0, 0.0, -30.0, 0.0))
    return Tile(samples=np.zeros((1, 2, 2), np.int16), info=TileInfo(georeference=place))


@pytest.mark.parametrize("file_format", ["geotiff", "envi"])
@pytest.mark.filterwarnings("ignore:.*:rasterio.errors.NotGeoreferencedWarning")
def test_a_crs_opens_no_file_and_no_connection(tmp_path: Path, file_format: str) -> None:
    """GDAL takes a path or an address for a CRS, and text of a CRS comes from afar.

    It waits for the answer, for ten seconds and with all threads of the process: that the test ends
    soon is part of it.
    """
    near = tmp_path / "a.wkt"
    near.write_text(WKT)
    with socket.create_server(("127.0.0.1", 0)) as ear:
        far = f"127.0.0.1:{ear.getsockname()[1]}/a.wkt"
        for crs in (
            *(f"http://{far}", f" http://{far}", f"/vsicurl/http://{far}", str(near)),
            *(f"ESRI::{near}", f"epsg:{near}", f"file://{near}", f"+init={near}:1", "EPSG:0"),
            *(f"urn:ogc:def:crs:{near}", "x" * 9999, "EPSG:" + "9" * 99),
        ):
            path = write_tile(placed(crs), tmp_path / "tile", file_format)
            kept = read_tile(path).info.georeference
            assert kept is not None
            assert kept.crs == crs
            with rasterio.open(path if file_format == "geotiff" else path.with_suffix(".img")) as f:
                assert "UTM" not in str(f.crs)
        ear.setblocking(False)
        with pytest.raises(BlockingIOError):
            ear.accept()


@pytest.mark.parametrize("crs", ["EPSG:32611", "epsg:32611", WKT, f"  {WKT}"])
def test_a_crs_is_a_number_or_wkt(tmp_path: Path, crs: str) -> None:
    """Either is one for other software."""
    with rasterio.open(write_tile(placed(crs), tmp_path / "tile", "geotiff")) as file:
        assert file.crs.to_epsg() == 32611
