from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from online_samples import blobs, network
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional

from robcal.artifacts import load_state
from robcal.checks import InputError
from robcal.methods import make_method
from robcal.robustness.levels import assign_levels
from robcal.robustness.online import OnlineScores
from robcal.robustness.online_refresh import look
from robcal.robustness.online_slopes import estimate_distances, fit_slopes, pack, unpack
from robcal.robustness.scoring import score
from robcal.training import fit

OPTIONS = {"epochs": 3, "batch_size": 16, "device": "cpu", "seed": 1}


class Recorder(OnlineScores):
    """Keeps what it is handed, row by row."""

    def observe(self, index: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, gradient: torch.Tensor) -> None:
        self.told = getattr(self, "told", {})
        for row in range(len(index)):
            self.told[int(index[row])] = logits[row].detach(), targets[row], gradient[row].clone()
        super().observe(index, logits, targets, gradient)


@pytest.mark.parametrize("method", ["vanilla", "label-smoothing"])
def test_training_hands_over_every_example_s_own_gradient(method: str) -> None:
    """The oracle: one gradient at a time, of the network as it was before the step (learning rate next to 0)."""
    data, model = blobs(), network()
    online = Recorder(60, decay=0.0)
    fit(model, data, make_method(method), **{**OPTIONS, "epochs": 1}, learning_rate=1e-12, online=online)
    train = data.split("train")
    epsilon = 0.05 if method == "label-smoothing" else 0.0
    expected = []
    for number, (row, label) in enumerate(zip(train.inputs, train.labels, strict=True)):
        x = torch.tensor(row)[None].requires_grad_()
        targets = (1 - epsilon) * functional.one_hot(torch.tensor([label]), 3) + epsilon / 3
        logits = model(x)
        (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, targets), x)
        for told, true in zip(online.told[number], (logits[0].detach(), targets[0], gradient[0]), strict=True):
            torch.testing.assert_close(told, true, rtol=1e-4, atol=1e-6)
        expected.append(pack(logits, targets, gradient))
    passes = unpack(torch.cat(expected))
    slopes = fit_slopes(passes)
    assert slopes is not None
    distance, rival = estimate_distances(passes, slopes)
    scores = online.scores()
    np.testing.assert_allclose(scores.distance, distance, rtol=1e-3)
    np.testing.assert_array_equal(scores.rival, rival)
    with torch.no_grad():
        top = model(torch.tensor(train.inputs)).topk(2)
    np.testing.assert_array_equal(scores.prediction, top.indices[:, 0])
    np.testing.assert_allclose(scores.margin, top.values[:, 0] - top.values[:, 1], rtol=1e-4, atol=1e-6)
    assert set(scores.status.tolist()) == {"estimate"}
    assert (scores.passes == 0).all()
    assert scores.method == "online"
    assert scores.provenance["cross_talk"] is False


