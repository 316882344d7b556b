"""Arrays as users have them, of every library and precision, give the result of the plain float64 array."""

from __future__ import annotations

import functools
import inspect
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import robcal
from robcal.base.checks import InputError, as_array, check_labels, check_probs, precision_of
from robcal.base.encoding import plain
from robcal.base.results import Results
from robcal.calibration import binning, conditional, metrics, ood, seeds, selective, trends

N, Z = 90, 5


class Frame:
    """A stand-in for a table or column of pandas: no array, but something numpy can make one of."""

    def __init__(self, values: Any, dtype: Any = None) -> None:
        self.values, self.dtype = np.asarray(values), dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.values if dtype is None else self.values.astype(dtype)

    def __len__(self) -> int:
        return len(self.values)


def sample() -> dict[str, np.ndarray]:
    """Arrays whose probabilities are float16 numbers, so that every precision but bfloat16 holds them exactly."""
    rng = np.random.default_rng(0)
    labels = rng.integers(Z, size=N)
    logits = 2 * rng.standard_normal((N, Z)) + 2 * np.eye(Z)[labels]
    probs = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float16).astype(np.float64)
    confidence = probs.max(1)
    return {
        "probs": probs,
        "labels": labels,
        "scores": rng.permutation(N) / 8,
        "levels": rng.integers(4, size=N),
        "groups": rng.integers(3, size=N),
        "confidence": confidence,
        "correct": (probs.argmax(1) == labels).astype(int),
    }


#: Public function → called with arrays of the sample, by their names.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "audit": lambda probs, labels, scores, groups: (
        robcal.audit(probs, labels, scores=scores, groups={"g": groups}, num_levels=4, resamples=20).results
    ),
    "accuracy": lambda probs, labels: metrics.accuracy(probs, labels),
    "assign_levels": lambda scores: robcal.assign_levels(scores, 4).tolist(),
    "aurc": lambda probs, labels: selective.aurc(probs, labels),
    "brier_score": lambda probs, labels: robcal.brier_score(probs, labels),
    "calibration_error": lambda probs, labels: [
        robcal.calibration_error(probs, labels, scheme=scheme) for scheme in binning.SCHEMES
    ],
    "calibration_error_interval": lambda probs, labels: robcal.calibration_error_interval(probs, labels, resamples=20),
    "classwise": lambda probs, labels: metrics.classwise_calibration_error(probs, labels),
    "group_means": lambda confidence, groups: seeds.group_means(confidence, groups),
    "level_table": lambda probs, labels, levels: conditional.level_table(probs, labels, levels, resamples=20),
    "negative_log_likelihood": lambda probs, labels: robcal.negative_log_likelihood(probs, labels),
    "ood_metrics": lambda confidence, scores: ood.ood_metrics(confidence, scores),
    "run_variance": lambda confidence: seeds.run_variance([confidence, confidence]),
    "temperature": lambda probs, labels: robcal.TemperatureScaling().fit_probs(probs, labels).temperature,
    "top_label_metrics": lambda confidence, correct: conditional.top_label_metrics(confidence, correct, resamples=20),
    "trend_tests": lambda confidence, correct, levels: trends.trend_tests(confidence, correct, levels, permutations=20),
}


def call(function: str, arrays: dict[str, Any]) -> Any:
    """Call a function with those of the arrays that it takes."""
    return FUNCTIONS[function](**{name: arrays[name] for name in takes(function)})


def takes(function: str) -> list[str]:
    return list(inspect.signature(FUNCTIONS[function]).parameters)


@pytest.fixture(autouse=True)
def few_permutations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditional, "trend_tests", functools.partial(trends.trend_tests, permutations=20))


def tensors(dtype: torch.dtype) -> Callable[[np.ndarray], Any]:
    def of(array: np.ndarray) -> torch.Tensor:
        if array.dtype.kind == "f":
            return torch.tensor(array, dtype=dtype).requires_grad_()
        return torch.tensor(array)

    return of


def integers(dtype: str) -> Callable[[np.ndarray], Any]:
    return lambda array: array.astype(dtype) if array.dtype.kind == "i" else array


