"""Out-of-distribution inputs, costs, stability, shift of tables and official corrupted files: all numbers anew."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from robcal.base.checks import InputError
from robcal.base.levels import assign_levels
from robcal.base.storage import load_predictions, load_scores
from robcal.commands.cli import main
from robcal.comparison import compare, load_comparison, load_plan, parse_plan, text_tables
from robcal.data import load_dataset
from robcal.data.corruptions import BENCHMARK_KINDS
from robcal.data.splits import stratified_subset
from robcal.data.table_shift import Features, shift_table
from robcal.report.study_tables import cost_ratios
from robcal.runs.directory import load_model, open_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("comparison_wide"),
]  # its fixtures are dear: one process makes them

RECIPE = {
    "data": "digits", "model": "mlp", "epochs": 2, "batch_size": 32, "levels": 3, "train_limit": 300,
    "test_limit": 200,
}  # fmt: skip


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    """Two files of inputs like digits that are none."""
    folder, rng = tmp_path_factory.mktemp("strange"), np.random.default_rng(0)
    labels = np.arange(60) % 2
    for name, images in {
        "noise": rng.random((60, 1, 8, 8)),
        "turned": np.rot90(load_digits().images[:60, None] / 16, axes=(2, 3)),
    }.items():
        images = np.ascontiguousarray(images).astype(np.float32)
        np.savez(folder / f"{name}.npz", x_train=images, y_train=labels, x_test=images[:40], y_test=labels[:40])
    return folder


@pytest.fixture(scope="module")
def out(strange, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide")
    raw = {
        "seeds": [0, 1, 2],
        "shift_limit": 0,
        "score_limit": 60,
        "ood": {name: f"npz:{strange / name}.npz" for name in ("noise", "turned")},
        "ood_limit": 30,
        "recipe": RECIPE,
        "methods": [
            {"label": "Plain", "method": "vanilla"},
            {"label": "Smooth", "method": "label-smoothing", "options": {"epsilon": 0.2}, "seeds": [0, 1]},
        ],
        "ensembles": [{"label": "Deep", "of": "Plain", "members": 2}],
        "targets": [{"name": "finds", "metric": "ood_auroc", "method": "Deep", "against": "Plain"}],
    }
    compare(parse_plan(raw), folder, jobs=1, report=False)
    return folder


@pytest.fixture(scope="module")
def record(out):
    return load_comparison(out / "results.json")


def of(record, label):
    return record.method(label)


def logits_on(out, names, split):
    """Logits of the mean of the runs' probabilities."""
    inputs = split.batch(np.arange(len(split)))
    with torch.no_grad():
        logits = [load_model(out / "runs" / name)[0](inputs).double().numpy() for name in names]
    return np.log(np.mean(softmax(logits, axis=2), axis=0))


@pytest.mark.parametrize("label", ["Plain", "Deep"])
def test_out_of_distribution_detection_by_scikit_learn(record, out, strange, label):
    method, each = of(record, label), []
    for place, names in enumerate(method.training.runs):
        test = open_run(out / "runs" / names[0]).dataset().split("test")
        for variant, scale in (("raw", 1.0), ("scaled", method.training.temperatures[place])):
            inside = softmax(logits_on(out, names, test) / scale, axis=1).max(1)
            for name in ("noise", "turned"):
                whole = load_dataset(f"npz:{strange / name}.npz", test_limit=30).split("test")
                outside = softmax(logits_on(out, names, whole) / scale, axis=1).max(1)
                strangers, sure = np.repeat([0, 1], [200, 30]), np.concatenate([inside, outside])
                false, true, _ = roc_curve(1 - strangers, sure, drop_intermediate=False)
                expected = {
                    "ood_auroc": roc_auc_score(strangers, -sure),
                    "ood_aupr": average_precision_score(strangers, -sure),
                    "ood_fpr95": false[np.flatnonzero(true >= 0.95)[0]],
                }
                for metric, value in expected.items():
                    found = method.variant(variant).ood[name][metric]
                    assert found.per_seed[place] == pytest.approx(value, abs=1e-4), (variant, name, metric)
                    assert found.low <= found.value <= found.high
                    each.append((variant, metric, place, value))
    for variant in ("raw", "scaled"):
        for metric in ("ood_auroc", "ood_aupr", "ood_fpr95"):
            for place in range(3):
                mean = np.mean([value for *key, value in each if key == [variant, metric, place]])
                found = method.variant(variant).metrics[metric].per_seed[place]
                assert found == pytest.approx(mean, abs=1e-4)
    assert record.study.ood["noise"]["inputs"] == 30


def test_the_confidence_is_all_that_detection_takes(record):
    """Two classes would keep their order under a temperature; ten do not."""
    raw, scaled = (of(record, "Plain").variant(variant).metrics["ood_auroc"].per_seed for variant in ("raw", "scaled"))
    assert raw != scaled


