"""What the passes of an epoch show of the examples, in this process and in all: positions, margins, figures."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from robcal.base.checks import FloatArray, IntArray, as_array, check_labels, check_no_probs, check_same_length, refuse
from robcal.smoothing.running import logit_margin
from robcal.smoothing.soft_labels import class_index

#: Positions in a data set stay below this: averages are kept for all positions up to the largest.
MOST_EXAMPLES = 1 << 28

#: In place of a label that is not known, or does not count.
NO_LABEL = -1


class Shown(NamedTuple):
    """What the training passes of an epoch have shown: (P,) positions and (P,) margins."""

    place: IntArray
    margin: npt.NDArray[Any]


class Measured(NamedTuple):
    """Figures of validation examples, (M,) each."""

    place: IntArray
    margin: FloatArray
    confidence: FloatArray
    correct: npt.NDArray[np.bool_]


def positions(index: Any, size: int) -> torch.Tensor:
    """Return the positions of a batch; those on a GPU are checked at the end of the epoch, for that waits for it."""
    where = class_index(index, "index")
    if len(where) != size:
        refuse(
            f"index has {len(where)} entries for {size} examples",
            "each example has its position in its data set",
            "Let the data set return the position beside each example, and pass those of this batch",
        )
    if where.device.type == "cpu":
        check_positions(where)
    return where


def check_positions(index: torch.Tensor) -> None:
    """Refuse positions that no data set has."""
    if len(index) and not (int(index.min()) >= 0 and int(index.max()) < MOST_EXAMPLES):
        refuse(
            f"index holds {int(index.min())} to {int(index.max())}",
            f"positions are integers from 0, below {MOST_EXAMPLES:,}",
            "Number the examples of the data set from 0: `np.unique(index, return_inverse=True)[1]` does so for ids",
        )


def check_one_label(index: IntArray, labels: IntArray) -> None:
    """Refuse positions that came with two labels: those of a batch, for example, which begin anew in each."""
    index, labels = index[labels != NO_LABEL], labels[labels != NO_LABEL]
    order = np.lexsort((labels, index))
    place, label = index[order], labels[order]
    if len(two := np.flatnonzero((place[1:] == place[:-1]) & (label[1:] != label[:-1]))):
        first = int(two[0])
        refuse(
            f"position {place[first]} came with label {label[first]} and with label {label[first + 1]} in one epoch",
            "index is the position of each example in the whole training set, so that it has one label",
            "Pass no positions within the batch: let the data set return the position beside each example, as "
            "TensorDataset(inputs, labels, torch.arange(len(labels))) does",
        )


def measured(logits: Any, labels: Any, index: Any, num_classes: int, ignore_index: int) -> Measured:
    """Return the figures of validation examples (M,) from logits (M, Z), of those whose label is not `ignore_index`."""
    values = check_no_probs(logits, "`end_epoch`", "Pass the outputs of the network before softmax", name="val_logits")
    classes = as_array(labels, "val_labels")
    check_same_length(len(values), len(classes), "val_logits", "val_labels")
    if values.shape[1] != num_classes:
        refuse(
            f"val_logits have {values.shape[1]} columns",
            f"this object is of num_classes={num_classes}",
            "Pass the outputs of the network that is trained",
        )
    where = np.arange(len(values)) if index is None else positions(index, len(values)).cpu().numpy()
    counted = np.flatnonzero(classes != ignore_index) if classes.ndim == 1 else np.arange(len(classes))
    true = check_labels(classes[counted], num_classes=num_classes, name="val_labels")
    rows = values[counted]
    confidence = 1 / np.exp(rows - rows.max(axis=1, keepdims=True)).sum(axis=1)
    margin = logit_margin(torch.from_numpy(rows)).numpy()
    return Measured(where[counted], margin, confidence, rows.argmax(axis=1) == true)


def in_all_processes(shown: Shown, val: Measured, *, numbered: bool) -> tuple[Shown, Measured]:
    """Join what all processes saw, by rank; an example that is `numbered` counts once, others are numbered anew."""
    columns = joined_columns((*shown, *val))
    all_shown, all_val = Shown(*columns[: len(shown)]), Measured(*columns[len(shown) :])
    if not numbered:
        return all_shown, all_val._replace(place=np.arange(len(all_val.place)))
    _, once = np.unique(all_val.place, return_index=True)
    return all_shown, Measured(*_columns([all_val], once))


def joined_columns(arrays: tuple[npt.NDArray[Any], ...]) -> list[npt.NDArray[Any]]:
    """Return the arrays of all processes of `torch.distributed`, each one joined in the order of the ranks."""
    parts: list[Any] = [arrays] * rank_and_size()[1]
    if len(parts) > 1:
        torch.distributed.all_gather_object(parts, arrays)
    return _columns(parts)


def rank_and_size() -> tuple[int, int]:
    """Return the rank of this process in `torch.distributed`, and how many there are; (0, 1) without."""
    group = torch.distributed
    ready = group.is_available() and group.is_initialized()
    return (group.get_rank(), group.get_world_size()) if ready else (0, 1)


def _columns(parts: list[Any], rows: Any = slice(None)) -> list[Any]:
    """Concatenate the arrays of several tuples, the first of all, the second of all and so on."""
    return [np.concatenate(arrays)[rows] for arrays in zip(*parts, strict=True)]
