"""The smoother in a user's own loop: whose state it takes, what `update` takes, arrays of every kind, and the loss."""

import io
import math
import re

import numpy as np
import pytest
import torch
from smoothed import soft_targets
from torch.nn import functional

from robcal import AdaptiveLabelSmoother, InputError, level_statistics, soft_cross_entropy

CONFIDENCE, ACCURACY, COUNTS = [0.95, 0.9, 0.99], [0.6, 0.8, 0.9], [200, 200, 100]


def smoother(num_levels=3, num_classes=10, controller="stable", num_updates=12, **options):
    own = {"step_size": 0.4} if controller != "stable" else {"num_updates": num_updates}
    return AdaptiveLabelSmoother(num_levels, num_classes, controller=controller, **own, **options)


def moved(made, times=10):
    for _ in range(times):
        made.update(CONFIDENCE[: made.num_levels], ACCURACY[: made.num_levels], COUNTS[: made.num_levels])
    assert (made.epsilon > 0).all()
    return made


# ---- the state of another smoother

OTHERS = {
    "more classes": ({"num_classes": 100}, "num_classes=100"),
    "fewer classes": ({"num_classes": 3}, "num_classes=3"),
    "fewer levels": ({"num_levels": 2}, "num_levels=2"),
    "another controller": ({"controller": "integral"}, "controller='integral'"),
    "a longer run": ({"num_updates": 30}, "num_updates=30"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_the_state_of_another_smoother_is_refused_and_the_hint_helps(case):
    options, hint = OTHERS[case]
    state, mine = moved(smoother(**options)).state_dict(), moved(smoother())
    before = mine.epsilon
    with pytest.raises(InputError, match=f"Make the smoother with {hint}"):
        mine.load_state_dict(state)
    np.testing.assert_array_equal(mine.epsilon, before)
    fitting = smoother(**options)
    fitting.load_state_dict(state)
    np.testing.assert_array_equal(fitting.epsilon, moved(smoother(**options)).epsilon)


def test_published_and_stable_states_are_told_apart_both_ways():
    with pytest.raises(InputError, match="controller='stable'"):
        smoother(controller="integral").load_state_dict(moved(smoother()).state_dict())


DAMAGES = {
    "NaN": ("true_mass", math.nan),
    "infinite": ("true_mass", math.inf),
    "above one": ("true_mass", 1.5),
    "the true class would not lead": ("true_mass", 0.05),
    "an integral of NaN": ("integral", math.nan),
    "a bound of -1": ("justified_mass", -1.0),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_numbers_that_no_smoother_reaches_are_refused(case):
    name, value = DAMAGES[case]
    made = moved(smoother())
    state = made.state_dict()
    state[name][1] = value
    with pytest.raises(InputError, match=f"{name} of the state"):
        smoother().load_state_dict(state)


def test_masses_below_the_bound_of_this_smoother_are_refused():
    state = moved(smoother(controller="integral"), 8).state_dict()
    with pytest.raises(InputError, match="min_true_mass"):
        smoother(controller="integral", min_true_mass=0.8).load_state_dict(state)


@pytest.mark.parametrize("drop", ["true_mass", "integral", "justified_mass", "updates"])
def test_a_state_that_lacks_a_part_is_refused(drop):
    state = moved(smoother()).state_dict()
    del state[drop]
    with pytest.raises(InputError, match=f"no '{drop}'"):
        smoother().load_state_dict(state)
    with pytest.raises(InputError, match="Pass that part of the checkpoint"):
        smoother().load_state_dict({"smoother": moved(smoother()).state_dict()})


#: What 0.1.0 wrote.
OLD = ("true_mass", "integral", "justified_mass", "updates")


def old_state(made):
    return {name: made.state_dict()[name] for name in OLD}


@pytest.mark.parametrize("controller", ["stable", "integral"])
def test_states_of_0_1_0_go_on_where_they_were(controller):
    first, whole = moved(smoother(controller=controller), 6), moved(smoother(controller=controller), 10)
    second = smoother(controller=controller)
    second.load_state_dict(old_state(first))
    np.testing.assert_array_equal(moved(second, 4).epsilon, whole.epsilon)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"controller": "integral"}, "controller"),
        ({"num_levels": 2}, "num_levels"),
        ({"num_updates": 5}, "num_updates"),
        ({"min_true_mass": 0.9}, "min_true_mass"),
    ],
)
def test_states_of_0_1_0_are_checked_as_far_as_they_tell(options, message):
    with pytest.raises(InputError, match=message):
        smoother(**options).load_state_dict(old_state(moved(smoother())))


