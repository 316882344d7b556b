"""Lightning: a callback that ends the epochs of `robcal.ARAdaLS` and keeps its state in Lightning's checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robcal.base.extras import import_extra, refuse_untrainable

try:
    import torch
except ModuleNotFoundError as error:
    refuse_untrainable(error, "robcal.integrations.lightning", extra="lightning")

from robcal.base.checks import refuse
from robcal.smoothing.own_loop import ARAdaLS

__all__ = ["ARAdaLSCallback"]

Callback: Any = import_extra("lightning", "lightning", "robcal.integrations.lightning").Callback


class ARAdaLSCallback(Callback):  # type: ignore[misc]
    """Update the smoothing after every validation; your `training_step` takes `smoothing.loss` as its loss.

    `validation_step` returns a mapping with "logits" (B, Z) and "labels" (B,); with several processes or a changing
    order also "index" (B,), the position of each example in the validation set. The sanity check before training, and a
    validation before which nothing was trained, is no update. Logged: `robcal/confidence`, `robcal/accuracy` and
    `robcal/smoothing`, the largest of the levels.

    Args:
        smoothing: `robcal.ARAdaLS`, made with epochs = the number of validations of the whole run: those an epoch
            (`val_check_interval`) times the epochs, or one every `check_val_every_n_epoch`.

    Example:
        >>> callback = ARAdaLSCallback(ARAdaLS(10, epochs=20))  # doctest: +SKIP
        >>> trainer = lightning.Trainer(max_epochs=20, callbacks=[callback])  # doctest: +SKIP
    """

    def __init__(self, smoothing: ARAdaLS) -> None:
        self.smoothing = smoothing
        self._seen: list[tuple[torch.Tensor, ...]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """See that there will be validations.

        Raises:
            InputError: if not.
        """
        if not trainer.enable_validation:
            refuse(
                "the Trainer has no validation to run",
                "the smoothing is updated after every validation",
                "Pass validation data to fit, give the module a validation_step, and keep limit_val_batches above 0",
            )

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Forget what an earlier validation left."""
        self._seen = []

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any, **__: Any) -> None:
        """Keep what the network says of a validation batch.

        Raises:
            InputError: if `validation_step` does not return "logits" and "labels".
        """
        if trainer.sanity_checking:
            return
        if not isinstance(outputs, Mapping) or not {"logits", "labels"} <= outputs.keys():
            refuse(
                f"validation_step returns {type(outputs).__name__}",
                "the callback reads its logits and labels there",
                'Let it return {"logits": logits, "labels": labels}',
            )
        names = ("logits", "labels", *(["index"] if "index" in outputs else []))
        self._seen.append(tuple(outputs[name].detach().cpu() for name in names))

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Update the smoothing, if there was training since the last update; before checkpoints are written."""
        if trainer.sanity_checking or not self.smoothing.examples_shown or not self._seen:
            return
        logits, labels, *index = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        update = self.smoothing.end_epoch(logits, labels, val_index=index[0] if index else None)
        share = update.counts / update.counts.sum()
        figures = {
            "confidence": share @ update.confidence,
            "accuracy": share @ update.accuracy,
            "smoothing": update.epsilon.max(),
        }
        pl_module.log_dict({f"robcal/{name}": float(value) for name, value in figures.items()})

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the state of the smoothing, which Lightning asks all processes for and writes into its checkpoints."""
        return self.smoothing.state_dict(joined=True)

    def load_state_dict(self, state_dict: dict[str, torch.Tensor]) -> None:
        """Go on where a checkpoint was written."""
        self.smoothing.load_state_dict(state_dict)