@pytest.mark.parametrize("variant", ["raw", "scaled"])
def test_stability_from_the_predictions(record, out, variant):
    for label, runs in (("Plain", 3), ("Smooth", 2)):
        method, true = of(record, label), []
        for place, (name,) in enumerate(method.training.runs):
            kept = load_predictions(out / "runs" / name / "predictions-test.safetensors")
            scale = 1.0 if variant == "raw" else method.training.temperatures[place]
            logs = log_softmax(kept.logits.astype(np.float64) / scale, axis=1)
            true.append(np.exp(logs[np.arange(200), kept.labels]))
        pairs = [(a - b) ** 2 / 2 for i, a in enumerate(true) for b in true[:i]]
        variance = np.mean(pairs, axis=0)  # the unbiased variance is the mean over pairs of half the squared difference
        found = of(record, label).variant(variant).stability
        assert found.runs == runs
        assert found.all == pytest.approx(variance.mean(), rel=1e-5)
        test = open_run(out / "runs" / method.training.runs[0][0]).dataset().split("test")
        index, levels = stratified_subset(test.labels, 60, num_classes=10), []
        for seed in method.seeds:
            (plain,) = of(record, "Plain").training.runs[seed]
            level = assign_levels(load_scores(out / "runs" / plain / "scores-test-60.parquet"), 3)
            levels.append([variance[index][level == group].mean() for group in range(3)])
        assert found.levels == pytest.approx(np.mean(levels, axis=0), rel=1e-5)


def test_costs_are_ratios_to_plain_over_shared_seeds(record, out):
    for key in ("seconds", "inference_seconds"):
        plain, smooth, deep = (getattr(of(record, label).training, key) for label in ("Plain", "Smooth", "Deep"))
        ratios = cost_ratios(record, key)
        assert ratios["Plain"] == 1
        assert ratios["Smooth"] == pytest.approx(sum(smooth) / sum(plain[:2]))
        assert ratios["Deep"] == pytest.approx(sum(deep) / sum(plain))
        assert ratios["Deep"] > 1
        assert all(value > 0 for value in (*plain, *smooth, *deep))
    (name,) = of(record, "Plain").training.runs[0]
    kept = json.loads((out / "runs" / name / "inference.json").read_text())
    assert kept["seconds"] == of(record, "Plain").training.inference_seconds[0]
    assert kept["examples"] == 200


def test_what_was_not_timed_has_no_ratio(record):
    methods = (
        replace(one, training=replace(one.training, inference_seconds=()), stability=None,
                scaled=replace(one.scaled, stability=None))
        for one in record.methods
    )  # fmt: skip
    text = text_tables(replace(record, methods=tuple(methods), study=replace(record.study, ood={})))
    assert "Training x" in text
    assert "Inference x" not in text.partition("Training x, inference x:")[0]
    assert "Stability" not in text


def test_the_tables_show_it(record, out):
    text = (out / "table.txt").read_text()
    head = " ".join(line for line in text.splitlines() if line.startswith("Method"))
    assert [name in head for name in ("OOD AUROC", "OOD AUPR", "OOD FPR95", "Training x", "Inference x")] == [True] * 5
    assert "out-of-distribution inputs noise" in text
    assert "out-of-distribution inputs turned" in text
    assert "stability, variance over runs per robustness level" in text
    assert "noise (30 inputs), turned (30 inputs)" in " ".join(text.split())
    found = f"{of(record, 'Deep').stability.levels[0]:.4f}"
    assert found in text
    assert "Shift:" not in text


def test_inputs_of_another_shape_are_refused_before_any_work(strange, tmp_path):
    images = np.zeros((8, 1, 9, 9), np.float32)
    np.savez(tmp_path / "large.npz", x_train=images, y_train=np.arange(8) % 2)
    file = tmp_path / "plan.toml"
    file.write_text(
        "seeds = [0]\n[recipe]\n"
        + "\n".join(f"{name} = {json.dumps(value)}" for name, value in RECIPE.items())
        + '\n[[methods]]\nlabel = "Plain"\nmethod = "vanilla"\n'
    )
    command = ["compare", str(file), "--out", str(tmp_path / "out"), "--dry-run", "--ood"]
    with pytest.raises(SystemExit) as stop:
        main([*command, f"large=npz:{tmp_path / 'large.npz'}"])
    assert stop.value.code == 2
    with pytest.raises(SystemExit) as stop:
        main([*command, "no-name"])
    assert stop.value.code == 2
    assert not (tmp_path / "out").exists()
    plan = load_plan(str(file), ood={"noise": f"npz:{strange / 'noise.npz'}"}, shift="cifar10c:x")
    assert (list(plan.ood), plan.shift) == (["noise"], "cifar10c:x")
    with pytest.raises(InputError, match="Did you mean 'cifar10c'"):
        load_plan(str(file), shift="cifar10-c:x")
    assert load_plan(str(file)).digest() != plan.digest()


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(1)
    labels = np.arange(240) % 3
    inputs = (rng.normal(0, 1, (240, 5)) + labels[:, None]) * [1, 10, 0.1, 3, 1] + [0, 50, 0, -2, 0]
    parts = {"train": slice(0, 160), "test": slice(160, 240)}
    arrays = {f"{axis}_{n}": v[part] for n, part in parts.items() for axis, v in (("x", inputs), ("y", labels))}
    np.savez(tmp_path / "table.npz", **arrays)
    return f"npz:{tmp_path / 'table.npz'}", arrays["x_test"].astype(np.float32), arrays["y_test"]


