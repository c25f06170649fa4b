"""`array.prismlink`: the codec behind any DataArray or Dataset, once `register` was called.

register()
data = array.prismlink.encode(bundle, rate_bpppc=0.1)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from codec import api
from codec.bundle import Bundle
from codec.tile import Tile

if TYPE_CHECKING:
    import xarray

NAME: Final = "prismlink"


class PrismlinkAccessor:
    """Encodes a DataArray or Dataset; see `codec.api.from_xarray` for what is read of it.

    Args:
        array: The cube.
    """

    def __init__(self, array: xarray.DataArray | xarray.Dataset) -> None:
        self._array = array

    def encode(self, bundle: Bundle, **options: Any) -> bytes:
        """See `codec.api.encode`."""
        return api.encode(self._array, bundle, **options)

    def tile(self, **facts: Any) -> Tile:
        """See `codec.api.as_tile`."""
        return api.as_tile(self._array, **facts)


def register() -> None:
    """Give every DataArray and Dataset of this process its `prismlink`.

    A call, because an import that needs xarray would fail on board.

    Raises:
        ImportError: If xarray is not installed.
    """
    xarray_module = importlib.import_module("xarray")
    if not hasattr(xarray_module.DataArray, NAME):
        xarray_module.register_dataarray_accessor(NAME)(PrismlinkAccessor)
        xarray_module.register_dataset_accessor(NAME)(PrismlinkAccessor)
