import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from robcal.base.checks import InputError
from robcal.methods.crl import correctness, crl, ranking_loss
from robcal.methods.method import Batch, EpochInfo, RunInfo

INFO = RunInfo(num_classes=2, num_levels=1, epochs=4, seed=0, num_train=4)


def epoch_info(epoch=1):
    return EpochInfo(epoch, 4, np.full((2, 2), 0.5), np.zeros(2, np.int64), None, 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 9))
def test_ranking_loss_is_torchs_margin_ranking_loss_pair_by_pair(seed, size):
    """The oracle: torch's function with margin |c_i - c_j| and target sign(c_i - c_j), for each pair alone."""
    rng = np.random.default_rng(seed)
    confidence = torch.from_numpy(rng.random(size))
    correct = torch.from_numpy(rng.integers(0, 4, size) / 3)
    total = 0.0
    for i in range(size):
        j = (i + 1) % size
        gap = float(correct[i] - correct[j])
        total += float(
            functional.margin_ranking_loss(
                confidence[i : i + 1], confidence[j : j + 1], torch.tensor([np.sign(gap)]), margin=abs(gap)
            )
        )
    assert float(ranking_loss(confidence, correct)) == pytest.approx(total / size, abs=1e-9)


def test_loss_and_history_over_two_epochs_by_hand():
    """Logits are set, so confidence and correctness are known: examples 0 and 2 right in both epochs, 1 and 3 never."""
    network = torch.nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.eye(2))
    inputs = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.0, 0.5]])
    labels, index = torch.tensor([0, 1, 1, 0]), torch.arange(4)
    targets = functional.one_hot(labels, 2).float()
    method = crl(weight=2.0)
    state = method.init(INFO)
    plain = functional.cross_entropy(inputs, labels)
    for order in (torch.tensor([0, 1]), torch.tensor([3, 2])):
        batch = Batch(inputs[order], labels[order], None, index[order])
        loss, state = method.loss(state, network, batch, targets[order])
        torch.testing.assert_close(loss, functional.cross_entropy(inputs[order], labels[order]))  # no history yet
    state = method.after_epoch(state, epoch_info())
    assert state["counts"].tolist() == [1, 0, 1, 0]
    loss, later = method.loss(state, network, Batch(inputs, labels, None, index), targets)
    kappa = 1 / (1 + np.exp(-np.array([2.0, 1.0, 3.0, 0.5])))  # c is 1, 0, 1, 0: each pair has |c_i - c_j| = 1
    ranking = np.mean(
        [1 - (kappa[0] - kappa[1]), 1 - (kappa[2] - kappa[1]), 1 - (kappa[2] - kappa[3]), 1 - (kappa[0] - kappa[3])]
    )
    assert float(loss.detach()) == pytest.approx(float(plain) + 2 * ranking, rel=1e-5)
    assert state["right"].tolist() == [False] * 4  # the state it was given is as it was
    assert method.after_epoch(later, epoch_info(2))["counts"].tolist() == [2, 0, 2, 0]


def test_correctness_is_scaled_between_the_least_count_and_the_epochs():
    counts = torch.tensor([2, 6, 4, 2])
    np.testing.assert_allclose(correctness(counts, 6, torch.tensor([0, 1, 2])), [0, 1, 0.5])
    np.testing.assert_allclose(correctness(torch.full((3,), 6), 6, torch.arange(3)), [0, 0, 0])


def test_the_ranking_term_pulls_confidences_apart():
    network = torch.nn.Linear(2, 2)
    torch.nn.init.zeros_(network.weight)
    state = {"counts": torch.tensor([3, 0]), "right": torch.zeros(2, dtype=torch.bool), "epochs": torch.tensor(3)}
    confidence = torch.tensor([0.6, 0.6], requires_grad=True)
    ranking_loss(confidence, correctness(state["counts"], 3, torch.arange(2))).backward()
    assert confidence.grad[0] < 0 < confidence.grad[1]


def test_a_killed_run_resumes_with_its_history(resumes):
    _, history = resumes(crl(), epochs=4, stop=10)
    assert history[-1].val_accuracy > 0.3


def test_what_it_needs_is_asked_for():
    with pytest.raises(InputError, match="num_train"):
        crl().init(RunInfo(2, 1, 4, 0))
    with pytest.raises(InputError, match="weight"):
        crl(weight=0.0)
