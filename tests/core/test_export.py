"""A run as a file that needs no robcal: right to 1e-5 for any batch size, loaded by the lines that the docs show."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hint_cases import robcal as command
from model_files import CODE, save_data
from network_hint_cases import code_of
from scipy.special import softmax
from torch import nn

import robcal
from robcal.base.checks import InputError
from robcal.calibration.recalibration.average import read_map
from robcal.calibration.recalibration.maps import apply, margins
from robcal.calibration.recalibration.score_temperature import ScoreTemperature
from robcal.runs import deployed
from robcal.runs import export as module
from robcal.runs.directory import open_run
from robcal.runs.export import Deployed

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs" / "export.md"

#: Maps of recalibrators, as their files have them.
POINTS = [*np.linspace(0, 2, 33), *np.linspace(2, 9, 32)]
SCORED = {"kind": "score-temperature", "points": POINTS, "coefficients": [1.2, 0.9, 0.4, 0.8, 0.1, -0.3, 0.2, 0.0],
          "tail": 0.4}  # fmt: skip
COLD = {"kind": "temperature", "temperature": 2.5}
VECTOR = {"kind": "affine", "temperature": 1.5, "weight": [1.2, 0.8, 0.9], "bias": [0.3, 0.0, -0.5], "mixture": 0.02,
          "least": -5.0}  # fmt: skip
MATRIX = {"kind": "affine", "temperature": 0.9, "weight": [[1.1, 0.2, 0.0], [-0.1, 0.9, 0.0], [0.3, 0.0, 1.0]],
          "bias": [0.0, 0.4, -0.1], "mixture": 0.0, "least": None}  # fmt: skip
STEPS = {"kind": "isotonic", "inputs": [[0.01, 0.4, 0.41, 0.9], [0.5], [0.0, 1.0]],
         "outputs": [[0.1, 0.1, 0.7, 0.7], [0.3], [0.02, 0.98]]}  # fmt: skip
AVERAGE = {"kind": "average", "weights": [0.4, 0.3, 0.2, 0.1], "members": [
    {"method": name, "maps": maps} for name, maps in
    [("none", []), ("vector", [VECTOR]), ("dirichlet+score-temperature", [MATRIX, SCORED]), ("isotonic", [STEPS])]
]}  # fmt: skip
MAPS = {"temperature": [COLD], "score-temperature": [SCORED], "average": [AVERAGE], "vector": [VECTOR],
        "dirichlet": [MATRIX], "isotonic": [STEPS]}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory: code of a user's own, data, and runs of one network and of an ensemble."""
    made = tmp_path_factory.mktemp("export")
    save_data(made)
    with code_of(made, CODE):
        (made / "own_model.py").write_text(CODE)
        train = (
            "train",
            "--data",
            "npz:data.npz",
            "--method",
            "vanilla",
            "--epochs",
            "2",
            "--device",
            "cpu",
            "--quiet",
        )
        command(*train, "--model", "own_model:net", "--out", "run")()
        command(*train, "--model", "mlp", "--members", "2", "--out", "ensemble")()
        yield made


def recalibrator(run: Path, method: str) -> robcal.Recalibrator:
    """A recalibration in a file of the run."""
    found = open_run(run).predictions("val")
    made = robcal.Recalibrator("temperature").fit(found.as_logits(), found.labels)
    made.method, made._maps = method, tuple(read_map(one) for one in MAPS[method])
    return robcal.load_recalibrator(made.save(run / "recalibrator.json", overwrite=True))


def expected(run: Path, found: robcal.Recalibrator) -> tuple[np.ndarray, np.ndarray]:
    """Test inputs, and what robcal says of them."""
    test = open_run(run).predictions("test")
    with np.load(run.parent / "data.npz") as data:
        return data["x_test"], found.predict_proba(test.logits.astype(np.float64))


