"""Hugging Face's Trainer: AR-AdaLS as a loss, a metric and a callback, which are one object."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from robcal.base.extras import import_extra, refuse_untrainable

try:
    import torch
    from torch import Tensor
    from torch.nn.functional import cross_entropy
except ModuleNotFoundError as error:
    refuse_untrainable(error, "robcal.integrations.transformers", extra="transformers")

from robcal.base.checks import as_array, refuse
from robcal.smoothing.own_loop import IGNORED, ARAdaLS

__all__ = ["TrainerSmoothing"]

TrainerCallback: Any = import_extra("transformers", "transformers", "robcal.integrations.transformers").TrainerCallback

#: Its state, beside the weights in a checkpoint.
STATE_FILE = "robcal_smoothing.safetensors"

#: Under which of these keys an example has its class.
LABELS = ("labels", "label", "label_ids")


class TrainerSmoothing(TrainerCallback):  # type: ignore[misc]
    """AR-AdaLS for `transformers.Trainer`: hand it over as below, and train as usual.

    The Trainer gives a loss the outputs and the labels, and nothing else. So `indexed` writes the position of each
    training example into its label, label + (position + 1) Z, which passes collators and `remove_unused_columns`, and
    `loss` takes both out again: the model gets its inputs as they are, token ids too, and never sees these labels. The
    levels are cut anew at every evaluation during training (`eval_strategy`), and the state of the smoothing is kept in
    the checkpoints, from which `resume_from_checkpoint` goes on.

    Args:
        num_classes: Z of a model for sequence or image classification, whose output has `logits` (B, Z). A model whose
            `forward` takes no labels needs `TrainingArguments(label_names=["labels"])`.
        num_levels: R.
        epochs: number of evaluations of the whole training.
        options: further arguments of `robcal.ARAdaLS`.

    Attributes:
        smoothing: the `robcal.ARAdaLS`.

    Example:
        >>> smoothing = TrainerSmoothing(num_classes=2, epochs=3)  # doctest: +SKIP
        >>> trainer = transformers.Trainer(  # doctest: +SKIP
        ...     model, arguments, train_dataset=smoothing.indexed(train), eval_dataset=val,
        ...     compute_loss_func=smoothing.loss, compute_metrics=smoothing.metrics, callbacks=[smoothing])
    """

    def __init__(self, num_classes: int, num_levels: int = 10, *, epochs: int, **options: Any) -> None:
        self.smoothing = ARAdaLS(num_classes, num_levels, epochs=epochs, **options)
        self.num_classes = num_classes
        self._training = self._checked = False

    def indexed(self, dataset: Any) -> torch.utils.data.Dataset[dict[str, Any]]:
        """Return the training set with the position of each example in its label.

        Args:
            dataset: examples by position, each a mapping with its class under "labels", "label" or "label_ids"; a
                `datasets.Dataset` for example.
        """
        return _Indexed(dataset, self.num_classes)

    def loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        """Compute the loss of a batch: `compute_loss_func` of the Trainer.

        Args:
            outputs: of the model, with logits (B, Z).
            labels: (B,) of `indexed` in training, plain ones in evaluation; -100 is ignored.
            num_items_in_batch: labels of all processes and of all batches whose gradients are accumulated, by which
                the sum of the losses is divided.

        Raises:
            InputError: if training labels hold no positions, or the callback is missing.
        """
        logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
        classes, index = self._decoded(labels)
        reduction: Literal["mean", "sum"] = "mean" if num_items_in_batch is None else "sum"
        if torch.is_grad_enabled():
            if not self._checked:
                self._check_first(labels, index)
                self._checked = True
            loss = self.smoothing.loss(logits, classes, index.clamp_min(0), reduction=reduction)
        else:
            loss = cross_entropy(logits.float(), classes, reduction=reduction)
        return loss if num_items_in_batch is None else loss / num_items_in_batch

    def metrics(self, prediction: Any) -> dict[str, float]:
        """Measure an evaluation, and during training update the smoothing: `compute_metrics` of the Trainer.

        Args:
            prediction: `EvalPrediction` with predictions (M, Z) and label_ids (M,).

        Returns:
            "accuracy", "confidence", and "smoothing", the largest of the levels.

        Raises:
            InputError: if labels are no class.
        """
        found = prediction.predictions
        logits = torch.as_tensor(np.asarray(found[0] if isinstance(found, tuple) else found)).float()
        labels = torch.as_tensor(np.asarray(prediction.label_ids))
        plain = labels[labels != IGNORED]
        if len(none := plain[(plain < 0) | ((plain >= self.num_classes) & (plain < self.num_classes).any())]):
            _refuse_class(f"labels of the evaluation are no class: {none[0]}, {len(none)} in all", self.num_classes)
        classes, _ = self._decoded(labels)
        if self._training and self.smoothing.examples_shown:
            self.smoothing.end_epoch(logits, classes, val_index=torch.arange(len(classes)))
        counted = classes != IGNORED
        confidence, predicted = logits[counted].softmax(1).max(1)
        return {
            "accuracy": float((predicted == classes[counted]).double().mean()),
            "confidence": float(confidence.double().mean()),
            "smoothing": float(self.smoothing.epsilon.max()),
        }

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin, or go on from the checkpoint that the Trainer resumes from.

        Raises:
            InputError: if that checkpoint has no state of the smoothing, or nothing will be evaluated.
        """
        if str(getattr(args.eval_strategy, "value", args.eval_strategy)) == "no":
            refuse(
                'the Trainer evaluates nothing during training: eval_strategy is "no"',
                "the smoothing is updated at every evaluation",
                'Pass eval_strategy="epoch" to TrainingArguments, and an eval_dataset to the Trainer',
            )
        self._training, self._checked = True, False
        if not state.global_step:
            return
        from safetensors.torch import load_file

        file = _file(args, state)
        if not file.exists():
            refuse(
                f"training goes on from step {state.global_step}, and {file} does not exist",
                "a checkpoint of the same Trainer holds the state of the smoothing",
                "Resume from a checkpoint in output_dir that was written with this callback",
            )
        self.smoothing.load_state_dict(load_file(file))

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """See that the evaluation has updated the smoothing.

        Raises:
            InputError: if it has not.
        """
        if self._training and self.smoothing.examples_shown:
            refuse(
                "the Trainer has evaluated, and the smoothing saw nothing of it",
                "it is updated from the predictions of every evaluation",
                "Pass compute_metrics=smoothing.metrics; a function of your own adds its figures to those of "
                "smoothing.metrics(prediction)",
            )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the state of all processes into the checkpoint."""
        tensors = {name: values.contiguous() for name, values in self.smoothing.state_dict(joined=True).items()}
        if state.is_world_process_zero:
            from safetensors.torch import save_file

            save_file(tensors, _file(args, state))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End the training: later evaluations update nothing."""
        self._training = False

    def _check_first(self, labels: Tensor, index: Tensor) -> None:
        if not self._training:
            refuse(
                "a training batch came, and the callback was told of no training",
                "the smoothing is the loss, the metrics and a callback of the Trainer",
                "Pass callbacks=[smoothing], too",
            )
        if bool(((index < 0) & (labels != IGNORED)).any()):
            refuse(
                "the labels of a training batch hold no positions",
                "levels are kept example by example",
                "Pass train_dataset=smoothing.indexed(train_dataset)",
            )

    def _decoded(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return classes, -100 where ignored, and positions, -1 where there is none."""
        ignored = labels == IGNORED
        return (
            (labels % self.num_classes).masked_fill(ignored, IGNORED),
            (labels // self.num_classes - 1).masked_fill(ignored, -1),
        )


def _file(args: Any, state: Any) -> Path:
    """Return the file in the folder that the Trainer writes, and resumes from, at a step."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE_FILE


class _Indexed(torch.utils.data.Dataset[dict[str, Any]]):
    """Examples whose label tells their position too."""

    def __init__(self, dataset: Any, num_classes: int) -> None:
        self.dataset, self.num_classes = dataset, num_classes

    def __len__(self) -> int:
        sized: Sized = self.dataset
        return len(sized)

    def __getitem__(self, position: int) -> dict[str, Any]:
        example = dict(self.dataset[position])
        names = [name for name in LABELS if name in example]
        if not names:
            refuse(
                f"an example has {', '.join(example)}",
                f"its class stands under {', '.join(LABELS)}",
                'Rename that column, for example dataset.rename_column("category", "labels")',
            )
        label = self._class_of(example[names[0]], position)
        if label != IGNORED:
            example[names[0]] = label + (int(position) + 1) * self.num_classes
        return example

    def _class_of(self, label: Any, position: int) -> int:
        """Return the class of an example: another number would be taken for a class of another position."""
        values = np.ravel(as_array(label, "a label")).tolist()
        if len(values) != 1 or (values[0] != IGNORED and values[0] not in range(self.num_classes)):
            _refuse_class(f"the label of training example {position} is {label!r}", self.num_classes)
        return int(values[0])


def _refuse_class(given: str, num_classes: int) -> NoReturn:
    refuse(
        given,
        f"classes are integers from 0 to {num_classes - 1}, or {IGNORED} where an example does not count",
        f"Number the classes from 0, pass how many there are as num_classes, and give {IGNORED} to an example without "
        "a class, or leave it out",
    )
