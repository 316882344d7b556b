"""Small data and networks for tests of training, and what networks of other people return."""

import collections

import numpy as np
import torch
from torch import nn

from robcal.data import Dataset, Split

CLASSES = 3
OPTIONS = {"epochs": 2, "batch_size": 20, "learning_rate": 0.1, "device": "cpu"}


def data(seed=0):
    """A table of three classes that are easy to tell apart."""
    rng, splits = np.random.default_rng(seed), {}
    for name, count in (("train", 60), ("val", 40), ("test", 40)):
        labels = rng.permutation(np.arange(count) % CLASSES)
        inputs = (rng.normal(size=(count, 4)) + 2 * np.eye(CLASSES, 4)[labels]).astype(np.float32)
        splits[name] = Split(inputs, labels)
    return Dataset("blobs", splits, ("a", "b", "c"), None, "table", "blobs")


def mlp(classes=CLASSES, width=4, seed=0):
    """A network with running statistics and dropout."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(width, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, classes)
        )


class Then(nn.Module):
    """A network with something done to its logits, which may depend on the mode."""

    def __init__(self, change, network=None):
        super().__init__()
        self.network, self.change = network or mlp(), change

    def forward(self, x):
        return self.change(self.network(x), self.training)


Auxiliary = collections.namedtuple("Auxiliary", ["logits", "aux_logits"])


class ModelOutput(dict):
    """As libraries of language models return: a dictionary whose entries are attributes too."""

    __getattr__ = dict.__getitem__