def test_a_state_of_the_controller_called_published_goes_on_as_integral():
    saved = moved(smoother(controller="integral")).state_dict()
    saved["controller"] = torch.tensor(list(b"published"), dtype=torch.uint8)
    again = smoother(controller="published")
    again.load_state_dict(saved)
    assert again.controller == "integral"
    np.testing.assert_array_equal(again.epsilon, moved(smoother(controller="integral")).epsilon)


def test_an_old_published_state_is_not_taken_by_the_stable_controller():
    state = old_state(moved(smoother(controller="integral")))
    with pytest.raises(InputError, match='controller="integral"'):
        smoother().load_state_dict(state)
    smoother(controller="integral").load_state_dict(state)


def test_an_old_state_of_many_classes_is_refused_where_the_true_class_would_not_lead():
    made = AdaptiveLabelSmoother(1, 100, controller="integral", step_size=1.0)
    for _ in range(3):
        made.update([1.0], [0.7])
    assert made.true_mass[0] == pytest.approx(0.1)
    with pytest.raises(InputError, match="keeps the largest"):
        AdaptiveLabelSmoother(1, 10, controller="integral", step_size=1.0).load_state_dict(old_state(made))


def test_the_state_survives_files_that_hold_tensors_only(tmp_path):
    from safetensors.torch import load_file, save_file

    made, buffer = moved(smoother()), io.BytesIO()
    torch.save(made.state_dict(), buffer)
    buffer.seek(0)
    save_file(made.state_dict(), tmp_path / "smoother.safetensors")
    for state in (torch.load(buffer, weights_only=True), load_file(tmp_path / "smoother.safetensors")):
        other = smoother()
        other.load_state_dict(state)
        np.testing.assert_array_equal(moved(other, 2).epsilon, moved(smoother(), 12).epsilon)


# ---- updates


def test_updates_beyond_the_run_are_warned_of_and_go_on_with_the_same_step():
    made = moved(smoother(num_updates=4, gain=0.5), 4)
    before = made.epsilon
    for _ in range(2):
        with pytest.warns(UserWarning, match="made for num_updates=4 .* number of updates of the whole run"):
            made.update(CONFIDENCE, ACCURACY, COUNTS)
    assert (made.epsilon > before).all()
    assert int(made.state_dict()["updates"]) == 6
    other = smoother(num_updates=4, gain=0.5)
    other.load_state_dict(made.state_dict())  # the state of such a loop still goes on
    np.testing.assert_array_equal(other.epsilon, made.epsilon)


UPDATES = {
    "NaN": (([0.9, math.nan, 0.9], ACCURACY, COUNTS), "pass counts with a 0"),
    "NaN accuracy": ((CONFIDENCE, [0.9, math.nan, 0.9], COUNTS), "pass counts with a 0"),
    "per cent": (([95.0, 90.0, 99.0], ACCURACY, COUNTS), "Divide by 100"),
    "negative": ((CONFIDENCE, [-0.1, 0.5, 0.5], COUNTS), r"numbers in \[0, 1\]"),
    "too few": ((CONFIDENCE[:2], ACCURACY, COUNTS), r"shape \(2,\)"),
    "a number": ((0.9, ACCURACY, COUNTS), r"shape \(\)"),
    "a matrix": (([CONFIDENCE], ACCURACY, COUNTS), r"shape \(1, 3\)"),
    "text": ((["high"] * 3, ACCURACY, COUNTS), "must hold real numbers"),
    "ragged": (([[0.9], [0.9, 0.8], 0.9], ACCURACY, COUNTS), "cannot be read as an array"),
    "no counts": ((CONFIDENCE, ACCURACY), "counts is missing"),
    "no examples": ((CONFIDENCE, ACCURACY, [0, 0, 0]), "0 for every level"),
    "negative counts": ((CONFIDENCE, ACCURACY, [1, -1, 1]), "at least 0"),
    "shares": ((CONFIDENCE, ACCURACY, [0.4, 0.4, 0.2]), "no shares"),
    "NaN counts": ((CONFIDENCE, ACCURACY, [1, math.nan, 1]), "whole numbers"),
    "two counts": ((CONFIDENCE, ACCURACY, [1, 1]), r"shape \(2,\)"),
}


