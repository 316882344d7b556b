"""Each corruption against an oracle of its own: a closed form, or a peer."""

from __future__ import annotations

import colorsys
import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from robcal.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt, digital, filters, weather
from robcal.data.corruptions.draws import Draws, cell_key

RNG = np.random.default_rng(5)
COLOUR = RNG.random((6, 3, 32, 32), dtype=np.float32)
GREY = RNG.random((6, 1, 12, 20), dtype=np.float32)
MIDDLE = np.full((40, 3, 32, 32), 0.5, np.float32)
severities = pytest.mark.parametrize("severity", SEVERITIES)


def parameters(kind: str, severity: int) -> tuple:
    return CORRUPTIONS[kind].parameters[severity - 1]


@severities
def test_gaussian_noise_has_its_sigma(severity: int) -> None:
    (sigma,) = parameters("gaussian_noise", severity)
    noise = (corrupt(MIDDLE, "gaussian_noise", severity, seed=0) - MIDDLE).ravel()
    assert abs(noise.std() / sigma - 1) < 5 / np.sqrt(2 * noise.size)
    assert abs(noise.mean()) < 5 * sigma / np.sqrt(noise.size)
    assert stats.kstest(noise[::20] / sigma, "norm").pvalue > 1e-4


@severities
def test_speckle_noise_is_proportional_to_the_value(severity: int) -> None:
    (sigma,) = parameters("speckle_noise", severity)
    for value in (0.1, 0.3):
        images = np.full_like(MIDDLE, value)
        noise = (corrupt(images, "speckle_noise", severity, seed=0) - images).ravel()
        assert abs(noise.std() / (sigma * value) - 1) < 0.02


@severities
def test_shot_noise_counts_photons(severity: int) -> None:
    (photons,) = parameters("shot_noise", severity)
    for value in (0.1, 0.5):
        images = np.full_like(MIDDLE, value)
        out = corrupt(images, "shot_noise", severity, seed=0).astype(np.float64)
        assert np.allclose(out * photons, np.rint(out * photons), atol=1e-4)
        root = np.sqrt(out.size)
        assert abs(out.mean() - value) < 5 * np.sqrt(value / photons) / root
        assert abs(out.var() * photons / value - 1) < 0.03


@severities
def test_impulse_noise_replaces_its_share(severity: int) -> None:
    (amount,) = parameters("impulse_noise", severity)
    out = corrupt(MIDDLE, "impulse_noise", severity, seed=0)
    assert set(np.unique(out)) == {0.0, 0.5, 1.0}
    for value in (0.0, 1.0):
        assert abs((out == value).mean() - amount / 2) < 5 * np.sqrt(amount / 2 / out.size)
    across = np.corrcoef([(out[:, channel] != 0.5).ravel() for channel in range(3)])
    assert np.abs(across - np.eye(3)).max() < 0.05  # channels are hit one by one


@severities
def test_gaussian_blur_is_scipys(severity: int) -> None:
    (sigma,) = parameters("gaussian_blur", severity)
    out = corrupt(COLOUR, "gaussian_blur", severity, seed=0)
    for image, blurred in zip(COLOUR, out, strict=True):
        for plane, result in zip(image.astype(np.float64), blurred, strict=True):
            assert np.allclose(result, ndimage.gaussian_filter(plane, sigma, mode="nearest"), atol=1e-6)
    larger = ndimage.zoom(COLOUR[:1], (1, 1, 2, 3), order=0)
    expected = ndimage.gaussian_filter(larger.astype(np.float64), (0, 0, 2 * sigma, 2 * sigma), mode="nearest")
    assert np.allclose(corrupt(larger, "gaussian_blur", severity, seed=0), expected, atol=1e-6)


@severities
def test_defocus_blur_of_a_point_is_its_disk(severity: int) -> None:
    radius, softness = parameters("defocus_blur", severity)
    point = np.zeros((1, 1, 32, 32), np.float32)
    point[0, 0, 16, 16] = 1
    out = corrupt(point, "defocus_blur", severity, seed=0)[0, 0]
    one = np.exp(-np.array([1, 0, 1]) / (2 * softness**2))
    small = np.outer(one, one) / one.sum() ** 2
    x, y = np.meshgrid(np.arange(-8, 9), np.arange(-8, 9))
    disk = (x**2 + y**2 <= radius**2).astype(float)
    expected = ndimage.convolve(disk / disk.sum(), small, mode="constant")
    assert np.allclose(out[8:25, 8:25], expected, atol=1e-6)
    assert abs(out.sum() - 1) < 1e-5
    peer = ndimage.correlate(COLOUR[0, 0].astype(np.float64), expected, mode="mirror")
    assert np.allclose(corrupt(COLOUR[:1], "defocus_blur", severity, seed=0)[0, 0], peer, atol=1e-5)


