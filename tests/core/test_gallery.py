"""Images of wrong predictions: which are chosen, and the smallest change of each, against closed forms."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robcal.models.average import Average
from robcal.runs import gallery as module
from robcal.runs.gallery import gallery, smallest_changes
from robcal.runs.measure import Measured
from robcal.training.settings import TrainSettings

NAMES = ("<a>", "b", "c")
SETTINGS = TrainSettings("digits", "mlp", "vanilla", epochs=1)


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data))).astype(float) / 255


@pytest.fixture
def linear(monkeypatch):
    """Two-class linear networks on (1, 4, 4) images, as those of the run directories "0", "1", …"""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(2, 16, generator=generator) - 0.5

    def network(directory):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
        with torch.no_grad():
            model[1].weight.copy_(torch.stack([weights[int(directory.name)], -weights[int(directory.name)]]))
            model[1].bias.copy_(torch.tensor([-0.5, 0.5]) * weights[int(directory.name)].sum())
        return model.eval()

    monkeypatch.setattr(module, "open_run", lambda directory: directory)
    monkeypatch.setattr(module, "load_networks", lambda directory: [network(directory)])
    return weights.double().numpy()


def images(count, size=4):
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4


def test_the_smallest_change_is_the_step_across_the_boundary(linear):
    originals = images(3)
    found = smallest_changes([Path("0")], originals, NAMES)
    for original, change in zip(originals.double().numpy(), found, strict=True):
        x, w = original.ravel(), linear[0]
        exact = -(w @ (x - 0.5)) / (w @ w) * w  # onto w·(x - ½) = 0
        assert change.distance == pytest.approx(np.linalg.norm(exact), rel=0.01)
        assert change.prediction == NAMES[int(w @ (x - 0.5) > 0)]
        drawn = (pixels(change.difference_png) - 0.5).ravel() / change.factor
        np.testing.assert_allclose(drawn, exact, atol=0.02 * np.abs(exact).max() + 0.6 / 255 / change.factor)
        assert 0.45 < change.factor * np.abs(exact).max() <= 0.5
        np.testing.assert_allclose(pixels(change.image_png).ravel(), x + exact, atol=0.02)


def test_several_networks_are_attacked_as_their_average(linear):
    originals = images(1)
    (found,) = smallest_changes([Path("0"), Path("1")], originals, NAMES)
    (alone,) = smallest_changes([Path("0")], originals, NAMES)
    assert found.distance != pytest.approx(alone.distance, rel=0.01)
    model = Average([module.load_networks(Path(name))[0] for name in "01"])
    changed = torch.tensor(pixels(found.image_png), dtype=torch.float32).reshape(1, 1, 4, 4)
    before, after = (model(one).detach().softmax(1)[0, 0].item() for one in (originals, changed))
    assert abs(after - 0.5) < 0.1 * abs(before - 0.5)  # the boundary, up to the 8 bits of the picture


def test_a_network_that_cannot_be_attacked_gives_no_changes(linear, monkeypatch):
    probabilities = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Softmax(1))
    monkeypatch.setattr(module, "load_networks", lambda _: [probabilities])
    assert smallest_changes([Path("0")], images(2), NAMES) == [None, None]
    assert smallest_changes([], images(2), NAMES) == [None, None]


def made(count, size=4, **more):
    """Predictions that are all wrong, the surer the later, of levels 0, 0, 0, 1, 0, 0, 0, 1, …"""
    sure = np.linspace(0.5, 0.9, count)
    probs = np.stack([sure, 1 - sure, np.zeros(count)], 1).astype(np.float32)
    labels, levels = np.ones(count, np.int64), (np.arange(count) % 4 == 3).astype(np.int64)
    data = {"name": "x", "class_names": NAMES}
    distance = np.linspace(1, 2, count).astype(np.float32)
    pictures = images(count, size).numpy()
    return Measured(Path(), SETTINGS, data, probs, labels, distance, None, (), pictures, **more), levels


def test_levels_take_turns_and_the_surest_of_each_come_first(linear):
    run, levels = made(16, networks=(Path("0"),))
    items = gallery(run, levels, count=6)
    assert [item.index for item in items] == [14, 13, 12, 15, 11, 7]
    assert [item.level for item in items] == [0, 0, 0, 1, 1, 1]
    assert {(item.label, item.prediction) for item in items} == {("b", "<a>")}
    assert all(item.change is not None for item in items)
    assert len(gallery(run, levels)) == 16
    assert [item.index for item in gallery(run, levels, count=14)[-4:]] == [15, 11, 7, 3]


def test_right_predictions_are_left_out_and_without_images_there_is_none():
    run, levels = made(8)
    half = replace(run, labels=np.repeat([0, 1], 4))
    assert {item.index for item in gallery(half, levels)} == {4, 5, 6, 7}
    assert gallery(replace(run, labels=np.zeros(8, np.int64)), levels) == ()
    assert gallery(replace(run, images=None), levels) == ()
    assert [item.change for item in gallery(run, levels)] == [None] * 8  # of no networks


def test_large_images_are_shrunk_to_means_and_fewer():
    run, levels = made(16, size=256)
    items = gallery(run, levels)
    assert len(items) == 12
    expected = run.images[items[0].index][0].reshape(128, 2, 128, 2).mean((1, 3))
    np.testing.assert_allclose(pixels(items[0].image_png), expected, atol=0.6 / 255)