@pytest.mark.parametrize("controller", ["stable", "integral"])
@pytest.mark.parametrize("case", UPDATES)
def test_bad_figures_are_refused_and_leave_the_state(case, controller):
    figures, message = UPDATES[case]
    made = moved(smoother(controller=controller), 5)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    if case == "no counts" and controller == "integral":
        made.update(*figures)
        return
    with pytest.raises(InputError, match=message):
        made.update(*figures)
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


@pytest.mark.parametrize("controller", ["stable", "integral"])
def test_a_level_without_validation_examples_may_have_no_figures(controller):
    """Its mean is NaN in anybody's loop; `level_statistics` says 0, 0, 0 of it."""
    courses = []
    for nothing in (math.nan, 0.0, 0.7):
        made = smoother(controller=controller)
        for _ in range(8):
            made.update([0.95, nothing, 0.99], [0.6, nothing, 0.9], [200, 0, 100])
        courses.append(made.epsilon)
    np.testing.assert_array_equal(courses[0], courses[1])
    np.testing.assert_array_equal(courses[0], courses[2])
    assert (courses[0][1] == 0) == (controller == "integral")  # "stable" takes it from the neighbours


@pytest.mark.parametrize(
    "kind",
    [
        lambda values: torch.tensor(values),
        lambda values: torch.tensor(values, dtype=torch.float64, requires_grad=True),
        lambda values: [torch.tensor(value, requires_grad=True) for value in values],
        lambda values: tuple(np.float32(value) for value in values),
        lambda values: np.array(values, np.float16),
        lambda values: torch.tensor(values, dtype=torch.bfloat16),
    ],
)
def test_figures_of_any_kind_of_number(kind):
    made, plain = smoother(), smoother()
    for _ in range(6):
        made.update(kind([0.75, 0.875, 0.5]), kind([0.5, 0.75, 0.5]), COUNTS)
        plain.update([0.75, 0.875, 0.5], [0.5, 0.75, 0.5], COUNTS)
    np.testing.assert_array_equal(made.epsilon, plain.epsilon)


def test_means_that_rounding_put_above_one_are_ones():
    made, plain = smoother(), smoother()
    made.update([1 + 2e-16, 1 + 1e-7, 1.0], ACCURACY, COUNTS)
    plain.update([1.0, 1.0, 1.0], ACCURACY, COUNTS)
    np.testing.assert_array_equal(made.true_mass, plain.true_mass)


STATISTICS = {
    "a level too many": (([0.9, 0.9], [1, 0], [0, 3]), "levels holds 0 to 3"),
    "a negative level": (([0.9, 0.9], [1, 0], [0, -1]), "levels holds -1"),
    "too few confidences": (([0.9], [1, 0], [0, 1]), "confidence has shape"),
    "too few hits": (([0.9, 0.9], [1], [0, 1]), "correct has shape"),
    "logits": (([9.0, 0.9], [1, 0], [0, 1]), "not logits"),
    "NaN": (([math.nan, 0.9], [1, 0], [0, 1]), "confidence holds nan"),
    "levels that are scores": (([0.9, 0.9], [1, 0], [0.5, 1.5]), "levels has dtype"),
}


@pytest.mark.parametrize("case", STATISTICS)
def test_statistics_of_levels_refuse(case):
    arguments, message = STATISTICS[case]
    with pytest.raises(InputError, match=message):
        level_statistics(*arguments, 3)


# ---- targets of every kind of array

WIDTHS = ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


