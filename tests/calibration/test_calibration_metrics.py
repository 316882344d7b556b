import itertools

import numpy as np
import pytest
import torch
from calibration_samples import probabilities, softmax_sample, two_class, with_confidence
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from robcal.base.checks import InputError
from robcal.calibration import (
    accuracy,
    brier_decomposition,
    brier_score,
    calibration_error,
    classwise_calibration_error,
    debiased_calibration_error,
    negative_log_likelihood,
    signed_gap,
    top_label,
)
from robcal.calibration.binning import bin_index


def brute_force_error(confidence, correct, bins, norm):
    """Guo et al. (2017) with exact fractions k/K, one example at a time."""
    gaps = []
    for k in range(bins):
        inside = [i for i, c in enumerate(confidence) if (k / bins < c <= (k + 1) / bins) or (c == 0 and k == 0)]
        if inside:
            gap = abs(np.mean([confidence[i] for i in inside]) - np.mean([correct[i] for i in inside]))
            gaps.append((len(inside) / len(confidence), gap))
    if norm == "max":
        return max(gap for _, gap in gaps)
    if norm == "l2":
        return np.sqrt(sum(w * gap**2 for w, gap in gaps))
    return sum(w * gap for w, gap in gaps)


def test_the_atom_at_one():
    # netcal and Guo 0.025, torchmetrics and relplot 0.075
    probs, labels = two_class([0.95] * 10 + [1.0] * 10, [1] * 19 + [0])
    assert calibration_error(probs, labels, bins=10) == pytest.approx(0.025)
    assert calibration_error(probs, labels, bins=10, edges="torchmetrics") == pytest.approx(0.075)


def test_the_edge():
    probs, labels = two_class([0.5] * 10 + [0.625] * 10, [1] * 10 + [1, 1] + [0] * 8)
    # A confidence of exactly .5 in two classes is predicted as the lowest index, so use three classes.
    probs = np.concatenate([probs[:, 1:], probs[:, :1] / 2, probs[:, :1] / 2], axis=1)
    labels = 1 - labels
    assert calibration_error(probs, labels, bins=4) == pytest.approx(0.4625)
    assert calibration_error(probs, labels, bins=4, edges="torchmetrics") == pytest.approx(0.0375)


@pytest.mark.parametrize("order", ["sorted", "reversed", "shuffled"])
def test_ties_are_never_split(order):
    correct = np.array([1] * 80 + [0] * 20)
    if order == "reversed":
        correct = correct[::-1]
    if order == "shuffled":
        correct = np.random.default_rng(0).permutation(correct)
    probs, labels = two_class(np.full(100, 0.8), correct)
    assert calibration_error(probs, labels, scheme="mass") == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bins", [3, 5, 10, 15, 20, 49])
