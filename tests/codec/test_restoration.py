"""Rules of `codec.restoration`: no expectation looks at its symbol, no sign is preferred."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from codec.expectation import FEATURES, Rows
from codec.restoration import restore, restorer, seen_rows
from codec.subbands import SUBBANDS, to_images, to_symbols

SIZE = 45, 70
FINEST = len(SUBBANDS) - 1
KIN, LOCAL, GLOBAL = range(11, 14)
"""Columns of the three expectations, their logarithms."""


def drawn(seed: int = 0, components: int = 6, size: tuple[int, int] = SIZE) -> NDArray[np.int32]:
    """Symbols in which components go together: one pattern, in other amounts, plus noise."""
    rng = np.random.default_rng(seed)
    images = []
    for band in SUBBANDS:
        shape = band.shape(*size)
        pattern = rng.laplace(0, 2, shape)
        amounts = rng.normal(0, 1, (components, 1, 1))
        noise = rng.normal(0, 0.3, (components, *shape))
        images.append(np.rint(amounts * pattern + noise).astype(np.int32))
    return to_symbols(images, *size)


def trained(seed: int = 0) -> nn.Sequential:
    """A network that answers something."""
    torch.manual_seed(seed)
    network = restorer((8, 6))
    nn.init.normal_(network[-1].weight)
    nn.init.normal_(network[-1].bias)
    return network.requires_grad_(False)


def expected(rows: Rows, size: int, column: int) -> NDArray[np.float64]:
    """Undo sign and logarithm of an expectation; NaN where there is no row."""
    found = np.full(size, np.nan)
    value = rows.features[:, column].astype(np.float64)
    found[rows.places] = np.sign(value) * np.expm1(np.abs(value)) / 4 * rows.signs
    return found


def test_an_untrained_network_adds_nothing() -> None:
    """The linear codec is where training starts."""
    symbols = drawn()
    assert np.array_equal(restore(symbols, *SIZE, restorer((8, 6))), symbols.astype(np.float32))


@pytest.mark.parametrize("column", [KIN, LOCAL, GLOBAL])
def test_no_expectation_looks_at_its_symbol(column: int) -> None:
    """Another symbol in a place changes what is expected there only through other places."""
    symbols = drawn()
    images = to_images(symbols, *SIZE)
    before = expected(list(seen_rows(symbols, *SIZE))[FINEST], images[FINEST].size, column)
    place = 3, 11, 20
    images[FINEST][place] += 1
    after = expected(
        list(seen_rows(to_symbols(images, *SIZE), *SIZE))[FINEST], images[FINEST].size, column
    )
    flat = int(np.ravel_multi_index(place, images[FINEST].shape))
    # The weights of the global sum are of the whole subband, this place among thousands.
    assert after[flat] == pytest.approx(before[flat], abs=5e-3 if column == GLOBAL else 1e-3)


def test_the_local_sum_is_ridge_regression_without_the_component() -> None:
    """The closed form of leaving one out is what leaving it out gives."""
    symbols = drawn(1)
    images = [image.astype(np.float64) for image in to_images(symbols, *SIZE)]
    own = np.pad(images[FINEST], ((0, 0), (2, 2), (2, 2)))
    y, x, k = 9, 13, 2
    near = [(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)]
    beside = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)]
    columns = [own[:, 2 + y + dy, 2 + x + dx] for dy, dx in near]
    for sibling in (FINEST - 2, FINEST - 1):
        columns += [images[sibling][:, y + dy, x + dx] for dy, dx in beside]
    columns.append(images[FINEST - 3][:, y // 2, x // 2])
    others = np.arange(len(own)) != k
    around = np.stack(columns)
    gram = around[:, others] @ around[:, others].T + 4 * np.eye(len(around))
    weights = np.linalg.solve(gram, around[:, others] @ images[FINEST][others, y, x])

    rows = list(seen_rows(symbols, *SIZE))[FINEST]
    found = expected(rows, images[FINEST].size, LOCAL)
    flat = int(np.ravel_multi_index((k, y, x), images[FINEST].shape))
    assert found[flat] == pytest.approx(weights @ around[:, k], rel=1e-3, abs=1e-3)


def test_no_sign_is_preferred() -> None:
    """All symbols negated, all answers are: components have no sign of their own."""
    symbols, network = drawn(2), trained()
    there, back = restore(symbols, *SIZE, network), restore(-symbols, *SIZE, network)
    assert np.allclose(there, -back, atol=1e-5)
    assert not np.array_equal(there, symbols)


def test_silence_stays_silent() -> None:
    """Where nothing is sent nothing is added: in empty components, far from all symbols."""
    symbols = drawn(3)
    symbols.reshape(6, 64, *symbols.shape[1:])[4:] = 0
    restored = restore(symbols, *SIZE, trained())
    assert not restored.reshape(6, 64, *symbols.shape[1:])[4:].any()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (8, 8), (128, 128), (3, 130)])
@pytest.mark.parametrize("components", [0, 1, 3])
def test_any_shape(size: tuple[int, int], components: int) -> None:
    """Patches of a pixel, a line, an edge; components none or one."""
    rng = np.random.default_rng(0)
    shapes = [(components, *band.shape(*size)) for band in SUBBANDS]
    symbols = to_symbols([rng.integers(-3, 4, s).astype(np.int32) for s in shapes], *size)
    restored = restore(symbols, *size, trained())
    assert restored.shape == symbols.shape
    assert np.isfinite(restored).all()


def test_hostile_symbols_give_finite_latents() -> None:
    """Whatever a frame decodes to, what is restored is a number near it."""
    symbols = drawn(4)
    symbols[:, 1] = 2**24
    symbols[3, 2] = -(2**24)
    restored = restore(symbols, *SIZE, trained())
    assert np.isfinite(restored).all()


def test_rows_are_what_the_network_takes() -> None:
    """Features are finite, signs are signs, places are places, each once."""
    symbols = drawn(5)
    for rows, image in zip(seen_rows(symbols, *SIZE), to_images(symbols, *SIZE), strict=True):
        assert rows.features.shape == (rows.signs.size, FEATURES)
        assert np.isfinite(rows.features).all()
        assert set(np.unique(rows.signs)) <= {-1.0, 1.0}
        assert np.unique(rows.places).size == rows.places.size
        assert rows.places.size == 0 or rows.places.max() < image.size


@pytest.mark.parametrize("size", [SIZE, (16, 300)])
def test_the_compiled_network_is_the_one_that_was_trained(size: tuple[int, int]) -> None:
    """What is restored is what PyTorch makes of the rows that training is shown.

    In wide subbands, too, whose rows are computed in several goes.
    """
    symbols, network = drawn(6, size=size), trained()
    images = [image.astype(np.float32) for image in to_images(symbols, *size)]
    for image, rows in zip(images, seen_rows(symbols, *size), strict=True):
        answers = network(torch.from_numpy(rows.features))[:, 0].numpy()
        image.ravel()[rows.places] += answers * rows.signs

    restored = restore(symbols, *size, network)
    np.testing.assert_allclose(restored, to_symbols(images, *size), rtol=1e-5, atol=1e-5)
    assert not np.array_equal(restored, symbols)


def test_magnitudes_are_told_by_their_logarithms() -> None:
    """A symbol's own is ln(1 + |s|), exact to a few last bits over the whole range."""
    symbols = drawn(7)
    symbols.ravel()[::5] = np.arange(symbols.ravel()[::5].size) % 1024
    for rows, image in zip(seen_rows(symbols, *SIZE), to_images(symbols, *SIZE), strict=True):
        magnitudes = np.abs(image.ravel()[rows.places])
        np.testing.assert_allclose(rows.features[:, 4], np.log1p(magnitudes), rtol=3e-7)


def test_only_leading_components_are_restored() -> None:
    """Beyond the 32nd symbols stay what they are, and change nothing before it."""
    symbols, network = drawn(8, components=34), trained()
    before = restore(symbols, *SIZE, network)
    symbols[32 * 64 :] *= 2
    after = restore(symbols, *SIZE, network)
    assert np.array_equal(after[32 * 64 :], symbols[32 * 64 :])
    assert np.array_equal(after[: 32 * 64], before[: 32 * 64])