#: How the user holds them.
HOLDERS: dict[str, Callable[[np.ndarray], Any]] = {
    "tensors with gradients": tensors(torch.float64),
    "tensors in float32": tensors(torch.float32),
    "tensors in float16": tensors(torch.float16),
    "tensors in inference mode": torch.inference_mode()(lambda array: torch.tensor(array)),
    "lists": lambda array: array.tolist(),
    "lists of tensors": lambda array: list(torch.tensor(array).requires_grad_(array.dtype.kind == "f")),
    "lists of rows": list,
    "tables": Frame,
    "tables of objects": lambda array: Frame(array.astype(object)),
    "uint8": integers("uint8"),
    "int32": integers("int32"),
    "uint64": integers("uint64"),
    "not contiguous": lambda array: np.repeat(array, 2, axis=0)[::2],
    "big-endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
    "read-only": lambda array: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape),
    "masked arrays without masked entries": np.ma.asarray,
    "matrices": lambda array: np.matrix(array) if array.ndim == 2 else array,
}


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("holder", HOLDERS)
def test_the_result_is_that_of_the_plain_array(function: str, holder: str) -> None:
    arrays = sample()
    held = {name: HOLDERS[holder](array) for name, array in arrays.items()}
    low = holder in ("tensors in float32", "tensors in float16")
    expected = call(function, rounded(arrays, "float16" if "16" in holder else "float32") if low else arrays)
    np.testing.assert_equal(plain(call(function, held)), plain(expected))


