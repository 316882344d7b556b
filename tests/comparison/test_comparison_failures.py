"""Comparisons in which runs fail: what is told, what goes on, what the tables say, and what the next start does."""

import csv
import io
import shutil
from dataclasses import replace

import numpy as np
import pytest

from robcal.base.checks import InputError
from robcal.commands.cli import main
from robcal.comparison import compare, csv_rows, load_comparison, markdown_tables, parse_plan, text_tables
from robcal.comparison.tasks import Place
from robcal.report.study_tables import cost_ratios

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("comparison_failures"),
]  # its fixtures are dear: one process makes them

RAW = {
    "seeds": [0, 1],
    "reference": ["Plain"],
    "shift_limit": 10,
    "score_limit": 30,
    "recipe": {
        "data": "digits", "model": "mlp", "epochs": 1, "batch_size": 32, "levels": 2, "train_limit": 200,
        "test_limit": 100,
    },
    "methods": [
        {"label": "Hopeless", "method": "label-smoothing", "options": {"learning_rate": 1e30, "weight_decay": 0.0}},
        {"label": "Plain", "method": "vanilla"},
        {"label": "Smooth", "method": "label-smoothing", "options": {"epsilon": 0.3}},
    ],
    "ensembles": [{"label": "Hopeless ensemble", "of": "Hopeless", "members": 2}],
    "targets": [
        {"name": "some", "metric": "ece", "method": "Smooth", "against": "Plain"},
        {"name": "none", "metric": "ece", "method": "Hopeless", "against": "Plain"},
    ],
}  # fmt: skip


def of(record, label):
    return record.method(label)


def directory(folder, label, seed):
    plan = parse_plan(RAW)
    return Place(folder).of(plan.settings(plan.method(label), seed))


def block(folder, label, seed):
    """Put a file where a run's directory would be."""
    where = directory(folder, label, seed)
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_text("in the way")
    return where


def compared(folder, jobs):
    """(folder, record, lines told) of a comparison where one method fails at every seed and another at one."""
    told = []
    block(folder, "Smooth", 1)
    record = compare(parse_plan(RAW), folder, jobs=jobs, report=False, on_failure=told.append)
    return folder, record, told


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    return compared(tmp_path_factory.mktemp("broken"), 1)


def test_processes_side_by_side_fail_and_go_on_alike(broken, tmp_path):
    (one, record, told), (two, other, heard) = broken, compared(tmp_path, 2)
    assert sorted(line.replace(str(two), str(one)) for line in heard) == sorted(told)
    lost, missed = ({(m.label, m.seed, m.part) for m in each.study.missing} for each in (record, other))
    assert missed == lost
    for method in record.methods:
        assert of(other, method.name).seeds == method.seeds
        found = {name: estimate.value for name, estimate in of(other, method.name).metrics.items()}
        assert found == pytest.approx({name: estimate.value for name, estimate in method.metrics.items()}, abs=1e-4)


def test_what_fails_is_told_and_the_rest_goes_on(broken):
    _, record, told = broken
    lost = {(one.label, one.seed) for one in record.study.missing}
    assert lost == {(label, seed) for label in ("Hopeless", "Hopeless ensemble") for seed in (0, 1)} | {("Smooth", 1)}
    assert {one.part for one in record.study.missing} == {"all"}
    assert len(told) == 2 + 2 + 1  # of the ensemble the other members fail too
    hopeless = [line for line in told if "the training loss became" in line]
    assert len(hopeless) == 4
    assert all(line.startswith("failed: train: label-smoothing seed ") for line in told)
    assert all("tasks that need it are skipped" in line for line in told)
    (blocked,) = set(told) - set(hopeless)
    assert "train: label-smoothing seed 1 in " in blocked
    assert [of(record, label).seeds for label in ("Hopeless", "Plain", "Smooth")] == [(), (0, 1), (0,)]


def test_means_and_differences_are_over_the_seeds_there_are(broken):
    _, record, _ = broken
    plain, smooth = (of(record, label).metrics["ece"] for label in ("Plain", "Smooth"))
    assert len(plain.per_seed) == 2
    assert smooth.per_seed == (smooth.value,)
    difference = of(record, "Smooth").minus["Plain"]["ece"]
    free, other = (of(record, label).metrics["ece_corrected"] for label in ("Plain", "Smooth"))
    assert difference.per_seed == pytest.approx([other.value - free.per_seed[0]])
    assert of(record, "Hopeless").minus == {"Plain": {}}
    assert of(record, "Hopeless").metrics == {}
    assert of(record, "Plain").marks["ece"] == "best"  # the one with the most seeds
    some, none = record.study.targets
    assert (some.seeds, some.lacking) == ((0,), (1,))
    assert some.difference == difference
    assert (none.seeds, none.lacking, none.verdict) == ((), (0, 1), "not measured")


def test_tables_mark_it_and_say_why(broken):
    folder, record, _ = broken
    text, markdown = text_tables(record), markdown_tables(record)
    assert (folder / "table.txt").read_text() == text
    assert text.isascii()
    for mark, table in (("!", text), ("†", markdown)):
        assert (
            f"Hopeless (0 of 2 seeds) {mark}".replace("(", "\\(" if mark == "†" else "(").replace(
                ")", "\\)" if mark == "†" else ")"
            )
            in table
        )
        words = " ".join(table.replace("\\", "").split())
        assert f"{mark} Hopeless lacks seeds 0, 1: train: label" in words
        assert f"{mark} Smooth lacks seed 1: train: label" in words
        assert f"Plain {mark}" not in table
    flat = " ".join(text.split())
    assert "the training loss became" in flat
    assert "not measured: none" in flat
    assert "(! on the common seeds 0; without 1)" in flat
    rows = list(csv.DictReader(io.StringIO(csv_rows(record))))
    lacking = [row for row in rows if row["kind"] == "missing"]
    assert {(row["label"], row["lacks"]) for row in lacking} == {(m.label, str(m.seed)) for m in record.study.missing}
    assert all("failed" in row["why"] for row in lacking)
    for row in rows:
        if row["kind"] != "missing":
            assert row["lacks"] == ("1" if row["label"] == "Smooth" else "")
            assert len(row["per_seed"].split()) == int(row["seeds"]) == 2 - len(row["lacks"].split())