def test_glass_blur_takes_values_from_next_door() -> None:
    ramp = (np.arange(32)[:, None] * 32 + np.arange(32)).astype(np.float32) / 1024
    out = corrupt(np.tile(ramp, (50, 1, 1, 1)), "glass_blur", 1, seed=0)[:, 0]  # sigma 0.05 blurs nothing
    source = np.rint(out * 1024).astype(int)
    rows, cols = np.divmod(source, 32)
    down, right = rows - np.arange(32)[:, None], cols - np.arange(32)
    assert set(np.unique(down)) == set(np.unique(right)) == {-1, 0}
    assert not down[:, :2].any()
    assert not right[:, :, :2].any()
    inside = down[:, 2:, 2:]
    assert abs(inside.mean() + 0.5) < 5 * 0.5 / np.sqrt(inside.size)
    assert abs(np.corrcoef(inside.ravel(), right[:, 2:, 2:].ravel())[0, 1]) < 0.03


@pytest.mark.parametrize(("degrees", "step"), [(0, (0, 1)), (-90, (-1, 0)), (90, (1, 0)), (45, (1, 1)), (-45, (-1, 1))])
def test_motion_blur_runs_one_way(degrees: float, step: tuple[int, int]) -> None:
    """A point spreads against the direction, by a one-sided Gaussian over whole steps, nearest pixels."""
    point = np.zeros((2, 1, 33, 33), np.float32)
    point[:, 0, 16, 16] = 1
    out = filters.motion_blur(point, np.array([0, degrees], np.float32), 6, 2.0)[1, 0]
    along = np.arange(13)
    unit = np.hypot(*step)
    weights = np.exp(-(along**2) / 8)
    weights[weights < 1e-3] = 0
    expected = np.zeros_like(out)
    for distance, weight in zip(along, weights / weights.sum(), strict=True):
        at = [16 - round(distance * part / unit) for part in step]
        expected[at[0], at[1]] += weight
    assert np.allclose(out, expected, atol=1e-6)


def test_motion_blur_directions_are_within_45_degrees() -> None:
    point = np.zeros((200, 1, 33, 33), np.float32)
    point[:, 0, 16, 16] = 1
    out = corrupt(point, "motion_blur", 5, seed=0)[:, 0].astype(np.float64)
    grid = np.arange(33) - 16
    down, right = (out.sum(2) * grid).sum(1), (out.sum(1) * grid).sum(1)
    degrees = np.rad2deg(np.arctan2(-down, -right))
    assert np.abs(degrees).max() < 46
    assert degrees.min() < -38
    assert degrees.max() > 38
    assert np.allclose(out.sum((1, 2)), 1, atol=1e-5)


def _published_zoom(image: np.ndarray, factor: float) -> np.ndarray:
    """What the authors' script does with scipy.ndimage.zoom, in one channel."""
    size = len(image)
    crop = int(np.ceil(size / factor))
    first = (size - crop) // 2
    large = ndimage.zoom(image[first : first + crop, first : first + crop], factor, order=1)
    trim = (len(large) - size) // 2
    return large[trim : trim + size, trim : trim + size]


@severities
def test_zoom_blur_is_the_mean_of_scipys_zooms(severity: int) -> None:
    factors = np.arange(1, *parameters("zoom_blur", severity))
    image = COLOUR[0, 0].astype(np.float64)
    expected = (image + sum(_published_zoom(image, factor) for factor in factors)) / (len(factors) + 1)
    assert np.allclose(corrupt(COLOUR[:1], "zoom_blur", severity, seed=0)[0, 0], expected, atol=1e-5)


def test_zoom_of_small_images_is_exact() -> None:
    ramp = np.arange(8.0)
    assert np.allclose(filters.zoom_matrix(8, 1.25) @ ramp, 3.5 + (ramp - 3.5) / 1.25)


@severities
def test_contrast_closed_form(severity: int) -> None:
    (factor,) = parameters("contrast", severity)
    exact = COLOUR.astype(np.float64)
    for n, channel in np.ndindex(6, 3):
        plane = exact[n, channel]
        expected = plane.mean() + factor * (plane - plane.mean())
        assert np.allclose(corrupt(COLOUR, "contrast", severity, seed=0)[n, channel], expected, atol=1e-6)


def _by_colorsys(images: np.ndarray, change: object) -> np.ndarray:
    out = np.empty(images.shape)
    for n, row, col in np.ndindex(images.shape[0], *images.shape[2:]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(float(v) for v in images[n, :, row, col]))
        out[n, :, row, col] = colorsys.hsv_to_rgb(*change(hue, saturation, value))
    return out


