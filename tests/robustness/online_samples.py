"""A small table of three classes and a network for it, for estimates that training itself makes."""

import numpy as np
import torch
from torch import nn

from robcal.data import Dataset, Split


def blobs(count: int = 60) -> Dataset:
    rng = np.random.default_rng(0)
    splits = {}
    for name, size in (("train", count), ("val", 30)):
        labels = rng.integers(0, 3, size)
        splits[name] = Split((rng.normal(size=(size, 4)) + 2 * np.eye(3, 4)[labels]).astype(np.float32), labels)
    return Dataset("blobs", splits, ("a", "b", "c"), None, "table", "blobs")


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
