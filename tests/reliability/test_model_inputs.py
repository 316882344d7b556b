"""What users hand to be scored beside images and tables of float32: read right, or refused with what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from model_samples import Calls, mlp, rows
from scipy.sparse import csr_array
from torch import nn

from robcal.base.checks import InputError
from robcal.robustness.carlini_wagner import CarliniWagner
from robcal.robustness.ddn import DDN
from robcal.robustness.projection import Projection
from robcal.robustness.reference import reference_attacks
from robcal.robustness.scoring import score


def convolutions(channels: int, flat: bool) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ends = (
            (nn.Flatten(), nn.Linear(8 * 64, 4)) if flat else (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
        )
        return nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), *ends)


def pictures(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def channels_first(inputs: Any) -> Any:
    return inputs.permute(0, 3, 1, 2) if isinstance(inputs, torch.Tensor) else inputs.transpose(0, 3, 1, 2)


CHANNELS_FIRST = "`inputs.transpose(0, 3, 1, 2)` of an array, `inputs.permute(0, 3, 1, 2)` of a tensor"


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize(
    ("model", "shape", "hint", "mend"),
    [
        (convolutions(3, False), (3, 8, 8), "inputs[None]", lambda inputs: inputs[None]),
        (convolutions(3, True), (3, 8, 8), "inputs[None]", lambda inputs: inputs[None]),
        (convolutions(3, False), (9, 8, 8, 3), CHANNELS_FIRST, channels_first),
        (convolutions(3, True), (40, 8, 8, 3), CHANNELS_FIRST, channels_first),
        (convolutions(1, False), (20, 8, 8), "inputs[:, None]", lambda inputs: inputs[:, None]),
        (convolutions(1, True), (9, 8, 8), "inputs[:, None]", lambda inputs: inputs[:, None]),
        (mlp(64), (9, 1, 8, 8), "inputs.reshape(len(inputs), -1)", lambda inputs: inputs.reshape(len(inputs), -1)),
        (mlp(), (6,), "inputs[None]", lambda inputs: inputs[None]),
        (mlp(1), (6,), "inputs[:, None]", lambda inputs: inputs[:, None]),
    ],
)
def test_inputs_in_another_arrangement_are_refused_with_the_one_that_the_model_takes(
    model: nn.Module, shape: tuple[int, ...], hint: str, mend: Callable[[Any], Any], as_tensor: bool
) -> None:
    array = pictures(*shape)
    inputs = torch.from_numpy(array) if as_tensor else array
    with pytest.raises(InputError, match=re.escape(hint)):
        score(model, inputs)
    scores = score(model, mend(inputs))
    assert len(scores) == len(mend(inputs))
    assert np.isin(scores.status, ["verified", "censored"]).all()


def test_token_ids_are_refused_and_embeddings_scored() -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(20, 3))
    ids = torch.randint(0, 10, (20, 5), generator=torch.Generator().manual_seed(0))
    for inputs in (ids, ids.numpy(), ids.float()):
        with pytest.raises(InputError, match=r"token ids, which have no distances, score the embeddings"):
            score(model, inputs, box=None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"differentiably.*integer casts.*token ids, which have no distances"):
        score(Calls(model, lambda self, x: self.inner(x.long())), ids.float(), box=None)
    vectors = model[0](ids)  # requires grad, as a user has it
    scores = score(model[1:], vectors, box=None)
    assert (scores.status == "verified").all()
    flat = score(model[2], vectors.flatten(1).detach().numpy(), box=None)
    np.testing.assert_allclose(scores.distance, flat.distance, rtol=1e-4)


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.bool])
def test_whole_numbers_are_refused_and_the_conversion_helps(kind: torch.dtype) -> None:
    tensor = (rows() * 10).to(kind)
    with pytest.raises(InputError, match=r"Convert measurements by `inputs\.float\(\)`"):
        score(mlp(), tensor, box=None)
    expected = score(mlp(), tensor.float(), box=None)
    with pytest.raises(InputError, match=r'`np\.asarray\(inputs\)\.astype\("float32"\)`'):
        score(mlp(), tensor.numpy(), box=None)
    found = score(mlp(), np.asarray(tensor.numpy()).astype("float32"), box=None)
    np.testing.assert_array_equal(found.distance, expected.distance)


def test_every_floating_kind_of_inputs_is_read_as_float32() -> None:
    coarse = rows().bfloat16().float()  # numbers that all of them hold
    expected = score(mlp(), coarse, box=None).distance
    array = coarse.numpy()
    kinds = [coarse.bfloat16(), coarse.double(), coarse.clone().requires_grad_(), coarse.clone().requires_grad_() * 1]
    arrays = [array.astype(kind) for kind in (">f4", "f8", "longdouble")]
    for inputs in (*kinds, *arrays, np.ma.masked_array(array)):
        np.testing.assert_array_equal(score(mlp(), inputs, box=None).distance, expected)


def test_inputs_that_are_not_all_there_are_refused_and_the_hint_helps() -> None:
    array = rows().numpy()
    inputs = np.ma.masked_array(array, array > 0.9)
    with pytest.raises(InputError, match=r"\d+ values of the inputs are masked.*inputs\.filled\(inputs\.mean\(\)\)"):
        score(mlp(), inputs, box=None)
    assert (score(mlp(), inputs.filled(inputs.mean()), box=None).status == "verified").all()
    expected = score(mlp(), array, box=None).distance
    for sparse, hint in ((csr_array(array), "toarray"), (torch.from_numpy(array).to_sparse(), "to_dense")):
        with pytest.raises(InputError, match=rf"sparse.*Pass `inputs\.{hint}\(\)`"):
            score(mlp(), sparse, box=None)
        np.testing.assert_array_equal(score(mlp(), getattr(sparse, hint)(), box=None).distance, expected)


@pytest.mark.parametrize("seed", [-1, 1.5, True, 2**63])
def test_seeds_that_are_none_are_refused(seed: Any) -> None:
    with pytest.raises(InputError, match="a seed is an integer from 0 to"):
        score(mlp(), rows(), box=None, seed=seed)
    for attack in (Projection, CarliniWagner, DDN):
        with pytest.raises(InputError, match="a seed is an integer from 0 to"):
            attack(seed=seed)
    with pytest.raises(InputError, match="a seed is an integer from 0 to"):
        reference_attacks(seed=seed)


def test_every_other_seed_is_taken() -> None:
    for seed in (np.int64(3), 2**63 - 1):
        scores = score(mlp(), rows(), box=None, seed=seed)  # type: ignore[arg-type]
        assert json.loads(json.dumps(scores.provenance["attack"]))["seed"] == seed
        for attack in reference_attacks(seed=seed, iterations=2, restarts=1, num_rivals=1).values():  # type: ignore[arg-type]
            assert (score(mlp(), rows()[:1], box=None, method=attack).status == "verified").all()
