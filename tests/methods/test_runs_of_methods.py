import numpy as np
import pytest
import torch

from robcal.base.checks import InputError
from robcal.base.storage import load_predictions
from robcal.methods import METHODS, make_method
from robcal.runs.directory import load_model, load_networks
from robcal.runs.train import train_run
from robcal.training.sampling import FixedDropout
from robcal.training.settings import METHOD_OPTIONS, TrainSettings, parse_method_options

RECIPE = {"data": "digits", "model": "mlp", "epochs": 4, "train_limit": 150, "test_limit": 60, "device": "cpu"}


def weights(model):
    return torch.cat([parameter.detach().ravel() for parameter in model.parameters()])


@pytest.fixture(scope="module")
def runs(tmp_path_factory, digits):
    made = {}
    for method in ("vanilla", "swag", "mc-dropout"):
        settings = TrainSettings(**RECIPE, method=method, samples=3)
        made[method] = train_run(settings, tmp_path_factory.mktemp(method) / "run")
    return made


@pytest.mark.parametrize("method", ["swag", "mc-dropout"])
def test_predictions_are_the_mean_over_the_networks_that_are_loaded(runs, method):
    run = runs[method]
    networks, split = load_networks(run), run.dataset().split("test")
    inputs = split.batch(np.arange(len(split)))
    with torch.no_grad():
        probs = torch.stack([network(inputs).softmax(1) for network in networks])
    assert len(networks) == 3
    assert float((probs[0] - probs[1]).abs().max()) > 1e-3
    kept = load_predictions(run.directory / "predictions-test.safetensors")
    np.testing.assert_allclose(kept.probs, probs.mean(0), atol=1e-5)
    np.testing.assert_allclose(np.exp(kept.logits).sum(1), 1, atol=1e-5)


def test_swag_trains_as_plain_and_draws_about_its_weights(runs):
    trained, _ = load_model(runs["swag"].checkpoint)
    plain, _ = load_model(runs["vanilla"].checkpoint)
    assert torch.equal(weights(trained), weights(plain))
    assert runs["swag"].history() == runs["vanilla"].history()
    draws = torch.stack([weights(network) for network in load_networks(runs["swag"])])
    distance = (draws - weights(plain)).norm(dim=1) / weights(plain).norm()
    assert (distance > 1e-4).all()
    assert (distance < 0.5).all()


def test_the_network_of_mc_dropout_has_dropout_and_its_checkpoint_says_so(runs):
    model, about = load_model(runs["mc-dropout"].checkpoint)
    assert about["model"] == "mlp+dropout"
    assert sum(isinstance(module, torch.nn.Dropout) for module in model.modules()) == 2
    assert any(isinstance(module, FixedDropout) for module in load_networks(runs["mc-dropout"])[0].modules())


def test_every_option_reaches_the_factory_and_the_digest():
    for method, table in METHOD_OPTIONS.items():
        plain = TrainSettings(**RECIPE, method=method)
        assert plain.method_options() == {}
        for name, keyword in table.items():
            whole = name in ("attack_steps", "swag_rank")
            given = TrainSettings(**RECIPE, method=method, **{name: 3 if whole else 0.25})
            assert make_method(method, **given.method_options()).options[keyword] == (3 if whole else 0.25)
            assert given.relevant() != plain.relevant()
            other = TrainSettings(**RECIPE, method="vanilla", **{name: 3 if whole else 0.25})
            assert other.relevant() == TrainSettings(**RECIPE, method="vanilla").relevant()
    assert set(METHOD_OPTIONS) < set(METHODS)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="attack_steps"):
        parse_method_options("ccat", ["attack_step=3"])
    with pytest.raises(InputError, match="integer"):
        parse_method_options("ccat", ["attack_steps=2.5"])
    with pytest.raises(InputError, match="no such options"):
        parse_method_options("vanilla", ["ccat_rho=2"])
    with pytest.raises(InputError, match="--members 2"):
        TrainSettings(**RECIPE, method="swag", members=2)
    with pytest.raises(InputError, match="samples"):
        TrainSettings(**RECIPE, method="swag", samples=1)
