from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from oracles import linear_distance, linear_model
from torch import nn

from robcal.base.checks import InputError
from robcal.base.levels import assign_levels
from robcal.robustness.carlini_wagner import CarliniWagner
from robcal.robustness.first_order import FirstOrder
from robcal.robustness.projection import Projection
from robcal.robustness.scoring import score


def linear_case(count: int = 30) -> tuple[nn.Linear, torch.Tensor]:
    rng = np.random.default_rng(5)
    model = linear_model(rng.normal(size=(4, 6)), rng.normal(size=4) * 0.2)
    return model, torch.tensor(rng.uniform(size=(count, 6)), dtype=torch.float32)


@pytest.mark.parametrize("method", ["first-order", "projection"])
def test_columns(method: str) -> None:
    model, x = linear_case()
    scores = score(model, x, method=method, box=None)
    logits = model(x).detach()
    ordered = logits.sort(dim=1, descending=True).values
    assert scores.method == method
    assert scores.distance.dtype == np.float32
    np.testing.assert_array_equal(scores.prediction, logits.argmax(1))
    np.testing.assert_allclose(scores.margin, ordered[:, 0] - ordered[:, 1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(scores.distance, linear_distance(model, x, None), rtol=1e-2)
    assert set(scores.status.tolist()) == ({"estimate"} if method == "first-order" else {"verified"})
    assert ((scores.rival != scores.prediction) & (scores.rival >= 0)).all()
    assert (scores.passes >= 2).all()


class Stream:
    """Inputs that are made when they are asked for, and count how many are out at once."""

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self.values, self.largest = values, 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    def __getitem__(self, index: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        self.largest = max(self.largest, len(index))
        return self.values[index]


def test_all_kinds_of_inputs_give_the_same_scores() -> None:
    model = nn.Sequential(nn.Flatten(), linear_case()[0])
    images = np.random.default_rng(0).integers(0, 256, size=(30, 1, 2, 3), dtype=np.uint8)
    floats = images.astype(np.float32) / 255
    stream = Stream(images)
    expected = score(model, floats, batch_size=4).distance
    assert (expected > 0).all()
    for inputs in (images, torch.from_numpy(images), torch.from_numpy(floats), floats.astype(np.float64), stream):
        np.testing.assert_array_equal(score(model, inputs, batch_size=4).distance, expected)
    stream.largest = 0
    score(model, stream, batch_size=4, method="projection")
    assert 0 < stream.largest <= 12


def test_inputs_are_not_altered() -> None:
    model, x = linear_case()
    before = x.clone()
    for method in ("first-order", "projection"):
        score(model, x, method=method, batch_size=len(x))
        assert torch.equal(x, before)


@pytest.mark.parametrize("batch_size", [1, 7, 30, 1000])
def test_the_batch_size_changes_nothing_and_progress_ends_at_the_total(batch_size: int) -> None:
    model, x = linear_case()
    seen: list[tuple[int, int]] = []
    scores = score(model, x, batch_size=batch_size, progress=lambda done, total: seen.append((done, total)))
    np.testing.assert_allclose(scores.distance, score(model, x).distance, rtol=1e-4)
    assert seen[-1] == (30, 30)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_passes_count_forwards_and_backwards() -> None:
    calls = {"forward": 0}

    class Counting(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls["forward"] += len(x)
            return self.inner(x)

    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    x = linear_case()[1]
    backward = {"rows": 0}
    inner[0].register_full_backward_hook(lambda *_: backward.__setitem__("rows", backward["rows"] + 1))
    scores = score(Counting(inner), x, box=None, num_rivals=2, batch_size=1)
    trial = 2  # of one input: a batch holds no more
    assert scores.passes.sum() == pytest.approx(0.5 * (calls["forward"] - trial) + 0.5 * backward["rows"])


def test_reference_label(digits: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    model, x, labels = digits
    labels = labels.clone()
    labels[:5] = (labels[:5] + 1) % 10
    scores = score(model, x, method="projection", reference="label", labels=labels)
    plain = score(model, x, method="projection")
    wrong = scores.prediction != labels.numpy()
    assert wrong[:5].all()
    assert (scores.distance[wrong] == 0).all()
    np.testing.assert_allclose(scores.distance[~wrong], plain.distance[~wrong], rtol=1e-2)
    assert (assign_levels(scores)[wrong] <= np.ceil(wrong.sum() / 8)).all()
    assert scores.reference == "label"


def test_box_per_feature() -> None:
    model, x = linear_case()
    free = score(model, x, box=(np.full(6, -np.inf), np.full(6, np.inf)))
    np.testing.assert_allclose(free.distance, score(model, x, box=None).distance, rtol=1e-6)
    assert (score(model, x, box=(0.0, 1.0)).distance >= free.distance * (1 - 5e-3)).all()


def test_settings_are_recorded() -> None:
    model, x = linear_case()
    scores = score(model, x, method=Projection(max_steps=2), box=(0.0, 1.0))
    assert scores.provenance["attack"]["max_steps"] == 2
    assert scores.provenance["box"] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("attack", "name"),
    [(FirstOrder, "num_rivals"), (Projection, "max_steps"), (CarliniWagner, "max_iterations")],
)
def test_settings_that_make_no_sense_are_refused(attack: type, name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is -1"):
        attack(**{name: -1})


def bad_input(index: int, value: float) -> npt.NDArray[np.float32]:
    x = np.full((6, 6), 0.5, dtype=np.float32)
    x[index, 2] = value
    return x


@pytest.mark.parametrize(
    ("inputs", "options", "words"),
    [
        (bad_input(4, np.nan), {}, "first at index 4"),
        (bad_input(4, np.inf), {"box": None}, "NaN or infinite"),
        (bad_input(3, 1.25), {}, r"1 of 6 inputs lie outside box=\(0.0, 1.0\), by up to 0.25 \(index 3\)"),
        (bad_input(3, 0.5).astype(np.int64), {}, "dtype int64"),
        (np.zeros((0, 6), np.float32), {}, r"shape \(0, 6\)"),
        (np.zeros(6, np.float32), {}, r"shape \(6,\)"),
        ([[0.5] * 6], {}, "inputs are a list"),
        (bad_input(0, 0.5), {"batch_size": 0}, "batch_size is 0"),
        (bad_input(0, 0.5), {"method": "projektion"}, r"Did you mean 'projection'\?$"),
        (bad_input(0, 0.5), {"num_rivals": 0}, "num_rivals is 0"),
        (bad_input(0, 0.5), {"reference": "labels"}, "Did you mean 'label'"),
        (bad_input(0, 0.5), {"reference": "label"}, "without labels"),
        (bad_input(0, 0.5), {"reference": "label", "labels": [0, 1, 2, 3, 9, 0]}, "labels holds 9|labels hold 9"),
        (bad_input(0, 0.5), {"reference": "label", "labels": [0, 1]}, "has 2"),
        (bad_input(0, 0.5), {"box": (1.0, 0.0)}, "box has lo"),
        (bad_input(0, 0.5), {"device": "meta"}, "the model is on cpu"),
        (np.full((6, 6), 200, np.uint8), {"box": (0.0, 0.5)}, "outside box"),
    ],
)
def test_bad_input_is_refused_before_any_work(inputs: Any, options: dict[str, Any], words: str) -> None:
    calls = 0
    linear = linear_case()[0]

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = linear

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return self.linear(x)

    with pytest.raises(InputError, match=words):
        score(Counting(), inputs, **options)
    assert calls <= 5  # the trial, which tells how many classes there are
