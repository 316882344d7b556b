"""Laws over every kind of corruption, and the table of published strengths."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from robcal.base.checks import InputError
from robcal.data import corruptions, load_dataset
from robcal.data.corruptions import BENCHMARK_KINDS, CORRUPTIONS, EXTRA_KINDS, SEVERITIES, corrupt
from robcal.data.corruptions.draws import Draws, cell_key

#: The constants of the authors' script for CIFAR-10, severities 1 to 5.
PUBLISHED = {
    "gaussian_noise": [0.04, 0.06, 0.08, 0.09, 0.10],
    "shot_noise": [500, 250, 100, 75, 50],
    "impulse_noise": [0.01, 0.02, 0.03, 0.05, 0.07],
    "speckle_noise": [0.06, 0.1, 0.12, 0.16, 0.2],
    "gaussian_blur": [0.4, 0.6, 0.7, 0.8, 1],
    "glass_blur": [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
    "defocus_blur": [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
    "motion_blur": [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
    "zoom_blur": [(1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)],
    "fog": [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
    "frost": [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
    "snow": [
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ],
    "spatter": [
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ],
    "contrast": [0.75, 0.5, 0.4, 0.3, 0.15],
    "brightness": [0.05, 0.1, 0.15, 0.2, 0.3],
    "saturate": [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)],
    "jpeg_compression": [80, 65, 58, 50, 40],
    "pixelate": [0.95, 0.9, 0.85, 0.75, 0.65],
    "elastic_transform": [(0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)],
}

#: Kinds whose published strengths do not move the pixels further at every step, and why.
NOT_MONOTONE = {
    "glass_blur": "severity 4 blurs less than 3",
    "motion_blur": "severity 4 has the sigma of 3",
    "frost": "from severity 3 on the image is dimmed too, which makes up for the ice",
    "elastic_transform": "the affine part shrinks",
    "spatter": "water becomes mud at severity 4",
    "saturate": "severities 1 and 2 take colour away, 3 to 5 add it",
}


def natural(n: int = 24, channels: int = 3, height: int = 32, width: int = 32) -> np.ndarray:
    """Smooth random images with edges, uint8."""
    rng = np.random.default_rng(7)
    smooth = gaussian_filter(rng.normal(size=(n, channels, height, width)), (0, 0, 2, 2), mode="wrap")
    smooth = 0.5 + 0.25 * smooth / smooth.std() + 0.15 * np.sign(smooth[:, :1])
    return (255 * smooth.clip(0, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return natural()


def test_the_table_holds_the_published_strengths() -> None:
    ours = {kind: [p if len(p) > 1 else p[0] for p in entry.parameters] for kind, entry in CORRUPTIONS.items()}
    assert ours == PUBLISHED
    assert len(BENCHMARK_KINDS) == 15
    assert EXTRA_KINDS == ("speckle_noise", "gaussian_blur", "spatter", "saturate")
    groups = {group: sum(entry.group == group for entry in CORRUPTIONS.values()) for group in ("noise", "blur")}
    assert groups == {"noise": 4, "blur": 5}


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_distance_grows_with_severity(kind: str, images: np.ndarray) -> None:
    moved = [float(np.abs(corrupt(images, kind, severity, seed=0) - images / 255).mean()) for severity in SEVERITIES]
    assert min(moved) > 0.001
    if kind not in NOT_MONOTONE:
        assert moved == sorted(moved)
    elif kind == "saturate":
        assert moved[1] > moved[0]
        assert moved[4] > moved[3] > moved[2]
    elif kind != "elastic_transform":
        assert moved[4] > moved[0]


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 28), (1, 48, 33), (3, 4, 4)])
def test_any_size_and_one_or_three_channels(kind: str, shape: tuple[int, int, int]) -> None:
    images = natural(3, *shape)
    before = images.copy()
    for severity in (1, 5):
        out = corrupt(images, kind, severity, seed=1)
        assert out.shape == images.shape
        assert out.dtype == np.float32
        assert out.min() >= 0
        assert out.max() <= 1
    assert np.array_equal(images, before)


@pytest.mark.parametrize("shape", [(64, 64), (96, 96), (224, 224), (96, 160)])
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_larger_images_are_corrupted_about_as_much(kind: str, shape: tuple[int, int], images: np.ndarray) -> None:
    """Lengths follow the size, so a picture is moved about as far as when it is shown at 32x32.

    Not exactly so: at 32x32 a disk of defocus is a pixel or a cross, and glass moves pixels by whole ones. JPEG and
    pixelation work on single pixels at a published quality or share, and so do less to a larger picture.
    """
    small = images[:3]
    large = small.repeat(shape[0] // 32, axis=2).repeat(shape[1] // 32, axis=3)
    finer = kind in ("jpeg_compression", "pixelate")
    for severity in (2, 3, 5):
        before, after = (
            float(np.abs(corrupt(shown, kind, severity, seed=0) - shown / 255).mean()) for shown in (small, large)
        )
        assert (0.1 if finer else 0.5) < after / before < (1.01 if finer else 2.4)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_pieces_equal_the_whole(kind: str, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    for batch in (images[:9], natural(9, 1, 8, 8)):
        whole = corrupt(batch, kind, 3, seed=2)
        pieces = [corrupt(batch[i:j], kind, 3, seed=2, first_index=i) for i, j in ((0, 1), (1, 6), (6, 9))]
        assert np.array_equal(np.concatenate(pieces), whole)
        with monkeypatch.context() as patch:
            patch.setattr(corruptions, "CHUNK_VALUES", 2 * batch[0].size)
            assert np.array_equal(corrupt(batch, kind, 3, seed=2), whole)
        other = batch.copy()
        other[:4], other[5:] = 255 - other[:4], other[5:][::-1]
        assert np.array_equal(corrupt(other, kind, 3, seed=2)[4], whole[4])


RANDOM_KINDS = [
    kind
    for kind in CORRUPTIONS
    if kind
    not in {"defocus_blur", "zoom_blur", "gaussian_blur"}
    | {"brightness", "contrast", "saturate", "pixelate", "jpeg_compression"}
]


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_only_the_seed_chooses_the_noise(kind: str, images: np.ndarray) -> None:
    batch = images[:4]
    np.random.seed(0)  # noqa: NPY002
    one = corrupt(batch, kind, 2, seed=0)
    np.random.seed(1)  # noqa: NPY002
    assert np.array_equal(one, corrupt(batch, kind, 2, seed=0))
    assert np.array_equal(one, corrupt(batch, kind, 2, seed=1)) == (kind not in RANDOM_KINDS)


def test_float_and_uint8_images_agree(images: np.ndarray) -> None:
    floats = (images.astype(np.float32) / np.float32(255))[:4]
    for kind in CORRUPTIONS:
        assert np.array_equal(corrupt(images[:4], kind, 4, seed=0), corrupt(floats, kind, 4, seed=0))
        double = corrupt(floats.astype(np.float64), kind, 4, seed=0)
        assert np.array_equal(corrupt(floats, kind, 4, seed=0), double)


@pytest.mark.parametrize("kind", [kind for kind in CORRUPTIONS if kind != "saturate"])
def test_every_kind_shows_on_digits(kind: str) -> None:
    digits = load_dataset("digits").split("test").inputs[np.arange(200)]
    for severity in SEVERITIES:
        moved = np.abs(corrupt(digits, kind, severity, seed=0) - digits).mean()
        assert 0.003 < moved < 0.3


def test_saturation_of_grey_is_nothing() -> None:
    grey = natural(2, 1)
    assert np.array_equal(corrupt(grey, "saturate", 5, seed=0), grey.astype(np.float32) / np.float32(255))


GOOD = np.zeros((2, 3, 8, 8), np.float32)


@pytest.mark.parametrize(
    ("images", "kind", "severity", "options", "message"),
    [
        (GOOD, "gausian_noise", 1, {}, "Did you mean 'gaussian_noise'"),
        (GOOD, "fog", 0, {}, "severity is 0"),
        (GOOD, "fog", 6, {}, "severity is 6"),
        (GOOD, "fog", 1.0, {}, "severity is 1.0"),
        (GOOD, "fog", 1, {"seed": -1}, "seed is -1"),
        (GOOD, "fog", 1, {"first_index": -1}, "first_index is -1"),
        (GOOD[:0], "fog", 1, {}, r"shape \(0, 3, 8, 8\)"),
        (GOOD[0], "fog", 1, {}, r"shape \(3, 8, 8\)"),
        (GOOD[:, :2], "fog", 1, {}, r"shape \(2, 2, 8, 8\)"),
        (GOOD[:, :, :3], "fog", 1, {}, r"shape \(2, 3, 3, 8\)"),
        (GOOD.astype(int), "fog", 1, {}, "dtype int64"),
        (GOOD + 1.1, "fog", 1, {}, "images hold 1.1"),
        (GOOD - 0.1, "fog", 1, {}, "images hold -0.1"),
        (GOOD + np.float32("nan"), "fog", 1, {}, "images hold nan"),
    ],
)
def test_refused(images: np.ndarray, kind: str, severity: int, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        corrupt(images, kind, severity, **{"seed": 0, **options})


def test_draws_of_an_image_depend_on_its_index_alone() -> None:
    key = cell_key(0, "fog", 1)
    many, few = Draws(key, 0, 10), Draws(key, 7, 2)
    for take in (
        lambda draws: draws.normal(3, 2),
        lambda draws: draws.uniform(5, low=-1, high=2),
        lambda draws: draws.uniform(),
        lambda draws: draws.integers(-2, 3, 12),
        lambda draws: draws.poisson(np.full((draws.n, 7), 12.5, np.float32)),
        lambda draws: draws.normal(3, 2),
    ):
        whole, piece = take(many), take(few)
        assert np.array_equal(whole[7:9], piece)
        assert len(np.unique(whole.reshape(10, -1), axis=0)) == 10


def test_cells_have_keys_of_their_own() -> None:
    keys = {tuple(cell_key(seed, kind, s)) for seed in range(3) for kind in CORRUPTIONS for s in SEVERITIES}
    assert len(keys) == 3 * 19 * 5


def test_draws_have_the_stated_distributions() -> None:
    draws = Draws(cell_key(1, "snow", 2), 0, 400)
    normal, uniform = draws.normal(1000), draws.uniform(1000, low=-1, high=3)
    whole, poisson = draws.integers(-2, 3, 1000), draws.poisson(np.full((400, 1000), 4.0, np.float32))
    root = np.sqrt(400_000)
    assert abs(normal.mean()) < 5 / root
    assert abs(normal.var() - 1) < 5 * np.sqrt(2) / root
    assert abs(uniform.mean() - 1) < 5 * np.sqrt(16 / 12) / root
    assert -1 <= uniform.min() < uniform.max() < 3
    assert np.abs(np.bincount(whole.ravel() + 2) / 400_000 - 0.2).max() < 5 * 0.4 / root
    assert abs(poisson.mean() - 4) < 5 * 2 / root
    across = np.corrcoef(np.concatenate([normal[:2], uniform[:2]]))  # images and fields are independent
    assert np.abs(across - np.eye(4)).max() < 0.15
