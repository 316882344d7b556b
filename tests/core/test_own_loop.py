"""AR-AdaLS in a loop of the user's: running margins, levels, loss, state, and two processes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

import robcal
from robcal import ARAdaLS, InputError
from robcal.smoothing.running import (
    level_bounds,
    logit_margin,
    running_average,
    running_levels,
    shown_margins,
)

Z, R, N, M = 4, 3, 60, 45


def rows(seed: int, size: int = N) -> torch.Tensor:
    return torch.randn(size, Z, generator=torch.Generator().manual_seed(seed)) * 3


LABELS, VAL_LABELS = torch.arange(N) % Z, torch.arange(M) % Z


def made(**options) -> ARAdaLS:
    return ARAdaLS(Z, R, **{"epochs": 6, "start": 0.0, "gain": 0.5, **options})


def train_epoch(smoothing: ARAdaLS, epoch: int, batch: int = 20) -> list[torch.Tensor]:
    logits, order = rows(epoch), torch.from_numpy(np.random.default_rng(epoch).permutation(N))
    return [smoothing.loss(logits[index], LABELS[index], index) for index in order.split(batch)]


def trained(epochs: int = 3, **options) -> ARAdaLS:
    smoothing = made(**options)
    for epoch in range(epochs):
        train_epoch(smoothing, epoch)
        smoothing.end_epoch(rows(100 + epoch, M), VAL_LABELS)
    return smoothing


def test_a_number_of_epochs_that_is_none_is_refused_by_its_own_name():
    with pytest.raises(InputError, match=r"epochs is 0; .* Pass epochs=1 or more"):
        made(epochs=0)


@given(st.lists(st.lists(st.tuples(st.integers(0, 7), st.floats(0, 50)), max_size=12), min_size=1, max_size=5))
def test_running_average_is_the_recursion_example_by_example(epochs):
    average, expected = np.zeros(0), {}
    for passes in epochs:
        index, margin = (np.array([row[k] for row in passes], dtype=(int, float)[k]) for k in (0, 1))
        average = running_average(average, shown_margins(index, margin, index.max(initial=-1) + 1), 0.7)
        for example in set(index.tolist()):
            mean = np.mean([value for place, value in passes if place == example])
            expected[example] = 0.7 * expected[example] + 0.3 * mean if example in expected else mean
    for example, value in enumerate(average):
        assert np.isnan(value) if example not in expected else value == pytest.approx(expected[example], abs=1e-9)


def test_margins_are_those_of_log_probabilities_and_nan_where_a_logit_is():
    logits = rows(0)
    two = logits.double().log_softmax(1).sort(dim=1).values[:, -2:]
    torch.testing.assert_close(logit_margin(logits).double(), two[:, 1] - two[:, 0], rtol=0, atol=1e-5)
    assert logit_margin(torch.tensor([[1.0, float("nan"), 0.0]])).isnan().all()
    assert logit_margin(torch.tensor([[1.0, -torch.inf, -torch.inf]])).item() == float("inf")
    assert logit_margin(torch.tensor([[2.0, 0.0, 2.0], [-torch.inf, 3.0, 1.0]])).tolist() == [0.0, 2.0]
    assert logit_margin(logits.bfloat16()).dtype == torch.float32


def test_levels_are_of_equal_size_in_order_and_leave_out_what_was_not_seen():
    average = np.random.default_rng(0).random(32)
    average[[3, 17]] = np.nan
    levels = running_levels(average, R)
    assert (levels == -1).nonzero()[0].tolist() == [3, 17]
    assert np.bincount(levels[levels >= 0]).tolist() == [10, 10, 10]
    bounds = level_bounds(average, levels, R)
    np.testing.assert_array_equal(np.searchsorted(bounds, average[levels >= 0], side="right"), levels[levels >= 0])


def test_the_loss_is_the_cross_entropy_with_the_soft_targets_of_the_levels():
    smoothing, logits, index = trained(), rows(50), torch.arange(N)
    assert (smoothing.epsilon > 0.01).any()
    assert len(set(smoothing.epsilon)) == R
    epsilon = torch.from_numpy(smoothing.epsilon).float()[torch.from_numpy(smoothing.levels)].unsqueeze(1)
    targets = functional.one_hot(LABELS, Z) * (1 - epsilon) + epsilon / Z
    torch.testing.assert_close(smoothing.loss(logits, LABELS, index), functional.cross_entropy(logits, targets))
    torch.testing.assert_close(smoothing.soft_targets(LABELS, index), targets)
    np.testing.assert_array_equal(smoothing.soft_targets(LABELS.tolist(), index.tolist()), targets.numpy())
    each = smoothing.loss(logits, LABELS, index, reduction="none")
    torch.testing.assert_close(each, functional.cross_entropy(logits, targets, reduction="none"))


def test_levels_and_smoothing_are_those_of_the_parts_put_together():
    smoothing, other = made(), robcal.AdaptiveLabelSmoother(R, Z, num_updates=6, start=0.0, gain=0.5)
    train = val = np.zeros(0)
    for epoch in range(4):
        train_epoch(smoothing, epoch)
        val_logits = rows(100 + epoch, M)
        update = smoothing.end_epoch(val_logits, VAL_LABELS)
        train = running_average(train, logit_margin(rows(epoch)).numpy())
        val = running_average(val, logit_margin(val_logits.double()).numpy())
        probs = val_logits.double().softmax(1)
        correct = probs.argmax(1) == VAL_LABELS
        figures = robcal.level_statistics(probs.amax(1), correct, robcal.assign_levels(val, R), R)
        other.update(*figures)
        np.testing.assert_allclose(update.confidence, figures[0])
        np.testing.assert_allclose(smoothing.epsilon, other.epsilon, atol=1e-12)
        np.testing.assert_array_equal(smoothing.levels, robcal.assign_levels(train, R))
    assert str(update).startswith(f"epoch 4 of 6: validation accuracy {correct.double().mean():.3f}")


def test_labels_are_hard_before_the_first_update_and_gradients_flow():
    smoothing, logits = made(), rows(0).requires_grad_()
    loss = smoothing.loss(logits, LABELS, torch.arange(N))
    torch.testing.assert_close(loss, functional.cross_entropy(logits, LABELS))
    loss.backward()
    assert logits.grad.abs().sum() > 0


def test_weights_and_ignored_labels_count_as_in_torch():
    smoothing, logits, weight = made(), rows(0), torch.tensor([1.0, 2.0, 0.5, 3.0])
    labels = LABELS.where(torch.arange(N) % 5 > 0, -100)
    ours = smoothing.loss(logits, labels, torch.arange(N), weight=weight)
    torch.testing.assert_close(ours, functional.cross_entropy(logits, labels, weight=weight))
    val_labels = VAL_LABELS.where(torch.arange(M) % 5 > 0, -100)
    update = smoothing.end_epoch(rows(1, M), val_labels)
    assert update.counts.sum() == M * 4 // 5
    assert (smoothing.levels == -1).nonzero()[0].tolist() == [k for k in range(N - 1) if k % 5 == 0]


def test_an_example_that_was_not_seen_has_the_level_of_its_margin_in_this_pass():
    smoothing, logits = trained(), rows(60)
    index = torch.arange(N) + 1000
    epsilon = smoothing.loss(logits, LABELS, index, reduction="none")
    level = np.searchsorted(
        level_bounds(smoothing._train, smoothing.levels, R), logit_margin(logits).numpy(), side="right"
    )
    assert set(level) == set(range(R))
    targets = smoothing.smoother.soft_targets(LABELS, level)
    torch.testing.assert_close(epsilon, functional.cross_entropy(logits, targets, reduction="none"))
    assert torch.equal(smoothing.soft_targets(LABELS, index), functional.one_hot(LABELS, Z).float())


def test_nothing_is_kept_under_no_grad_and_a_check_before_training_can_be_told():
    smoothing = made()
    with torch.no_grad():
        smoothing.loss(rows(0), LABELS, torch.arange(N))
    assert smoothing.examples_shown == 0
    with pytest.raises(InputError, match="no training example that counts"):
        smoothing.end_epoch(rows(1, M), VAL_LABELS)
    smoothing.keep_margins(rows(0).numpy(), np.arange(N))
    assert smoothing.examples_shown == N
    smoothing.end_epoch(rows(1, M).tolist(), VAL_LABELS.tolist())
    assert smoothing.examples_shown == 0


@pytest.mark.parametrize("labels", [np.array([Z, 0]), torch.tensor([Z, 0]), torch.tensor([-100, 0])])
def test_soft_targets_of_labels_that_are_no_class_are_refused(labels):
    """They were those of the nearest class, which no loss afterwards could see."""
    with pytest.raises(InputError, match=rf"it lies in 0 to {Z - 1}\. Number the classes from 0"):
        made().soft_targets(labels, [0, 1])
    assert made().soft_targets(labels.clip(0, Z - 1), [0, 1]).shape == (2, Z)


def test_an_epoch_whose_labels_are_all_ignored_is_told_so_unless_there_were_others():
    smoothing, ignored = made(), torch.full((N,), -100)
    smoothing.loss(rows(0).requires_grad_(), ignored, torch.arange(N))
    with pytest.raises(InputError, match=r"that counts has passed.*labels other than ignore_index"):
        smoothing.end_epoch(rows(1, M), VAL_LABELS)
    smoothing = trained(1)
    before = smoothing.levels
    smoothing.loss(rows(0).requires_grad_(), ignored, torch.arange(N))
    smoothing.end_epoch(rows(1, M), VAL_LABELS)
    np.testing.assert_array_equal(smoothing.levels, before)


def test_validation_rows_in_another_order_or_twice_change_nothing_when_they_are_numbered():
    one, two = made(), made()
    for epoch in range(4):
        val = rows(100 + epoch, M)
        order = torch.from_numpy(np.random.default_rng(epoch).permutation(M))
        order = torch.cat([order, order[:7]])
        for smoothing in (one, two):
            train_epoch(smoothing, epoch)
        one.end_epoch(val, VAL_LABELS)
        update = two.end_epoch(val[order], VAL_LABELS[order], val_index=order)
        assert update.counts.sum() == M
        np.testing.assert_array_equal(one.epsilon, two.epsilon)


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_a_resumed_run_goes_on_bit_for_bit_also_in_the_middle_of_an_epoch(tmp_path, stop):
    whole, first = trained(4), trained(2)
    logits, order = rows(2), torch.from_numpy(np.random.default_rng(2).permutation(N)).split(20)
    for index in order[:stop]:
        first.loss(logits[index], LABELS[index], index)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = made()
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for index in order[stop:]:
        second.loss(logits[index], LABELS[index], index)
    second.end_epoch(rows(102, M), VAL_LABELS)
    train_epoch(second, 3)
    second.end_epoch(rows(103, M), VAL_LABELS)
    assert whole.state_dict().keys() == second.state_dict().keys()
    for name, values in whole.state_dict().items():
        assert torch.equal(values, second.state_dict()[name]), name
    assert torch.equal(whole.loss(rows(9), LABELS, torch.arange(N)), second.loss(rows(9), LABELS, torch.arange(N)))


def test_a_refused_state_changes_nothing():
    smoothing, state = trained(), trained(2).state_dict()
    before = {name: values.clone() for name, values in smoothing.state_dict().items()}
    damaged = [
        {**state, "train_margins": state["train_margins"].reshape(-1, 2)},
        {**state, "shown_margins": torch.zeros(3)},
        {**state, "shown_index": torch.tensor([-1]), "shown_margins": torch.zeros(1)},
        {name: values for name, values in state.items() if name != "val_margins"},
        ARAdaLS(Z, R + 1, epochs=6, start=0.0, gain=0.5).state_dict(),
        ARAdaLS(Z + 1, R, epochs=6, start=0.0, gain=0.5).state_dict(),
        made(epochs=7).state_dict(),
    ]
    for other in damaged:
        with pytest.raises(InputError):
            smoothing.load_state_dict(other)
        assert all(torch.equal(values, before[name]) for name, values in smoothing.state_dict().items())


def test_half_precision_under_autocast():
    smoothing, model = made(), torch.nn.Linear(5, Z)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.ones(N, 5))
        loss = smoothing.loss(logits, LABELS, torch.arange(N))
    assert (logits.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(loss, functional.cross_entropy(logits.float(), LABELS))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_same_as_on_the_cpu():
    here, there = made(), made()
    for epoch in range(3):
        train_epoch(here, epoch)
        there.loss(rows(epoch).cuda(), LABELS.cuda(), torch.arange(N))
        here.end_epoch(rows(100 + epoch, M), VAL_LABELS)
        there.end_epoch(rows(100 + epoch, M).cuda(), VAL_LABELS.cuda())
    np.testing.assert_allclose(here.epsilon, there.epsilon)
    again = made()
    again.load_state_dict(there.state_dict())
    again.loss(rows(3).cuda(), LABELS.cuda(), torch.arange(N).cuda())
    again.end_epoch(rows(103, M).cuda(), VAL_LABELS.cuda())


WORKER = """
import os, sys
import torch
sys.path.insert(0, os.environ["HERE"])
from test_own_loop import LABELS, M, N, VAL_LABELS, made, rows
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
smoothing, numbered = made(), made()
for epoch in range(4):
    own, val = torch.arange(rank, N, 2), torch.arange(rank * 22, 22 + rank * 23)
    for each in (smoothing, numbered):
        each.loss(rows(epoch)[own], LABELS[own], own)
    smoothing.end_epoch(rows(100 + epoch, M)[val], VAL_LABELS[val])
    numbered.end_epoch(rows(100 + epoch, M), VAL_LABELS, val_index=torch.arange(M))