def one_method(data, model, tmp_path, **more):
    recipe = {"data": data, "model": model, "epochs": 3, "batch_size": 16, "levels": 2, "val_fraction": 0.25}
    raw = {"seeds": [0, 1], "score_limit": 0, "recipe": recipe, "methods": [{"label": "Plain", "method": "vanilla"}]}
    return compare(parse_plan({**raw, **more}), tmp_path / "out", report=True)


def test_tables_are_shifted_too(table, tmp_path):
    data, inputs, labels = table
    record = one_method(data, "mlp", tmp_path)
    assert len(of(record, "Plain").shift) == 15
    assert "missing features" in record.study.shift
    plain = of(record, "Plain")
    features = Features.of(inputs)
    for seed in (0, 1):
        model = load_model(tmp_path / "out/runs" / plain.training.runs[seed][0])[0]
        right = []
        for cell in plain.shift:
            moved = shift_table(inputs, cell.corruption, cell.severity, features=features, seed=0)
            with torch.no_grad():
                right.append((model(torch.from_numpy(moved)).argmax(1).numpy() == labels).mean())
        assert [cell.per_seed["accuracy"][seed] for cell in plain.shift] == pytest.approx(right, abs=1e-5)
        assert plain.metrics["shift_accuracy"].per_seed[seed] == pytest.approx(np.mean(right), abs=1e-5)
    assert "missing features" in (tmp_path / "out/report.html").read_text()
    assert "missing features" in (tmp_path / "out/table.md").read_text()


def official(folder, labels):
    """A test set in the layout of CIFAR-10, and its corrupted versions in that of CIFAR-10-C: severity s is darker."""
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (len(labels), 3, 32, 32), dtype=np.uint8)
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        records = np.concatenate([labels[:, None].astype(np.uint8), images.reshape(len(labels), -1)], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    corrupted = folder / "CIFAR-10-C"
    corrupted.mkdir()
    np.save(corrupted / "labels.npy", np.tile(labels.astype(np.uint8), 5))
    dark = np.concatenate([images // (s + 1) for s in range(1, 6)]).transpose(0, 2, 3, 1)
    for kind in BENCHMARK_KINDS:
        np.save(corrupted / f"{kind}.npy", dark)
    return images, corrupted


def test_official_corrupted_files_take_the_place_of_our_own(tmp_path):
    labels = np.arange(30) % 10
    images, corrupted = official(tmp_path, labels)
    record = one_method(f"cifar10:{tmp_path}", "cnn-fast", tmp_path, shift=f"cifar10c:{corrupted}", shift_limit=20)
    plain = of(record, "Plain")
    assert "official files of CIFAR-10-C" in record.study.shift
    assert "official files of CIFAR-10-C" in (tmp_path / "out/table.txt").read_text()
    assert not (tmp_path / "out/corrupted").exists()
    index = stratified_subset(labels, 20, num_classes=10)
    for seed in (0, 1):
        model = load_model(tmp_path / "out/runs" / plain.training.runs[seed][0])[0]
        right = []
        for severity in range(1, 6):
            shown = torch.from_numpy(images[index] // (severity + 1)).float() / 255
            with torch.no_grad():
                right.append((model(shown).argmax(1).numpy() == labels[index]).mean())
        assert [cell.per_seed["accuracy"][seed] for cell in plain.shift] == pytest.approx(right * 15, abs=1e-5)


def test_official_files_of_other_images_are_refused(tmp_path):
    labels = np.arange(30) % 10
    _, corrupted = official(tmp_path, labels)
    np.save(corrupted / "labels.npy", np.tile((9 - labels).astype(np.uint8), 5))
    record = one_method(f"cifar10:{tmp_path}", "cnn-fast", tmp_path, shift=f"cifar10c:{corrupted}", shift_limit=20)
    assert {(one.part, one.seed) for one in record.study.missing} == {("shift", 0), ("shift", 1)}
    assert all("other labels than the test split" in one.reason for one in record.study.missing)
    with pytest.raises(InputError, match="of shape"):
        one_method("digits", "mlp", tmp_path / "other", shift=f"cifar10c:{corrupted}")


def test_severities_grow(table):
    _, inputs, _ = table
    features = Features.of(inputs)
    for kind in ("noise", "missing_features", "scaling"):
        moved = [np.abs(shift_table(inputs, kind, s, features=features, seed=0) - inputs).mean() for s in range(1, 6)]
        assert all(a < b for a, b in pairwise(moved))
