import dataclasses

import numpy as np
import pytest
import torch

from robcal.base.checks import InputError
from robcal.methods.method import EpochInfo, RunInfo
from robcal.methods.swag import swag, take_in
from robcal.training.loop import fit


def info_after(epoch, epochs, model):
    return EpochInfo(epoch, epochs, np.full((2, 2), 0.5), np.zeros(2, np.int64), None, 1, model=model)


def test_moments_are_numpys_of_the_weights_of_the_second_half():
    """Six epochs of made-up weights; the last three are taken: mean, variance and running deviations by numpy."""
    method, model = swag(start=0.5, rank=2), torch.nn.Linear(2, 1)
    state, taken = method.init(RunInfo(2, 1, 6, 0)), []
    for epoch in range(1, 7):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.full_like(parameter, float(epoch**2)) + torch.arange(parameter.numel()))
        if epoch > 3:
            taken.append(torch.cat([parameter.detach().ravel() for parameter in model.parameters()]).numpy())
        state = method.after_epoch(state, info_after(epoch, 6, model))
    assert int(state["count"]) == 3
    np.testing.assert_allclose(state["mean"], np.mean(taken, 0), rtol=1e-6)
    np.testing.assert_allclose(state["squares"] / 3, np.var(taken, 0), rtol=1e-5)
    deviations = [taken[n] - np.mean(taken[: n + 1], 0) for n in (1, 2)]
    np.testing.assert_allclose(state["deviations"], deviations, rtol=1e-5)


def test_variance_survives_where_the_difference_of_squares_would_not():
    values = torch.tensor([1000.0, 1000.01, 1000.02])
    state = swag().init(RunInfo(2, 1, 6, 0))
    for value in values:
        state = take_in(state, value[None], 20)
    assert float(state["squares"] / 3) == pytest.approx(float(np.var(values.double().numpy())), rel=0.01)


@pytest.mark.slow
def test_training_is_plain_and_resumes(resumes, digits, tiny_mlp):
    from robcal.methods import make_method

    whole, history = resumes(swag(), epochs=4, stop=13)
    plain = tiny_mlp(0)
    assert fit(plain, digits, make_method("vanilla"), epochs=4, batch_size=64, device="cpu") == history
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), plain.parameters(), strict=True))


def test_weights_of_convolutions_are_taken_in_the_order_of_their_shape(digits):
    """Networks of images are trained with their channels last in memory; the moments do not know of it."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 3, 3), torch.nn.Flatten())
    model.append(torch.nn.Linear(48, 10))
    taken = []

    def after_epoch(state, info):
        state = method.after_epoch(state, info)
        if info.epoch > 1:
            taken.append(torch.cat([p.detach().contiguous().ravel() for p in model.parameters()]).numpy().copy())
            np.testing.assert_allclose(state["mean"], np.mean(taken, 0), atol=1e-6)
        return state

    method = swag()
    watched = dataclasses.replace(method, after_epoch=after_epoch)
    fit(model, digits, watched, epochs=3, batch_size=64, device="cpu")
    assert len(taken) == 2


def test_too_short_a_run_and_bad_options_are_refused():
    with pytest.raises(InputError, match="at least two"):
        swag().init(RunInfo(2, 1, 2, 0))
    with pytest.raises(InputError, match="start"):
        swag(start=1.0)
    with pytest.raises(InputError, match="rank"):
        swag(rank=1)
    with pytest.raises(InputError, match="no network"):
        swag().after_epoch(swag().init(RunInfo(2, 1, 4, 0)), info_after(3, 4, None))
