"""benchmarks/running_study.py: the most wanted first, nothing begun too late; what is packed gives the same figures."""

import dataclasses
import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from robcal.base.results import VARIANTS
from robcal.comparison.outcomes import outcomes_of
from robcal.comparison.summary import Measurements
from robcal.comparison.tasks import Task
from robcal.data import load_dataset

FOLDER = Path(__file__).parents[2] / "benchmarks"
if not FOLDER.is_dir():
    pytest.skip("benchmarks are not in the wheel", allow_module_level=True)
sys.path.insert(0, str(FOLDER))
import running_levels  # noqa: E402
import running_study  # noqa: E402
import running_tiny  # noqa: E402
from kept_outcomes import from_arrays  # noqa: E402
from wide.store import Results  # noqa: E402

ORDER = (("cifar10-running", ("Running levels, mixup",)), ("cifar10-running", ("Plain", "Levels by distance")))


@pytest.fixture
def options(tmp_path):
    """A few tiny pictures, so that a run takes a moment."""
    rng = np.random.default_rng(0)
    labels = {"train": np.arange(120) % 3, "test": np.arange(30) % 3}
    images = {name: rng.integers(0, 90, (len(y), 8, 8, 3)) + 60 * y[:, None, None, None] for name, y in labels.items()}
    arrays = {f"x_{name}": one.astype(np.uint8) for name, one in images.items()}
    np.savez(tmp_path / "tiny.npz", **arrays, **{f"y_{name}": one for name, one in labels.items()})
    trial = [
        "--seeds",
        "0",
        "1",
        *(word for one in ("epochs=1", "train_limit=60", "levels=3") for word in ("--set", one)),
    ]
    names = [str(tmp_path / name) for name in ("cache", "out")]
    return ["--data", f"npz:{tmp_path / 'tiny.npz'}", "--cache", names[0], "--out", names[1], *trial]


def test_the_most_wanted_rows_come_first_each_after_what_it_needs(options):
    work = running_study.work_of("cifar10-running", running_study.parse(options))
    pieces = running_study.laid_out({"cifar10-running": work}, ORDER, 100.0, 40.0)
    assert all(need < number for number, piece in enumerate(pieces) for need in piece.needs)
    lines = [piece.describe() for piece in pieces]
    measured = [line.removeprefix("outcomes: ") for line in lines if line.startswith("outcomes")]
    assert measured[:3] == ["Running levels, mixup seed 0", "Running levels, mixup seed 1", "Plain seed 0"]
    assert len(measured) == 6
    assert sum(line.startswith("train: mixup seed 100") for line in lines) == 3
    assert not any(line.startswith("inference") for line in lines)
    assert {piece.until for piece in pieces if piece.kind in ("train", "score train")} == {40.0}
    assert {piece.until for piece in pieces if piece.kind == "outcomes"} == {100.0 - running_study.LAST_SECONDS}
    assert sum(isinstance(piece.what, Task) and piece.kind == "score train" for piece in pieces) == 2


def test_a_row_of_fewer_seeds_has_the_referees_of_the_others(options):
    """The plain network of seed 5 judges the fifth run of a row that has seeds 0 to 4 only."""
    every = options[: options.index("--seeds")]
    work = running_study.work_of("cifar10-running-seeds", running_study.parse(every))
    pieces = running_study.laid_out({"cifar10-running-seeds": work}, (("cifar10-running-seeds", ()),), 100.0, 40.0)
    jobs = [piece.what for piece in pieces if piece.kind == "outcomes"]
    judges = {job.entry.seed: job.plain.settings().seed for job in jobs if job.entry.label == running_levels.WEAKER}
    assert judges == {0: 1, 1: 2, 2: 3, 3: 4, 4: 5}