@pytest.fixture
def colours() -> np.ndarray:
    """Colours with all the special ones: black, greys, white, pure channels."""
    special = [(0, 0, 0), (1, 1, 1), (0.3, 0.3, 0.3), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0.2, 0.2, 0.9), (0.9, 0.9, 0)]
    images = COLOUR[:2, :, :8, :8].copy()
    images[0, :, 0, :] = np.array(special, np.float32).T
    return images


@severities
def test_brightness_is_colorsys(severity: int, colours: np.ndarray) -> None:
    (shift,) = parameters("brightness", severity)
    expected = _by_colorsys(colours, lambda h, s, v: (h, s, min(v + shift, 1)))
    assert np.allclose(corrupt(colours, "brightness", severity, seed=0), expected, atol=1e-5)
    grey = corrupt(GREY, "brightness", severity, seed=0)
    assert np.allclose(grey, np.minimum(GREY + shift, 1), atol=1e-6)


@severities
def test_saturate_is_colorsys(severity: int, colours: np.ndarray) -> None:
    factor, shift = parameters("saturate", severity)
    expected = _by_colorsys(colours, lambda h, s, v: (h, min(max(s * factor + shift, 0), 1), v))
    assert np.allclose(corrupt(colours, "saturate", severity, seed=0), expected, atol=1e-5)


@severities
@pytest.mark.parametrize("images", [COLOUR, GREY], ids=["colour", "grey"])
def test_jpeg_is_pillows(severity: int, images: np.ndarray) -> None:
    (quality,) = parameters("jpeg_compression", severity)
    pixels = np.rint(images * 255).astype(np.uint8)
    out = corrupt(pixels, "jpeg_compression", severity, seed=0)
    for image, result in zip(pixels, out, strict=True):
        picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=quality)
        expected = np.asarray(Image.open(stream)).reshape(*image.shape[1:], -1).transpose(2, 0, 1)
        assert np.array_equal(np.rint(result * 255), expected)


@severities
@pytest.mark.parametrize("images", [COLOUR, GREY], ids=["colour", "grey"])
def test_pixelate_is_pillows_box(severity: int, images: np.ndarray) -> None:
    (factor,) = parameters("pixelate", severity)
    out = corrupt(images, "pixelate", severity, seed=0)
    height, width = images.shape[2:]
    for n, channel in np.ndindex(*images.shape[:2]):
        picture = Image.fromarray(images[n, channel])
        small = picture.resize((int(width * factor), int(height * factor)), Image.Resampling.BOX)
        expected = np.asarray(small.resize((width, height), Image.Resampling.BOX))
        assert np.allclose(out[n, channel], expected, atol=1e-6)


@pytest.mark.parametrize(("size", "new"), [(32, 30), (30, 32), (32, 20), (20, 32), (7, 8), (8, 5), (5, 5), (224, 145)])
def test_box_matrix_is_pillows(size: int, new: int) -> None:
    line = RNG.random((1, size), dtype=np.float32)
    expected = np.asarray(Image.fromarray(line).resize((new, 1), Image.Resampling.BOX))[0]
    assert np.allclose(filters.box_matrix(size, new) @ line[0], expected, atol=1e-6)


def test_elastic_sampling_is_scipys() -> None:
    rows = RNG.uniform(-40, 70, (6, 32, 32)).astype(np.float32)
    cols = RNG.uniform(-40, 70, (6, 32, 32)).astype(np.float32)
    for fold, mode in ((digital._fold, "mirror"), (digital._fold_half, "reflect")):
        out = digital._sample(COLOUR, fold(rows, 32), fold(cols, 32))
        for n, channel in np.ndindex(6, 3):
            plane = COLOUR[n, channel].astype(np.float64)
            expected = ndimage.map_coordinates(plane, [rows[n], cols[n]], order=1, mode=mode)
            assert np.allclose(out[n, channel], expected, atol=1e-4)


def test_elastic_affine_carries_the_three_points() -> None:
    moved = RNG.uniform(-2, 2, (5, 3, 2)).astype(np.float32)
    rows, cols = digital._affine_coordinates(32, 32, moved)
    points = np.array([[26, 26], [26, 6], [6, 6]])  # (x, y): the middle and a third of the side about it
    for n in range(5):
        for point, shift in zip(points, moved[n], strict=True):
            x, y = point + shift
            back = [ndimage.map_coordinates(field[n].astype(float), [[y], [x]], order=1)[0] for field in (cols, rows)]
            assert np.allclose(back, point, atol=1e-3)
    still = digital._affine_coordinates(32, 32, np.zeros((1, 3, 2), np.float32))
    assert np.allclose(still[0][0], np.arange(32)[:, None], atol=1e-4)


