import numpy as np
import pytest
import torch
from torch import nn

from robcal.base.checks import InputError
from robcal.data import Split
from robcal.methods.mc_dropout import dropout_networks
from robcal.methods.swag import draw_weights, measure_batch_norm, swag_networks

RNG = np.random.default_rng(0)
TRAIN = Split((RNG.normal(size=(64, 4)) * 3 + 1).astype(np.float32), RNG.integers(0, 2, 64))


def moments_of(vectors):
    vectors = np.asarray(vectors, np.float32)
    mean = vectors.mean(0)
    running = [vectors[n] - vectors[: n + 1].mean(0) for n in range(len(vectors))]
    return {
        "count": torch.tensor(len(vectors)),
        "mean": torch.from_numpy(mean),
        "squares": torch.from_numpy(((vectors - mean) ** 2).sum(0)),
        "deviations": torch.from_numpy(np.stack(running).astype(np.float32)),
    }


class TestSwag:
    def test_draws_have_the_mean_and_covariance_of_the_paper(self):
        """Sigma = diag / 2 + D D' / (2 (K - 1)), over 20,000 draws."""
        moments = moments_of(np.random.default_rng(1).normal(size=(5, 3)) * [1, 2, 3])
        generator = torch.Generator().manual_seed(0)
        draws = torch.stack([draw_weights(moments, generator) for _ in range(20000)]).numpy()
        columns = moments["deviations"].numpy().T
        expected = np.diag(moments["squares"].numpy() / 5) / 2 + columns @ columns.T / (2 * 4)
        np.testing.assert_allclose(draws.mean(0), moments["mean"], atol=0.08)
        np.testing.assert_allclose(np.cov(draws.T), expected, atol=0.05 * np.diag(expected).max())
        assert abs(expected[0, 2]) > 0.1  # the low-rank part is not diagonal, so a draw without it would fail

    def test_weights_without_spread_give_the_mean_network(self):
        network = nn.Linear(4, 2)
        vector = np.arange(10) / 10
        (sample,) = swag_networks(network, moments_of([vector, vector]), TRAIN, count=1)
        np.testing.assert_allclose(torch.cat([p.ravel() for p in sample.parameters()]).detach(), vector, rtol=1e-6)

    def test_samples_follow_seed_and_number_and_leave_the_network(self):
        network = nn.Linear(4, 2)
        before = network.weight.detach().clone()
        moments = moments_of(np.random.default_rng(2).normal(size=(4, 10)))
        three, two = swag_networks(network, moments, TRAIN, count=3), swag_networks(network, moments, TRAIN, count=2)
        assert torch.equal(three[1].weight, two[1].weight)
        assert not torch.equal(three[0].weight, three[1].weight)
        assert not torch.equal(swag_networks(network, moments, TRAIN, count=1, seed=1)[0].weight, two[0].weight)
        assert torch.equal(network.weight, before)

    def test_batch_normalisation_is_that_of_each_sample(self):
        network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
        network(torch.full((8, 4), 50.0))
        size = sum(parameter.numel() for parameter in network.parameters())
        moments = moments_of(np.random.default_rng(3).normal(size=(4, size)))
        for sample in swag_networks(network, moments, TRAIN, count=2):
            with torch.no_grad():
                hidden = sample[0](torch.from_numpy(TRAIN.inputs))
            torch.testing.assert_close(sample[1].running_mean, hidden.mean(0), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(sample[1].running_var, hidden.var(0), rtol=1e-4, atol=1e-4)
            assert not sample.training
            assert sample[1].momentum == 0.1

    def test_measuring_in_batches_averages_them(self):
        norm = nn.BatchNorm1d(4, affine=True)
        norm(torch.full((8, 4), 50.0))  # what it saw before must not count
        measure_batch_norm(norm, TRAIN, batch_size=16)
        np.testing.assert_allclose(norm.running_mean, TRAIN.inputs.mean(0), rtol=1e-4)
        parts = np.stack([part.var(0, ddof=1) for part in TRAIN.inputs.reshape(4, 16, 4)])
        np.testing.assert_allclose(norm.running_var, parts.mean(0), rtol=1e-4)

    def test_foreign_or_empty_moments_are_refused(self):
        with pytest.raises(InputError, match="architecture"):
            swag_networks(nn.Linear(4, 3), moments_of(np.ones((3, 10))), TRAIN)
        with pytest.raises(InputError, match="two"):
            swag_networks(nn.Linear(4, 2), moments_of(np.ones((1, 10))), TRAIN)


class TestDropout:
    def network(self):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 50), nn.BatchNorm1d(50), nn.ReLU(), nn.Dropout(0.3), nn.Linear(50, 2))

    def test_units_are_dropped_at_the_rate_and_the_mean_is_that_of_the_network(self):
        """Through a linear layer the mean over draws is the network in eval mode; the variance is rate / (1 - rate)."""
        layer = nn.Sequential(nn.Dropout(0.3), nn.Identity())
        draws = torch.stack([sample(torch.ones(1, 20))[0] for sample in dropout_networks(layer, count=1000)])
        assert draws.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
        assert float((draws == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
        assert float(draws.mean()) == pytest.approx(1, abs=0.02)
        correlation = np.corrcoef(draws.numpy().T) - np.eye(20)
        assert np.abs(correlation).max() < 0.16

    def test_a_draw_is_a_function_of_its_input_alone(self):
        inputs = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
        (sample,) = dropout_networks(self.network().eval(), count=1)
        whole = sample(inputs)
        torch.testing.assert_close(torch.cat([sample(inputs[:4]), sample(inputs[4:])]), whole)
        sample.eval()
        torch.testing.assert_close(sample(inputs), whole)
        assert (whole - self.network().eval()(inputs)).abs().max() > 1e-3

    def test_channels_are_dropped_whole_by_two_dimensional_dropout(self):
        (sample,) = dropout_networks(nn.Sequential(nn.Dropout2d(0.5)), count=1, seed=2)
        output = sample(torch.ones(3, 16, 4, 4))
        assert torch.equal(output, output[:1, :, :1, :1].expand(3, 16, 4, 4))
        assert 0 < int((output[0, :, 0, 0] == 0).sum()) < 16

    def test_weights_are_shared_and_modes_kept(self):
        network = self.network()
        first, second = dropout_networks(network, count=2)
        assert first[0].weight is network[0].weight is second[0].weight
        assert not first[1].training
        assert network.training
        assert isinstance(network[3], nn.Dropout)

    def test_a_network_without_dropout_is_refused(self):
        for network in (nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.0), nn.Linear(2, 2))):
            with pytest.raises(InputError, match="no dropout"):
                dropout_networks(network)
