"""A whole comparison on digits, small: every number of it again from what it left on disk."""

import base64
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import accuracy_score, log_loss
from torchmetrics.classification import MulticlassCalibrationError

from robcal.base.checks import InputError
from robcal.base.encoding import plain
from robcal.base.levels import assign_levels
from robcal.base.metrics import CORRECTED
from robcal.base.storage import load_levels, load_predictions, load_scores, save_results
from robcal.base.types import Estimate
from robcal.calibration import calibration_noise_floor, corrected_calibration_error, seed_mean_interval
from robcal.calibration.intervals import difference_within_range, within_range
from robcal.commands.cli import main
from robcal.comparison import (
    compare,
    csv_rows,
    load_comparison,
    markdown_tables,
    parse_plan,
    text_tables,
)
from robcal.comparison.tasks import Place, Work, seed_of_run
from robcal.data.corruptions import BENCHMARK_KINDS, corrupt
from robcal.data.splits import stratified_subset
from robcal.report import render_html
from robcal.report.flat import wrong_of_results
from robcal.runs.directory import load_model, open_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("comparison_study"),
]  # its fixtures are dear: one process makes them

AR_ADALS = {"controller": "published", "step_size": 0.5, "levels_from": "robustness"}
RAW = {
    "title": "small",
    "seeds": [0, 1],
    "reference": ["Plain", "AR-AdaLS"],
    "shift_limit": 20,
    "score_limit": 60,
    "recipe": {
        "data": "digits", "model": "mlp", "epochs": 2, "batch_size": 32, "levels": 3, "train_limit": 300,
        "test_limit": 200,
    },
    "tuning": {"seeds": [50]},
    "methods": [
        {"label": "Plain", "method": "vanilla"},
        {"label": "Smooth <b>", "method": "label-smoothing", "grid": {"epsilon": [0.3, 0.05]}},
        {"label": "AR-AdaLS", "method": "ar-adals", "options": AR_ADALS},
    ],
    "ensembles": [{"label": "Deep", "of": "Plain", "members": 2}],
    "targets": [{"name": "better", "metric": "ece", "method": "AR-AdaLS", "against": ["Plain", "Deep"]}],
}  # fmt: skip


@pytest.fixture(scope="module")
def plan():
    return parse_plan(RAW)