def test_elastic_displacement_follows_its_scale() -> None:
    """Halving the image halves the lengths, so the deformation is the same share of the side."""
    ramps = [np.tile(np.linspace(0, 1, side, dtype=np.float32), (100, 1, side, 1)) for side in (16, 64)]
    moved = [np.abs(corrupt(ramp, "elastic_transform", 1, seed=0) - ramp)[:, :, 4:-4, 4:-4].mean() for ramp in ramps]
    assert 0.75 < moved[0] / moved[1] < 1.33


def test_plasma_fills_the_unit_interval_and_smooths_with_decay() -> None:
    roughness = []
    for decay in (1.75, 2, 2.5, 3):
        field = weather.plasma(Draws(cell_key(0, "fog", 1), 0, 30), 30, decay)
        assert field.shape == (30, 32, 32)
        assert np.allclose(field.min((1, 2)), 0)
        assert np.allclose(field.max((1, 2)), 1)
        roughness.append(float(np.abs(np.diff(field, axis=2)).mean()))
    assert roughness == sorted(roughness, reverse=True)


def test_plasma_by_hand_on_the_smallest_map() -> None:
    class Fixed:
        n = 1

        def uniform(self, *shape: int, low: float, high: float) -> np.ndarray:
            return np.array([[[9.0, 0.5], [-0.25, 1.0]]], np.float32)

    corner, middle = 0.0, 0.0 + 1e4  # the mean of four zero corners plus 100² · 1
    top = (2 * middle + 2 * corner) / 4 + 0.5e4
    left = (2 * middle + 2 * corner) / 4 - 0.25e4
    expected = np.array([[corner, top], [left, middle]]) / max(top, left, middle)
    assert np.allclose(weather.plasma(Fixed(), 2, 3)[0], expected)  # type: ignore[arg-type]


@severities
def test_fog_on_a_plain_image(severity: int) -> None:
    thickness, decay = parameters("fog", severity)
    images = np.full((3, 3, 32, 32), 0.6, np.float32)
    haze = weather.plasma(Draws(cell_key(4, "fog", severity), 0, 3), 32, decay)
    expected = (0.6 + thickness * haze) * 0.6 / (0.6 + thickness)
    assert np.allclose(corrupt(images, "fog", severity, seed=4), expected[:, None], atol=1e-6)


@severities
def test_frost_snow_and_water_lie_over_the_image(severity: int) -> None:
    keep, strength = parameters("frost", severity)
    ice = corrupt(COLOUR, "frost", severity, seed=0) - keep * COLOUR
    assert ice.min() > -1e-6
    assert ice.max() <= strength + 1e-6
    texture = corrupt(np.zeros_like(MIDDLE), "frost", severity, seed=0).mean() / strength
    assert 0.25 < texture < 0.6
    keep = parameters("snow", severity)[-1]
    luminance = np.tensordot(COLOUR.astype(np.float64), [0.299, 0.587, 0.114], (1, 0))[:, None]
    whitened = keep * COLOUR + (1 - keep) * np.maximum(COLOUR, 1.5 * luminance + 0.5)
    flakes = corrupt(COLOUR, "snow", severity, seed=0) - np.minimum(whitened, 1)
    assert flakes.min() > -1e-5
    assert (flakes > 0.05).mean() > 0.001


def test_snow_is_added_twice_the_second_time_upside_down() -> None:
    black = np.zeros((5, 1, 32, 32), np.float32)
    snow = corrupt(black, "snow", 1, seed=0)
    assert np.allclose(snow, snow[:, :, ::-1, ::-1], atol=1e-6)
    assert snow.std() > 0.01


@pytest.mark.parametrize("sigma", [0.05, 0.7, 1, 7])
def test_what_a_blur_leaves_of_noise(sigma: float) -> None:
    noise = RNG.normal(size=(400, 400)).astype(np.float32)
    left = ndimage.gaussian_filter(noise, sigma, mode="wrap").std()
    assert left == pytest.approx(filters.gaussian_gain(sigma), rel=0.02 * max(1, sigma))


@severities
def test_spatter_adds_water_or_covers_with_mud(severity: int) -> None:
    *_, strength, mud = parameters("spatter", severity)
    out = corrupt(MIDDLE, "spatter", severity, seed=0)
    change = out - MIDDLE
    covered = np.abs(change).max(1) > 0
    assert 0.01 < covered.mean() < 0.6
    tint = np.array([63, 42, 20] if mud else [175, 238, 238]) / 255
    aim = tint - 0.5 if mud else strength * tint
    share = change / aim[:, None, None]
    assert np.allclose(share, share[:, :1], atol=1e-4)
    assert share.min() > -1e-6
    assert share.max() <= 1 + 1e-5
    if mud:
        assert share[:, 0][covered].min() > 0.79  # thinner cover is cut away
