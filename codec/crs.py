"""The text of a CRS, which may come with a tile from afar ↔ rasterio's CRS."""

from __future__ import annotations

import importlib
import re
from typing import Any, Final

_AUTHORITY: Final = re.compile(r"(EPSG|ESRI|IAU_\d{4}):\d{1,9}|OGC:CRS\d{1,3}", re.ASCII | re.I)
"""A CRS by its number in PROJ's own tables."""


def crs_from(text: str) -> Any | None:
    """A rasterio CRS, or None where the text is none.

    Of text that is neither a number nor WKT, GDAL would open the file or the URL of that name, with
    every thread of the process waiting.

    Raises:
        ImportError: If rasterio is not installed.
    """
    crs = importlib.import_module("rasterio.crs").CRS
    try:
        return crs.from_user_input(text) if _AUTHORITY.fullmatch(text) else crs.from_wkt(text)
    except ValueError:  # rasterio's CRSError is one
        return None


def crs_text(crs: Any) -> str:
    """Name a rasterio CRS: "EPSG:n" where it has a number, else WKT."""
    number = crs.to_epsg()
    return f"EPSG:{number}" if number else str(crs.to_wkt())
