"""benchmarks/unused_images.py: the images are those that no run has seen, and the figures are theirs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from robcal.calibration import calibration_error
from robcal.runs.directory import load_networks, open_run
from robcal.training.predict import predict

FOLDER = Path(__file__).parents[2] / "benchmarks"
if not FOLDER.is_dir():
    pytest.skip("benchmarks are not in the wheel", allow_module_level=True)
sys.path.insert(0, str(FOLDER))
import unused_images  # noqa: E402

TRAIN, TEST, LIMIT = 150, 30, 60


@pytest.fixture
def arguments(tmp_path):
    """A few tiny pictures, all different, so that a run takes a moment."""
    rng = np.random.default_rng(0)
    labels = {"train": np.arange(TRAIN) % 3, "test": np.arange(TEST) % 3}
    images = {name: rng.integers(0, 90, (len(y), 8, 8, 3)) + 60 * y[:, None, None, None] for name, y in labels.items()}
    arrays = {f"x_{name}": one.astype(np.uint8) for name, one in images.items()}
    np.savez(tmp_path / "tiny.npz", **arrays, **{f"y_{name}": one for name, one in labels.items()})
    trial = [word for one in ("epochs=1", f"train_limit={LIMIT}", "levels=3") for word in ("--set", one)]
    return ["--data", f"npz:{tmp_path / 'tiny.npz'}", "--cache", str(tmp_path / "cache"),
            "--page", str(tmp_path / "page.md"), "--seeds", "0", "1", *trial]  # fmt: skip


@pytest.mark.slow
def test_all_images_that_a_run_has_not_seen_are_measured_once(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(unused_images, "ROWS", ("Plain", "Running levels"))
    monkeypatch.setattr(unused_images, "OURS", ("Running levels",))
    unused_images.main(arguments)
    runs = [open_run(folder) for folder in sorted((tmp_path / "cache/runs").iterdir())]
    found = json.loads((tmp_path / "page.json").read_text())
    for run in runs:
        name = "Plain" if run.settings.method == "vanilla" else "Running levels"
        data, unused = run.dataset(), unused_images.unused_images(run)
        parts = [
            np.asarray(part.inputs[np.arange(len(part))]) for part in (data.split("train"), data.split("val"), unused)
        ]
        assert len(np.unique(np.concatenate(parts).reshape(TRAIN, -1), axis=0)) == TRAIN == sum(map(len, parts))
        network = load_networks(run)
        tests, others = predict(network, data.split("test")), predict(network, unused)
        probs, labels = (np.concatenate([getattr(one, key) for one in (tests, others)]) for key in ("probs", "labels"))
        row = found[name][str(run.settings.seed)]
        assert row["all"]["n"] == len(labels) == TRAIN + TEST - LIMIT - len(data.split("val"))
        assert row["test"]["n"] == TEST
        right = np.log(probs[np.arange(len(labels)), labels].astype(float))
        assert row["all"]["nll"] == pytest.approx(-right.mean(), abs=1e-6)
        assert row["all"]["measured"] == pytest.approx(calibration_error(probs, labels), abs=1e-6)
        assert row["test"]["accuracy"] == pytest.approx((tests.probs.argmax(1) == tests.labels).mean())
    pairs = [found["Running levels"][seed]["all"]["nll"] - found["Plain + T"][seed]["all"]["nll"] for seed in "01"]
    half = stats.t.ppf(0.975, 1) * np.std(pairs, ddof=1) / np.sqrt(2)
    low, high = (f"{np.mean(pairs) + side * half:+.4f}".replace("-", "−") for side in (-1, 1))
    text = (tmp_path / "page.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| Running levels − Plain + T |"))
    assert f"[{low}, {high}]" in line

    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.*")}
    unused_images.main(arguments)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.*")} == before
    assert (tmp_path / "page.md").read_text() == text


def test_the_page_holds_what_was_measured():
    page = FOLDER.parent / "docs/evidence/unused-images.md"
    found = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    shown = {name: rows for name, rows in found.items() if name in (*unused_images.ROWS, unused_images.SCALED)}
    assert unused_images.page(shown) == page.read_text(encoding="utf-8")
