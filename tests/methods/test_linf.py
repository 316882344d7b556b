import numpy as np
import pytest
import torch
from torch import nn

from robcal.methods.linf import (
    attack_state,
    backtracking_ascent,
    ball_around,
    generator_of,
    next_step,
    signed_ascent,
    under_attack,
)
from robcal.methods.method import RunInfo


def ball(inputs, epsilon, box):
    return ball_around(attack_state(RunInfo(3, 1, 4, 5, box=box)), inputs, epsilon)


@pytest.mark.parametrize("box", [None, (0.0, 1.0), (np.zeros(3, np.float32), np.array([1, 0.5, np.inf], np.float32))])
@pytest.mark.parametrize("ascent", [signed_ascent, backtracking_ascent])
def test_a_linear_objective_ends_in_its_corner(batch, box, ascent):
    """max w·(x + delta) over ball and box is known: each feature goes by eps in the sign of w, or to the wall."""
    inputs = batch.inputs.clone()
    inputs[:, 1] *= 0.5
    direction = torch.tensor([1.0, -2.0, 3.0])
    region = ball(inputs, 0.1, box)
    network = nn.Identity()
    delta = ascent(network, lambda x: x @ direction, region, torch.zeros(12, 3), steps=30, step_size=0.03)
    low, high = (-np.inf, np.inf) if box is None else box
    corner = np.clip(inputs.numpy() + 0.1 * direction.sign().numpy(), low, high)
    np.testing.assert_allclose((inputs + delta).numpy(), corner, atol=1e-6)


def test_backtracking_never_ends_below_its_start_and_plain_steps_do():
    """A narrow ridge: steps longer than it fall off; halving them does not."""
    inputs = torch.zeros(4, 1)
    start = torch.tensor([[0.001], [-0.002], [0.003], [0.0]])
    region = ball(inputs, 1.0, None)

    def ridge(x):
        return -x.abs().sum(1)

    free = signed_ascent(nn.Identity(), ridge, region, start, steps=7, step_size=0.5)
    held = backtracking_ascent(nn.Identity(), ridge, region, start, steps=60, step_size=0.5)
    assert (ridge(held) >= ridge(start)).all()
    assert (ridge(free)[:3] < ridge(start)[:3] - 0.1).all()
    assert float(held.abs().max()) < 1e-3


def test_backtracking_by_hand():
    """One example, three steps of -(x - .3)^2 from 0 with step .4, momentum .5, factor 2."""
    region = ball(torch.zeros(1, 1), 1.0, None)
    visited, velocity, size, at = [], 0.0, 0.4, 0.0

    def value(x):
        return -((x - 0.3) ** 2)

    for _ in range(3):
        velocity = 0.5 * velocity + 0.5 * np.sign(-2 * (at - 0.3))
        trial = at + size * velocity
        if value(trial) >= value(at):
            at = trial
        else:
            size /= 2
        visited.append(at)
    assert len(set(visited)) == 2  # a step was taken and one refused: both branches are in the sum
    delta = backtracking_ascent(
        nn.Identity(),
        lambda x: -((x - 0.3) ** 2).sum(1),
        region,
        torch.zeros(1, 1),
        steps=3,
        step_size=0.4,
        momentum=0.5,
        factor=2.0,
    )
    assert float(delta) == pytest.approx(at, abs=1e-6)


def test_attacks_leave_modes_statistics_and_gradients_as_found():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    network[2].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with under_attack(network) as attacked:
        assert not any(module.training for module in attacked.modules())
        region = ball(torch.rand(5, 3), 0.1, None)
        signed_ascent(attacked, lambda x: x[:, 0], region, torch.zeros(5, 3), steps=2, step_size=0.1)
    assert [module.training for module in network.modules()] == [True, True, True, False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_random_starts_follow_seed_and_step():
    state = attack_state(RunInfo(3, 1, 4, 5))
    draws = [torch.rand(3, generator=generator_of(s, torch.device("cpu"))) for s in (state, state, next_step(state))]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    other = attack_state(RunInfo(3, 1, 4, 6))
    assert not torch.equal(draws[0], torch.rand(3, generator=generator_of(other, torch.device("cpu"))))
