"""Samples of lm-evaluation-harness: what is read is what the harness measured."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from lm_eval_files import CHOICES, of_version_0_4_0, sample, task, write
from typer.testing import CliRunner

from robcal import InputError
from robcal.calibration import accuracy, brier_score
from robcal.commands.cli import app
from robcal.integrations.lm_eval import read_answers


def test_probabilities_are_the_softmax_of_the_log_likelihoods(tmp_path: Path) -> None:
    """Of two questions, written out: exp(-1) to exp(-2), and by characters exp(-1/5) to exp(-2/6)."""
    rows = [sample(0, [-1.0, -2.0], 0), sample(1, [-30.0, -3.0, -4.5], 2)]
    file = write(tmp_path / "samples_fruit_2026-01-31T10-11-12.131415.jsonl", rows)
    found = read_answers(file)
    assert found.probs[0].tolist() == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.e), 0])
    assert found.probs[1, 2] / found.probs[1, 1] == pytest.approx(math.exp(-1.5))
    assert found.labels.tolist() == [0, 2]
    assert found.margins.tolist() == pytest.approx([1.0, 1.5])
    assert found.tasks.tolist() == ["fruit", "fruit"]
    normed = read_answers(file, metric="acc_norm").probs
    assert normed[0, 0] / normed[0, 1] == pytest.approx(math.exp(2 / 6 - 1 / 5))
    assert normed[1, 1] / normed[1, 2] == pytest.approx(math.exp(4.5 / 9 - 3 / 6))


@pytest.mark.parametrize("metric", ["acc", "acc_norm"])
def test_accuracy_and_brier_score_are_those_of_the_harness(tmp_path: Path, metric: str) -> None:
    """The log states the accuracy; the harness's Brier score, question by question, is that of the softmax."""
    rows = task(300)
    found = read_answers(write(tmp_path / "samples_a.jsonl", rows), metric=metric)
    assert accuracy(found.probs, found.labels) == pytest.approx(np.mean([row[metric] for row in rows]))
    total = 0.0
    for row in rows if metric == "acc" else ():
        raised = [math.exp(float(value)) for value, _ in row["filtered_resps"]]
        hot = [number == int(row["target"]) for number in range(len(raised))]
        total += sum((one / sum(raised) - want) ** 2 for one, want in zip(raised, hot, strict=True))
    if metric == "acc":
        assert brier_score(found.probs, found.labels) == pytest.approx(total / len(rows))


@pytest.mark.parametrize("form", ["lines", "a list", "without filtered_resps"])
def test_older_versions_are_read_the_same(tmp_path: Path, form: str) -> None:
    rows = task(20)
    expected = read_answers(write(tmp_path / "new.jsonl", rows))
    old = [of_version_0_4_0(row) for row in rows]
    if form == "without filtered_resps":
        old = [{name: value for name, value in row.items() if name != "filtered_resps"} for row in old]
    file = write(tmp_path / "old.jsonl", old)
    if form == "a list":
        file.write_text(json.dumps(old, indent=2))
    found = read_answers(file)
    np.testing.assert_array_equal(found.probs, expected.probs)
    np.testing.assert_array_equal(found.labels, expected.labels)


def test_targets_are_read_as_the_log_counts_them(tmp_path: Path) -> None:
    """As the text of a choice, also where choices are digits; as right or wrong where contexts differ (winogrande)."""
    texts = [sample(number, [-1.0, -2.0, -3.0], CHOICES[k], right=k) for number, k in enumerate((0, 2, 1))]
    assert read_answers(write(tmp_path / "text.jsonl", texts)).labels.tolist() == [0, 2, 1]
    digits = ("2", "1", "0")
    numbers = [sample(n, [-1.0, -2.0, -3.0], digits[k], right=k, choices=digits) for n, k in enumerate((0, 2, 1))]
    assert read_answers(write(tmp_path / "digits.jsonl", numbers)).labels.tolist() == [0, 2, 1]
    asked = {f"gen_args_{k}": {"arg_0": f"The {noun} hit the", "arg_1": " wall."} for k, noun in enumerate("ab")}
    same = [sample(n, [-1.0, -2.0], "wall.", right=k, arguments=asked) for n, k in enumerate((0, 1))]
    assert read_answers(write(tmp_path / "contexts.jsonl", same)).labels.tolist() == [0, 1]


