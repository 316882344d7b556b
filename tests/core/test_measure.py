from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from robcal.base.checks import InputError
from robcal.base.storage import load_arrays, load_predictions, load_scores
from robcal.calibration.metrics import brier_score, calibration_error, negative_log_likelihood
from robcal.data import load_dataset
from robcal.data.corruptions import BENCHMARK_KINDS, corrupt
from robcal.models import Average
from robcal.runs.directory import load_model, load_networks, open_run
from robcal.runs.gallery import gallery
from robcal.runs.measure import measure_run
from robcal.runs.shift import ShiftImages, ShiftLogits
from robcal.runs.train import train_run
from robcal.training.predict import average_logits, predict_logits, softmax
from robcal.training.settings import TrainSettings


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = TrainSettings("digits", "mlp", "vanilla", epochs=1, test_limit=60, seed=1)
    return train_run(settings, tmp_path_factory.mktemp("runs") / "plain")


class StopAt:
    """A reporter whose tasks break off at a given progress."""

    def __init__(self, at):
        self.at = at

    def task(self, description, total):
        def advance(done):
            if description.startswith("shift") and done == self.at:
                raise KeyboardInterrupt

        return advance


def test_shift_figures_are_those_of_the_corrupted_images(run):
    shift = measure_run(run, scores=False).shift
    model, _ = load_model(run.checkpoint)
    test = run.dataset().split("test")
    number = shift.cells.index(("contrast", 4))
    images = corrupt(test.batch(np.arange(60)).numpy(), "contrast", 4, seed=0)
    with torch.no_grad():
        probs = softmax(model(torch.from_numpy(images)).numpy())
    assert shift.per_cell("ece")[number] == pytest.approx(
        calibration_error(probs.astype(np.float32), test.labels), abs=1e-6
    )
    assert shift.per_cell("nll")[number] == pytest.approx(negative_log_likelihood(probs, test.labels), rel=1e-5)
    assert shift.per_cell("brier")[number] == pytest.approx(brier_score(probs, test.labels), rel=1e-5)
    assert shift.per_cell("accuracy")[number] == pytest.approx((probs.argmax(1) == test.labels).mean())


def test_a_temperature_scaled_run_is_a_method_of_its_own(run):
    """T of lowest NLL on the validation split, by a minimiser of another kind; then softmax(z / T) everywhere."""
    plain, scaled = measure_run(run), measure_run(run, temperature=True)
    val = load_predictions(run.directory / "predictions-val.safetensors")

    def nll(log_temperature):
        return -log_softmax(val.logits / np.exp(log_temperature), axis=1)[np.arange(len(val)), val.labels].mean()

    best = float(np.exp(minimize_scalar(nll, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9}).x))
    assert scaled.temperature == pytest.approx(best, rel=1e-4)
    assert abs(best - 1) > 0.05
    assert (plain.name, plain.temperature) == ("vanilla", None)
    assert scaled.name == scaled.title == "Plain + temperature"
    logits = load_predictions(run.directory / "predictions-test.safetensors").logits
    np.testing.assert_allclose(scaled.probs, np.exp(log_softmax(logits / best, axis=1)), rtol=1e-3)
    assert scaled.probs.dtype == np.float32
    np.testing.assert_array_equal(scaled.probs.argmax(1), plain.probs.argmax(1))
    np.testing.assert_array_equal(scaled.distance, plain.distance)
    kept = load_arrays(run.directory / "shift-test.safetensors")[0]["logits"]
    for cell in (3, 70):
        sure = np.exp(log_softmax(kept[cell] / best, axis=1)).max(1)
        np.testing.assert_allclose(scaled.shift.confidence[cell], sure, rtol=1e-3)
    np.testing.assert_array_equal(scaled.shift.correct, plain.shift.correct)


def test_measuring_resumes_where_it_was_stopped(tmp_path):
    settings = TrainSettings("digits", "mlp", "vanilla", epochs=1, test_limit=40, seed=2)
    run = train_run(settings, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        measure_run(run, scores=False, reporter=StopAt(12))
    parts = sorted(file.name for file in (run.directory / "shift-test.parts").iterdir())
    assert parts == sorted(f"{kind}.safetensors" for kind in BENCHMARK_KINDS[:2])
    resumed = measure_run(run, scores=False).shift
    whole = load_arrays(run.directory / "shift-test.safetensors")[0]["logits"]
    assert not (run.directory / "shift-test.parts").exists()
    again = train_run(settings, tmp_path / "again")
    undisturbed = measure_run(again, scores=False).shift
    for name in ("confidence", "correct", "nll", "brier"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(undisturbed, name))
    kept = load_arrays(again.directory / "shift-test.safetensors")[0]["logits"]
    np.testing.assert_array_equal(whole, kept)
    assert whole.shape == (75, 40, 10)


def test_unfinished_runs_are_not_measured(tmp_path):
    import json

    run = train_run(TrainSettings("digits", "mlp", "vanilla", epochs=1, test_limit=40), tmp_path / "run")
    record = json.loads((run.directory / "run.json").read_text())
    (run.directory / "run.json").write_text(json.dumps({**record, "complete": False}))
    with pytest.raises(InputError, match="not finished"):
        measure_run(open_run(run.directory))


def test_logits_do_not_depend_on_the_batch_size_and_the_mode_is_kept(run):
    model, _ = load_model(run.checkpoint)
    test = run.dataset().split("test")
    model.train()
    one, two = predict_logits(model, test, batch_size=7), predict_logits(model, test, batch_size=60)
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.flatten(1)[:3], "shape"),
        (lambda x: x.sum(), "shape"),
        (lambda x: x.flatten(1) * float("nan"), "NaN"),
    ],
)
def test_models_that_return_nonsense_are_refused(run, function, message):
    class Odd(torch.nn.Module):
        def forward(self, x):
            return function(x)

    with pytest.raises(InputError, match=message):
        predict_logits(Odd(), run.dataset().split("test"))


