from __future__ import annotations

import numpy as np
import pytest
import torch
from online_samples import network
from oracles import linear_distance, linear_model
from torch import nn
from torch.nn import functional

from robcal.robustness import online_slopes
from robcal.robustness.online_slopes import (
    MAX_CLASSES,
    ClassSlopes,
    Passes,
    estimate_distances,
    fit_slopes,
    mixes_examples,
    pack,
    unpack,
)


def passes_of(model: nn.Module, x: torch.Tensor, targets: torch.Tensor) -> Passes:
    x = x.detach().clone().requires_grad_()
    logits = model(x)
    (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, targets, reduction="sum"), x)
    return unpack(pack(logits, targets, gradient))


def soft(labels: np.ndarray, classes: int, softening: float) -> torch.Tensor:
    hard = functional.one_hot(torch.from_numpy(labels), classes).float()
    return (1 - softening) * hard + softening / classes


def estimates(passes: Passes, *, cross_talk: bool = False) -> tuple[np.ndarray, np.ndarray]:
    slopes = fit_slopes(passes, cross_talk=cross_talk)
    assert slopes is not None
    return estimate_distances(passes, slopes)


@pytest.mark.parametrize("softening", [0.0, 0.1, 0.4])
def test_two_classes_give_the_first_order_distance_itself_whatever_the_targets(softening: float) -> None:
    """A curved network, so that every example has a slope of its own, found by a gradient of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2))
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(60, 5)), dtype=torch.float32)
    passes = passes_of(model, x, soft(rng.integers(0, 2, 60), 2, softening))  # half of the labels are wrong
    x.requires_grad_()
    logits = model(x)
    (gradient,) = torch.autograd.grad((logits[:, 0] - logits[:, 1]).sum(), x)
    expected = ((logits[:, 0] - logits[:, 1]).abs() / gradient.norm(dim=1)).detach().numpy()
    usable = passes.half > 1e-6  # at p = t the loss has no gradient
    assert usable.mean() > 0.8
    np.testing.assert_allclose(estimates(passes)[0][usable], expected[usable], rtol=2e-3)


@pytest.mark.parametrize("softening", [0.0, 0.1])
@pytest.mark.parametrize("classes", [3, 6])
@pytest.mark.parametrize(("prior", "tolerance"), [(1e-6, 1e-3), (None, 0.08)])
def test_linear_models_of_several_classes_give_the_exact_distance(
    monkeypatch: pytest.MonkeyPatch, classes: int, softening: float, prior: float | None, tolerance: float
) -> None:
    """Directions and lengths differ widely, so the largest logit is not the nearest rival."""
    if prior is not None:  # the pull towards pairs alike is all that keeps the fit from being exact
        monkeypatch.setattr(online_slopes, "_PRIOR", prior)
    rng = np.random.default_rng(classes)
    weight = rng.normal(size=(classes, 7)) * rng.uniform(0.4, 1.6, (classes, 1))
    model, count = linear_model(weight, rng.normal(size=classes)), 1500
    x = torch.tensor(rng.normal(size=(count, 7)), dtype=torch.float32)
    passes = passes_of(model, x, soft(rng.integers(0, classes, count), classes, softening))
    slopes = fit_slopes(passes)
    assert slopes is not None
    first, second = np.triu_indices(classes, 1)
    true = ((weight[first] - weight[second]) ** 2).sum(1)
    np.testing.assert_allclose(slopes.squared[first, second], true, rtol=tolerance)
    np.testing.assert_array_equal(slopes.squared, slopes.squared.T)
    distance, rival = estimate_distances(passes, slopes)
    digits = passes.absolute > 1e-3  # of 1 - p in the float32 backward pass
    assert digits.mean() > 0.9
    np.testing.assert_allclose(distance[digits], linear_distance(model, x, None)[digits], rtol=tolerance)
    assert (rival != passes.rivals[:, 0]).mean() > 0.05


def test_shrinkage_worked_by_hand() -> None:
    """c = (-1/2, 1/4, 1/4): ½‖c‖₂² = 3/16 and 2‖c‖₂²/‖c‖₁² = 3/4; a gradient twice the typical one counts 2^(3/4)."""
    passes = Passes(
        prediction=np.array([0]),
        rivals=np.array([[1, 2]]),
        gaps=np.array([[3.0, 4.0]]),
        half=np.array([3 / 16]),
        absolute=np.array([1.0]),
        size=np.array([2 * np.sqrt(3 / 16)]),
        change=np.array([[-0.5, 0.25, 0.25]]),
    )
    distance, rival = estimate_distances(passes, ClassSlopes(1.0 - np.eye(3)))
    assert (distance[0], rival[0]) == (pytest.approx(3.0 / 2**0.75), 1)
    steep = ClassSlopes(np.array([[0.0, 1.0, 4.0], [1.0, 0.0, 1.0], [4.0, 1.0, 0.0]]))
    # -(c0 c1 1 + c0 c2 4 + c1 c2 1) = 9/16 = 3 · 3/16: the gradient is 2/√3 of the typical one; 4/2 is nearer than 3/1
    distance, rival = estimate_distances(passes, steep)
    assert (distance[0], rival[0]) == (pytest.approx(2.0 / (2 / np.sqrt(3)) ** 0.75), 2)


def pairs_of(mass: np.ndarray, size: np.ndarray) -> Passes:
    """Examples of two classes that move a mass each, at a margin of 1."""
    ones = np.ones(len(mass))
    change = np.stack([-mass, mass], 1)
    zeros, rivals = np.zeros(len(mass), np.int64), np.ones((len(mass), 1), np.int64)
    return Passes(zeros, rivals, ones[:, None], mass**2, 2 * mass, size, change)


def test_cross_talk_worked_by_hand() -> None:
    """Squared masses 1 and 1/4, mean 5/8; with x = 8/5 the right sides relative to them are 1 + 1 and 1 + 4."""
    passes = pairs_of(np.array([1.0, 0.5]), np.array([2 * np.sqrt(2), 3 * np.sqrt(5 / 4)]))
    distance, _ = estimate_distances(passes, ClassSlopes(np.array([[0.0, 1.0], [1.0, 0.0]]), 8 / 5))
    np.testing.assert_allclose(distance, [2**-0.5, 3**-0.2])  # log 2 by a half, log 3 by a fifth


@pytest.mark.parametrize("cross_talk", [0.0, 0.5, 40.0])
def test_cross_talk_is_told_from_own_gradients(cross_talk: float) -> None:
    rng = np.random.default_rng(0)
    mass = np.exp(rng.uniform(-6, 0, 2000))
    noise = np.exp(0.2 * rng.normal(size=2000))
    size = np.sqrt(9 * mass**2 * noise + cross_talk * (mass**2).mean())
    slopes = fit_slopes(pairs_of(mass, size), cross_talk=True)
    assert slopes is not None
    assert slopes.squared[0, 1] == pytest.approx(9, rel=0.1)
    assert slopes.cross_talk == pytest.approx(cross_talk, rel=0.1, abs=0.01)
    alone = fit_slopes(pairs_of(mass, size))
    assert alone is not None
    assert alone.cross_talk == 0.0


def test_what_a_drowned_gradient_does_not_tell_the_typical_slope_tells() -> None:
    mass, size = np.array([0.5, 1e-4]), np.array([1.5, 1.0])  # the second is thousands of times its own part
    distance, _ = estimate_distances(pairs_of(mass, size), ClassSlopes(np.array([[0.0, 9.0], [9.0, 0.0]]), 1.0))
    assert distance[1] == pytest.approx(1 / 3, rel=1e-5)


def test_targets_met_take_the_typical_slope_and_flat_passes_say_nothing() -> None:
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [200.0, 0.0]])
    targets = torch.tensor([[1.0, 0.0]]).repeat(4, 1)
    moved = 1 - torch.tensor(2.0).sigmoid()
    gradient = torch.stack([moved * 4, moved * 4, 0 * moved, 0 * moved]).unsqueeze(1)
    distance, rival = estimates(unpack(pack(logits, targets, gradient)))
    np.testing.assert_allclose(distance[:2], 0.5, rtol=1e-5)
    assert np.isnan(distance[2])
    assert distance[3] == pytest.approx(50.0, rel=1e-5)
    assert rival.tolist() == [1, 1, 1, 1]
    assert fit_slopes(unpack(pack(logits, targets, 0 * gradient))) is None
    infinite = unpack(pack(logits, targets, torch.where(gradient > 0, gradient, torch.inf)))
    assert np.isnan(estimates(infinite)[0][2])


@pytest.mark.parametrize("classes", [MAX_CLASSES, MAX_CLASSES + 4])
def test_many_classes_keep_six_numbers_and_are_exact_where_all_pairs_are_alike(classes: int) -> None:
    """Weights are unit vectors: every pair has slope √2."""
    rng = np.random.default_rng(0)
    model = linear_model(np.eye(classes), rng.normal(size=classes))
    x = torch.tensor(rng.normal(size=(300, classes)), dtype=torch.float32)
    labels = model(x).argmax(1).numpy()
    passes = passes_of(model, x, soft(labels, classes, 0.0))
    assert (passes.change is None) == (classes > MAX_CLASSES)
    logits = model(x).detach().double()
    change = logits.softmax(1).numpy() - np.eye(classes)[labels]
    top = logits.topk(2).values.numpy()
    np.testing.assert_allclose(passes.half, 0.5 * (change**2).sum(1), rtol=1e-5)
    np.testing.assert_allclose(passes.absolute, np.abs(change).sum(1), rtol=1e-5)
    np.testing.assert_allclose(passes.gaps[:, 0], top[:, 0] - top[:, 1], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(passes.prediction, labels)
    distance, rival = estimates(passes)
    np.testing.assert_allclose(distance, linear_distance(model, x, None), rtol=2e-3)
    np.testing.assert_array_equal(rival, passes.rivals[:, 0])
    table = pack(torch.zeros(3, classes), torch.zeros(3, classes), torch.zeros(3, 1, 2, 2))
    assert table.shape == (3, 6 if classes > MAX_CLASSES else 2 * classes + 1)


@pytest.mark.parametrize("classes", [3, MAX_CLASSES + 4])
def test_masses_far_below_the_digits_of_one_are_known(classes: int) -> None:
    """1 - p for a margin of 20: e^-20 (Z - 1), which 1 - softmax in float32 rounds to 0."""
    logits = torch.zeros(1, classes)
    logits[0, 1] = 20.0
    targets = torch.eye(classes)[[1]]
    passes = unpack(pack(logits, targets, torch.ones(1, 2)))
    other = np.exp(-20) / (1 + (classes - 1) * np.exp(-20))
    mass = (classes - 1) * other
    assert passes.half[0] == pytest.approx(0.5 * (mass**2 + (classes - 1) * other**2), rel=1e-4)
    assert passes.absolute[0] == pytest.approx(2 * mass, rel=1e-4)


def test_the_fit_of_a_part_of_many_examples_is_that_of_all() -> None:
    """Every equation holds exactly, so it does not matter which are looked at."""
    rng = np.random.default_rng(0)
    mass = rng.uniform(0.1, 0.9, 30_000)
    slopes = fit_slopes(pairs_of(mass, 2 * mass))
    assert slopes is not None
    assert slopes.squared[0, 1] == pytest.approx(4.0)


def test_networks_that_mix_examples_are_told() -> None:
    assert not mixes_examples(network())
    assert mixes_examples(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.BatchNorm2d(2))))
