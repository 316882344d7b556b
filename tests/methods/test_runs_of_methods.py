import dataclasses

import numpy as np
import pytest
import torch

from robcal.base.checks import InputError
from robcal.base.storage import digest_of, load_predictions
from robcal.methods import METHODS, make_method, method_options, parse_options
from robcal.methods.mc_dropout import FixedDropout
from robcal.runs.directory import load_model, load_networks
from robcal.runs.train import train_run
from robcal.training.settings import TrainSettings

RECIPE = {"data": "digits", "model": "mlp", "epochs": 4, "train_limit": 150, "test_limit": 60, "device": "cpu"}


def weights(model):
    return torch.cat([parameter.detach().ravel() for parameter in model.parameters()])


@pytest.fixture(scope="module")
def runs(tmp_path_factory, digits):
    made = {}
    for method in ("vanilla", "swag", "mc-dropout"):
        options = {} if method == "vanilla" else {"samples": 3}
        settings = TrainSettings(**RECIPE, method=method, options=options)
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


#: Another value than the default, for every kind of option.
OTHER = {int: 5, float: 0.25, str: "integral"}


@pytest.mark.parametrize("method", METHODS)
def test_every_option_reaches_the_factory_the_settings_and_the_digest(method):
    plain = TrainSettings(**RECIPE, method=method)
    assert plain.options == make_method(method).options
    assert not set(method_options(method)) & {field.name for field in dataclasses.fields(TrainSettings)}
    for name, kind in method_options(method, whole=False).items():
        more = {"controller": "integral"} if name == "step_size" and "controller" in plain.options else {}
        given = TrainSettings(**RECIPE, method=method, options={name: OTHER[kind], **more})
        assert given.options[name] == make_method(method, **{name: OTHER[kind], **more}).options[name] == OTHER[kind]
        assert parse_options(method, [f"{name}={OTHER[kind]}"]) == {name: OTHER[kind]}
        assert digest_of(given.identity()) != digest_of(plain.identity())
        assert dataclasses.replace(given, options={}) == plain


def test_a_default_that_is_written_out_is_the_same_run():
    assert TrainSettings(**RECIPE, method="mixup", options={"alpha": 0.2}) == TrainSettings(**RECIPE, method="mixup")
    whole = TrainSettings(**RECIPE, method="mixup", options={"alpha": 1})
    assert whole == TrainSettings(**RECIPE, method="mixup", options={"alpha": 1.0})
    assert isinstance(whole.options["alpha"], float)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="Did you mean 'steps'"):
        parse_options("ccat", ["step=3"])
    with pytest.raises(InputError, match="integer"):
        parse_options("ccat", ["steps=2.5"])
    with pytest.raises(InputError, match="no such options"):
        parse_options("vanilla", ["rho=2"])
    with pytest.raises(InputError, match=r"steps is 2\.5; it must be an integer"):
        TrainSettings(**RECIPE, method="ccat", options={"steps": 2.5})
    with pytest.raises(InputError, match="alpha is True; it must be a number"):
        TrainSettings(**RECIPE, method="mixup", options={"alpha": True})
    with pytest.raises(InputError, match="--members 2"):
        TrainSettings(**RECIPE, method="swag", members=2)
    with pytest.raises(InputError, match="samples"):
        TrainSettings(**RECIPE, method="swag", options={"samples": 1})
    with pytest.raises(InputError, match="samples is 2,000"):
        TrainSettings(**RECIPE, method="mc-dropout", options={"samples": 2000})