def rounded(arrays: dict[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    return {name: array.astype(dtype) if array.dtype.kind == "f" else array for name, array in arrays.items()}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("bfloat16", ["tensor", "widened"])
def test_bfloat16_is_taken_with_its_rounding(function: str, bfloat16: str) -> None:
    arrays = sample()
    exact = call(function, {**arrays, "probs": arrays["probs"].astype(np.float32)})

    def of(array: np.ndarray) -> Any:
        if array.dtype.kind != "f" or array.max() > 1:
            return array
        tensor = torch.tensor(array).bfloat16()
        return tensor if bfloat16 == "tensor" else tensor.float().numpy()

    found = call(function, {name: of(array) for name, array in arrays.items()})
    if function in ("accuracy", "brier_score", "negative_log_likelihood", "temperature"):
        assert found == pytest.approx(exact, abs=0.02)
    assert (np.abs(torch.tensor(arrays["probs"]).bfloat16().double().sum(1).numpy() - 1) > 1e-3).any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_a_softmax_in_any_precision_sums_to_one_well_enough(dtype: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for classes in (2, 10, 1000):
        logits = 4 * torch.randn(300, classes, generator=generator)
        probs = logits.to(getattr(torch, dtype)).softmax(1)
        assert np.abs(check_probs(probs).sum(1) - 1).max() < 2**-7
        assert check_probs(probs.float()).max() <= 1  # the same, widened by the user


class OnDevice:
    """A stand-in for a tensor on another device: numpy cannot read it until it is detached and on the CPU."""

    def __init__(self, tensor: torch.Tensor, ready: bool = False) -> None:
        self.tensor, self.ready, self.dtype = tensor, ready, tensor.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def detach(self) -> OnDevice:
        return OnDevice(self.tensor, ready=True)

    def cpu(self) -> torch.Tensor:
        assert self.ready
        return self.tensor.detach()


def test_tensors_on_another_device_are_fetched() -> None:
    arrays = sample()
    held = {name: OnDevice(torch.tensor(array)) for name, array in arrays.items()}
    for function in FUNCTIONS:
        np.testing.assert_equal(plain(call(function, held)), plain(call(function, arrays)))


def test_tensors_without_numbers_are_refused_by_name() -> None:
    for tensor in (torch.empty(3, 2, device="meta"), torch.eye(2).to_sparse()):
        with pytest.raises(InputError, match=r"^probs cannot be read as an array"):
            check_probs(tensor)


def test_a_sum_that_no_rounding_explains_is_refused_in_every_precision() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        with pytest.raises(InputError, match="row 1 of probs sums to"):
            check_probs(torch.tensor([[0.5, 0.5], [0.5, 0.515625]], dtype=dtype))
    with pytest.raises(InputError, match="row 0 of probs sums to"):
        check_probs([[0.502, 0.5]])


def test_entries_beyond_one_by_rounding_are_clipped_and_others_refused() -> None:
    assert check_probs([[1 + 2e-16, 0.0], [-1e-17, 1.0]]).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert robcal.calibration_error([[1 + 2e-16, -1e-17]], [0]) == 0
    with pytest.raises(InputError, match=r"lie in \[0, 1\]"):
        check_probs([[1.001, 0.0]])


@pytest.mark.parametrize(
    ("dtype", "nats"), [("float16", 16.6355), ("bfloat16", 92.1886), ("float32", 103.2789), ("float64", 744.4401)]
)
def test_underflow_costs_what_the_precision_says(dtype: str, nats: float) -> None:
    gap = torch.tensor([[0.0, 2000.0]], dtype=torch.float64)
    probs = gap.to(getattr(torch, dtype)).softmax(1)
    assert float(probs[0, 0]) == 0
    assert robcal.negative_log_likelihood(probs, [0]) == pytest.approx(nats, abs=1e-3)
    audited = robcal.audit(probs.repeat(20, 1), [1] * 19 + [0], resamples=20).metrics["nll"].value
    assert audited == pytest.approx(nats / 20, abs=1e-3)


def test_half_precision_is_near_the_truth_instead_of_far_above_it() -> None:
    """A tenth of the true classes underflows in float16: the float64 floor made the NLL twelve times too large."""
    rng = np.random.default_rng(1)
    logits, labels = 6 * rng.standard_normal((2000, 10)), rng.integers(10, size=2000)
    exact = np.exp(logits - logits.max(1, keepdims=True))
    exact /= exact.sum(1, keepdims=True)
    truth = robcal.negative_log_likelihood(exact, labels)
    half = exact.astype(np.float16)
    assert 0.05 < (half[np.arange(2000), labels] == 0).mean() < 0.3
    assert 0.75 * truth < robcal.negative_log_likelihood(half, labels) < truth
    assert robcal.negative_log_likelihood(half.astype(np.float64), labels) > 5 * truth


@pytest.mark.parametrize("function", FUNCTIONS)
def test_masked_entries_are_refused_and_counted_wherever_an_array_is_taken(function: str) -> None:
    for name in takes(function):
        arrays: dict[str, Any] = sample()
        mask = np.zeros(arrays[name].shape, bool)
        mask[3] = True
        arrays[name] = np.ma.masked_array(arrays[name], mask)
        with pytest.raises(InputError, match=r"^\d+ of the \d+ entries of .* are masked"):
            call(function, arrays)


def test_masked_rows_inside_a_list_are_refused_too() -> None:
    with pytest.raises(InputError, match="1 of the 4 entries of probs are masked"):
        check_probs([np.ma.masked_array([0.5, 0.5], [False, True]), [0.5, 0.5]])


def test_booleans_are_labels_of_two_classes() -> None:
    right = check_labels(np.array([True, False, True]), num_classes=2)
    assert right.dtype == np.int64
    assert right.tolist() == [1, 0, 1]
    assert robcal.calibration_error([[0.25, 0.75]] * 4, [True, True, True, False]) == 0
    with pytest.raises(InputError, match="bool"):
        check_labels(np.array([True, False]), num_classes=3)


def test_precision_of_what_has_none() -> None:
    assert precision_of([[1, 0]]).dtype == np.float64
    assert precision_of(Frame(np.ones(3, np.float32), np.dtype("float32"))).dtype == np.float32
    assert precision_of(Frame(np.ones(3), "Float64")).dtype == np.float64


def test_complex_and_ragged_input_is_refused_by_name() -> None:
    for values, words in [([[0.5, 0.5], [1.0]], "1 to 2 entries"), (np.ones((2, 2)) * 1j, "complex"), ({}, "object")]:
        with pytest.raises(InputError, match=f"probs.*{words}"):
            check_probs(values)


def test_an_array_is_not_changed() -> None:
    arrays = sample()
    before = {name: array.copy() for name, array in arrays.items()}
    for array in arrays.values():
        array.setflags(write=False)
    for function in FUNCTIONS:
        call(function, arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, before[name])
    assert as_array(arrays["probs"], "probs") is arrays["probs"]


def test_an_audit_as_a_dictionary_is_valid_json_and_can_be_read_back() -> None:
    scores = np.full(N, np.inf)
    scores[:50] = np.arange(50)
    arrays = sample()
    made = robcal.audit(arrays["probs"], arrays["labels"], scores=scores, groups={3: arrays["groups"]}, resamples=20)
    assert any(np.isnan(one.confidence) for one in made.results.methods[0].reliability)  # an empty bin
    text = json.dumps(made.to_dict(), allow_nan=False)
    from robcal.base.encoding import typed

    assert plain(typed(Results, json.loads(text))) == made.to_dict()


def test_a_grouping_called_level_stands_beside_the_levels(tmp_path: Any) -> None:
    from rich.console import Console

    arrays = sample()
    made = robcal.audit(
        arrays["probs"], arrays["labels"], scores=arrays["scores"], groups={"level": arrays["groups"]}, num_levels=2,
        resamples=20,
    )  # fmt: skip
    text = io.StringIO()
    Console(width=120, file=text).print(made.to_text())
    for row in [*made.levels, *made.groups["level"]]:
        assert f"{row.n}" in text.getvalue()
    assert len(made.levels) == 2
    assert len(made.groups["level"]) == 3
    page = made.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Signed gap by level" in page
    assert "Calibration by" in page


SHUFFLED = np.random.default_rng(1).permutation(60)


def tables() -> dict[str, Any]:
    """Columns of pandas of the same 60 pictures, each with its name."""
    rng, names = np.random.default_rng(0), [f"picture-{number}" for number in range(60)]
    probs = pd.DataFrame(rng.dirichlet(np.ones(3), 60), index=names)
    columns = {"labels": rng.integers(3, size=60), "scores": rng.random(60), "groups": np.arange(60) % 2}
    columns |= {"confidence": probs.max(axis=1), "correct": rng.random(60) < 0.5, "levels": np.arange(60) % 3}
    return {"probs": probs, "other": probs, "logits": np.log(probs), "sets": probs > 0.3} | {
        name: pd.Series(np.asarray(values), index=names) for name, values in columns.items()
    }


ROWS_TAKEN: dict[str, tuple[Callable[..., object], tuple[str, ...]]] = {
    "a metric": (robcal.calibration_error, ("probs", "labels")),
    "an audit": (functools.partial(robcal.audit, resamples=20), ("probs", "labels", "scores", "groups")),
    "an audit of confidences": (
        functools.partial(robcal.audit_confidence, resamples=20), ("confidence", "correct", "scores", "groups"),
    ),
    "two models": (functools.partial(robcal.compare_models, resamples=20), ("probs", "other", "labels")),
    "a recalibration": (robcal.Recalibrator("temperature").fit, ("logits", "labels")),
    "labels and scores beside an array": (
        lambda labels, scores: robcal.audit(np.full((60, 3), 1 / 3), labels, scores=scores, resamples=20),
        ("labels", "scores"),
    ),
    "a temperature": (robcal.TemperatureScaling().fit, ("logits", "labels")),
    "a temperature of probabilities": (robcal.TemperatureScaling().fit_probs, ("probs", "labels")),
    "groups": (functools.partial(conditional.group_table, resamples=20), ("probs", "labels", "groups", "scores")),
    "levels": (functools.partial(conditional.level_table, resamples=20), ("probs", "labels", "levels", "scores")),
    "trends": (functools.partial(trends.trend_tests, permutations=20), ("confidence", "correct", "levels")),
    "a threshold": (functools.partial(robcal.selective_threshold, risk=0.9), ("confidence", "correct")),
    "sets": (lambda probs, labels, levels: robcal.prediction_sets(probs, labels, probs, levels=levels,
                                                                  new_levels=levels), ("probs", "labels", "levels")),
    "an audit of sets": (robcal.audit_sets, ("sets", "labels", "levels")),
}  # fmt: skip


@pytest.mark.parametrize("kind", ROWS_TAKEN)
def test_tables_of_pandas_whose_rows_stand_in_different_orders_are_refused(kind: str) -> None:
    """They gave the accuracy of a guess in silence: rows are taken as they stand, and the index was not looked at."""
    function, names = ROWS_TAKEN[kind]
    given = {name: values for name, values in tables().items() if name in names}
    function(**given)
    function(**{name: values.iloc[SHUFFLED] for name, values in given.items()})
    for name in names[1:]:
        shuffled = given[name].iloc[SHUFFLED]
        with pytest.raises(InputError, match=f"index of {name} holds the rows of {names[0]} in another order"):
            function(**{**given, name: shuffled})
        function(**{**given, name: shuffled.to_numpy()})
        numbered = {other: values.reset_index(drop=True) for other, values in given.items()}
        function(**{**numbered, name: shuffled})


@pytest.mark.parametrize("shuffled", ["groups['half']", "validation[1]", "validation[2]"])
def test_an_audit_looks_at_the_order_of_named_groups_and_of_validation_data(shuffled: str) -> None:
    """Groups by name, and what recalibrations are fitted on, were taken as they stood whatever their index said."""
    table = tables()
    probs, labels, scores = (table[name] for name in ("probs", "labels", "scores"))
    given = {"groups['half']": table["groups"], "validation[1]": labels, "validation[2]": scores}

    def audited(half: Any, *validation: Any) -> None:
        robcal.audit(probs, labels, scores=scores, groups={"half": half}, validation=(probs, *validation), resamples=20)

    audited(*given.values())
    with pytest.raises(InputError) as refused:
        audited(*(given | {shuffled: given[shuffled].iloc[SHUFFLED]}).values())
    assert str(refused.value).startswith(f"the index of {shuffled} holds the rows of ")


def test_a_recalibration_looks_at_the_order_of_new_scores() -> None:
    table = tables()
    fitted = robcal.Recalibrator("score-temperature", score="entropy").fit(
        table["logits"], table["labels"], table["scores"]
    )
    fitted.predict_proba(table["logits"], table["scores"])
    with pytest.raises(InputError, match="index of scores holds the rows of logits in another order"):
        fitted.predict_proba(table["logits"], table["scores"].iloc[SHUFFLED])