@pytest.mark.parametrize("width", WIDTHS)
def test_arrays_give_arrays_and_tensors_tensors(width):
    made = moved(smoother())
    labels, levels = np.array([3, 9, 0, 3]), np.array([0, 1, 2, 2])
    expected = made.soft_targets(torch.from_numpy(labels), torch.from_numpy(levels))
    assert isinstance(expected, torch.Tensor)
    by_hand = np.full((4, 10), 0.0)
    for row, (label, level) in enumerate(zip(labels, levels, strict=True)):
        by_hand[row] = made.epsilon[level] / 10
        by_hand[row, label] += 1 - made.epsilon[level]
    np.testing.assert_allclose(expected, by_hand, atol=1e-7)
    array = made.soft_targets(labels.astype(width), levels.astype(width))
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, expected)
    np.testing.assert_array_equal(made.soft_targets(labels.tolist(), tuple(levels.astype(width))), expected)
    if hasattr(torch, width):
        kind = getattr(torch, width)
        tensor = made.soft_targets(torch.from_numpy(labels).to(kind), torch.from_numpy(levels).to(kind))
        assert torch.equal(tensor, expected)
        mixed = made.soft_targets(torch.from_numpy(labels).to(kind), levels.astype(width))
        assert torch.equal(mixed, expected)


def test_an_empty_batch_has_empty_targets():
    assert smoother().soft_targets([], []).shape == (0, 10)
    assert smoother().soft_targets(torch.zeros(0, dtype=torch.int64), np.zeros(0, int)).shape == (0, 10)


#: What is wrong → (the labels, what the error says, what to do; None: the code that the error gives).
LABELS = {
    "out of range": (np.array([1, 10]), "labels holds 1 to 10; it lies in 0 to 9", lambda y: y - 1),
    "negative": (torch.tensor([1, -100]), r"pass labels\.clip\(0\)", lambda y: y.clip(0)),
    "floats": (np.array([1.0, 2.0]), "dtype float64", None),
    "a float tensor": (torch.tensor([1.0, 2.0]), "dtype torch.float32", None),
    "booleans": (torch.tensor([True, False]), "dtype torch.bool", None),
    "names": (np.array(["cat", "dog"]), "dtype <U3", lambda y: np.searchsorted(["bird", "cat", "dog"], y)),
    "objects": (np.array(["cat", 3], object), "Pass the index of the true class", lambda y: [1, 3]),
    "a column": (torch.tensor([[1], [2]]), r"shape \(2, 1\)", None),
    "one-hot rows": (np.eye(10, dtype=int)[[3, 4]], r"shape \(2, 10\)", None),
    "one number": (np.int64(3), r"shape \(\)", lambda y: [y, y]),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_that_are_refused_and_what_helps(case):
    labels, message, advice = LABELS[case]
    levels = np.array([0, 1])
    with pytest.raises(InputError, match=message) as refused:
        smoother().soft_targets(labels, levels)
    if advice is None:
        (code,) = re.findall("`(.+?)`", str(refused.value))
        mended = eval(code, {"labels": labels, "np": np})
    else:
        mended = advice(labels)
    assert smoother().soft_targets(mended, levels).shape == (2, 10)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([0, 3], "levels holds 0 to 3; it lies in 0 to 2"),
        ([-1, 0], "levels holds -1"),
        ([0], "both must be"),
        ([0.0, 1.0], "levels has dtype"),
    ],
)
def test_levels_that_are_refused(levels, message):
    with pytest.raises(InputError, match=message):
        smoother().soft_targets([1, 2], levels)


# ---- the loss with class weights


def case(seed=0, size=50, classes=7):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, classes, generator=draw, dtype=torch.float64) * 3
    labels = torch.randint(0, classes, (size,), generator=draw)
    weight = torch.rand(classes, generator=draw, dtype=torch.float64) * 5
    return logits, labels, weight


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignored", [(), (0, 3, 17)])
def test_hard_labels_are_torchs_cross_entropy_and_its_gradient(reduction, weighted, ignored):
    logits, labels, weight = case()
    targets = soft_targets(labels, 0.0, 7)
    labels[list(ignored)] = -100
    weight = weight if weighted else None
    results = []
    for loss in (
        lambda z: functional.cross_entropy(z, labels, weight=weight, reduction=reduction),
        lambda z: soft_cross_entropy(z, targets, labels=labels, weight=weight, reduction=reduction),
    ):
        z = logits.clone().requires_grad_()
        value = loss(z)
        (gradient,) = torch.autograd.grad(value.sum(), z)
        results.append((value.detach(), gradient))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ignore_index", [-100, 255, 2])