@pytest.mark.parametrize(
    ("format", "method"),
    [("pt2", "average"), ("onnx", "average"), ("safetensors", "temperature")],
)
def test_files_are_loaded_as_the_docs_show(format: str, method: str, folder: Path) -> None:
    run = folder / "run"
    inputs, probs = expected(run, recalibrator(run, method))
    told = command(
        "export", "run", "--format", format, "--out", f"net.{format}", "--factory", "own_model:net", "--overwrite"
    )()
    assert f"folded in: {method}" in told
    assert float(re.search(r"by (\S+) at most", told)[1]) < 1e-5
    (block,) = re.findall(rf"## {format}\n.*?```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(block.strip().splitlines()) <= 12
    assert "robcal" not in block
    names = {"inputs": inputs}
    exec(block, names)
    np.testing.assert_allclose(np.asarray(names["probs"]), probs, atol=1e-5)
    assert np.abs(np.asarray(names["probs"]) - open_run(run).predictions("test").probs).max() > 0.05


def test_an_exported_program_runs_where_robcal_is_not(folder: Path) -> None:
    recalibrator(folder / "run", "temperature")
    robcal.export(folder / "run", folder / "alone.pt2", overwrite=True)
    code = (
        "import sys; sys.modules['robcal'] = None\n"
        "import torch\n"
        "net = torch.export.load('alone.pt2').module()\n"
        "print(*(tuple(net(torch.zeros(n, 4)).shape) for n in (1, 5)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout == "(1, 3) (5, 3)\n", done.stderr


def test_an_ensemble_is_one_program(folder: Path) -> None:
    (folder / "ensemble" / "recalibrator.json").unlink(missing_ok=True)
    made = robcal.export(folder / "ensemble", folder / "ensemble.pt2")
    assert (made.recalibration, made.tried) == ("none", 60)
    assert made.difference < 1e-5
    with pytest.raises(InputError, match=r"holds 2 networks; a safetensors file holds one"):
        robcal.export(folder / "ensemble", folder / "e.safetensors", format="safetensors")


def test_an_exported_program_comes_in_again(folder: Path) -> None:
    """The exported program is a model that `robcal score` takes: distances are those of the run."""
    recalibrator(folder / "run", "temperature")
    robcal.export(folder / "run", folder / "again.pt2", overwrite=True)
    options = ("--method", "first-order", "--overwrite", "--quiet", "--device", "cpu")
    command("score", "--model", "run", "--factory", "own_model:net", "--out", "a.parquet", *options)()
    command("score", "--model", "again.pt2", "--data", "npz:data.npz", "--out", "b.parquet", *options)()
    first, second = robcal.load_scores("a.parquet"), robcal.load_scores("b.parquet")
    np.testing.assert_allclose(first.distance, second.distance, rtol=1e-4)


def test_a_file_that_predicts_otherwise_is_not_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recalibrator(folder / "run", "temperature")
    monkeypatch.setattr(deployed._Divide, "forward", lambda self, logits, margin: logits / (self.temperature + 0.01))
    with pytest.raises(RuntimeError, match="its probabilities differ from robcal's by"):
        robcal.export(folder / "run", folder / "wrong.pt2")
    assert not (folder / "wrong.pt2").exists()


def test_networks_that_depend_on_values_cannot_be_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Depends(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(InputError, match=r"cannot make a graph .*--format safetensors"):
        module._exported(Deployed([Depends()], []).eval(), torch.zeros(2, 3))


def test_the_graph_of_a_score_temperature_is_its_function() -> None:
    """At ties, beyond both ends and for a class that is masked off, in float64."""
    fitted = ScoreTemperature(np.array([0.5, 1.0, 1.0, 1.0, 4.0]), np.array(SCORED["coefficients"]), 0.4)
    margin = np.array([0.0, 0.5, 0.7, 1.0, 1.5, 3.9, 4.0, 50.0, np.inf])
    logits = np.stack([margin, np.zeros(len(margin)), np.full(len(margin), -0.3)], 1)
    logits[-1] = [0.0, -np.inf, -np.inf]
    found = deployed._DivideByScore(fitted)(torch.from_numpy(logits), torch.from_numpy(margin[:, None]))
    np.testing.assert_allclose(found.softmax(1).numpy(), softmax(fitted(logits, margin), axis=1), rtol=1e-12)


@pytest.mark.parametrize("method", MAPS)
def test_the_graph_of_a_recalibration_is_its_function(method: str) -> None:
    maps = [read_map(one) for one in MAPS[method]]
    logits = np.random.default_rng(0).normal(scale=4, size=(500, 3))
    found = Deployed([nn.Identity()], maps)(torch.from_numpy(logits))
    expected = np.exp(apply(maps, logits, margins(logits)))
    np.testing.assert_allclose(found.softmax(1).numpy(), expected, atol=2e-7)
    assert np.abs(expected - softmax(logits, axis=1)).max() > 0.05


def test_an_example_on_a_step_may_lie_on_either_side(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples tried are those whose probabilities are the ends of the steps, so that rounding decides."""
    val = open_run(folder / "run").predictions("val")
    fitted = robcal.Recalibrator("isotonic").fit(val.as_logits(), val.labels)
    file = fitted.save(folder / "steps.json")
    of = deployed._Isotonic.forward

    def export(factor: float) -> robcal.runs.export.Exported:
        monkeypatch.setattr(
            deployed._Isotonic, "forward", lambda self, logits, margin: of(self, logits * factor, margin)
        )
        return robcal.export(folder / "run", folder / "steps.pt2", recalibrator=file, overwrite=True)

    monkeypatch.setattr(module, "ROUNDING", 1e-3)
    assert export(1 + 3e-4).difference < 1e-5
    for factor, draws in ((1.03, 30), (1 + 3e-4, 0)):
        monkeypatch.setattr(module, "DRAWS", draws)
        with pytest.raises(RuntimeError, match="its probabilities differ from robcal's by"):
            export(factor)
