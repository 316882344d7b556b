import numpy as np
import pytest
import torch

from robcal.artifacts import load_arrays
from robcal.calibration.metrics import brier_score, calibration_error, negative_log_likelihood
from robcal.checks import InputError
from robcal.config import TrainSettings
from robcal.data.corruptions import BENCHMARK_KINDS, corrupt
from robcal.measure import measure_run
from robcal.predictors import predict_logits, softmax
from robcal.runs import load_model, open_run, train_run


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