def test_the_next_start_tries_only_what_is_missing(broken, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(broken[0], folder)
    directory(folder, "Smooth", 1).unlink()
    times = directory(folder, "Plain", 0) / "inference.json"
    times.unlink()
    times.mkdir()  # not a file: the time cannot be read nor measured
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("model.safetensors")}
    told = []
    record = compare(parse_plan(RAW), folder, jobs=1, on_failure=told.append)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert of(record, "Smooth").seeds == (0, 1)
    assert {(m.label, m.seed, m.part) for m in record.study.missing} == {
        *(("Hopeless", seed, "all") for seed in (0, 1)),
        *(("Hopeless ensemble", seed, "all") for seed in (0, 1)),
        ("Plain", 0, "inference"),
    }
    assert len(told) == 5
    assert of(record, "Plain").metrics["ece"].per_seed == of(broken[1], "Plain").metrics["ece"].per_seed
    smooth, plain = (of(record, label).training.inference_seconds[1] for label in ("Smooth", "Plain"))
    assert cost_ratios(record, "inference_seconds")["Smooth"] == pytest.approx(smooth / plain)
    assert "lacks inference time of seed 0" in " ".join(text_tables(record).split())
    page = (folder / "report.html").read_text()
    assert "Hopeless lacks seeds 0, 1" in page
    assert "Hopeless (0 of 2 seeds) †" in page
    assert "Reliability diagram of Smooth" in page


def test_what_lacks_its_shift_keeps_the_rest(broken, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(broken[0], folder)
    (parts,) = directory(folder, "Plain", 1).glob("shift-test-10*")
    shutil.rmtree(parts) if parts.is_dir() else parts.unlink()
    block_file = parts if parts.suffix == ".parts" else parts.with_suffix(".parts")
    block_file.write_text("in the way")
    record = compare(parse_plan(RAW), folder, jobs=1, report=False)
    assert ("Plain", 1, "shift") in {(m.label, m.seed, m.part) for m in record.study.missing}
    metrics = of(record, "Plain").metrics
    assert len(metrics["ece"].per_seed) == 2
    assert len(metrics["shift_ece"].per_seed) == 1
    cells = [cell.per_seed["ece"] for cell in of(record, "Plain").shift]
    assert np.mean([first for first, _ in cells]) == pytest.approx(metrics["shift_ece"].value, abs=1e-5)
    assert {second for _, second in cells} == {None}
    assert "lacks shift of seed 1" in " ".join(text_tables(record).split())
    lacks = {(r["label"], r["metric"]): r["lacks"] for r in csv.DictReader(io.StringIO(csv_rows(record)))}
    assert lacks["Plain", "ece"] == ""
    assert lacks["Plain", "shift_ece"] == "1"


def plan_file(folder, methods):
    lines = ["seeds = [0, 1]", "shift_limit = 0", "score_limit = 0", "[recipe]"]
    lines += [f'{name} = "{v}"' if isinstance(v, str) else f"{name} = {v}" for name, v in RAW["recipe"].items()]
    for method in methods:
        options = ", ".join(f"{name} = {value}" for name, value in method.get("options", {}).items())
        lines.append(f'[[methods]]\nlabel = "{method["label"]}"\nmethod = "{method["method"]}"')
        lines.append(f"options = {{ {options} }}")
    (folder / "plan.toml").write_text("\n".join(lines))
    return str(folder / "plan.toml")


def test_the_exit_status_tells(tmp_path, capsys):
    out = tmp_path / "out"
    some = plan_file(tmp_path, RAW["methods"])
    command = ["compare", some, "--out", str(out), "--jobs", "1", "--quiet", "--no-report"]
    with pytest.raises(SystemExit) as stop:
        main(command)
    shown = capsys.readouterr()
    assert stop.value.code == 3
    assert shown.err.count("robcal: failed: train: label-smoothing seed") == 2
    assert "tries again what is missing" in shown.err
    assert "! Hopeless lacks seeds 0, 1" in shown.out
    assert load_comparison(out / "results.json").study.missing
    with pytest.raises(SystemExit) as stop:
        main([*command, "--fail-fast"])
    assert stop.value.code == 2
    assert "the training loss became" in capsys.readouterr().err


def test_nothing_measured_is_an_error(tmp_path):
    plan = parse_plan({**RAW, "methods": RAW["methods"][:1], "ensembles": [], "targets": [], "reference": ["Hopeless"],
                       "shift_limit": 0, "score_limit": 0})  # fmt: skip
    with pytest.raises(InputError, match=r"nothing could be measured: train: .* the training loss became"):
        compare(plan, tmp_path / "out", jobs=1)
    assert not (tmp_path / "out/results.json").exists()


def test_what_lacks_nothing_has_no_marks(broken):
    _, record, _ = broken
    plain = replace(of(record, "Plain"), minus={})
    study = replace(record.study, missing=(), targets=(), references=())
    whole = replace(record, methods=(plain,), study=study)
    assert "lacks" not in text_tables(whole)
    assert "†" not in markdown_tables(whole)
