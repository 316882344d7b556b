import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import robcal
from robcal.base.checks import InputError
from robcal.base.progress import Lines, Relay, relay_messages
from robcal.models import MODELS, build_model


def test_every_public_name_exists_and_importing_robcal_imports_nothing_heavy():
    for name in robcal.__all__:
        assert getattr(robcal, name) is not None
    with pytest.raises(AttributeError):
        _ = robcal.nothing
    code = "import sys, robcal; assert not {'torch', 'scipy', 'matplotlib', 'pyarrow', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_versions_agree():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    from importlib.metadata import version

    assert project["version"] == robcal.__version__ == version("robcal")


def test_wide_resnet_has_the_published_size():
    """36.5 million for WRN-28-10, 8.9 for WRN-40-4, 11.0 for WRN-16-8 (Zagoruyko & Komodakis 2016, tables 4 and 5)."""
    sizes = {
        "wrn-28-10": 36_479_194,
        "wrn-40-4": 8_949_210,
        "wrn-16-8": 10_961_370,
        "cnn-fast": 16 * 3 * 32 + 9 * (32 * 64 + 64 * 96 + 96 * 256) + 2 * (32 + 64 + 96 + 256) + 257 * 10,
    }
    for name, size in sizes.items():
        model = build_model(name, input_shape=(3, 32, 32), num_classes=10)
        assert sum(parameter.numel() for parameter in model.parameters()) == size


@pytest.mark.parametrize("name", [*MODELS, "wrn-10-1"])
def test_models_by_name(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, two, other = (build_model(name, input_shape=(1, 8, 8), num_classes=7, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    inputs = torch.rand(4, 1, 8, 8)
    assert one.eval()(inputs).shape == (4, 7)
    assert torch.equal(one(inputs), two.eval()(inputs))
    assert not torch.equal(one(inputs), other.eval()(inputs))


def test_normalisation_is_part_of_the_model():
    mean, std = torch.tensor([0.2, 0.4, 0.6]), torch.tensor([0.5, 0.25, 2.0])
    model = build_model("cnn", input_shape=(3, 8, 8), num_classes=4, mean=mean, std=std).eval()
    plain = build_model("cnn", input_shape=(3, 8, 8), num_classes=4).eval()
    inputs = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(model(inputs), plain((inputs - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)))


@pytest.mark.parametrize("name", ["resnet", "wrn-27-1", "wrn-28", ""])
def test_unknown_models_are_refused(name):
    with pytest.raises(InputError):
        build_model(name, input_shape=(3, 32, 32), num_classes=10)
    with pytest.raises(InputError, match="images"):
        build_model("cnn", input_shape=(4,), num_classes=10)


def test_progress_in_lines_and_through_a_queue(capsys):
    import queue

    channel = queue.Queue()
    with relay_messages(channel, Lines(seconds=1000)):
        advance = Relay(channel, "w", seconds=0).task("count", 4)
        for done in range(1, 5):
            advance(done)
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("count: 4/4")


def test_checks_name_what_was_given(tmp_path):
    from robcal.base.checks import check_choice, check_labels, check_probs

    with pytest.raises(InputError, match=r"row 1 of probs sums to 0\.9"):
        check_probs([[0.5, 0.5], [0.4, 0.5]])
    with pytest.raises(InputError, match="labels holds 7 at index 2"):
        check_labels([0, 1, 7], num_classes=3)
    with pytest.raises(InputError, match="bool"):
        check_labels(np.array([True, False]))
    with pytest.raises(InputError, match="Did you mean 'width'"):
        check_choice("widht", ["width", "mass"], "scheme")
