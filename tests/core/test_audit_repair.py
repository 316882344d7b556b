"""An audit's repair section, paired models and one-table input: figures by other ways, words, files and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

import robcal
from robcal.base.checks import InputError
from robcal.commands.cli import main
from robcal.runs.against import compare_models


def drawn(seed: int, n: int = 4000, temperature: object = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are too sure by `temperature`, and labels."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, 3))
    true = softmax(logits / np.broadcast_to(temperature, (n,))[:, None], axis=1)
    return softmax(logits, axis=1), (true.cumsum(1) > rng.random((n, 1))).argmax(1)


def test_a_calibrated_classifier_needs_no_repair() -> None:
    audit = robcal.audit(*drawn(0), resamples=50)
    repair = audit.results.methods[0].repair
    assert repair is not None
    assert repair.method == "none"
    assert "No recalibration is needed" in str(audit)


def test_a_temperature_is_judged_on_examples_that_its_fit_did_not_see() -> None:
    probs, labels = drawn(1, temperature=3.0)
    repair = robcal.audit(probs, labels, resamples=50).results.methods[0].repair
    assert repair is not None
    assert repair.method == "temperature"
    logs = log_softmax(np.log(probs) / 3, axis=1)
    assert repair.nll[1].value == pytest.approx(-logs[np.arange(4000), labels].mean(), abs=2e-3)
    assert repair.nll[0].value == pytest.approx(-np.log(probs[np.arange(4000), labels]).mean())
    assert repair.ece[1].value < 0.03 < repair.ece[0].value
    assert sum(row.n for row in repair.levels) == 4000
    for row in repair.levels[2:]:  # by margin: the smallest ones have little to be too sure of
        assert row.before.low is not None
        assert row.before.low > 0
    assert "No level's gap could then be told from 0" in repair.sentence


def test_with_validation_data_it_is_fitted_there_and_judged_here() -> None:
    probs, labels = drawn(1, temperature=3.0)
    val_probs, val_labels = drawn(2, 3000, temperature=3.0)
    repair = robcal.audit(probs, labels, resamples=50, validation=(val_probs, val_labels)).results.methods[0].repair
    assert repair is not None
    plain = robcal.TemperatureScaling().fit(np.log(val_probs), val_labels).transform(np.log(probs))
    assert repair.nll[1].value == pytest.approx(-np.log(plain[np.arange(4000), labels]).mean(), abs=1e-9)
    assert repair.judged == "4000 examples, by a fit of 3000 others"


@pytest.mark.parametrize(
    ("n", "fitted", "shown", "words"),
    [
        (60, 3.0, 3.0, "A fit to more than these 60 examples may close all of them."),
        (3000, 3.0, 1.2, "A fit to more than these 3000 examples would hardly close them."),
    ],
)
def test_what_is_left_is_said_to_be_of_few_examples_or_not(n: int, fitted: float, shown: float, words: str) -> None:
    """One temperature is right in the first case; in the second it is another on the examples that are judged."""
    probs, labels = drawn(1, 20_000, temperature=shown)
    validation = drawn(2, n, temperature=fitted)
    repair = robcal.audit(probs, labels, resamples=50, validation=validation).results.methods[0].repair
    assert repair is not None
    assert repair.sentence.endswith(words)


def test_a_level_of_two_rows_has_its_error_where_rows_are_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second row is taken, and the two of level 0 are others."""
    probs, labels = drawn(1, 20_000, temperature=1.2)
    scores = np.ones(20_000)
    scores[[1, 3]] = 0
    validation = (*drawn(2, 3000, temperature=3.0), np.ones(3000))
    monkeypatch.setattr("robcal.runs.repair.MOST_LOGITS", 30_000)
    repair = robcal.audit(probs, labels, scores=scores, resamples=50, validation=validation).results.methods[0].repair
    assert repair is not None
    assert [row.n for row in repair.levels] == [2, 19_998]
    assert repair.sentence.endswith("A fit to more than these 3000 examples would hardly close it.")


def test_a_gap_that_depends_on_the_score_is_said_and_shown_everywhere(tmp_path: Path) -> None:
    scores = np.random.default_rng(5).normal(size=6000)
    probs, labels = drawn(6, 6000, temperature=np.where(scores < 0, 4.0, 1.0))
    audit = robcal.audit(probs, labels, scores=scores, score_name="density", resamples=50)
    repair = audit.results.methods[0].repair
    assert repair is not None
    assert repair.method == "score-temperature"
    assert "depends on the density" in str(audit)
    assert "What a recalibration would repair, judged on 6000 examples" in str(audit)
    told = " ".join(str(audit).split())
    assert "Levels by density, 0 the lowest; intervals of gaps hold for all levels at once." in told
    page = audit.to_html(tmp_path / "a.html").read_text()
    assert "What a recalibration would repair" in page
    assert "Before and after (score-temperature)" in page
    assert "<bdi></bdi></th>" not in page  # every column has a name that a screen reader can say
    assert "Before and after" in audit._repr_html_()
    assert abs(repair.levels[0].after.value) < abs(repair.levels[0].before.value) / 3
    json.dumps(audit.to_dict(), allow_nan=False)


