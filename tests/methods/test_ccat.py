import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional

from robcal.base.checks import InputError
from robcal.methods import make_method
from robcal.methods.ccat import _start, ccat, fade, rival_log_confidence, transition
from robcal.methods.linf import generator_of
from robcal.methods.method import RunInfo
from robcal.training.loop import fit


def test_targets_by_hand():
    """Equations 5 and 6 at a third of the radius with rho = 2: lambda = 4/9."""
    share = transition(torch.tensor([[0.01, -0.01]]), 0.03, 2.0)
    assert float(share) == pytest.approx(4 / 9)
    soft = fade(torch.tensor([[1.0, 0.0, 0.0]]), share)
    np.testing.assert_allclose(soft, [[4 / 9 + 5 / 27, 5 / 27, 5 / 27]], rtol=1e-5)


def test_the_attack_seeks_the_most_confident_other_class():
    logits = torch.tensor([[5.0, 1.0, 2.0], [0.0, 900.0, 1.0]])
    expected = functional.log_softmax(logits.double(), 1)
    rivals = rival_log_confidence(logits, torch.tensor([0, 1]))
    np.testing.assert_allclose(rivals, [expected[0, 2], expected[1, 2]], rtol=1e-5)


def linear_network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Linear(3, 2)


def test_the_loss_of_a_linear_network_in_closed_form(batch):
    """Two classes, no box: the attack ends on the rim, eps sign(w) away, so the first half's target is uniform."""
    binary = dataclasses.replace(batch, labels=batch.labels % 2)
    targets = functional.one_hot(binary.labels, 2).float()
    linear, method = linear_network(), ccat(0.1, 10.0, 40)
    loss, state = method.loss(method.init(RunInfo(2, 1, 4, 5)), linear, binary, targets)
    toward = (linear.weight[1] - linear.weight[0]).detach() * (1 - 2 * binary.labels[:6, None])
    logits = linear(binary.inputs + torch.cat([0.1 * toward.sign(), torch.zeros(6, 3)]))
    expected = functional.cross_entropy(logits, torch.cat([torch.full((6, 2), 0.5), targets[6:]]))
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    plain = functional.cross_entropy(linear(binary.inputs), targets)
    assert (expected - plain).detach().abs() > 1e-3
    assert int(state["step"]) == 1


def test_where_no_move_makes_another_class_surer_the_start_stays(batch):
    """A constant network has no gradient, so the perturbation is the start, and the target fades with its norm."""
    network = linear_network()
    torch.nn.init.zeros_(network.weight)
    binary = dataclasses.replace(batch, labels=batch.labels % 2)
    targets = functional.one_hot(binary.labels, 2).float()
    method = ccat(0.1, 2.0, 3)
    state = method.init(RunInfo(2, 1, 4, 5))
    loss, _ = method.loss(state, network, binary, targets)
    norms = _start(binary.inputs[:6], generator_of(state, torch.device("cpu"))).abs().amax(1)
    share = ((1 - norms) ** 2)[:, None]
    faded = torch.cat([share * targets[:6] + (1 - share) / 2, targets[6:]])
    torch.testing.assert_close(loss, functional.cross_entropy(network(binary.inputs), faded))


def test_starts_are_zero_or_uniform_in_norm_and_direction():
    starts = _start(torch.zeros(4000, 2, 3), torch.Generator().manual_seed(0))
    norms = starts.flatten(1).abs().amax(1)
    moved = norms > 0
    assert float(moved.float().mean()) == pytest.approx(0.5, abs=0.03)
    assert stats.kstest(norms[moved].numpy(), "uniform").pvalue > 0.01
    signs = starts[moved].sign().flatten(1).numpy()
    assert np.abs(np.cov(signs.T) - np.eye(6)).max() < 0.08


def test_inputs_keep_their_order_and_their_box(batch, run_info):
    seen = []

    class Watch(torch.nn.Linear):
        def forward(self, x):
            if self.training:
                seen.append(x.detach())
            return super().forward(x)

    method = ccat(0.3, 10.0, 4)
    method.loss(method.init(run_info), Watch(3, 3), batch, functional.one_hot(batch.labels, 3).float())
    (inputs,) = seen
    assert torch.equal(inputs[6:], batch.inputs[6:])
    assert not torch.equal(inputs[:6], batch.inputs[:6])
    assert (inputs[:6] - batch.inputs[:6]).abs().max() <= 0.3 + 1e-6
    assert inputs.min() >= 0
    assert inputs.max() <= 1


def test_a_batch_of_one_is_trained_clean(batch, run_info):
    one = dataclasses.replace(batch, inputs=batch.inputs[:1], labels=batch.labels[:1], index=batch.index[:1])
    torch.manual_seed(0)
    network, method = torch.nn.Linear(3, 3), ccat()
    loss, _ = method.loss(method.init(run_info), network, one, torch.eye(3)[:1])
    torch.testing.assert_close(loss, functional.cross_entropy(network(one.inputs), one.labels))


@pytest.mark.slow
def test_digits_moved_to_another_class_get_little_confidence(digits, tiny_mlp, resumes):
    plain, calm = tiny_mlp(), tiny_mlp()
    options = {"epochs": 15, "batch_size": 64, "device": "cpu"}
    fit(plain, digits, make_method("vanilla"), **options)
    fit(calm, digits, ccat(0.3, 10.0, 6), **options)
    split = digits.split("test")
    inputs, labels = split.batch(np.arange(200)), torch.from_numpy(split.labels[:200])

    def confidence_in_others_under_attack(model):
        attacked = inputs.clone()
        for _ in range(10):
            moved = attacked.clone().requires_grad_()
            others = model(moved).softmax(1).scatter(1, labels[:, None], 0).amax(1)
            others.sum().backward()
            attacked = (inputs + (attacked + 0.1 * moved.grad.sign() - inputs).clamp(-0.3, 0.3)).clamp(0, 1)
        return float(others.detach().mean())

    assert confidence_in_others_under_attack(calm) < confidence_in_others_under_attack(plain) - 0.2
    resumes(ccat(steps=2))


def test_bad_options_are_refused():
    for options in ({"epsilon": 0.0}, {"rho": 0.0}, {"steps": 0}):
        with pytest.raises(InputError, match=next(iter(options))):
            ccat(**options)