def test_soft_targets_by_a_hand_written_loop(ignore_index):
    logits, labels, weight = case(1)
    made = AdaptiveLabelSmoother(2, 7, controller="integral", step_size=1.0)
    made.update([0.9, 0.8], [0.6, 0.7])
    levels = torch.arange(50) % 2
    targets = made.soft_targets(labels, levels).double()
    labels[5:9] = ignore_index
    total = share = 0.0
    for z, y, level in zip(logits.tolist(), labels.tolist(), levels.tolist(), strict=True):
        if y == ignore_index:
            continue
        norm = math.log(sum(math.exp(value) for value in z))
        eps = float(made.epsilon[level])
        loss = sum((eps / 7 + (1 - eps if k == y else 0.0)) * (norm - value) for k, value in enumerate(z))
        total, share = total + float(weight[y]) * loss, share + float(weight[y])
    found = soft_cross_entropy(logits, targets, labels=labels, weight=weight, ignore_index=ignore_index)
    assert float(found) == pytest.approx(total / share, rel=1e-6)
    torchs = functional.cross_entropy(logits, targets, weight=weight)  # by class probabilities: another loss
    assert abs(float(torchs) - float(found)) > 0.05


def test_weights_by_the_true_class_keep_the_meaning_of_the_smoothing():
    """At the optimum of one input's logits p is the target, whatever the weights; torch's loss has another optimum."""
    target, labels, weight = soft_targets([0], 0.3, 3), torch.tensor([0]), torch.tensor([1.0, 1.0, 8.0])
    for loss, same in (
        (lambda z: soft_cross_entropy(z, target, labels=labels, weight=weight), True),
        (lambda z: functional.cross_entropy(z, target, weight=weight), False),
    ):
        z = torch.log(target).clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(z), z)
        assert (gradient.abs().max() < 1e-6) == same


def test_no_weights_is_torchs_loss_with_probabilities():
    logits, labels, _ = case(2)
    targets = soft_targets(labels, 0.2, 7).double()
    torch.testing.assert_close(soft_cross_entropy(logits, targets), functional.cross_entropy(logits, targets))


def test_all_ignored_is_nan_as_in_torch():
    logits, labels, _ = case(3)
    labels[:] = -100
    targets = soft_targets(labels.clip(0), 0.1, 7)
    assert math.isnan(float(functional.cross_entropy(logits, labels)))
    assert math.isnan(float(soft_cross_entropy(logits, targets, labels=labels)))
    assert float(soft_cross_entropy(logits, targets, labels=labels, reduction="sum")) == 0


def test_masked_classes_cost_nothing_while_labels_are_hard():
    logits, labels = torch.tensor([[1.0, -math.inf, 0.0]]), torch.tensor([0])
    expected = functional.cross_entropy(logits, labels)
    z = logits.clone().requires_grad_()
    loss = soft_cross_entropy(z, soft_targets(labels, 0.0, 3))
    assert loss.item() == pytest.approx(float(expected))
    loss.backward()
    assert torch.isfinite(z.grad).all()


def test_half_precision_is_computed_in_float32():
    logits, labels, weight = case(4)
    half = logits.bfloat16()
    targets = soft_targets(labels, 0.1, 7)
    made = soft_cross_entropy(half, targets, labels=labels.int(), weight=weight.numpy())
    assert made.dtype == torch.float32
    exact = soft_cross_entropy(half.double(), targets.double(), labels=labels, weight=weight)
    assert float(made) == pytest.approx(float(exact), rel=1e-5)


def test_the_loss_refuses_what_does_not_fit():
    logits, labels, weight = case()
    targets = soft_targets(labels, 0.1, 7)
    for arguments, options, message in (
        ((logits, labels), {}, "targets is Tensor of torch.int64"),
        ((logits.numpy(), targets), {}, "logits is ndarray"),
        ((logits, targets[:, :5]), {}, "both must be"),
        ((logits, targets), {"weight": weight}, "Pass labels"),
        ((logits, targets), {"labels": labels[:4]}, "4 labels for 50"),
        ((logits, targets), {"labels": labels, "weight": weight[:3]}, "one weight a class"),
        ((logits, targets), {"labels": labels + 1}, "labels holds"),
        ((logits, targets), {"labels": labels, "reduction": "average"}, "reduction"),
    ):
        with pytest.raises(InputError, match=message):
            soft_cross_entropy(*arguments, **options)
