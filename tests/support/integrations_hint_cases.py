"""Advice about AR-AdaLS in other libraries' loops, carried out."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from hint_cases import Case, Steps

from robcal import ARAdaLS

OPTIONS: dict[str, Any] = {"epochs": 2, "controller": "integral", "step_size": 0.5}
ROWS = [{"input_ids": [1], "labels": 1}, {"input_ids": [2], "labels": 0}]
LOGITS = {"logits": torch.zeros(2, 2, requires_grad=True)}


def _of_trainer() -> Any:
    """The callback of the Trainer, while it trains."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library warns of its own use of others
        from robcal.integrations.transformers import TrainerSmoothing

        return TrainerSmoothing(2, 2, **OPTIONS)


def _labels(dataset: Any) -> torch.Tensor:
    return torch.tensor([dataset[row]["labels"] for row in range(2)])


def _validation_step(folder: Path) -> Steps:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from robcal.integrations.lightning import ARAdaLSCallback

    callback, trainer = ARAdaLSCallback(ARAdaLS(3, 2, **OPTIONS)), SimpleNamespace(sanity_checking=False)
    message = yield lambda: callback.on_validation_batch_end(trainer, None, None)
    names = {"logits": torch.ones(2, 3), "labels": _labels(ROWS)}
    outputs = eval(message[message.index("{") : message.index("}") + 1], names)
    yield lambda: callback.on_validation_batch_end(trainer, None, outputs)


def _positions(folder: Path) -> Steps:
    smoothing = _of_trainer()
    yield lambda: smoothing.loss(LOGITS, _labels(ROWS))
    yield lambda: smoothing.loss(LOGITS, _labels(smoothing.indexed(ROWS)))


def _column(folder: Path) -> Steps:
    rows = [{"input_ids": row["input_ids"], "category": row["labels"]} for row in ROWS]
    smoothing = _of_trainer()
    yield lambda: smoothing.indexed(rows)[0]
    yield lambda: smoothing.indexed([{"labels": row["category"]} for row in rows])[0]


def _resumed(folder: Path) -> Steps:
    smoothing, arguments = _of_trainer(), SimpleNamespace(output_dir=folder)
    state = SimpleNamespace(global_step=5, is_world_process_zero=True)
    yield lambda: smoothing.on_train_begin(arguments, state, None)
    (folder / "checkpoint-5").mkdir()
    smoothing.on_save(arguments, state, None)
    yield lambda: _of_trainer().on_train_begin(arguments, state, None)


CASES = [
    Case("a validation step that returns nothing", 'Let it return {"logits": logits', _validation_step),
    Case("labels without positions", r"Pass train_dataset=smoothing\.indexed\(train_dataset\)", _positions),
    Case("a class under another name", r"Rename that column, for example dataset\.rename_column", _column),
    Case("a checkpoint of another Trainer", "that was written with this callback", _resumed),
]
