import copy

import numpy as np
import pytest
import torch
from torch import nn

from robcal.base.checks import InputError
from robcal.base.storage import load_checkpoint, load_predictions
from robcal.methods import make_method
from robcal.models import build_model
from robcal.models.rank_one import RankOneLayer, with_members
from robcal.robustness.scoring import score
from robcal.runs.directory import load_model, load_networks, open_run
from robcal.runs.train import train_run
from robcal.training.loop import fit
from robcal.training.settings import TrainSettings

SHAPES = {"mlp": (6,), "cnn": (1, 8, 8), "cnn-fast": (3, 16, 16), "resnet-small": (3, 16, 16)}


def members_of(model):
    """The oracle: an ordinary network a member, with the weights W * (s_k r_k') written out."""
    found = []
    for k in range(model.network.members):
        whole = copy.deepcopy(model.network.network)
        for parent in list(whole.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, RankOneLayer):
                    setattr(parent, name, written_out(child, k))
        found.append(whole)
    return found


def written_out(layer, k):
    plain, factor = copy.deepcopy(layer.layer), torch.outer(layer.s[k], layer.r[k])
    weight = plain.weight * factor.view(*factor.shape, *(1,) * (plain.weight.ndim - 2))
    plain.weight = nn.Parameter(weight.detach())
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias[k].detach())
    return plain


def ensemble(name, members=3, seed=0):
    return build_model(f"{name}+members-{members}", input_shape=SHAPES[name], num_classes=4, seed=seed)


@pytest.mark.parametrize("name", SHAPES)
def test_it_predicts_the_mean_probabilities_of_its_members(name):
    model = ensemble(name)
    inputs = torch.rand(7, *SHAPES[name], generator=torch.Generator().manual_seed(1))
    for _ in range(2):
        model(inputs)  # moves the statistics of batch normalisation
    model.eval()
    with torch.no_grad():
        each = torch.stack([member.eval()(inputs).softmax(1) for member in members_of(model)])
        found = model(inputs)
    assert (each[0] - each[1]).abs().max() > 0.001
    torch.testing.assert_close(found.exp(), each.mean(0), atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(model(inputs[2:3]), found[2:3], atol=1e-5, rtol=1e-4)  # nothing of the batch in it


def test_in_training_each_row_goes_through_one_member_and_gives_it_its_gradient():
    model = ensemble("mlp").train()
    inputs = torch.rand(7, 6, generator=torch.Generator().manual_seed(1))
    found, each = model(inputs), members_of(model)
    for row in range(7):
        torch.testing.assert_close(found[row], each[row % 3](inputs)[row], atol=1e-5, rtol=1e-4)
    found[1].sum().backward()  # a row of member 1
    for layer in (module for module in model.modules() if isinstance(module, RankOneLayer)):
        for vectors in (layer.r, layer.s, layer.bias):
            assert vectors.grad[1].abs().sum() > 0
            assert vectors.grad[[0, 2]].abs().sum() == 0
        assert layer.layer.weight.grad.abs().sum() > 0


def test_members_cost_vectors_and_not_networks():
    def parameters(model):
        return sum(parameter.numel() for parameter in model.parameters())

    plain = build_model("mlp", input_shape=(6,), num_classes=4)
    linear = [module for module in plain.modules() if isinstance(module, nn.Linear)]
    extra = sum(3 * (layer.in_features + layer.out_features) + 2 * layer.out_features for layer in linear)
    assert parameters(ensemble("mlp")) == parameters(plain) + extra


def test_a_linear_layer_takes_rows_of_several_dimensions():
    layer = RankOneLayer(nn.Linear(4, 3), 2)
    inputs = torch.rand(4, 5, 4)
    for row in range(4):
        torch.testing.assert_close(layer(inputs)[row], written_out(layer, row % 2)(inputs[row]))


@pytest.mark.slow
def test_a_run_is_saved_loaded_and_scored_like_others(tmp_path):
    recipe = {"data": "digits", "model": "mlp", "epochs": 3, "train_limit": 150, "test_limit": 40, "device": "cpu"}
    run = train_run(TrainSettings(**recipe, method="batch-ensemble", options={"size": 3}), tmp_path / "run")
    assert load_checkpoint(run.checkpoint)[1]["model"] == "mlp+members-3"
    (network,) = load_networks(open_run(run.directory))
    split = run.dataset().split("test")
    inputs = split.batch(np.arange(len(split)))
    with torch.no_grad():
        each = torch.stack([member.eval()((inputs - network.mean.view(1, -1, 1, 1)) / network.std.view(1, -1, 1, 1))
                            for member in members_of(network)]).softmax(2).mean(0)  # fmt: skip
    kept = load_predictions(run.directory / "predictions-test.safetensors")
    np.testing.assert_allclose(kept.probs, each, atol=1e-5)
    scores = score(load_model(run.checkpoint)[0], inputs, method="projection")
    assert set(scores.status.tolist()) <= {"verified", "censored"}
    assert np.isfinite(scores.distance).mean() > 0.9


@pytest.mark.slow
def test_it_learns_and_resumes(digits, resumes, tiny_mlp):
    network = with_members(tiny_mlp(), 2)
    rows = fit(network, digits, make_method("batch-ensemble", size=2), epochs=30, batch_size=32, device="cpu")
    assert rows[-1].val_accuracy > 0.85
    with pytest.raises(InputError, match=r"with_members\(network, 2\)"):
        fit(tiny_mlp(), digits, make_method("batch-ensemble", size=2), epochs=1, device="cpu")


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="size is 1"):
        make_method("batch-ensemble", size=1)
    with pytest.raises(InputError, match="size is 1,000"):
        with_members(nn.Linear(3, 2), 1000)
    with pytest.raises(InputError, match="no linear or convolutional layer"):
        with_members(nn.ReLU(), 2)
    with pytest.raises(InputError, match="size is 1,000"):
        build_model("mlp+members-1000", input_shape=(3,), num_classes=2)
