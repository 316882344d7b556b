from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from robcal.base.checks import InputError
from robcal.data import Split
from robcal.data.augment import draw_crops, pad_crop_flip, random_resized_crop, standard_augmentation


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


def test_shift_moves_and_never_flips() -> None:
    ramp = torch.arange(1.0, 10).repeat(200, 1, 9, 1)
    out = pad_crop_flip(ramp, padding=2, flip=False, generator=_seeded(0))
    rows = out[:, 0, 4]
    inside = (rows[:, :-1] > 0) & (rows[:, 1:] > 0)
    assert (rows.diff(dim=1)[inside] == 1).all()
    assert {int(value) for value in rows[:, 4]} == {3, 4, 5, 6, 7}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float64])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    assert pad_crop_flip(torch.ones(2, 1, 4, 4, dtype=dtype), padding=1, generator=_seeded(0)).dtype == dtype


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


@given(
    heights=st.lists(st.integers(2, 60), min_size=1, max_size=6), width=st.integers(2, 60), seed=st.integers(0, 10**6)
)
def test_windows_lie_inside(heights: list[int], width: int, seed: int) -> None:
    draws = draw_crops(len(heights), torch.Generator().manual_seed(seed))
    top, left, high, wide = draws.windows(np.array(heights), np.full(len(heights), width)).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (high >= 1).all()
    assert (wide >= 1).all()
    assert (top + high <= heights).all()
    assert (left + wide <= width).all()


def test_windows_have_the_published_law() -> None:
    """Area uniform on 8 to 100%, ratio log-uniform on 3/4 to 4/3, where no window is rejected: a large square image,
    shares of at most 3/4."""
    draws = draw_crops(20000, torch.Generator().manual_seed(0))
    _, _, high, wide = draws.windows(np.full(20000, 4000), np.full(20000, 4000)).T
    share, ratio = high * wide / 4000**2, np.log(wide / high)
    fits = draws.shares[:, 0] < 0.75  # then both sides fit, whatever the ratio
    assert np.allclose(share[fits], draws.shares[fits, 0], atol=1e-3)
    assert np.allclose(ratio[fits], np.log(draws.ratios[fits, 0]), atol=2e-3)
    assert scipy.stats.kstest((draws.shares[:, 0] - 0.08) / 0.92, "uniform").pvalue > 0.01
    assert scipy.stats.kstest((np.log(draws.ratios) / np.log(4 / 3)).ravel() / 2 + 0.5, "uniform").pvalue > 0.01
    assert abs(draws.mirrored.mean() - 0.5) < 0.02


def test_a_picture_too_long_gives_its_centre() -> None:
    """No window of a fair ratio has 8% of a 10x2000 picture: the largest central one of ratio 4/3 is taken."""
    draws = draw_crops(3, torch.Generator().manual_seed(0))
    assert draws.windows(np.full(3, 10), np.full(3, 2000)).tolist() == [[0, 993, 10, 13]] * 3
    assert draws.windows(np.full(3, 2000), np.full(3, 9)).tolist() == [[994, 0, 12, 9]] * 3


def test_random_resized_crops_are_their_windows_resized() -> None:
    x = torch.rand(12, 3, 20, 30, generator=torch.Generator().manual_seed(1))
    got = random_resized_crop(x, generator=torch.Generator().manual_seed(2))
    draws = draw_crops(12, torch.Generator().manual_seed(2))
    assert 0 < draws.mirrored.sum() < 12
    for row, (top, left, high, wide) in enumerate(draws.windows(np.full(12, 20), np.full(12, 30))):
        window = x[row : row + 1, :, top : top + high, left : left + wide]
        expected = functional.interpolate(window, size=(20, 30), mode="bilinear", align_corners=False)
        torch.testing.assert_close(got[row], (expected.flip(3) if draws.mirrored[row] else expected)[0])


def test_the_generator_advances_alike_for_every_size() -> None:
    after = []
    for size in (4, 31):
        generator = torch.Generator().manual_seed(3)
        random_resized_crop(torch.rand(5, 1, size, size), generator=generator)
        after.append(torch.rand(1, generator=generator))
    assert torch.equal(*after)


@pytest.mark.parametrize("x", [torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 8), torch.zeros(2, 3, 1, 8)])
def test_random_resized_crop_refuses(x: torch.Tensor) -> None:
    with pytest.raises(InputError, match="floats"):
        random_resized_crop(x, generator=torch.Generator())


def test_random_crops_of_images_in_memory() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8), dtype=np.uint8)
    split, index = Split(inputs=images, labels=np.arange(6)), np.array([4, 1])
    got = split.random_crops(index, torch.Generator().manual_seed(7))
    expected = random_resized_crop(split.batch(index), generator=torch.Generator().manual_seed(7))
    assert torch.equal(got, expected)


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        ("digits", 8, lambda x, generator: pad_crop_flip(x, padding=1, flip=False, generator=generator)),
        ("SVHN", 32, lambda x, generator: pad_crop_flip(x, padding=4, flip=False, generator=generator)),
        ("CIFAR-10 (JPEG)", 32, lambda x, generator: pad_crop_flip(x, generator=generator)),
        ("ImageNet", 64, lambda x, generator: random_resized_crop(x, generator=generator)),
    ],
)
def test_the_standard_of_a_data_set(name: str, side: int, expected: Callable[..., torch.Tensor]) -> None:
    x = torch.rand(8, 1, side, side, generator=_seeded(0))
    assert torch.equal(standard_augmentation(name, (1, side, side))(x, _seeded(5)), expected(x, _seeded(5)))


@pytest.mark.parametrize("augment", [pad_crop_flip, random_resized_crop])
def test_images_are_augmented_where_they_are(augment: Callable[..., torch.Tensor]) -> None:
    """On a device whose values nobody can look at: nothing is fetched to be augmented elsewhere."""
    out = augment(torch.empty(5, 3, 8, 8, device="meta"), generator=_seeded(0))
    assert (out.device.type, out.shape) == ("meta", (5, 3, 8, 8))