@pytest.mark.parametrize("stated", [True, False])
def test_targets_that_are_a_number_and_a_text_need_the_accuracy(tmp_path: Path, stated: bool) -> None:
    """Choices 1, 2, 3 with the target "1": the first by its text, the second by its number."""
    rows = [sample(n, [-1.0, -2.0, -3.0], str(k + 1), right=k, choices=("1", "2", "3")) for n, k in enumerate((0, 1))]
    kept = rows if stated else [{key: value for key, value in row.items() if key != "acc"} for row in rows]
    file = write(tmp_path / "samples_x.jsonl", kept)
    if stated:
        assert read_answers(file).labels.tolist() == [0, 1]
        return
    with pytest.raises(InputError, match=r"question 0 is '1', the number of one choice and the text of another"):
        read_answers(file)


def test_likelihoods_without_the_question_are_left_out(tmp_path: Path) -> None:
    """acc_mutual_info asks for every choice twice, the second time without a context."""
    row = sample(0, [-1.0, -2.0, -3.0], 1)
    alone = {f"gen_args_{3 + k}": {"arg_0": "", "arg_1": f" {choice}"} for k, choice in enumerate(CHOICES[:3])}
    more = [["-9.0", "False"], ["-0.1", "False"], ["-7.0", "False"]]
    twice = {**row, "arguments": {**row["arguments"], **alone}, "filtered_resps": row["filtered_resps"] + more}
    expected = read_answers(write(tmp_path / "once.jsonl", [row])).probs
    np.testing.assert_array_equal(read_answers(write(tmp_path / "twice.jsonl", [twice])).probs, expected)


def test_one_of_several_filters_is_named(tmp_path: Path) -> None:
    rows = [*task(10, filter="first"), *task(10, seed=1, filter="second")]
    file = write(tmp_path / "both.jsonl", rows)
    expected = read_answers(write(tmp_path / "second.jsonl", rows[10:]))
    np.testing.assert_array_equal(read_answers(f"{file}:second").probs, expected.probs)
    with pytest.raises(InputError, match=r"Name one of them: .*both\.jsonl:first"):
        read_answers(file)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"doc_id": 0, "target": "18", "filtered_resps": ["18"], "acc": 1.0}], "sample 1 .* no log-likelihoods"),
        ([{**sample(0, [-1.0, -2.0], 0), "filtered_resps": [["-1.0", "True"]]}], "no log-likelihoods of choices"),
        ([sample(0, [-1.0, float("nan")], 0)], "no log-likelihoods of choices"),
        ([sample(0, [-1.0, -2.0, -3.0], "[0, 2]", right=0)], r"question 0 is '\[0, 2\]'"),
        ([sample(k, [-1.0, -2.0, -3.0], 0, acc=float(k)) for k in (0, 1)], "agrees with the accuracy"),
        ([], "holds no samples"),
        ([1, 2], "no log-likelihoods"),
    ],
)
def test_other_tasks_are_refused(tmp_path: Path, rows: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_answers(write(tmp_path / "samples_x.jsonl", rows))


def test_tasks_are_audited_together_and_one_by_one(tmp_path: Path) -> None:
    files = [write(tmp_path / f"samples_{name}_2026-01-31T10-11-12.131415.jsonl", task(120, seed)) for seed, name in
             enumerate(("mmlu_law", "mmlu_art"))]  # fmt: skip
    words = [word for file in files for word in ("--lm-eval", str(file))]
    done = CliRunner().invoke(app, ["audit", *words, "--levels", "3", "--resamples", "20", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)["methods"][0]
    found = read_answers(*files)
    assert told["metrics"]["accuracy"]["value"] == pytest.approx(accuracy(found.probs, found.labels))
    assert [row["group"] for row in told["groups"]["task"]] == ["mmlu_art", "mmlu_law"]
    assert [row["n"] for row in told["levels"]] == [80, 80, 80]
    assert told["levels"][0]["score_high"] <= told["levels"][1]["score_low"]