def normalised(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def test_with_batch_normalisation_other_examples_are_told_from_the_own_part() -> None:
    """Both read the same passes of the same training; the oracle is the first-order estimate of the final network."""
    watched, model = OnlineScores(600, every=1), normalised()
    fit(model, blobs(600), make_method("vanilla"), **{**OPTIONS, "epochs": 8}, online=watched)
    told_nothing = OnlineScores(600, every=1)
    told_nothing.watch = lambda model: None  # type: ignore[method-assign]
    fit(normalised(), blobs(600), make_method("vanilla"), **{**OPTIONS, "epochs": 8}, online=told_nothing)
    assert watched.scores().provenance["cross_talk"] is True
    assert watched.slopes is not None
    assert watched.slopes.cross_talk > 0
    expected = score(model, blobs(600).split("train").inputs, method="projection", box=None).distance
    agreement = [spearmanr(online.scores().distance, expected).statistic for online in (watched, told_nothing)]
    assert agreement[0] > agreement[1] + 0.02
    assert agreement[0] > 0.9


def test_which_epochs_are_looked_at() -> None:
    def epochs(count: int, **options: Any) -> list[int]:
        online = OnlineScores(10, **options)
        return [epoch + 1 for epoch in range(count) if online.wants(epoch, count)]

    assert epochs(30) == [10, 20, 29, 30]
    assert epochs(3) == [2, 3]
    assert epochs(7, every=3) == [3, 6, 7]
    assert epochs(4, every=1) == [1, 2, 3, 4]
    assert epochs(30, refresh="secant") == [16]
    assert epochs(32, refresh="secant") == [16]
    assert epochs(9, refresh="secant") == [8]
    assert epochs(16, refresh="secant") == [15]
    assert epochs(1, refresh="secant") == []


@pytest.mark.parametrize(("refresh", "passes"), [("linear", 1.0), ("secant", 1.5)])
@pytest.mark.parametrize("model", [network, normalised])
def test_a_refresh_scores_clean_examples_once_by_the_final_network(model: Any, refresh: str, passes: float) -> None:
    data, trained, online = blobs(), model(), OnlineScores(60, refresh=refresh, reference=np.arange(60.0))

    def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return x + torch.randn(x.shape, generator=generator)

    fit(trained, data, make_method("vanilla"), **OPTIONS, augment=augment, online=online)
    found = look(trained, torch.tensor(data.split("train").inputs), online.slopes, None, secant=refresh == "secant")
    scores = online.scores()
    np.testing.assert_allclose(scores.distance, found[:, 0], rtol=1e-4)
    np.testing.assert_array_equal(scores.prediction, found[:, 2])
    np.testing.assert_array_equal(scores.rival, found[:, 3])
    np.testing.assert_allclose(scores.margin, found[:, 1], rtol=1e-4, atol=1e-5)
    assert (scores.passes == passes).all()
    assert [row.observed for row in online.history] == [0.0, 1.0, 1.0]  # epoch 2 of 3 by its passes
    plain = model()
    fit(plain, data, make_method("vanilla"), **OPTIONS, augment=augment)
    for one, other in zip(plain.state_dict().values(), trained.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_training_itself_is_not_changed_and_the_model_keeps_no_hook() -> None:
    plain, watched = network(), network()
    fit(plain, blobs(), make_method("vanilla"), **OPTIONS)
    fit(watched, blobs(), make_method("vanilla"), **OPTIONS, online=OnlineScores(60))
    for one, other in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not watched._forward_hooks


@pytest.mark.parametrize("compared", [{"reference": np.random.default_rng(0).random(60)}, {"sample": 20}])
def test_a_resumed_run_ends_with_the_same_estimates(tmp_path: Path, compared: dict[str, Any]) -> None:
    def watcher() -> OnlineScores:
        return OnlineScores(60, num_levels=5, every=1, **compared)

    whole = watcher()
    fit(network(), blobs(), make_method("vanilla"), **OPTIONS, online=whole)
    file, batches = tmp_path / "state.pt", 0

    class Stop(Exception):
        pass

    class Reporter:
        def task(self, description: str, total: int) -> Any:
            def advance(done: int) -> None:
                nonlocal batches
                batches += 1
                if batches == 7:  # in the middle of the second epoch of four batches each
                    raise Stop

            return advance

    with pytest.raises(Stop):
        fit(
            network(),
            blobs(),
            make_method("vanilla"),
            **OPTIONS,
            online=watcher(),
            state_file=file,
            state_seconds=0.0,
            reporter=Reporter(),
        )
    assert load_state(file)["at"][:2] == [1, 2]
    resumed = watcher()
    fit(network(), blobs(), make_method("vanilla"), **OPTIONS, online=resumed, state_file=file)
    assert resumed.history == whole.history
    np.testing.assert_array_equal(resumed.scores().distance, whole.scores().distance)
    with pytest.raises(InputError, match="60 examples"):
        OnlineScores(50).load_state(whole.state())
    old = {name: value for name, value in whole.state().items() if name not in ("age", "seen")}
    with pytest.raises(InputError, match=r"no age, seen(.|\n)*another version"):
        watcher().load_state(old)
    with pytest.raises(InputError, match=r"number of examples compared(.|\n)*another version"):
        watcher().load_state({**whole.state(), "history": torch.zeros(3, 5)})


def test_a_run_killed_between_its_refresh_and_its_end_resumes_with_what_was_found(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    class Dying(OnlineScores):
        def end_epoch(self, total: Any = None, measure: Any = None) -> None:
            if len(self.history) == 2:
                raise Stop
            super().end_epoch(total, measure)

    def train(online: OnlineScores, **saved: Any) -> OnlineScores:
        fit(network(), blobs(), make_method("vanilla"), **OPTIONS, online=online, **saved)
        return online

    whole = train(OnlineScores(60, refresh="secant"))
    saved: dict[str, Any] = {"state_file": tmp_path / "state.pt", "state_seconds": 0.0}
    with pytest.raises(Stop):
        train(Dying(60, refresh="secant"), **saved)
    assert load_state(saved["state_file"])["at"][:2] == [2, 4]

    class Blind(OnlineScores):
        def look(self, *arguments: Any) -> None:
            raise AssertionError("looked again")

    resumed = train(Blind(60, refresh="secant"), **saved)
    assert (resumed.scores().passes == 1.5).all()
    np.testing.assert_array_equal(resumed.scores().distance, whole.scores().distance)
    np.testing.assert_array_equal(resumed.scores().rival, whole.scores().rival)


def told(distances: dict[int, float], online: OnlineScores) -> None:
    """Passes of two classes whose gradients say these distances; infinity: a flat pass."""
    logits, targets = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    moved = 1 - logits.softmax(1)[0, 0].item()
    for index, distance in distances.items():
        online.observe(torch.tensor([index]), logits, targets, torch.tensor([[moved / distance]]))
    online.end_epoch()


def test_epochs_are_averaged_geometrically_and_gaps_keep_what_was_known() -> None:
    """After a gap of an epoch what was known counts a quarter, not a half."""
    online = OnlineScores(3, num_levels=3, decay=0.5)
    told({0: 1.0, 1: 2.0}, online)
    told({0: 4.0, 1: np.inf}, online)
    scores = online.scores()
    np.testing.assert_allclose(scores.distance, [2.0, 2.0, np.inf], rtol=1e-5)
    assert scores.status.tolist() == ["estimate", "estimate", "censored"]
    assert scores.rival.tolist() == [1, 1, -1]
    online.end_epoch()  # one that was not looked at
    told({0: 2.0, 1: 32.0}, online)
    np.testing.assert_allclose(online.scores().distance, [2.0, 2.0 ** (1 / 8) * 32.0 ** (7 / 8), np.inf], rtol=1e-5)
    assert [row.epoch for row in online.history] == [1, 2, 3, 4]
    assert online.history[1].observed == pytest.approx(2 / 3)
    assert np.isnan(online.history[1].spearman)


def test_sums_over_processes_are_the_estimates_of_one() -> None:
    """Two processes that saw half of the examples each and one row both, as the sum of their tensors."""
    rng = np.random.default_rng(0)
    logits, gradient = torch.tensor(rng.normal(size=(8, 3))).float(), torch.tensor(rng.normal(size=(8, 2))).float()
    targets, index = torch.eye(3)[rng.integers(0, 3, 8)], torch.arange(8)
    alone, one, other = (OnlineScores(9, num_levels=2, refresh="secant") for _ in range(3))
    model, inputs = network(), torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    parts = ((alone, [0, 1, 2, 3, 4, 5, 6, 7]), (one, [0, 2, 4, 6]), (other, [1, 3, 5, 7, 6]))
    for part, rows in parts:
        part.observe(index[rows], logits[rows], targets[rows], gradient[rows])

    def end_of_all() -> None:
        alone.end_epoch()
        sent: list[torch.Tensor] = []
        other.end_epoch(lambda values: sent.append(values.clone()) or values)
        queue = iter(sent)
        one.end_epoch(lambda values: values + next(queue))
        np.testing.assert_allclose(one.scores().distance, alone.scores().distance, rtol=1e-6)
        np.testing.assert_array_equal(one.scores().rival, alone.scores().rival)
        np.testing.assert_array_equal(one.scores().passes, alone.scores().passes)

    end_of_all()
    assert np.isfinite(alone.scores().distance[:8]).all()
    for part, rows in ((alone, range(9)), (one, range(0, 9, 2)), (other, range(1, 9, 2))):
        part.slopes = None
        part.look(model, lambda chosen: inputs[chosen], torch.tensor(rows), None)
    end_of_all()
    np.testing.assert_allclose(alone.scores().distance, look(model, inputs, None, None)[:, 0], rtol=1e-5)


def test_fidelity_is_the_agreement_of_levels() -> None:
    rng = np.random.default_rng(0)
    reference = rng.random(40)
    online = OnlineScores(40, num_levels=4, reference=reference)
    distance = reference * np.exp(0.3 * rng.normal(size=40))
    logits = torch.tensor([[1.0, 0.0]]).repeat(40, 1)
    moved = 1 - logits.softmax(1)[:, 0]
    gradient = (moved / torch.tensor(distance)).float().unsqueeze(1)
    online.observe(torch.arange(40), logits, torch.eye(2)[[0] * 40], gradient)
    online.end_epoch()
    off = np.abs(assign_levels(distance, 4) - assign_levels(reference, 4))
    row = online.history[0]
    assert (row.same_level, row.within_one) == ((off == 0).mean(), (off <= 1).mean())
    ranks = [np.argsort(np.argsort(values)) for values in (distance, reference)]
    assert row.spearman == pytest.approx(np.corrcoef(ranks)[0, 1], abs=1e-6)
    assert online.fidelity(reference) == row
    backwards = online.fidelity(-reference)
    assert backwards.spearman == pytest.approx(-row.spearman)
    with pytest.raises(InputError, match="reference"):
        online.fidelity(reference[:-1])


@pytest.mark.parametrize("model", [network, normalised])
@pytest.mark.parametrize("refresh", [None, "linear"])
def test_a_sample_is_compared_with_the_running_network_whenever_estimates_change(model: Any, refresh: Any) -> None:
    online, trained = OnlineScores(60, num_levels=5, sample=25, refresh=refresh), model()
    options = {**OPTIONS, "epochs": 12}
    fit(trained, blobs(), make_method("vanilla"), **options, online=online)
    changed = {11, 12} if refresh else {10, 11, 12}
    assert {row.epoch for row in online.history if row.compared} == changed
    assert [row.epoch for row in online.history] == list(range(1, 13))
    assert np.isnan([row.same_level for row in online.history if not row.compared]).all()
    inputs = blobs().split("train").inputs[online.sample]
    found = score(trained, inputs, method="projection", box=None).distance
    ours = online.scores().distance[online.sample]
    off = np.abs(assign_levels(ours, 5) - assign_levels(found, 5))
    last = online.history[-1]
    assert (last.compared, last.same_level, last.within_one) == (25, (off == 0).mean(), (off <= 1).mean())
    assert last.spearman == pytest.approx(spearmanr(ours, found).statistic)
    plain = model()
    fit(plain, blobs(), make_method("vanilla"), **options)
    for one, other in zip(plain.state_dict().values(), trained.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_network_without_a_boundary_does_not_stop_the_training() -> None:
    class Collapsed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) if self.training else self.inner(x) * 0 + torch.tensor([1.0, 0.0, 0.0])

    online = OnlineScores(60, num_levels=5, sample=20, every=1)
    fit(Collapsed(), blobs(), make_method("vanilla"), **OPTIONS, online=online)
    assert [row.compared for row in online.history] == [20, 20, 20]
    assert np.isnan([row.spearman for row in online.history]).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 0}, "count is 0"),
        ({"count": 20, "sample": -1}, "sample is -1"),
        ({"count": 20, "sample": 9}, "sample is 9; it must hold an example of each of 10 levels"),
        ({"count": 20, "sample": 21}, "at most all 20"),
        ({"count": 20, "sample": 10, "reference": np.arange(20.0)}, "reference and sample were both given"),
        ({"count": 5}, "5 examples for 10 levels"),
        ({"count": 20, "decay": 1.0}, "decay is 1.0"),
        ({"count": 20, "every": 0}, "every is 0"),
        ({"count": 20, "refresh": "all"}, "refresh"),
        ({"count": 20, "reference": [0.1, 0.2]}, "has 2"),
        ({"count": 20, "reference": [np.nan] * 20}, "nan"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        OnlineScores(**options)  # type: ignore[arg-type]
