"""A new method is one file and one line in `METHODS`: library, command line and files of comparisons then know it."""

import json
import sys

import numpy as np
import pytest
import torch

import robcal
from robcal.base.checks import InputError
from robcal.base.storage import load_checkpoint
from robcal.commands.cli import main
from robcal.comparison import compare, load_plan
from robcal.methods import METHODS, make_method, method_options
from robcal.runs.directory import open_run
from robcal.runs.train import train_run
from robcal.training.settings import TrainSettings

#: The one file: labels of whole batches are given to others with some probability.
FILE = '''
"""Noisy labels."""

from __future__ import annotations

import torch

from robcal.base.checks import check_fraction
from robcal.methods import Batch, Method
from robcal.methods.method import State


def noisy(share: float = 0.1, shift: int = 1) -> Method:
    """Give a share of the label's mass to another class.

    Args:
        share: in (0, 1).
        shift: how many classes further on.
    """
    check_fraction(share, "share")

    def targets(state: State, batch: Batch, num_classes: int) -> torch.Tensor:
        hard = torch.nn.functional.one_hot(batch.labels, num_classes).float()
        return (1 - share) * hard + share * hard.roll(shift, 1)

    return Method(name="noisy", title="Noisy labels", targets=targets)
'''
RECIPE = {"data": "digits", "model": "mlp", "epochs": 2, "train_limit": 100, "test_limit": 60, "device": "cpu"}
FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in RECIPE.items()]


@pytest.fixture
def noisy(tmp_path, monkeypatch):
    (tmp_path / "own_methods.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(METHODS, "noisy", "own_methods:noisy")  # the one line
    yield
    sys.modules.pop("own_methods", None)


def command(*words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code or 0


def tensors(out):
    return load_checkpoint(out / "model.safetensors")[0]


@pytest.mark.slow
def test_library_command_line_and_file_train_the_same_network_by_it(noisy, tmp_path, capsys):
    wanted = TrainSettings(**RECIPE, method="noisy", options={"share": 0.3})
    assert wanted.options == {"share": 0.3, "shift": 1}
    first = train_run(wanted, tmp_path / "library").directory

    assert command("train", *FLAGS, "--method", "noisy", "--option", "share=.3", "--out", tmp_path / "option") == 0
    assert command("train", *FLAGS, "--method", "noisy", "--share", ".3", "--shift=1", "--out", tmp_path / "flag") == 0

    recipe = "\n".join(f"{name} = {json.dumps(value)}" for name, value in RECIPE.items())
    method = 'label = "Ours"\nmethod = "noisy"\noptions = { share = 0.3 }\n'
    (tmp_path / "plan.toml").write_text(
        f"seeds = [0]\nshift_limit = 0\nscore_limit = 0\n[recipe]\n{recipe}\n[[methods]]\n{method}"
    )
    how = compare(load_plan(str(tmp_path / "plan.toml")), tmp_path / "compare", report=False).methods[0].training
    assert (how.method, how.settings["share"]) == ("noisy", 0.3)
    filed = tmp_path / "compare/runs" / how.runs[0][0]

    for out in (tmp_path / "option", tmp_path / "flag", filed):
        assert open_run(out).settings == wanted
        assert all(torch.equal(a, tensors(out)[name]) for name, a in tensors(first).items())
    other = train_run(TrainSettings(**RECIPE, method="noisy"), tmp_path / "default").directory
    assert any(not torch.equal(a, tensors(other)[name]) for name, a in tensors(first).items())


def test_a_network_of_one_s_own_is_trained_by_it(noisy, digits):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    before = network[1].weight.detach().clone()
    rows = robcal.fit(network, digits, make_method("noisy", share=0.5), epochs=1, batch_size=64, device="cpu")
    assert len(rows) == 1
    assert not torch.equal(network[1].weight, before)
    again = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    again[1].load_state_dict({"weight": before, "bias": network[1].bias.detach() * 0})
    recipe = robcal.Recipe(epochs=1, batch_size=64, device="cpu")
    assert np.isfinite(robcal.fit([again], digits, make_method("noisy"), recipe, seed=3)[0].train_loss)


def test_its_options_are_told_and_checked_everywhere(noisy, tmp_path, capsys):
    assert method_options("noisy", whole=False) == {"share": float, "shift": int}
    assert command("train", "--help") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "noisy: Give a share of the label's mass to another class. Options: share=0.1, shift=1." in told
    here = ("train", *FLAGS, "--method", "noisy", "--out", tmp_path / "run")
    for words, error in {
        ("--option", "shar=.3"): "Did you mean 'share'",
        ("--option", "shift=a"): "shift is an integer",
        ("--option", "share=3"): "share is 3.0",
        ("--share", "much"): "share is a number",
        ("--shar", ".3"): "No such option: --shar Did you mean --share?",
        ("--epoch", "3"): "No such option: --epoch Did you mean --epochs?",
        ("--share",): "requires an argument",
        ("extra",): "unexpected extra argument (extra)",
        ("--alpha", "3"): "No such option: --alpha",
    }.items():
        assert command(*here, *words) == 2, words
        assert error in " ".join(capsys.readouterr().err.replace("│", " ").split()), words
    (tmp_path / "plan.toml").write_text(
        'seeds = [0]\n[recipe]\ndata = "digits"\nmodel = "mlp"\nepochs = 1\n'
        '[[methods]]\nlabel = "Ours"\nmethod = "noisy"\ngrid = { shar = [0.3] }\n'
    )
    with pytest.raises(InputError, match="Did you mean 'share'"):
        load_plan(str(tmp_path / "plan.toml"))
    assert not (tmp_path / "run").exists()
