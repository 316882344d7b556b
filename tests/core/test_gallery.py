"""Images of wrong predictions: which are chosen, and the smallest change of each, against closed forms."""

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from robcal.data import Dataset, Split
from robcal.models import Average
from robcal.models.programs import OnnxModel
from robcal.report import render_html
from robcal.runs import gallery as module
from robcal.runs.gallery import gallery, smallest_changes
from robcal.runs.measure import Measured
from robcal.runs.model_audit import audit_model
from robcal.training.settings import TrainSettings

NAMES = ("<a>", "b", "c")
WEIGHTS = torch.rand(2, 16, generator=torch.Generator().manual_seed(0)) - 0.5
SETTINGS = TrainSettings("digits", "mlp", "vanilla", epochs=1)


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data))).astype(float) / 255


def network(row):
    """A two-class linear network on (1, 4, 4) images, symmetric about grey."""
    model, weights = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)), WEIGHTS[row]
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([weights, -weights]))
        model[1].bias.copy_(torch.tensor([-0.5, 0.5]) * weights.sum())
    return model.eval()


@pytest.fixture
def linear(monkeypatch):
    """The networks of the run directories "0", "1", …"""
    monkeypatch.setattr(module, "open_run", lambda directory: directory)
    monkeypatch.setattr(module, "load_networks", lambda directory: [network(int(directory.name))])


def images(count, size=4):
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4


def test_the_smallest_change_is_the_step_across_the_boundary():
    originals = images(3)
    found = smallest_changes(network(0), originals, NAMES)
    for original, change in zip(originals.double().numpy(), found, strict=True):
        x, w = original.ravel(), WEIGHTS[0].double().numpy()
        exact = -(w @ (x - 0.5)) / (w @ w) * w  # onto w·(x - ½) = 0
        assert change.distance == pytest.approx(np.linalg.norm(exact), rel=0.01)
        assert change.prediction == NAMES[int(w @ (x - 0.5) > 0)]
        drawn = (pixels(change.difference_png) - 0.5).ravel() / change.factor
        np.testing.assert_allclose(drawn, exact, atol=0.02 * np.abs(exact).max() + 0.6 / 255 / change.factor)
        assert 0.45 < change.factor * np.abs(exact).max() <= 0.5
        np.testing.assert_allclose(pixels(change.image_png).ravel(), x + exact, atol=0.02)


def test_a_network_that_cannot_be_attacked_gives_no_changes():
    probabilities = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Softmax(1))
    assert smallest_changes(probabilities, images(2), NAMES) == [None, None]
    assert smallest_changes(None, images(2), NAMES) == [None, None]


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


def test_several_networks_are_attacked_as_their_average(linear):
    run, levels = made(1, networks=(Path("0"), Path("1")))
    (found,), (alone,) = gallery(run, levels), gallery(replace(run, networks=(Path("0"),)), levels)
    assert found.change.distance != pytest.approx(alone.change.distance, rel=0.01)
    model = Average([network(0), network(1)])
    changed = torch.tensor(pixels(found.change.image_png), dtype=torch.float32).reshape(1, 1, 4, 4)
    before, after = (model(one).detach().softmax(1)[0, 0].item() for one in (torch.tensor(run.images), changed))
    assert abs(after - 0.5) < 0.1 * abs(before - 0.5)  # the boundary, up to the 8 bits of the picture


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


class Session:
    """As onnxruntime's: the first linear network in numpy."""

    def get_inputs(self):
        return [SimpleNamespace(name="x")]

    def run(self, _, feeds):
        return [network(0)(torch.tensor(feeds["x"])).detach().numpy()]


@pytest.mark.parametrize(
    ("model", "outputs", "changed"),
    [
        (network(0), "logits", True),
        (OnnxModel(Session()), "logits", False),
        (torch.nn.Sequential(network(0), torch.nn.Softmax(1)), "probs", False),
    ],
)
def test_the_audit_of_any_model_shows_its_wrong_images(model, outputs, changed):
    inputs = images(12).numpy()
    labels = np.arange(12) % 3
    split = Split(inputs, labels)
    data = Dataset("x", {"train": split, "val": split}, NAMES, (0.0, 1.0), "image", "")
    three = torch.nn.Sequential(model, torch.nn.ConstantPad1d((0, 1), 0.0 if outputs == "probs" else -50.0))
    made = audit_model(three, data, "val", outputs=outputs, num_levels=2, resamples=20)
    (method,) = made.results.methods
    wrong = network(0)(torch.tensor(inputs)).argmax(1).numpy() != labels
    assert {item.index for item in method.gallery} == set(np.flatnonzero(wrong))
    w = WEIGHTS[0].double().numpy()
    for item in method.gallery:
        assert item.level == made.examples.level[item.index]
        assert (item.change is not None) == changed
        if item.change is not None:  # the step onto w·(x - ½) = 0
            exact = abs(w @ (inputs[item.index].ravel() - 0.5)) / np.linalg.norm(w)
            assert item.change.distance == pytest.approx(exact, rel=0.01)
    page = render_html(made.results)
    assert page.count("becomes ") == changed * len(method.gallery)
    assert page.count('alt="Image ') == len(method.gallery) == wrong.sum() > 0