def test_where_nothing_can_be_fitted_there_is_no_repair() -> None:
    few = robcal.audit(*drawn(0, 40), resamples=50)
    assert few.results.methods[0].repair is None
    assert "at least 50 examples to fit on" in " ".join(str(few).split())
    probs, labels = drawn(0, 400)
    impossible = np.eye(3)[(labels + 1) % 3]
    zeros = robcal.audit(np.where(np.arange(400)[:, None] == 7, impossible, probs), labels, resamples=50)
    assert zeros.results.methods[0].repair is None
    assert "a probability of 0, which no temperature changes, in 1 of the examples" in " ".join(str(zeros).split())


def test_the_number_of_examples_that_a_gap_takes() -> None:
    probs, labels = drawn(0)
    residual = probs.max(1) - (probs.argmax(1) == labels)
    needed = int(np.ceil((1.959964 * residual.std() / 0.01) ** 2))
    assert f"about {needed:,} of them" in str(robcal.audit(probs, labels, resamples=50)).replace("\n", " ")


def test_paired_differences_are_those_of_the_metrics() -> None:
    probs, labels = drawn(1, temperature=2.0)
    other = softmax(np.log(probs) / 2, axis=1)
    found = compare_models(probs, other, labels, resamples=100)
    for name, metric in (("nll", robcal.negative_log_likelihood), ("brier", robcal.brier_score)):
        assert found[name].value == pytest.approx(metric(probs, labels) - metric(other, labels))
        assert found[name].low is not None
        assert found[name].low > 0
    each = -np.log(probs[np.arange(4000), labels]) + np.log(other[np.arange(4000), labels])
    half = 1.96 * each.std(ddof=1) / np.sqrt(4000)
    assert found["nll"].low == pytest.approx(each.mean() - half, rel=1e-2)
    assert found["accuracy"].value == 0


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


ALL = ["--prob-columns", "p0,p1", "--label-column", "label"]


