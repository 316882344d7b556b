import pytest
import torch
from torch import nn

from robcal.base.checks import InputError
from robcal.models import build_model
from robcal.models.dropout import with_dropout


@pytest.mark.parametrize(("name", "places"), [("mlp", 2), ("cnn", 4), ("wrn-10-1", 9)])
def test_every_weight_layer_but_the_first_gets_it(name, places):
    """mlp: 3 layers; cnn: 4 convolutions and a linear; wrn-10-1: stem, 3 blocks of 2, 2 shortcuts, a linear."""
    model = build_model(name, input_shape=(1, 8, 8), num_classes=3).eval()
    inputs = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    before, count = model(inputs), sum(parameter.numel() for parameter in model.parameters())
    with_dropout(model.network, 0.25)
    assert sum(isinstance(module, nn.Dropout) and module.p == 0.25 for module in model.modules()) == places
    torch.testing.assert_close(model.eval()(inputs), before)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_a_name_can_ask_for_it():
    plain = build_model("mlp", input_shape=(5,), num_classes=3, seed=1).eval()
    model = build_model("mlp+dropout", input_shape=(5,), num_classes=3, seed=1)
    inputs = torch.rand(4, 5, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(model.train()(inputs), plain(inputs))
    torch.testing.assert_close(model.eval()(inputs), plain(inputs))
    with pytest.raises(InputError, match=r"Did you mean .mlp."):
        build_model("mlpp+dropout", input_shape=(5,), num_classes=3)


def test_a_single_layer_and_a_bad_rate_are_refused():
    with pytest.raises(InputError, match="after its first"):
        with_dropout(nn.Sequential(nn.Linear(2, 2)), 0.1)
    with pytest.raises(InputError, match="rate"):
        with_dropout(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), 1.0)
