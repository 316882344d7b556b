"""In two processes (gloo) the metrics, the Lightning callback and the Trainer give what they give in one.

One pair of processes calls the `worker` of each of these files, for most of the time goes to importing the libraries.
"""

from pathlib import Path

import numpy as np
import pytest
import test_lightning
import test_torchmetrics
import test_transformers
import torch
from two_processes import in_two_processes

import robcal
from robcal.calibration import classwise_calibration_error, level_table

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("two processes"),
    pytest.mark.filterwarnings("ignore"),  # the libraries warn of their own use of others
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the workers of both processes wrote."""
    out = tmp_path_factory.mktemp("pair")
    modules = [module.__name__ for module in (test_torchmetrics, test_lightning, test_transformers)]
    in_two_processes(modules, Path(__file__).parent, out)
    return out


@pytest.mark.parametrize("rank", [0, 1])
def test_metrics_are_those_of_all_examples(folder: Path, rank: int) -> None:
    """400 examples in one process, 100 in the other; and all in one, none in the other."""
    probs, labels, levels = test_torchmetrics.examples(torch.float64)
    gaps = [row.gap.value for row in level_table(probs, labels, levels, resamples=20)]
    found = np.load(folder / f"torchmetrics-{rank}.npz")
    for number, (_, function, options) in enumerate(test_torchmetrics.PAIRS):
        assert found[str(number)] == pytest.approx(function(probs, labels, **options), rel=1e-14), function
    assert found["levels"] == pytest.approx(gaps)
    assert found["alone"] == pytest.approx(classwise_calibration_error(probs[:400], labels[:400]), rel=1e-14)


def test_lightning_smooths_as_in_one(folder: Path) -> None:
    """The same batches, of which each process has every other example; 45 validation examples, one of them twice."""
    smoothing = robcal.ARAdaLS(**test_lightning.OPTIONS)
    made = test_lightning.of_share(smoothing)
    assert smoothing.epsilon.max() > 0.01
    for rank in (0, 1):
        state, levels, weights = torch.load(folder / f"lightning-{rank}.pt", weights_only=True)
        np.testing.assert_array_equal(levels, smoothing.levels)
        torch.testing.assert_close(state, smoothing.state_dict(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(weights, made.network.state_dict(), rtol=1e-4, atol=1e-5)


def test_the_trainer_smooths_as_in_one(folder: Path, tmp_path: Path) -> None:
    """Also from a checkpoint in the middle of an epoch; the loss of the evaluation is the same, too."""
    smoothing = test_transformers.smoother()
    one = test_transformers.trainer(tmp_path, smoothing, batch=8)
    one.train()
    assert smoothing.smoothing.epsilon.max() > 0.01
    expected = test_transformers.told(smoothing, one)
    for part in ("whole", "resumed"):
        for rank in (0, 1):
            found = torch.load(folder / f"transformers-{part}-{rank}.pt", weights_only=True)
            for name, values in expected.items():
                if not name.endswith("key.bias"):  # moves no output: its gradient is rounding alone
                    torch.testing.assert_close(found[name], values, rtol=1e-3, atol=1e-4, msg=f"{part} {rank}: {name}")
