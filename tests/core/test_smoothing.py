import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from smoothed import soft_targets

from robcal import AdaptiveLabelSmoother, InputError
from robcal.smoothing.controllers import integral_update
from robcal.smoothing.soft_labels import (
    epsilon_from_true_mass,
    level_statistics,
    targets_of_levels,
    true_mass_from_epsilon,
)

unit = st.floats(0, 1, allow_nan=False)


@given(st.integers(2, 50), st.lists(unit, min_size=1, max_size=20), st.integers(0, 10_000))
def test_soft_targets_are_the_formula_and_sum_to_one(num_classes, epsilons, seed):
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, num_classes, len(epsilons)))
    targets = soft_targets(labels, torch.tensor(epsilons), num_classes)
    assert targets.dtype == torch.float32
    np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-5)
    for row, label, epsilon in zip(targets, labels, epsilons, strict=True):
        expected = np.full(num_classes, epsilon / num_classes)
        expected[label] += 1 - epsilon
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-7)


def test_targets_of_levels_are_those_of_the_epsilon_of_each_example():
    draw, epsilon = np.random.default_rng(0), (0.0, 0.05, 0.9)
    labels, levels = (torch.from_numpy(draw.integers(0, high, 64)) for high in (7, 3))
    for eps in (epsilon, epsilon[::-1], epsilon):  # what is kept of one smoothing is not that of another
        expected = soft_targets(labels, torch.tensor(eps)[levels], 7)
        assert torch.equal(targets_of_levels(labels, levels, eps, 7), expected)


def test_epsilon_zero_is_the_identity():
    labels = torch.tensor([2, 0, 1])
    assert torch.equal(soft_targets(labels, 0.0, 3), torch.nn.functional.one_hot(labels, 3).float())


def test_cross_entropy_with_soft_targets_agrees_with_torch_label_smoothing():
    logits, labels = torch.randn(20, 7, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 7
    ours = torch.nn.functional.cross_entropy(logits, soft_targets(labels, 0.13, 7))
    theirs = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.13)
    torch.testing.assert_close(ours, theirs)


@given(unit, st.integers(2, 1000))
def test_mass_and_epsilon_are_inverse(epsilon, num_classes):
    mass = true_mass_from_epsilon(epsilon, num_classes)
    assert 1 / num_classes - 1e-12 <= mass <= 1
    assert epsilon_from_true_mass(mass, num_classes) == pytest.approx(epsilon, abs=1e-9)


levels = hnp.arrays(float, 6, elements=unit)


@given(levels, levels, levels, st.floats(0.001, 10))
def test_update_keeps_bounds_and_moves_against_the_gap(mass, confidence, accuracy, step):
    start = 0.2 + 0.8 * mass
    moved = integral_update(start, confidence, accuracy, step_size=step, min_true_mass=0.2)
    assert ((moved >= 0.2) & (moved <= 1)).all()
    assert ((moved <= start) | (confidence <= accuracy)).all()
    assert ((moved >= start) | (confidence >= accuracy)).all()
    still = integral_update(start, accuracy, accuracy, step_size=step, min_true_mass=0.2)
    np.testing.assert_array_equal(still, start)


def test_published_update_by_hand():
    smoother = AdaptiveLabelSmoother(2, 10, controller="published", step_size=0.5)
    smoother.update([0.9, 0.7], [0.8, 0.9])
    np.testing.assert_allclose(smoother.true_mass, [0.95, 1.0])  # over-confident softens; under-confident stays hard
    np.testing.assert_allclose(smoother.epsilon, [0.05 * 10 / 9, 0.0])
    smoother.update([0.9, 0.7], [0.96, 0.9])
    np.testing.assert_allclose(smoother.true_mass, [0.98, 1.0])


@given(st.integers(2, 30), st.integers(1, 8), st.integers(0, 1000))
def test_true_class_keeps_the_largest_mass_under_any_updates(num_classes, num_levels, seed):
    rng = np.random.default_rng(seed)
    smoother = AdaptiveLabelSmoother(num_levels, num_classes, controller="published", step_size=5.0)
    for _ in range(20):
        smoother.update(rng.random(num_levels), rng.random(num_levels))
    labels = torch.arange(num_classes)
    for level in range(num_levels):
        targets = smoother.soft_targets(labels, torch.full_like(labels, level))
        assert torch.equal(targets.argmax(1), labels)
        assert ((targets == targets.amax(1, keepdim=True)).sum(1) == 1).all()


def test_state_is_restored_exactly(tmp_path):
    smoother = AdaptiveLabelSmoother(3, 10, controller="published", step_size=0.3)
    smoother.update([0.91, 0.83, 0.7], [0.7, 0.8, 0.71])
    torch.save(smoother.state_dict(), tmp_path / "state.pt")
    other = AdaptiveLabelSmoother(3, 10, controller="published", step_size=0.3)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    np.testing.assert_array_equal(other.true_mass, smoother.true_mass)
    for fresh in (smoother, other):
        fresh.update([0.5, 0.9, 0.7], [0.7, 0.8, 0.71])
    np.testing.assert_array_equal(other.epsilon, smoother.epsilon)
    with pytest.raises(InputError, match="levels"):
        AdaptiveLabelSmoother(2, 10, controller="published", step_size=0.3).load_state_dict(smoother.state_dict())


def test_level_statistics_by_hand_with_an_empty_level():
    confidence, accuracy, counts = level_statistics([0.5, 0.7, 0.9], [1, 0, 1], [0, 0, 2], 3)
    np.testing.assert_allclose(confidence, [0.6, 0, 0.9])
    np.testing.assert_allclose(accuracy, [0.5, 0, 1])
    assert counts.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 10, 0.1), "num_levels"),
        ((10, 1, 0.1), "num_classes"),
        ((10, 10, 0.0), "step_size"),
        ((10, 10, -1.0), "step_size"),
        ((10, 10, float("nan")), "step_size"),
        ((2.5, 10, 0.1), "num_levels"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        AdaptiveLabelSmoother(*arguments[:2], controller="published", step_size=arguments[2])


def test_min_true_mass_must_leave_the_true_class_ahead():
    with pytest.raises(InputError, match="min_true_mass"):
        AdaptiveLabelSmoother(10, 10, controller="published", step_size=0.1, min_true_mass=0.1)


@pytest.mark.parametrize("bad", [[0.5], [0.5, float("nan")], [0.5, 1.2], [-0.1, 0.5]])
def test_bad_updates_are_refused_and_change_nothing(bad):
    smoother = AdaptiveLabelSmoother(2, 10, controller="published", step_size=0.5)
    with pytest.raises(InputError):
        smoother.update(bad, [0.1, 0.1])
    with pytest.raises(InputError):
        smoother.update([0.9, 0.9], bad)
    np.testing.assert_array_equal(smoother.epsilon, [0, 0])


@pytest.mark.parametrize(("labels", "levels"), [([10], [0]), ([-1], [0]), ([0], [2]), ([0], [-1]), ([0, 1], [0])])
def test_labels_and_levels_out_of_range_are_refused(labels, levels):
    with pytest.raises(InputError):
        AdaptiveLabelSmoother(2, 10, controller="published", step_size=0.5).soft_targets(
            torch.tensor(labels), torch.tensor(levels)
        )
