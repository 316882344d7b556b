"""Advice of `ARAdaLS`, the object for a loop of one's own, carried out."""

import numpy as np
import torch
from hint_cases import Case, Steps, in_turn, run_code
from torch.utils.data import DataLoader, TensorDataset

from robcal import ARAdaLS
from robcal.smoothing.own_loop import EpochUpdate

LOGITS, LABELS, INDEX = 2 * torch.eye(3)[[0, 1, 2, 0]], torch.tensor([0, 1, 2, 1]), torch.arange(4)


def _made(classes: int = 3) -> ARAdaLS:
    return ARAdaLS(classes, 2, epochs=4)


def _shown() -> ARAdaLS:
    smoothing = _made()
    smoothing.loss(LOGITS, LABELS, INDEX)
    return smoothing


def _loss(**wrong: object) -> object:
    right = {"logits": LOGITS, "labels": LABELS, "index": INDEX}
    return in_turn(lambda: _made().loss(**{**right, **wrong}), lambda: _made().loss(**right))


def _loads(wrong: object) -> object:
    return in_turn(lambda: _made().load_state_dict(wrong), lambda: _made().load_state_dict(_shown().state_dict()))


def _untrained(folder: object) -> Steps:
    smoothing = _made()
    with torch.no_grad():
        smoothing.loss(LOGITS, LABELS, INDEX)
    yield lambda: smoothing.end_epoch(LOGITS, LABELS)
    assert smoothing.examples_shown == 0
    smoothing.loss(LOGITS, LABELS, INDEX)
    yield lambda: smoothing.end_epoch(LOGITS, LABELS)


def _ids(folder: object) -> Steps:
    ids = np.array([7_000_000_001, 5, 7_000_000_001, 12])
    hint = yield lambda: _made().loss(LOGITS, LABELS, ids)
    yield lambda: _made().loss(LOGITS, LABELS, run_code(hint, {"index": ids}))


def _positions_of_the_batch(folder: object) -> Steps:
    def epoch(data: TensorDataset) -> EpochUpdate:
        smoothing = _made()
        for inputs, labels, *index in DataLoader(data, 2):
            smoothing.loss(inputs, labels, *(index or [torch.arange(len(labels))]))
        return smoothing.end_epoch(LOGITS, LABELS)

    yield lambda: epoch(TensorDataset(LOGITS, LABELS))
    yield lambda: epoch(TensorDataset(LOGITS, LABELS, torch.arange(len(LABELS))))


CASES = [
    Case("positions within the batch", "let the data set return the position", _positions_of_the_batch),
    Case(
        "validation probabilities in place of logits",
        "Pass the outputs of the network before softmax; if they are",
        in_turn(
            lambda: _shown().end_epoch(LOGITS.softmax(1), LABELS),
            lambda: (_shown().end_epoch(LOGITS, LABELS), _shown().end_epoch(LOGITS.softmax(1) - 1, LABELS)),
        ),
    ),
    Case("labels of another batch for ARAdaLS", "Pass both of one batch", _loss(labels=LABELS[:2])),
    Case("positions of another batch", "pass those of this batch", _loss(index=INDEX[:3])),
    Case("identifiers in place of positions", "does so for ids", _ids),
    Case("an epoch without training", "Call loss for every batch, with gradients enabled", _untrained),
    Case(
        "logits of other classes",
        "their number as num_classes",
        in_turn(lambda: _made(5).loss(LOGITS, LABELS, INDEX), lambda: _made(3).loss(LOGITS, LABELS, INDEX)),
    ),
    Case(
        "validation logits of other classes",
        "outputs of the network that is trained",
        in_turn(lambda: _shown().end_epoch(2 * torch.eye(4), LABELS), lambda: _shown().end_epoch(LOGITS, LABELS)),
    ),
    Case("a checkpoint in place of ARAdaLS's state", "Pass that part of the checkpoint", _loads({"model": {}})),
    Case(
        "margins of a state in rows",
        "as ARAdaLS.state_dict returned it",
        _loads({**_shown().state_dict(), "train_margins": torch.zeros(2, 2)}),
    ),
    Case(
        "margins of a state without positions",
        "each margin has the position",
        _loads({**_shown().state_dict(), "shown_margins": torch.zeros(2)}),
    ),
]