def test_confidence_on_an_edge_belongs_below_it(dtype, bins):
    edges = np.array([dtype(k / bins) for k in range(bins + 1)])
    assert bin_index(edges, bins=bins).tolist() == [0, *range(bins)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_edges_through_the_public_function(dtype):
    # .6 = 9/15 lies in bin 8 with .59; float32(.6) is larger than .6
    probs, labels = two_class([0.6, 0.59], [1, 0], dtype)
    assert calibration_error(probs, labels) == pytest.approx(abs(0.595 - 0.5), abs=1e-6)
    third = np.array([[1, 1, 1]], dtype) / dtype(3)
    assert bin_index(top_label(third)[0]).tolist() == [4]
    fifth = np.full((1, 5), 0.2, dtype)
    assert bin_index(top_label(fifth)[0]).tolist() == [2]


def test_finite_samples_of_a_calibrated_model():
    # ANCHORS: about .063, .021 and .007, for confidences concentrated near 1
    rng = np.random.default_rng(0)
    for n, expected in ((100, 0.063), (1000, 0.021), (10000, 0.007)):
        values = []
        for _ in range(60):
            confidence = np.maximum(1 - 0.9 * rng.beta(0.3, 2.5, n), 0.11)
            values.append(calibration_error(*with_confidence(confidence, rng.random(n) < confidence)))
        assert np.mean(values) == pytest.approx(expected, rel=0.12)


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
@pytest.mark.parametrize("bins", [1, 2, 7, 10, 15, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_torchmetrics(norm, bins, dtype):
    logits, labels, _ = softmax_sample(bins, n=400, scale=4)
    probs = probabilities(logits).astype(dtype)
    probs[:20] = np.eye(5)[labels[:20]]  # confidence 1.0
    probs[20:40] = [0.5, 0.5, 0, 0, 0]  # on an edge for even K
    probs[40:60] = [0.6, 0.4, 0, 0, 0]
    theirs = multiclass_calibration_error(
        torch.from_numpy(probs), torch.from_numpy(labels), num_classes=5, n_bins=bins, norm=norm
    )
    ours = calibration_error(probs, labels, bins=bins, norm=norm, edges="torchmetrics")
    assert ours == pytest.approx(float(theirs), abs=2e-6)


@pytest.mark.parametrize("bins", [*range(1, 40), 100, 333])
def test_torchmetrics_edges_bit_for_bit(bins):
    edges = torch.linspace(0, 1, bins + 1).numpy()
    below = np.nextafter(edges[1:], np.float32(0))
    assert bin_index(edges, bins=bins, edges="torchmetrics").tolist() == list(range(bins + 1))
    assert bin_index(below, bins=bins, edges="torchmetrics").tolist() == list(range(bins))


@st.composite
def predictions(draw, max_n=30):
    n, z = draw(st.integers(1, max_n)), draw(st.integers(2, 4))
    weights = draw(st.lists(st.lists(st.integers(0, 10), min_size=z, max_size=z), min_size=n, max_size=n))
    weights = np.array(weights, float)
    weights[weights.sum(1) == 0] = 1
    labels = np.array(draw(st.lists(st.integers(0, z - 1), min_size=n, max_size=n)))
    return weights / weights.sum(1, keepdims=True), labels


@settings(deadline=None, max_examples=150)
@given(data=predictions(), bins=st.integers(1, 20), norm=st.sampled_from(["l1", "l2", "max"]))
def test_against_brute_force(data, bins, norm):
    probs, labels = data
    confidence = probs.max(1)
    correct = probs.argmax(1) == labels
    assert calibration_error(probs, labels, bins=bins, norm=norm) == pytest.approx(
        brute_force_error(confidence, correct, bins, norm), abs=1e-12
    )


@settings(deadline=None, max_examples=100)
@given(data=predictions(), bins=st.integers(1, 20), seed=st.integers(0, 10))
def test_laws(data, bins, seed):
    probs, labels = data
    order = np.random.default_rng(seed).permutation(len(labels))
    for scheme in ("width", "mass"):
        ece, l2, largest = (
            calibration_error(probs, labels, bins=bins, scheme=scheme, norm=n) for n in ("l1", "l2", "max")
        )
        assert 0 <= ece <= l2 + 1e-12
        assert l2 <= largest + 1e-12 <= 1 + 2e-12
        assert abs(signed_gap(probs, labels)) <= ece + 1e-12
        assert calibration_error(probs[order], labels[order], bins=bins, scheme=scheme) == pytest.approx(ece, abs=1e-12)
        assert debiased_calibration_error(probs, labels, bins=bins, scheme=scheme) <= l2 + 1e-12
        calibration, refinement, brier = brier_decomposition(probs, labels, bins=bins, scheme=scheme)
        assert calibration + refinement == pytest.approx(brier, abs=1e-12)
        assert calibration == pytest.approx(l2**2, abs=1e-12)
        classwise = classwise_calibration_error(probs, labels, bins=bins, scheme=scheme)
        shuffled = classwise_calibration_error(probs[order], labels[order], bins=bins, scheme=scheme)
        assert 0 <= classwise <= 1
        assert shuffled == pytest.approx(classwise, abs=1e-12)
    assert calibration_error(probs, labels, bins=1) == pytest.approx(abs(signed_gap(probs, labels)), abs=1e-12)
    correct = probs.argmax(1) == labels
    assert brier == pytest.approx(np.mean((probs.max(1) - correct) ** 2), abs=1e-12)


@settings(deadline=None, max_examples=100)
@given(values=st.lists(st.integers(0, 30), min_size=1, max_size=40), bins=st.integers(1, 20))
def test_equal_mass_bins(values, bins):
    confidence = np.array(values) / 30
    index = bin_index(confidence, bins=bins, scheme="mass")
    assert index.min() >= 0
    assert index.max() < bins
    for i, j in itertools.combinations(range(len(values)), 2):
        if values[i] == values[j]:
            assert index[i] == index[j]
        if values[i] < values[j]:
            assert index[i] <= index[j]
    if len(set(values)) == len(values):
        counts = np.bincount(index, minlength=bins)
        assert counts.max() - counts.min() <= 1


def test_debiased_is_kumar_and_nearly_unbiased():
    rng = np.random.default_rng(0)
    gap, squares = 0.1, []
    for _ in range(2000):
        correct = rng.random(60) < 0.6
        count = correct.sum()
        acc = count / 60
        expected = max(0.0, (0.7 - acc) ** 2 - acc * (1 - acc) / 59)
        probs, labels = two_class(np.full(60, 0.7), correct)
        assert debiased_calibration_error(probs, labels, bins=5) == pytest.approx(np.sqrt(expected), abs=1e-12)
        squares.append((0.7 - acc) ** 2 - acc * (1 - acc) / 59)
    assert np.mean(squares) == pytest.approx(gap**2, abs=4 * np.std(squares) / np.sqrt(2000))


def test_a_bin_of_one_counts_nothing_in_the_debiased_error():
    probs, labels = two_class([0.9, 0.7, 0.6], [0, 0, 0])
    assert debiased_calibration_error(probs, labels, bins=3) == 0.0


def test_classwise_is_the_mean_over_classes_of_a_binary_error():
    logits, labels, _ = softmax_sample(3, n=300, classes=4)
    probs = probabilities(logits)
    expected = np.mean([brute_force_error(probs[:, z], labels == z, 15, "l1") for z in range(4)])
    assert classwise_calibration_error(probs, labels) == pytest.approx(expected, abs=1e-12)


def test_scikit_learn():
    logits, labels, _ = softmax_sample(4, n=300)
    probs = probabilities(logits)
    assert negative_log_likelihood(probs, labels) == pytest.approx(log_loss(labels, probs), rel=1e-9)
    one_hot = np.eye(5)[labels]
    assert brier_score(probs, labels) == pytest.approx(((probs - one_hot) ** 2).sum(1).mean(), rel=1e-12)
    binary = probabilities(logits[:, :2])
    truth = labels % 2
    assert brier_score(binary, truth) == pytest.approx(2 * brier_score_loss(truth, binary[:, 1]), rel=1e-12)
    assert accuracy(probs, labels) == np.mean(probs.argmax(1) == labels)


def test_moving_the_confidence_by_the_bins_gap_removes_the_calibration_part():
    confidence = np.array([0.7, 0.72, 0.7, 0.95, 0.95])
    correct = np.array([1, 0, 0, 1, 0])
    calibration, refinement, brier = brier_decomposition(*two_class(confidence, correct))
    moved = confidence - np.array([0.7066666667 - 1 / 3] * 3 + [0.45] * 2)
    assert np.mean((moved - correct) ** 2) == pytest.approx(refinement, abs=1e-9)
    assert brier - calibration == pytest.approx(refinement)


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 24), ("float32", 149), ("float64", 1074)])
def test_a_zero_probability_of_the_true_class_counts_as_the_smallest_number_of_its_precision(dtype, bits):
    smallest = np.nextafter(np.array(0, dtype), np.array(1, dtype))
    assert float(smallest) == 2.0**-bits
    zero, least = (np.array([[p, 1]], dtype) for p in (0, smallest))
    assert negative_log_likelihood(zero, [0]) == pytest.approx(bits * np.log(2), rel=1e-12)
    assert negative_log_likelihood(zero, [0]) == pytest.approx(negative_log_likelihood(least, [0]), rel=1e-12)


