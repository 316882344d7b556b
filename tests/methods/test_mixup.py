import numpy as np
import pytest
import torch
from scipy import stats

from robcal.base.checks import InputError
from robcal.methods.mixup import draw_mixture, mixup
from robcal.training.loop import fit


def test_inputs_and_targets_are_mixed_with_the_same_partner_and_share():
    """Each output row must be the one mixture of two rows that its own target tells of."""
    inputs, targets = torch.eye(6) * 2, torch.eye(6)
    mixed, soft = mixup(1.0).augment(inputs, targets, torch.Generator().manual_seed(1))
    torch.testing.assert_close(mixed, 2 * soft)
    assert not torch.equal(soft, targets)
    shares = {round(float(row.max()), 5) for row in soft}
    share, partner = draw_mixture(6, 1.0, torch.Generator().manual_seed(1))
    assert shares <= {1.0, round(max(share, 1 - share), 5)}
    for i in range(6):
        expected = np.zeros(6)
        expected[i] += share
        expected[partner[i]] += 1 - share
        np.testing.assert_allclose(soft[i].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_follow_the_beta_distribution(alpha):
    shares = [draw_mixture(2, alpha, torch.Generator().manual_seed(seed))[0] for seed in range(400)]
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_the_same_generator_gives_the_same_mixture():
    inputs, targets = torch.rand(8, 2), torch.eye(8)
    one, two = (mixup().augment(inputs, targets, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])


@pytest.mark.slow
def test_training_with_it_makes_predictions_softer(digits, tiny_mlp, confidence_on_test, resumes):
    from robcal.methods import make_method

    options = {"epochs": 12, "batch_size": 64, "device": "cpu"}
    plain, mixed = tiny_mlp(), tiny_mlp()
    fit(plain, digits, make_method("vanilla"), **options)
    fit(mixed, digits, mixup(2.0), **options)
    assert confidence_on_test(mixed) < confidence_on_test(plain) - 0.05
    resumes(mixup())


def test_alpha_out_of_range_is_refused():
    for alpha in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="alpha"):
            mixup(alpha)