@pytest.mark.slow
def test_what_is_packed_gives_the_same_figures_and_a_page(options, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(running_study, "ORDER", (("cifar10-running", ("Running levels, mixup", "Plain")),))
    monkeypatch.setattr(running_study, "SAVE_SECONDS", 1.0)
    running_study.main([*options, "--minutes", "0"])
    assert "0 of" in capsys.readouterr().out
    running_study.main(options)
    assert "failed" not in capsys.readouterr().out
    packed = (tmp_path / "out" / "results-00.safetensors").read_bytes()
    running_study.main(options)
    assert (tmp_path / "out" / "results-00.safetensors").read_bytes() == packed
    results = Results(tmp_path / "out")
    assert sum(name.startswith("cifar10-running/") for name in results.facts) == 4
    work = running_study.work_of("cifar10-running", running_study.parse(options))
    for entry in (one for one in work.entries if f"cifar10-running/{one.label}/{one.seed}" in results):
        name = f"cifar10-running/{entry.label}/{entry.seed}"
        job = running_study.job_of(work, entry)
        assert job.plain.settings().seed == 1 - entry.seed
        kept, made = from_arrays(results.arrays[name], results.facts[name]), outcomes_of(job)
        for variant, ours, theirs in zip(VARIANTS, kept, made, strict=True):
            assert ours.temperature == theirs.temperature
            assert set(ours.metrics) == set(theirs.metrics)
            pair = [Measurements("", {0: (one, one), 1: (one, one)}) for one in (ours, theirs)]
            for metric in ours.metrics:
                assert pair[0].estimate(metric, variant) == pair[1].estimate(metric, variant)
            for table in ("levels", "cells"):
                mine, other = (getattr(one, table) for one in (ours, theirs))
                assert set(mine) == set(other)
                for key, row in mine.items():
                    np.testing.assert_array_equal(row, other[key])
    fewer = Results(tmp_path / "fewer")
    fewer.about = {**results.about, "torch": "another"}
    fewer.add(name, results.arrays[name], results.facts[name])
    folders = [str(tmp_path / one) for one in ("fewer", "out")]
    running_levels.main(["--results", *folders, "--out", str(tmp_path / "page.md")])
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| Running levels, mixup | 2 |" in page
    assert "| Random levels" not in page
    assert "torch another" not in page
    values = json.loads((tmp_path / "page.json").read_text(encoding="utf-8"))
    raw = values["comparisons"]["cifar10-running"]["runs"]["Plain"]["0"]["raw"]
    kept = from_arrays(results.arrays["cifar10-running/Plain/0"], results.facts["cifar10-running/Plain/0"])[0]
    np.testing.assert_allclose(raw["cells"]["nll"], kept.cells["nll"], rtol=0, atol=5.1e-4)


def test_a_piece_that_comes_too_late_is_not_begun(options):
    work = running_study.work_of("cifar10-running", running_study.parse(options))
    piece = running_study.laid_out({"cifar10-running": work}, ORDER, 100.0, 40.0)[0]
    with pytest.raises(running_study.NoTimeError):
        running_study.do(dataclasses.replace(piece, until=0.0))


def test_a_comparison_whose_data_is_not_named_is_left_out(options, capsys):
    running_study.main([*options, "--presets", "tiny-running", "--minutes", "0"])
    assert "0 of 0 pieces are done" in capsys.readouterr().out
    running_study.main([*options, "--presets", "tiny-running", "--minutes", "0", "--tiny", options[1]])
    assert "0 of 0 pieces" not in capsys.readouterr().out


def test_the_images_of_200_classes_train_or_judge_and_never_both(tmp_path):
    """Each picture has a colour of its own, so a cut says which pictures it holds."""
    colours = [(3 * number, 7 * number % 256, label) for number in range(40) for label in range(2)]
    files = [io.BytesIO() for _ in colours]
    for file, colour in zip(files, colours, strict=True):
        Image.new("RGB", (32, 32), colour).save(file, "PNG")
    table = pa.table({"image": [file.getvalue() for file in files], "label": [colour[2] for colour in colours]})
    pq.write_table(table, tmp_path / "train.parquet")
    running_tiny.main([str(tmp_path / "train.parquet"), str(tmp_path / "tiny.npz")])
    cuts = [load_dataset(f"npz:{tmp_path / 'tiny.npz'}", val_fraction=0.25, seed=seed) for seed in (0, 1)]
    held = [
        {name: [tuple(map(int, image[:, 5, 5])) for image in split.inputs] for name, split in cut.splits.items()}
        for cut in cuts
    ]
    for cut, found in zip(cuts, held, strict=True):
        assert {name: len(one) for name, one in found.items()} == {"train": 48, "val": 16, "test": 16}
        assert sorted(colour for one in found.values() for colour in one) == sorted(colours)
        for name, split in cut.splits.items():
            assert [colour[2] for colour in found[name]] == split.labels.tolist()
            assert np.bincount(split.labels).tolist() == [len(split) // 2] * 2
    assert held[0]["test"] == held[1]["test"]
    assert held[0]["val"] != held[1]["val"]