def test_the_robustness_of_an_ensemble_is_its_own(tmp_path):
    settings = TrainSettings("digits", "mlp", "vanilla", epochs=2, batch_size=32, test_limit=40, members=2)
    run = train_run(settings, tmp_path / "run")
    measured = measure_run(run, shift=False)
    scores = load_scores(run.directory / "scores-test.parquet")
    np.testing.assert_array_equal(scores.prediction, measured.probs.argmax(1))
    np.testing.assert_array_equal(measured.distance, scores.distance)
    test = run.dataset().split("test")
    averaged = Average(load_networks(run)).eval()
    np.testing.assert_allclose(softmax(predict_logits(averaged, test)), measured.probs, atol=1e-6)


class TestShiftImages:
    def images(self, folder=None, limit=20):
        test = load_dataset("digits").split("test")
        return ShiftImages.of(test, "digest", num_classes=10, limit=limit, folder=folder)

    def test_cells_are_kept_and_read_back(self, tmp_path):
        fresh, kept = self.images(), self.images(tmp_path)
        every = np.arange(20)
        made = kept.cell("fog", 2)[every]
        np.testing.assert_array_equal(made, fresh.cell("fog", 2)[every])
        (file,) = tmp_path.rglob("*.npy")
        np.save(file, np.zeros_like(made))
        assert not kept.cell("fog", 2)[every].any()
        assert kept.cell("fog", 3)[every].any()
        assert made.dtype == np.float32

    def test_another_choice_of_images_has_files_of_its_own(self, tmp_path):
        self.images(tmp_path).cell("fog", 2)
        self.images(tmp_path, limit=21).cell("fog", 2)
        self.images(tmp_path, limit=None).cell("fog", 2)
        assert len(list(tmp_path.rglob("*.npy"))) == 3

    def test_a_part_holds_every_class(self):
        images = self.images()
        assert np.bincount(images.split.labels).tolist() == [2] * 10
        assert not images.whole
        assert self.images(limit=None).whole


def test_the_gallery_decodes_only_what_it_shows(run):
    class Lazy:
        """Pictures stored as uint8; every look at them is counted."""

        def __init__(self, values):
            self.values, self.shape, self.dtype, self.seen = values, values.shape, values.dtype, 0

        def __getitem__(self, index):
            self.seen += len(index)
            return self.values[index]

        def select(self, index):
            return Lazy(self.values[index])

    pixels = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    measured = measure_run(run, shift=False)
    levels, lazy = np.zeros(60, np.int64), Lazy(pixels)
    shown = gallery(replace(measured, images=lazy), levels, count=5)
    assert len(shown) == lazy.seen > 0
    assert shown == gallery(replace(measured, images=pixels.astype(np.float32) / 255), levels, count=5)
    scored = np.arange(0, 60, 2)
    part = replace(measured, images=Lazy(pixels), scored=scored, distance=measured.distance[scored])
    few = gallery(part, levels[scored], count=60)
    pictures = {item.index: item.image_png for item in gallery(replace(measured, images=lazy), levels, count=60)}
    assert few
    assert all(item.index % 2 == 0 and pictures[item.index] == item.image_png for item in few)


def test_averages_of_logits_are_those_of_probabilities():
    logits = np.random.default_rng(0).normal(0, 5, (3, 4, 6, 5)).astype(np.float32)
    found = average_logits(list(logits))
    expected = np.mean([softmax(one.reshape(-1, 5)) for one in logits], axis=0).reshape(4, 6, 5)
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-5)
    alone = logits[0]
    assert average_logits([alone]) is alone


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_summary_at_a_temperature(temperature):
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(0, 3, (75, 8, 4)).astype(np.float32), rng.integers(0, 4, 8)
    summary = ShiftLogits(logits, labels, np.arange(8)).summary(temperature)
    probs = torch.from_numpy(logits).double().div(temperature).softmax(2).numpy()
    np.testing.assert_allclose(summary.confidence, probs.max(2))
    expected = [[negative_log_likelihood(cell[[n]], labels[[n]]) for n in range(8)] for cell in probs[:3]]
    np.testing.assert_allclose(summary.nll[:3], expected)
    np.testing.assert_array_equal(summary.correct, probs.argmax(2) == labels)
