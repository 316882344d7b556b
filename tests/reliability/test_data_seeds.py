"""A seed that no random generator takes is refused by every function of the data side, by name and with a way out."""

import numpy as np
import pytest
import torch

from robcal.base.checks import MAX_SEED, InputError, check_seed
from robcal.data import load_dataset
from robcal.data.corruptions import corrupt
from robcal.data.splits import stratified_cut, stratified_subset
from robcal.data.table_shift import Features, shift_table
from robcal.training.settings import TrainSettings

LABELS = np.repeat([0, 1], 6)
TABLE = np.arange(6.0).reshape(3, 2)

TAKES_A_SEED = {
    "load_dataset": lambda seed: load_dataset("digits", seed=seed),
    "stratified_cut": lambda seed: stratified_cut(LABELS, 0.5, seed),
    "stratified_subset": lambda seed: stratified_subset(LABELS, 4, seed, num_classes=2),
    "corrupt": lambda seed: corrupt(np.zeros((1, 1, 8, 8), np.float32), "gaussian_noise", 1, seed=seed),
    "shift_table": lambda seed: shift_table(TABLE, "noise", 1, features=Features.of(TABLE), seed=seed),
    "--seed": lambda seed: TrainSettings("digits", "cnn", "vanilla", epochs=1, seed=seed),
    "--split-seed": lambda seed: TrainSettings("digits", "cnn", "vanilla", epochs=1, split_seed=seed),
}


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, True, "3"])
@pytest.mark.parametrize("name", TAKES_A_SEED)
def test_what_is_no_seed_is_refused_by_name_and_the_advice_helps(name, seed):
    with pytest.raises(InputError, match=r"seed is .*; a seed is an integer from 0 to 2\^63 - 1\. .*such as 0\.$"):
        TAKES_A_SEED[name](seed)
    TAKES_A_SEED[name](0)


@pytest.mark.parametrize("seed", [0, np.int32(5), np.uint64(MAX_SEED), MAX_SEED])
def test_every_seed_that_is_allowed_is_taken_by_the_generators_behind_it(seed):
    value = check_seed(seed)
    assert type(value) is int
    assert value == int(seed)
    torch.Generator().manual_seed(value)
    np.random.default_rng(value)
    torch.tensor(value, dtype=torch.int64)
    TAKES_A_SEED["load_dataset"](seed)