def test_cells_with_opposite_errors_pool_to_almost_nothing():
    # Why shift metrics are averaged over cells: ECEs of .091 and .092 pool to next to nothing (method, section 6).
    over = two_class(np.full(1000, 0.8), np.arange(1000) < 709)
    under = two_class(np.full(1000, 0.8), np.arange(1000) < 892)
    assert calibration_error(*over) == pytest.approx(0.091)
    assert calibration_error(*under) == pytest.approx(0.092)
    pooled = calibration_error(np.concatenate([over[0], under[0]]), np.concatenate([over[1], under[1]]))
    assert pooled == pytest.approx(0.0005)


def test_top_label_takes_the_lowest_index_and_keeps_the_precision():
    confidence, prediction = top_label(np.array([[0.4, 0.4, 0.2]], np.float32))
    assert confidence.dtype == np.float32
    assert prediction.tolist() == [0]
    assert top_label([[0, 1], [1, 0]])[0].dtype == np.float64


BAD = {
    "nan": ([[np.nan, 1.0]], [0], "NaN"),
    "logits": ([[3.0, -1.0]], [0], "If these are logits"),
    "sums": ([[0.5, 0.4]], [0], "sums to"),
    "independent scores": ([[0.9, 0.9]], [0], "sums to"),
    "one column": ([[1.0], [1.0]], [0, 0], "at least two classes"),
    "vector": ([0.5, 0.5], [0, 1], "shape"),
    "label too large": ([[0.5, 0.5]], [2], "0 to 1"),
    "label negative": ([[0.5, 0.5]], [-1], "0 to 1"),
    "float labels": ([[0.5, 0.5]], [1.0], "integers"),
    "one-hot labels": ([[0.5, 0.5]], [[0, 1]], "argmax"),
    "lengths": ([[0.5, 0.5]], [0, 1], "same examples"),
    "empty": (np.empty((0, 2)), np.empty(0, int), "empty"),
    "text": ([["a", "b"]], [0], "numbers"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize(
    "metric",
    [
        accuracy,
        brier_decomposition,
        brier_score,
        calibration_error,
        classwise_calibration_error,
        debiased_calibration_error,
        negative_log_likelihood,
        signed_gap,
    ],
)
def test_bad_input_is_refused(metric, case):
    probs, labels, words = BAD[case]
    with pytest.raises(InputError, match=words):
        metric(probs, labels)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bins": 0}, "bins"),
        ({"bins": 2.5}, "bins"),
        ({"scheme": "widht"}, "Did you mean 'width'"),
        ({"edges": "netcal"}, "edges"),
        ({"norm": "l3"}, "norm"),
        ({"scheme": "mass", "edges": "torchmetrics"}, "equal-width"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        calibration_error([[0.5, 0.5]], [0], **options)