def run(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    try:
        main(["audit", *map(str, arguments)])
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    assert status == code, err
    return out if code == 0 else " ".join(err.split())


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_one_table_gives_what_the_arrays_give(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    probs, labels = drawn(3, 300)
    groups, scores = np.array(["f", "m"])[labels % 2], probs[:, 0]
    columns = {"p0": probs[:, 0], "p1": probs[:, 1], "p2": probs[:, 2], "y": labels, "who": groups, "s": scores}
    table, file = pa.table(columns), tmp_path / f"t.{kind}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        {"csv": pyarrow.csv.write_csv, "parquet": pyarrow.parquet.write_table}[kind](table, file)
    names = ["--prob-columns", "p0,p1,p2", "--label-column", "y", "--score-column", "s", "--group-column", "who"]
    text = run(capsys, file, *names, "--resamples", 50, "--levels", 3)
    expected = robcal.audit(
        probs, labels, scores=scores, score_name="s", groups={"who": groups}, num_levels=3, resamples=50
    )
    assert text.strip() == expected.to_text(120).strip()


@pytest.mark.parametrize("start", ["", "prob_", "p."])
def test_labels_of_a_table_may_be_the_names_of_its_columns(
    start: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (probs, labels), names = drawn(3, 300), np.array(["dog", "cat", "cow"])  # not in sorted order
    other = np.roll(probs, 1, axis=1)
    for file, values in {"t.csv": probs, "other.csv": other}.items():
        rows = zip(*values.T.tolist(), names[labels], strict=True)
        head = ",".join([*(start + name for name in names), "y"])
        (tmp_path / file).write_text("\n".join([head, *(",".join(map(str, row)) for row in rows)]))
    columns = ",".join(start + name for name in names)
    words = [tmp_path / "t.csv", "--prob-columns", columns, "--label-column", "y", "--resamples", 50, "--levels", 3]
    assert run(capsys, *words).strip() == robcal.audit(probs, labels, num_levels=3, resamples=50).to_text(120).strip()
    against = run(capsys, *words, "--against", f"{tmp_path / 'other.csv'}:{columns}")
    assert f"{(other.argmax(1) == labels).mean() - (probs.argmax(1) == labels).mean():+.4f}" in against


@pytest.mark.parametrize("binary", [False, True])
def test_confidences_alone_give_the_figures_of_the_probabilities(binary: bool) -> None:
    probs, labels = drawn(3, 500, temperature=2.0)
    correct = probs.argmax(1) == labels
    scores, groups = probs[:, 0], labels % 2
    whole = robcal.audit(probs, labels, scores=scores, groups=groups, resamples=50)
    top = robcal.audit_confidence(
        probs.max(1), correct.astype(int) if binary else correct, scores=scores, groups=groups, resamples=50
    )
    assert top.levels == whole.levels
    assert top.groups == whole.groups
    assert top.trends == whole.trends
    assert {name: whole.metrics[name] for name in top.metrics} == dict(top.metrics)
    assert "nll" not in top.metrics
    assert [row.index for row in top.worst(10)] == [row.index for row in whole.worst(10)]
    assert "wrong (0)" in str(top)


def test_confidences_in_files_and_in_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    probs, labels = drawn(3, 300)
    sure, right = probs.max(1), (probs.argmax(1) == labels).astype(int)
    np.save(tmp_path / "c.npy", sure)
    np.save(tmp_path / "r.npy", right)
    rows = "".join(f"{c!r},{r}\n" for c, r in zip(sure.tolist(), right.tolist(), strict=True))
    (tmp_path / "t.csv").write_text(f"conf,ok\n{rows}")
    files = run(capsys, "--confidence", tmp_path / "c.npy", "--correct", tmp_path / "r.npy", "--resamples", 50)
    table = run(capsys, tmp_path / "t.csv", "--confidence-column", "conf", "--correct-column", "ok", "--resamples", 50)
    expected = robcal.audit_confidence(sure, right, resamples=50).to_text(120)
    assert files.strip() == table.strip() == expected.strip()


def test_two_models_on_the_same_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    probs, labels = drawn(1, 2000, temperature=3.0)
    for name, array in {"a": probs, "b": softmax(np.log(probs) / 3, axis=1), "y": labels}.items():
        np.save(tmp_path / f"{name}.npy", array)
    files = ["--probs", tmp_path / "a.npy", "--labels", tmp_path / "y.npy", "--resamples", 50]
    text = run(capsys, *files, "--against", tmp_path / "b.npy")
    assert "a minus b, on the same examples, with 95% intervals:" in text
    (line,) = [
        line
        for line in text.splitlines()
        if (line.strip().startswith("NLL") and "better" in line) or ("worse" in line and "NLL" in line)
    ]
    assert line.rstrip().endswith("worse")
    text = run(capsys, *files, "--val-probs", tmp_path / "a.npy", "--val-labels", tmp_path / "y.npy")
    assert "by a fit of 2000 others" in text.replace("\n", " ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["t.csv", "--prob-columns", "p0,p1"], "--label-column was not given"),
        (["t.csv", "--label-column", "y"], "--prob-columns was not given"),
        (["--probs", "p.npy", "--labels", "y.npy", "--val-probs", "p.npy"], "--val-labels"),
        (["t.csv", "--confidence-column", "c"], "--correct-column was not given"),
        (["--confidence", "c.npy"], "--correct was not given"),
        (["t.csv", *ALL, "--score-column", "s", "--scores", "s.npy"], "--score-column and --scores were both given"),
        (["t.csv", *ALL, "--probs", "p.npy"], "--prob-columns and --probs were both given"),
        (["--probs", "p.npy", "--labels", "y.npy", "--score-column", "s"], "--score-column came without a table"),
        (["t.csv", *ALL, "--confidence-column", "c", "--correct-column", "ok"], "more than one of"),
        (["--probs", "p.npy", "--labels", "y.npy", "--correct", "r.npy"], "--probs and --correct"),
        (["--probs", "p.npy", "--labels", "y.npy", "--val-scores", "s.npy"], "--val-scores came without --scores"),
        (["--confidence", "c.npy", "--correct", "r.npy", "--val-labels", "y.npy"], "--confidence and --val-labels"),
        (["run", "--val-labels", "y.npy"], "a run directory and --val-labels"),
        (["--confidence", "c.npy", "--probs", "p.npy"], "more than one of"),
        (["--confidence", "c.npy", "--correct", "r.npy", "--against", "p.npy"], "--confidence and --against"),
    ],
)
def test_bad_options(
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in run(capsys, *options, code=2)


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ((np.full((60, 3), 1 / 3),), "tuple of probabilities"),
        ((np.full((60, 2), 1 / 2), np.zeros(60, int)), "2 classes"),
        ((np.full((60, 3), 1 / 3), np.zeros(59, int)), "59"),
    ],
)
def test_bad_validation_data(validation: tuple[np.ndarray, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        robcal.audit(*drawn(0, 100), validation=validation, resamples=50)