torch.save((smoothing.state_dict(), numbered.state_dict()), f"{os.environ['OUT']}/{rank}.pt")
resumed = made()
smoothing.loss(rows(4)[own], LABELS[own], own)
resumed.load_state_dict(smoothing.state_dict(joined=True))
resumed.load_state_dict(resumed.state_dict(joined=True))
resumed.loss(rows(5)[own[:20]], LABELS[own[:20]], own[:20])
resumed.end_epoch(rows(104, M), VAL_LABELS, val_index=torch.arange(M))
torch.save(resumed.state_dict(), f"{os.environ['OUT']}/resumed-{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_agree_with_one(tmp_path):
    """Each trains on half of the examples; validation examples are shared out, or measured by both and numbered.

    Also from a state of the middle of an epoch, which shows some examples again after it: each counts once.
    """
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "worker.py"]
    environment = {**__import__("os").environ, "HERE": str(Path(__file__).parent), "OUT": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    smoothing = trained(4)
    one = smoothing.state_dict()
    for rank in (0, 1):
        for state in torch.load(tmp_path / f"{rank}.pt", weights_only=True):
            for name, values in one.items():
                assert torch.equal(state[name], values), (rank, name)
    smoothing.loss(rows(4), LABELS, torch.arange(N))
    again = made()  # one process goes on as well, with the examples that the two show
    again.load_state_dict(smoothing.state_dict(joined=True))
    again.loss(rows(5)[:40], LABELS[:40], torch.arange(40))
    again.end_epoch(rows(104, M), VAL_LABELS)
    for rank in (0, 1):
        resumed = torch.load(tmp_path / f"resumed-{rank}.pt", weights_only=True)
        for name, values in again.state_dict().items():
            assert torch.equal(resumed[name], values), (rank, name)
