import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from robcal.base.checks import InputError
from robcal.methods import make_method
from robcal.methods.adversarial_training import adversarial_training
from robcal.training.loop import fit


def test_two_classes_and_a_linear_network_in_closed_form(batch):
    """CE = softplus(-margin); the worst of margin + w·delta over the ball is margin - eps |w|_1 (unbounded box)."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(3, 2)
    from robcal.methods.method import RunInfo

    method = adversarial_training(0.1, 0.05, 8)
    binary = dataclasses.replace(batch, labels=batch.labels % 2)
    loss, state = method.loss(
        method.init(RunInfo(2, 1, 4, 5)), linear, binary, functional.one_hot(binary.labels, 2).float()
    )
    logits = linear(binary.inputs)
    sign = 1 - 2 * binary.labels
    margin = sign * (logits[:, 0] - logits[:, 1])
    worst = functional.softplus(-(margin - 0.1 * (linear.weight[0] - linear.weight[1]).abs().sum())).mean()
    torch.testing.assert_close(loss, worst)
    assert worst > functional.cross_entropy(logits, binary.labels) + 0.01
    assert int(state["step"]) == 1


def test_inputs_stay_in_the_box_and_the_ball(batch, run_info):
    seen = []

    class Watch(torch.nn.Linear):
        def forward(self, x):
            seen.append((x.detach().clone(), self.training))
            return super().forward(x)

    method = adversarial_training(0.3, 0.2, 3)
    method.loss(method.init(run_info), Watch(3, 3), batch, functional.one_hot(batch.labels, 3).float())
    assert [training for _, training in seen] == [False, False, False, True]
    for inputs, _ in seen:
        assert inputs.min() >= 0
        assert inputs.max() <= 1
        assert (inputs - batch.inputs).abs().max() <= 0.3 + 1e-6
    assert (seen[0][0] - batch.inputs).abs().max() > 0.15  # the start is random


@pytest.mark.slow
def test_it_makes_digits_harder_to_attack(digits, tiny_mlp, resumes):
    plain, robust = tiny_mlp(), tiny_mlp()
    options = {"epochs": 15, "batch_size": 64, "learning_rate": 0.2, "device": "cpu"}
    fit(plain, digits, make_method("vanilla"), **options)
    fit(robust, digits, adversarial_training(0.15, 0.05, 5), **options)
    split = digits.split("test")
    inputs, labels = split.batch(np.arange(300)), torch.from_numpy(split.labels[:300])

    def accuracy_under_attack(model):
        """An attack written anew: one step of the sign of the gradient, to the rim."""
        moved = inputs.clone().requires_grad_()
        functional.cross_entropy(model(moved), labels).backward()
        attacked = (inputs + 0.15 * moved.grad.sign()).clamp(0, 1)
        return float((model(attacked).argmax(1) == labels).float().mean())

    assert accuracy_under_attack(robust) > accuracy_under_attack(plain) + 0.1
    resumes(adversarial_training(steps=2))


def test_bad_options_are_refused():
    for options in ({"epsilon": 0.0}, {"step_size": -1.0}, {"steps": 0}):
        with pytest.raises(InputError, match=next(iter(options))):
            adversarial_training(**options)
