"""Advice about AR-AdaLS in other libraries' loops, carried out."""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hint_cases import Call, Case, Steps, in_turn
from torch import nn

from robcal import ARAdaLS
from robcal.integrations.sklearn import ARAdaLSClassifier
from robcal.integrations.text import score_text
from robcal.metrics import BrierScore

OPTIONS: dict[str, Any] = {"epochs": 2, "controller": "integral", "step_size": 0.5}
ROWS = [{"input_ids": [1], "labels": 1}, {"input_ids": [2], "labels": 0}]
LOGITS = {"logits": torch.zeros(2, 2, requires_grad=True)}
ARGUMENTS = SimpleNamespace(eval_strategy="epoch")


def _forgotten(**wrong: Any) -> Callable[[Path], Steps]:
    """A Trainer from which something is missing, and the same with it."""

    def call(missing: dict[str, Any]) -> None:
        smoothing = _of_trainer(begun=False)
        state = SimpleNamespace(global_step=0)
        if missing.get("callback", True):
            smoothing.on_train_begin(SimpleNamespace(**{"eval_strategy": "epoch", **missing}), state, None)
        smoothing.loss(LOGITS, _labels(smoothing.indexed(ROWS)))
        if missing.get("metrics", True):
            smoothing.metrics(SimpleNamespace(predictions=np.ones((2, 2)) * 2, label_ids=np.array([0, 1])))
        smoothing.on_evaluate(None, state, None)

    return in_turn(lambda: call(wrong), lambda: call({}))


def _of_trainer(begun: bool = True) -> Any:
    """The callback of the Trainer, while it trains."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library warns of its own use of others
        from robcal.integrations.transformers import TrainerSmoothing

        smoothing = TrainerSmoothing(2, 2, **OPTIONS)
    if begun:
        smoothing.on_train_begin(ARGUMENTS, SimpleNamespace(global_step=0), None)
    return smoothing


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


def _without_validation(folder: Path) -> Steps:
    """As the real Trainer says it: tests/integrations/test_lightning.py."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from robcal.integrations.lightning import ARAdaLSCallback

    callback = ARAdaLSCallback(ARAdaLS(3, 2, **OPTIONS))
    for validates in (False, True):
        trainer = SimpleNamespace(enable_validation=validates)
        yield lambda trainer=trainer: callback.on_train_start(trainer, None)


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
    smoothing, arguments = _of_trainer(), SimpleNamespace(**vars(ARGUMENTS), output_dir=folder)
    state = SimpleNamespace(global_step=5, is_world_process_zero=True)
    yield lambda: smoothing.on_train_begin(arguments, state, None)
    (folder / "checkpoint-5").mkdir()
    smoothing.on_save(arguments, state, None)
    yield lambda: _of_trainer().on_train_begin(arguments, state, None)


class _Words(nn.Module):
    """A classifier of the mean of word vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

    def get_input_embeddings(self) -> nn.Module:
        return self.words

    def forward(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.head(inputs_embeds.mean(1)))


def _text(ids: Any, mask: Any) -> Call:
    return lambda: score_text(_Words(), ids, mask, method="first-order")


def _fitted(rows: int, classes: int) -> Call:
    features = np.arange(2.0 * rows).reshape(rows, 2)
    return lambda: ARAdaLSClassifier(epochs=1, random_state=0).fit(features, np.arange(rows) % classes)


def _metric_of_nothing(folder: Path) -> Steps:
    metric = BrierScore()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics warns, too
        yield metric.compute
    metric.update([[0.5, 0.5]], [1])
    yield metric.compute


IDS, MASK = [[1, 2, 0], [3, 4, 5]], [[1, 1, 0], [1, 1, 1]]

CASES = [
    Case("an estimator of one class", "Pass examples of another class", in_turn(_fitted(20, 1), _fitted(20, 2))),
    Case("an estimator of few examples", "Pass more examples", in_turn(_fitted(4, 2), _fitted(20, 2))),
    Case("sentences without their padding", "with padding=True", in_turn(_text([1, 2], [1, 1]), _text(IDS, MASK))),
    Case("a sentence without words", "Leave it out, or let the tokenizer add its special tokens", in_turn(
        _text(IDS, [[0, 0, 0], [1, 1, 1]]), lambda: (_text(IDS[1:], MASK[1:])(), _text(IDS, MASK)()),
    )),
    Case("a metric of no examples", r"Call `update\(probs, labels\)` before `compute\(\)`", _metric_of_nothing),
    Case("a validation step that returns nothing", 'Let it return {"logits": logits', _validation_step),
    Case("labels without positions", r"Pass train_dataset=smoothing\.indexed\(train_dataset\)", _positions),
    Case("a Trainer that evaluates nothing", 'Pass eval_strategy="epoch"', _forgotten(eval_strategy="no")),
    Case("a Trainer without the metrics", r"Pass compute_metrics=smoothing\.metrics", _forgotten(metrics=False)),
    Case("a Trainer without the callback", r"Pass callbacks=\[smoothing\], too", _forgotten(callback=False)),
    Case("Lightning without validation", "Pass validation data to fit", _without_validation),
    Case("a class under another name", r"Rename that column, for example dataset\.rename_column", _column),
    Case("a label that says that there is none", "to an example without a class, or leave it out", in_turn(
        lambda: _of_trainer().indexed([{"labels": -1}])[0], lambda: _of_trainer().indexed([{"labels": -100}])[0],
    )),
    Case("a checkpoint of another Trainer", "that was written with this callback", _resumed),
]  # fmt: skip
