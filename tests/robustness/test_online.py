from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from online_samples import blobs, network
from oracles import linear_distance, linear_model
from torch.nn import functional

from robcal.artifacts import load_state
from robcal.checks import InputError
from robcal.methods import make_method
from robcal.robustness import assign_levels
from robcal.robustness.online import OnlineScores, online_distance
from robcal.training import fit

OPTIONS = {"epochs": 3, "batch_size": 16, "device": "cpu", "seed": 1}


@pytest.mark.parametrize("softening", [0.0, 0.1, 0.4])
def test_two_classes_and_a_linear_model_give_the_exact_distance_whatever_the_targets(softening: float) -> None:
    rng = np.random.default_rng(0)
    model = linear_model(rng.normal(size=(2, 5)), rng.normal(size=2))
    x = torch.tensor(rng.normal(size=(40, 5)), dtype=torch.float32, requires_grad=True)
    logits = model(x)
    hard = functional.one_hot(torch.tensor(rng.integers(0, 2, 40)), 2).float()  # half of them wrong
    targets = (1 - softening) * hard + softening / 2
    functional.cross_entropy(logits, targets, reduction="sum").backward()
    exact = linear_distance(model, x.detach(), None)
    moved = (logits.softmax(1) - targets).abs()[:, 0].detach()
    usable = moved > 1e-3  # at p = t the loss has no gradient
    assert usable.float().mean() > 0.8
    assert x.grad is not None
    found = online_distance(logits, targets, x.grad)
    np.testing.assert_allclose(found[usable], exact[usable.numpy()], rtol=2e-3)


def test_the_formula_of_the_method_for_hard_labels() -> None:
    model, x = network(), torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = model(x)
    label = logits.argmax(1)
    (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, label, reduction="sum"), x)
    top = logits.detach().sort(dim=1, descending=True).values
    expected = (top[:, 0] - top[:, 1]) * (1 - logits.softmax(1).amax(1).detach()) / gradient.norm(dim=1)
    torch.testing.assert_close(
        online_distance(logits, functional.one_hot(label, 3).float(), gradient), expected, rtol=1e-4, atol=1e-6
    )


def test_a_pass_without_a_gradient_says_nothing() -> None:
    logits = torch.tensor([[3.0, 1.0], [200.0, 0.0]])
    found = online_distance(logits, torch.eye(2)[[0, 0]], torch.tensor([[0.0, 0.0], [0.0, 0.0]]))
    assert torch.isnan(found).all()


@pytest.mark.parametrize("method", ["vanilla", "label-smoothing"])
def test_training_hands_over_every_example_s_own_gradient(method: str) -> None:
    """The oracle: one gradient at a time, of the network as it was before the step (learning rate next to 0)."""
    data, model = blobs(), network()
    online = OnlineScores(60, decay=0.0)
    fit(model, data, make_method(method), **{**OPTIONS, "epochs": 1}, learning_rate=1e-12, online=online)
    train = data.split("train")
    epsilon = 0.05 if method == "label-smoothing" else 0.0
    expected = []
    for row, label in zip(train.inputs, train.labels, strict=True):
        x = torch.tensor(row)[None].requires_grad_()
        targets = (1 - epsilon) * functional.one_hot(torch.tensor([label]), 3) + epsilon / 3
        logits = model(x)
        (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, targets), x)
        expected.append(online_distance(logits, targets, gradient).item())
    scores = online.scores()
    np.testing.assert_allclose(scores.distance, expected, rtol=1e-4)
    with torch.no_grad():
        top = model(torch.tensor(train.inputs)).topk(2).indices
    np.testing.assert_array_equal(scores.prediction, top[:, 0])
    np.testing.assert_array_equal(scores.rival, top[:, 1])
    assert set(scores.status.tolist()) == {"estimate"}
    assert (scores.passes == 0).all()
    assert scores.method == "online"


def test_training_itself_is_not_changed_and_the_model_keeps_no_hook() -> None:
    plain, watched = network(), network()
    fit(plain, blobs(), make_method("vanilla"), **OPTIONS)
    fit(watched, blobs(), make_method("vanilla"), **OPTIONS, online=OnlineScores(60))
    for one, other in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not watched._forward_hooks


def test_a_resumed_run_ends_with_the_same_estimates(tmp_path: Path) -> None:
    reference = np.random.default_rng(0).random(60)

    def watcher() -> OnlineScores:
        return OnlineScores(60, num_levels=5, reference=reference)

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


def test_epochs_are_averaged_geometrically_and_gaps_keep_what_was_known() -> None:
    online = OnlineScores(3, num_levels=3, decay=0.5)
    targets = torch.tensor([[1.0, 0.0]])

    def observe(index: int, distance: float) -> None:
        logits = torch.tensor([[1.0, 0.0]])
        moved = 1 - logits.softmax(1)[0, 0].item()
        online.observe(torch.tensor([index]), logits, targets, torch.tensor([[moved / distance]]))

    observe(0, 1.0)
    observe(1, 2.0)
    online.end_epoch()
    observe(0, 4.0)
    online.observe(torch.tensor([1]), torch.tensor([[1.0, 0.0]]), targets, torch.zeros(1, 1))
    online.end_epoch()
    scores = online.scores()
    np.testing.assert_allclose(scores.distance, [2.0, 2.0, np.inf], rtol=1e-5)
    assert scores.status.tolist() == ["estimate", "estimate", "censored"]
    assert scores.rival.tolist() == [1, 1, -1]
    assert [row.epoch for row in online.history] == [1, 2]
    assert online.history[1].observed == pytest.approx(2 / 3)
    assert np.isnan(online.history[1].spearman)


def test_sums_over_processes_are_the_estimates_of_one() -> None:
    """Two processes that saw half of the examples each, as the sum of their tensors."""
    rng = np.random.default_rng(0)
    logits, gradient = torch.tensor(rng.normal(size=(8, 3))).float(), torch.tensor(rng.normal(size=(8, 2))).float()
    targets, index = torch.eye(3)[rng.integers(0, 3, 8)], torch.arange(8)
    alone, one, other = (OnlineScores(9, num_levels=2) for _ in range(3))
    alone.observe(index, logits, targets, gradient)
    alone.end_epoch()
    for part, rows in ((one, slice(0, 8, 2)), (other, slice(1, 8, 2))):
        part.observe(index[rows], logits[rows], targets[rows], gradient[rows])
    sent: list[torch.Tensor] = []
    other.end_epoch(lambda values: sent.append(values) or values)
    queue = iter(sent)
    one.end_epoch(lambda values: values + next(queue))
    np.testing.assert_allclose(one.scores().distance, alone.scores().distance, rtol=1e-6)
    np.testing.assert_array_equal(one.scores().rival, alone.scores().rival)


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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 0}, "count is 0"),
        ({"count": 5}, "5 examples for 10 levels"),
        ({"count": 20, "decay": 1.0}, "decay is 1.0"),
        ({"count": 20, "reference": [0.1, 0.2]}, "has 2"),
        ({"count": 20, "reference": [np.nan] * 20}, "nan"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        OnlineScores(**options)  # type: ignore[arg-type]
