from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robcal.checks import InputError
from robcal.data.augment import pad_crop_flip, shift


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _window(image: np.ndarray, padding: int, top: int, left: int, flip: bool) -> np.ndarray:
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    window = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
    return window[:, :, ::-1] if flip else window


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.sampled_from([(1, 5, 7), (3, 8, 8), (2, 4, 3)]), st.integers(0, 5), st.integers(0, 99))
def test_every_image_is_a_window_of_its_own(batch: int, shape: tuple, padding: int, seed: int) -> None:
    x = torch.from_numpy(np.random.default_rng(seed).random((batch, *shape), dtype=np.float32))
    before = x.clone()
    out = pad_crop_flip(x, padding=padding, generator=_seeded(seed)).numpy()
    assert torch.equal(x, before)
    for image, result in zip(x.numpy(), out, strict=True):
        places = range(2 * padding + 1)
        windows = [_window(image, padding, i, j, flip) for i in places for j in places for flip in (False, True)]
        assert any(np.array_equal(result, window) for window in windows)


def test_offsets_and_flips_are_uniform_and_independent() -> None:
    n, padding = 6000, 2
    point = torch.zeros(n, 1, 7, 7)
    point[:, 0, 3, 2] = 1  # off the middle, so that a flip shows
    out = pad_crop_flip(point, padding=padding, generator=_seeded(0))[:, 0]
    rows, cols = out.flatten(1).argmax(1) // 7, out.flatten(1).argmax(1) % 7
    down, plain = torch.bincount(rows - 1, minlength=5), torch.bincount(cols, minlength=7)
    assert (down / n - 0.2).abs().max() < 5 * (0.16 / n) ** 0.5
    expected = torch.tensor([1, 1, 2, 2, 2, 1, 1]) / 10  # columns 0 … 4 unflipped, 2 … 6 flipped
    assert (plain / n - expected).abs().max() < 5 * (0.16 / n) ** 0.5
    assert abs(np.corrcoef(rows, cols)[0, 1]) < 5 / n**0.5


def test_only_the_generator_decides() -> None:
    x = torch.rand(16, 3, 8, 8, generator=_seeded(1))
    torch.manual_seed(0)
    one = pad_crop_flip(x, generator=_seeded(3))
    torch.manual_seed(1)
    assert torch.equal(one, pad_crop_flip(x, generator=_seeded(3)))
    assert not torch.equal(one, pad_crop_flip(x, generator=_seeded(4)))
    state = torch.get_rng_state()
    pad_crop_flip(x, generator=_seeded(3))
    assert torch.equal(state, torch.get_rng_state())


def test_the_generator_advances_alike_with_and_without_flips() -> None:
    x = torch.rand(8, 1, 6, 6, generator=_seeded(1))
    one, two = _seeded(5), _seeded(5)
    flipped, plain = pad_crop_flip(x, generator=one), pad_crop_flip(x, flip=False, generator=two)
    assert torch.equal(one.get_state(), two.get_state())
    same = (flipped == plain).flatten(1).all(1) | (flipped.flip(3) == plain).flatten(1).any(1)
    assert same.all()


def test_nothing_to_do_is_the_identity() -> None:
    x = torch.rand(4, 3, 8, 8, generator=_seeded(1))
    assert torch.equal(pad_crop_flip(x, padding=0, flip=False, generator=_seeded(0)), x)
    assert torch.equal(shift(x, 0, _seeded(0)), x)


def test_shift_moves_and_never_flips() -> None:
    ramp = torch.arange(1.0, 10).repeat(200, 1, 9, 1)
    out = shift(ramp, 2, _seeded(0))
    rows = out[:, 0, 4]
    inside = (rows[:, :-1] > 0) & (rows[:, 1:] > 0)
    assert (rows.diff(dim=1)[inside] == 1).all()
    assert {int(value) for value in rows[:, 4]} == {3, 4, 5, 6, 7}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float64])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    assert shift(torch.ones(2, 1, 4, 4, dtype=dtype), 1, _seeded(0)).dtype == dtype


@pytest.mark.parametrize(
    ("x", "padding", "message"),
    [
        (torch.zeros(3, 8), 1, r"x has shape \(3, 8\)"),
        (torch.zeros(2, 1, 4, 4), -1, "padding is -1"),
        (torch.zeros(2, 1, 4, 4), 1.5, "padding is 1.5"),
    ],
)
def test_refused(x: torch.Tensor, padding: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pad_crop_flip(x, padding=padding, generator=_seeded(0))