@pytest.fixture(scope="module")
def out(plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    compare(plan, folder, jobs=1)
    return folder


@pytest.fixture(scope="module")
def record(out):
    return load_comparison(out / "results.json")


@pytest.fixture(scope="module")
def page(out):
    return (out / "report.html").read_text()


def of(record, label):
    return record.method(label)


def logits_of(out, names, split="test"):
    """Logits of the average of runs' stored predictions, and the labels."""
    kept = [load_predictions(out / "runs" / name / f"predictions-{split}.safetensors") for name in names]
    mean = np.mean([torch.from_numpy(one.logits).double().softmax(1).numpy() for one in kept], axis=0)
    return np.log(mean), kept[0].labels


def probs_at(logits, temperature):
    return torch.from_numpy(logits / temperature).softmax(1).numpy()


@pytest.mark.parametrize("label", ["Plain", "Smooth <b>", "AR-AdaLS", "Deep"])
def test_every_number_again_by_other_libraries(record, out, label):
    method = of(record, label)
    assert method.seeds == (0, 1)
    assert [len(names) for names in method.training.runs] == [2, 2] if label == "Deep" else [1, 1]
    for place, names in enumerate(method.training.runs):
        val, val_labels = logits_of(out, names, "val")

        def nll(log_t, val=val, val_labels=val_labels):
            return log_loss(val_labels, probs_at(val, np.exp(log_t)), labels=range(10))

        best = minimize_scalar(nll, bounds=(-4, 4), method="bounded", options={"xatol": 1e-9})
        assert np.log(method.training.temperatures[place]) == pytest.approx(best.x, abs=1e-5)
        logits, labels = logits_of(out, names)
        assert len(labels) == 200
        for variant, temperature in (("raw", 1.0), ("scaled", method.training.temperatures[place])):
            probs, values = probs_at(logits, temperature), method.variant(variant).metrics
            ece = MulticlassCalibrationError(10, n_bins=15)(torch.from_numpy(probs), torch.from_numpy(labels))
            expected = {
                "accuracy": accuracy_score(labels, probs.argmax(1)),
                "nll": log_loss(labels, probs, labels=range(10)),
                "brier": ((probs - np.eye(10)[labels]) ** 2).sum(1).mean(),
                "ece": float(ece),
                "gap": probs.max(1).mean() - (probs.argmax(1) == labels).mean(),
            }
            for metric, value in expected.items():
                assert values[metric].per_seed[place] == pytest.approx(value, abs=1e-5), (variant, metric)


def test_levels_are_those_of_the_plain_model_of_the_seed(record, out):
    plain = of(record, "Plain").training.runs
    for label in ("AR-AdaLS", "Deep"):
        method = of(record, label)
        for place, names in enumerate(method.training.runs):
            logits, labels = logits_of(out, names)
            index = stratified_subset(labels, 60, num_classes=10)
            level = assign_levels(load_scores(out / "runs" / plain[place][0] / "scores-test-60.parquet"), 3)
            probs, errors = probs_at(logits, 1.0)[index], []
            for group in range(3):
                chosen = torch.from_numpy(probs[level == group]), torch.from_numpy(labels[index][level == group])
                errors.append(float(MulticlassCalibrationError(10, n_bins=15)(*chosen)))
            assert method.level_values["ece"][place] == pytest.approx(errors, abs=1e-5)
            assert method.metrics["level_ece"].per_seed[place] == pytest.approx(np.mean(errors), abs=1e-5)


def test_shift_is_that_of_the_corrupted_images(record, out, plan):
    names = of(record, "Deep").training.runs[1]
    data = open_run(out / "runs" / names[0]).dataset().split("test")
    index = stratified_subset(data.labels, 20, num_classes=10)
    models = [load_model(out / "runs" / name)[0] for name in names]
    accuracies, errors = [], []
    for kind in BENCHMARK_KINDS[::7]:
        for severity in (1, 4):
            images = torch.from_numpy(corrupt(data.batch(index).numpy(), kind, severity, seed=0))
            with torch.no_grad():
                probs = torch.stack([model(images).softmax(1) for model in models]).mean(0)
            accuracies.append((probs.argmax(1).numpy() == data.labels[index]).mean())
            truth = torch.from_numpy(data.labels[index])
            errors.append(float(MulticlassCalibrationError(10, n_bins=15)(probs, truth)))
    cells = of(record, "Deep").shift
    wanted = [(kind, severity) for kind in BENCHMARK_KINDS[::7] for severity in (1, 4)]
    chosen = [cell for cell in cells if (cell.corruption, cell.severity) in wanted]
    assert [(cell.corruption, cell.severity) for cell in chosen] == wanted
    assert [cell.per_seed["accuracy"][1] for cell in chosen] == pytest.approx(accuracies, abs=1e-5)
    assert [cell.per_seed["ece"][1] for cell in chosen] == pytest.approx(errors, abs=1e-5)
    assert all(cell.ece == pytest.approx(np.mean(cell.per_seed["ece"]), abs=1e-5) for cell in chosen)
    shift = of(record, "Deep").metrics["shift_ece"].per_seed[1]
    assert shift == pytest.approx(np.mean([cell.per_seed["ece"][1] for cell in cells]), abs=1e-5)


def test_differences_are_paired(record):
    labels = {method.name for method in record.methods}
    for against in ("Plain", "AR-AdaLS"):
        for label in labels - {against}:
            for variant in ("raw", "scaled"):
                metrics = of(record, label).variant(variant).minus[against]
                assert len(metrics) >= 7
                for metric, found in metrics.items():
                    name = CORRECTED.get(metric, metric)  # noise biases calibration errors as measured
                    ours, theirs = (of(record, one).variant(variant).metrics[name].per_seed for one in (label, against))
                    assert found.per_seed == pytest.approx([a - b for a, b in zip(ours, theirs, strict=True)])
                    assert found.value == pytest.approx(np.mean(ours) - np.mean(theirs))
                    assert found.low <= found.value <= found.high
                    again = seed_mean_interval(found.per_seed, found.test_variance, found.bias_left)
                    assert (again.low, again.high) == (found.low, found.high)


def test_noise_floors_are_those_of_calibrated_models_and_corrected_errors_stand_beside_the_measured(record, out):
    method = of(record, "AR-AdaLS")
    probs = [probs_at(logits_of(out, names)[0], 1.0) for names in method.training.runs]
    floors = [calibration_noise_floor(one) for one in probs]
    assert method.floors["ece"] == pytest.approx(np.mean(floors), abs=1e-6)
    errors = [
        corrected_calibration_error(one, logits_of(out, names)[1])
        for one, names in zip(probs, method.training.runs, strict=True)
    ]
    assert method.metrics["ece_corrected"].per_seed == pytest.approx(errors, abs=1e-5)
    levels = method.level_values["ece_floor"]
    assert np.shape(levels) == (2, 3)
    assert method.floors["level_ece"] == pytest.approx(np.mean(levels), abs=1e-5)
    assert np.mean(levels) > method.floors["ece"]  # 20 examples a level, 200 in all
    text = text_tables(record)
    assert "noise floor, mean over seeds" in text
    assert "Noise floor, mean" in text
    assert "ECE corr." in text
    assert "deb." not in text


def test_hyper_parameters_are_chosen_on_validation_data_of_other_seeds(record, out):
    (tuned,) = record.study.tuning
    assert (tuned["label"], tuned["seeds"], tuned["select"]) == ("Smooth <b>", [50], "val_nll")
    scores = {}
    for directory in (out / "runs").glob("label-smoothing-50-*"):
        run = open_run(directory)
        scores[run.settings.options["epsilon"]] = run.history()[-1].val_nll
    assert {c["options"]["epsilon"]: c["mean"] for c in tuned["candidates"]} == pytest.approx(scores)
    assert tuned["chosen"] == {"epsilon": min(scores, key=scores.get)}
    assert of(record, "Smooth <b>").training.settings["epsilon"] == tuned["chosen"]["epsilon"]


def test_members_share_the_split_and_the_first_is_the_ordinary_run(record, out):
    plain, deep = of(record, "Plain"), of(record, "Deep")
    for place, (first, second) in enumerate(deep.training.runs):
        assert first == plain.training.runs[place][0]
        other = open_run(out / "runs" / second)
        assert (other.settings.seed, other.settings.split_seed) == (seed_of_run(place, 1), place)
        digests = [json.loads((out / "runs" / name / "run.json").read_text())["data"] for name in (first, second)]
        assert digests[0] == digests[1]


def test_the_reference_model_is_trained_and_scored_once(record, out):
    for seed in (0, 1):
        assert len(list((out / "runs").glob(f"vanilla-{seed}-*"))) == 1
        plain, ours = (out / "runs" / of(record, label).training.runs[seed][0] for label in ("Plain", "AR-AdaLS"))
        assert not (ours / "reference").exists()
        assert not (ours / "scores-train.parquet").exists()
        scores = load_scores(plain / "scores-train-auto-3.parquet")
        np.testing.assert_array_equal(load_levels(ours / "levels-train.parquet").level, assign_levels(scores, 3))
    seconds = {label: of(record, label).training.seconds for label in ("Plain", "AR-AdaLS", "Deep")}
    assert all(a > p > 0 for a, p in zip(seconds["AR-AdaLS"], seconds["Plain"], strict=True))
    assert all(d > p for d, p in zip(seconds["Deep"], seconds["Plain"], strict=True))


def stamps(folder):
    return {
        file: file.stat().st_mtime_ns
        for part in ("runs", "corrupted")
        for file in (folder / part).rglob("*")
        if file.is_file() and file.suffix != ".lock"
    }


def test_a_second_start_does_nothing_anew(plan, out, record):
    before = stamps(out)
    again = compare(plan, out, jobs=1, report=False)
    assert stamps(out) == before
    shown = (replace(one, gallery=(), worst=()) for one in record.methods)  # examples are kept for a page
    assert plain(again) == plain(replace(record, methods=tuple(shown)))  # NaN is no equal of NaN
    assert any(one.gallery for one in record.methods)


def plan_file(folder):
    """Two of the methods in a file."""
    lines = [
        f"seeds = {RAW['seeds']}\nshift_limit = 20\nscore_limit = 60\n[recipe]",
        *(f"{name} = {json.dumps(value)}" for name, value in RAW["recipe"].items()),
        '[[methods]]\nlabel = "Plain"\nmethod = "vanilla"',
        '[[methods]]\nlabel = "AR-AdaLS"\nmethod = "ar-adals"',
        'options = { controller = "published", step_size = 0.5, levels_from = "robustness" }',
    ]
    (folder / "plan.toml").write_text("\n".join(lines))
    return folder / "plan.toml"


def test_a_killed_comparison_goes_on_where_it_was(out, record, tmp_path):
    file = plan_file(tmp_path)
    command = [sys.executable, "-m", "robcal", "compare", str(file), "--out", str(tmp_path / "out"), "--jobs", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        finished = tmp_path / "out/runs"
        for _ in range(30_000):
            if list(finished.glob("*/shift-test-20.parts/*")) or process.poll() is not None:
                break
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out/results.json").exists()
    kept = {name: stamp for name, stamp in stamps(tmp_path / "out").items() if name.name == "model.safetensors"}
    assert kept
    with pytest.raises(SystemExit) as stop:
        main([*command[3:], "--quiet", "--no-report", "--worst", str(tmp_path / "wrong.csv")])
    assert not stop.value.code
    after = stamps(tmp_path / "out")
    assert all(after[name] == stamp for name, stamp in kept.items())
    resumed = load_comparison(tmp_path / "out/results.json")
    for label in ("Plain", "AR-AdaLS"):
        ours, theirs = of(resumed, label), of(record, label)
        assert (ours.metrics, ours.shift, ours.level_values) == (theirs.metrics, theirs.shift, theirs.level_values)
        assert ours.worst == theirs.worst
    assert (tmp_path / "wrong.csv").read_text() == wrong_of_results(resumed)
    with pytest.raises(SystemExit) as stop:  # the same command again replaces its own list
        main([*command[3:], "--quiet", "--no-report", "--worst", str(tmp_path / "wrong.csv")])
    assert not stop.value.code


def test_tables_show_what_the_json_holds(record, out, capsys):
    text, markdown = (out / "table.txt").read_text(), (out / "table.md").read_text()
    assert text == text_tables(record)
    assert markdown == markdown_tables(record)
    assert text.isascii()
    assert "<b>" not in markdown
    for method in record.methods:
        assert f"{method.metrics['nll'].value:.4f}" in text
    assert max(map(len, text.splitlines())) <= 120
    assert text.count("\n  unclear: better") + text.count("met: better") + text.count("MET: better") == 2
    rows = list(csv.DictReader(io.StringIO((out / "table.csv").read_text())))
    for row in rows:
        if row["kind"] == "mean":
            source = of(record, row["label"]).variant(row["variant"]).metrics[row["metric"]]
        else:
            source = of(record, row["label"]).variant(row["variant"]).minus[row["against"]][row["metric"]]
        shown = within_range if row["kind"] == "mean" else difference_within_range  # the ends of [.9, 1.2] at 1
        ends = shown(row["metric"], Estimate(source.value, source.low, source.high))
        assert [float(row[name]) for name in ("value", "low", "high")] == [ends.value, ends.low, ends.high]
        assert [float(value) for value in row["per_seed"].split()] == list(source.per_seed)
    means = sum(row["kind"] == "mean" for row in rows)
    assert (means, len(rows) - means) == (2 * 4 * 13, 2 * 2 * 3 * 10)
    assert csv_rows(record) == (out / "table.csv").read_text()


def test_the_report_names_the_labels_and_is_made_again_from_the_numbers(record, page):
    assert render_html(record) == page
    assert "Reliability diagram of AR-AdaLS" in page
    for label in ("Plain", "AR-AdaLS", "Deep", "Smooth &lt;b&gt;"):
        assert label in page


def test_wrong_predictions_of_the_first_seed_are_listed_with_levels_and_distances_for_the_plain_model(record, out):
    plain = load_scores(out / "runs" / of(record, "Plain").training.runs[0][0] / "scores-test-60.parquet")
    level_of = assign_levels(plain, 3, ties="share")
    for method in record.methods:
        logits, labels = logits_of(out, method.training.runs[0])
        probs, index = probs_at(logits, 1.0), list(stratified_subset(labels, 60, num_classes=10))
        assert {row.index for row in method.worst} == set(np.flatnonzero(probs.argmax(1) != labels))
        sure = [row.confidence for row in method.worst]
        assert sure == sorted(sure, reverse=True)
        for row in method.worst:
            assert (row.label, row.prediction) == (labels[row.index], probs[row.index].argmax())
            assert row.confidence == pytest.approx(probs[row.index].max(), abs=1e-6)
            at = index.index(row.index) if row.index in index else None
            known = (None, None) if at is None else (float(plain.distance[at]), level_of[at])
            assert (row.score, row.level) == known
        assert any(row.level is not None for row in method.worst)


def test_the_page_of_a_comparison_shows_wrong_predictions_and_offers_the_same_list(record, page, tmp_path):
    data = re.search(r'download="wrong.csv" href="data:text/csv;base64,([^"]+)"', page)[1]
    files, kept = [tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "results.json"
    save_results(record, kept)
    for file, command in zip(files, ("report", "compare"), strict=True):
        with pytest.raises(SystemExit) as stop:
            main([command, str(kept), "--worst", str(file), "--out", str(tmp_path / command)])
        assert not stop.value.code
        assert file.read_bytes() == base64.b64decode(data)
    rows = list(csv.DictReader(io.StringIO(files[0].read_text())))
    assert len(rows) == sum(len(method.worst) for method in record.methods)
    assert page.count('<form class="controls"') == len([one for one in record.methods if one.gallery]) == 4
    assert "Levels, and the distances in the list, are for the plain model of the same seed" in page


def test_risk_and_coverage_from_the_predictions(record, out):
    assert record.study.coverages == pytest.approx(np.arange(1, 21) / 20)
    for place, names in enumerate(of(record, "Deep").training.runs):
        logits, labels = logits_of(out, names)
        probs = probs_at(logits, 1.0)
        order = np.argsort(-probs.max(1), kind="stable")
        wrong = (probs.argmax(1) != labels)[order]
        expected = [wrong[:kept].mean() for kept in range(10, 201, 10)]
        assert of(record, "Deep").risk[place] == pytest.approx(expected, abs=1e-5)


def test_tables_are_made_again_from_the_results(out, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["compare", str(out / "results.json"), "--out", str(tmp_path)])
    assert not stop.value.code
    for name in ("table.txt", "table.md", "table.csv", "figure.svg"):
        assert (tmp_path / name).read_text() == (out / name).read_text()


def test_other_comparisons_are_not_overwritten_unasked(out, plan):
    other = parse_plan({**RAW, "seeds": [0]})
    with pytest.raises(InputError, match="another comparison"):
        compare(other, out)


def test_a_dry_run_lists_the_tasks_and_does_nothing(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["compare", str(plan_file(tmp_path)), "--out", str(tmp_path / "out"), "--dry-run", "--seeds", "0-1,3"])
    lines = capsys.readouterr().out.splitlines()
    assert not (tmp_path / "out").exists()
    assert sum(line.startswith("score test") for line in lines) == 3
    with pytest.raises(SystemExit) as stop:
        main(["compare", "digits", "--out", str(tmp_path), "--dry-run", "--seeds", "few"])
    assert stop.value.code == 2


def test_tasks_come_after_what_they_need_and_none_is_there_twice(plan, tmp_path):
    work = Work(plan, Place(tmp_path), kinds=BENCHMARK_KINDS)
    assert all(needed < number for number, needs in enumerate(work.needs) for needed in needs)
    lines = [task.describe() for task in work.tasks]
    single = [line for line in lines if " in " in line or line.startswith("corrupt")]
    assert len(set(single)) == len(single)
    without = Work(parse_plan({**RAW, "shift_limit": 0, "score_limit": 0}), Place(tmp_path), kinds=BENCHMARK_KINDS)
    assert {task.kind for task in without.tasks} == {"train", "score train", "inference"}
