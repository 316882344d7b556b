"""The commands give the numbers that they gave before: a change that only re-orders code passes this, digit by digit.

Where numbers are meant to change, write the fixture anew and say in the changelog what changed:

    python tests/core/test_same_numbers.py --write
"""

import contextlib
import io
import json
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import robcal
from robcal.commands.cli import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("same_numbers"),
]  # its fixtures are dear: one process makes them

FIXTURE = Path(__file__).with_name("same_numbers.json")
RECIPE = {
    "data": "digits", "model": "mlp", "epochs": 3, "batch_size": 16, "learning_rate": 0.1, "weight_decay": 0.0005,
    "train_limit": 300, "test_limit": 120, "levels": 5,
}  # fmt: skip
TRAINED = {
    "vanilla": ("--method", "vanilla"),
    "ar-adals": ("--method", "ar-adals", "--gain", "40"),
    "ar-adals by margin": ("--method", "ar-adals", "--levels-from", "margin", "--gain", "40"),
    "ar-adals by robustness": ("--method", "ar-adals", "--levels-from", "robustness", "--gain", "40"),
    "ar-adals of the ensemble": (
        *("--method", "ar-adals", "--levels-from", "margin", "--gain", "40"),
        *("--members", "2", "--learning-rate", "0.2"),
    ),
}
PLAN = """
title = "The same numbers"
seeds = [0, 1]
reference = ["Plain"]
shift_limit = 20
[recipe]
{recipe}
[tuning]
seeds = [100]
select = "val_nll"
[[methods]]
label = "Plain"
method = "vanilla"
[[methods]]
label = "Label smoothing"
method = "label-smoothing"
grid = {{ epsilon = [0.02, 0.1] }}
[[methods]]
label = "AR-AdaLS"
method = "ar-adals"
options = {{ gain = 40.0, levels_from = "robustness" }}
[[ensembles]]
label = "Ensemble"
of = "Plain"
members = 2
"""
#: Figures that are read off a printed table are rounded there, so they may differ by a unit of the last place.
PRINTED = "printed"


def command(*arguments):
    """What a command prints on standard output."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as stop:
        main([str(part) for part in arguments])
    assert not stop.value.code, arguments
    return printed.getvalue()


def flat(value, name=""):
    """Numbers of nested dictionaries and lists by their path; other values are left out."""
    if isinstance(value, dict):
        return {key: number for part, inner in value.items() for key, number in flat(inner, f"{name}/{part}").items()}
    if isinstance(value, list | tuple) and value and all(isinstance(part, int | float) for part in value):
        return {name: [float(part) for part in value]}
    if isinstance(value, list | tuple):
        return flat({str(k): part for k, part in enumerate(value)}, name)
    return {name: [float(value)]} if isinstance(value, int | float) else {}


def of_training(folder):
    found = {}
    for name, options in TRAINED.items():
        out = folder / name
        recipe = [part for key, value in RECIPE.items() for part in (f"--{key.replace('_', '-')}", value)]
        command("train", *recipe, *options, "--out", out, "--quiet")
        found |= flat(json.loads((out / "history.json").read_text()), f"train/{name}/history")
        saved = load_file(out / "predictions-test.safetensors")
        found |= {f"train/{name}/{key} of 5 examples": saved[key][:5].ravel().tolist() for key in ("labels", "probs")}
    return found


def of_scores(folder):
    found = {}
    for method in ("auto", "projection", "first-order"):
        out = folder / f"{method}.parquet"
        options = ("--split", "test", "--method", method, "--levels", 5, "--out", out, "--quiet")
        command("score", "--model", folder / "vanilla", *options)
        scores = robcal.load_scores(out)
        found[f"score/{method}/distance"] = scores.distance[:40].tolist()
        found[f"score/{method}/rival"] = scores.rival[:40].tolist()
        found[f"score/{method}/verified"] = [float((scores.status == "verified").mean())]
        found[f"score/{method}/levels"] = robcal.assign_levels(scores, 5)[:40].tolist()
    return found


def of_audits(folder):
    """The rows that are printed of a run, and all that an audit of the same arrays tells."""
    run, options = folder / "ar-adals by robustness", ("--levels", 5, "--resamples", 100)
    told = command("audit", run, *options, "--quiet").splitlines()
    rows = "\n".join(line for line in told if re.match(r"\s*(AR-AdaLS|\d+\s+\d+)\s.*\[", line))
    numbers = [float(text) for text in re.findall(r"[-+]?(?:\d+\.\d+|\.\d+|\d+)", rows)]
    saved = load_file(run / "predictions-test.safetensors")
    scores = robcal.load_scores(run / "scores-test.parquet")
    options = {"scores": scores, "groups": saved["labels"] % 3, "num_levels": 5, "resamples": 100}
    audit = robcal.audit(saved["probs"], saved["labels"], **options)
    (method,) = audit.to_dict()["methods"]
    return {f"audit/{PRINTED}": numbers} | flat(
        {name: method[name] for name in ("metrics", "levels", "groups", "trends")}, "audit"
    )


def of_comparison(folder):
    plan, out = folder / "plan.toml", folder / "comparison"
    plan.write_text(PLAN.format(recipe="\n".join(f"{key} = {json.dumps(value)}" for key, value in RECIPE.items())))
    command("compare", plan, "--out", out, "--jobs", 1, "--no-report", "--quiet")
    record, found = json.loads((out / "results.json").read_text()), flat({})
    for method in record["methods"]:
        name = f"compare/{method['name']}"
        found |= flat({"temperature": method["training"]["temperatures"]}, name)
        for variant, figures in (("raw", method), ("scaled", method["scaled"])):
            found |= flat({"metrics": figures["metrics"]}, f"{name}/{variant}")
    return found


def measure(folder):
    """Every number, by name."""
    torch.set_num_threads(1)
    return of_training(folder) | of_scores(folder) | of_audits(folder) | of_comparison(folder)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    threads = torch.get_num_threads()
    yield measure(tmp_path_factory.mktemp("same"))
    torch.set_num_threads(threads)


EXPECTED = json.loads(FIXTURE.read_text()) if FIXTURE.exists() else {}


def test_the_fixture_holds_every_number(measured):
    assert list(measured) == list(EXPECTED)
    assert {name.split("/")[0] for name in EXPECTED} == {"train", "score", "audit", "compare"}


@pytest.mark.parametrize("part", ["train", "score", "audit", "compare"])
def test_no_number_changed(measured, part):
    differing = []
    for name, expected in EXPECTED.items():
        if name.startswith(f"{part}/"):
            tolerance = {"rtol": 1e-5, "atol": 0.0015 if PRINTED in name else 1e-6}
            if len(measured[name]) != len(expected) or not np.allclose(measured[name], expected, **tolerance):
                differing.append(f"{name}: {measured[name][:6]}, was {expected[:6]}")
    assert not differing, "\n".join(differing)


def test_smoothing_was_at_work():
    """Else the fixture would not notice what happens to the targets."""
    for name in TRAINED:
        softened = sum(sum(EXPECTED.get(f"train/{name}/history/{epoch}/epsilon", [])) for epoch in range(3))
        assert (softened > 0) == (name != "vanilla"), name


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        rounded = {name: [float(f"{part:.9g}") for part in values] for name, values in measure(Path(folder)).items()}
    lines = [f"{json.dumps(name)}: {json.dumps(values)}" for name, values in rounded.items()]
    FIXTURE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
