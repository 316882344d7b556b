"""Experiment trackers: what an epoch of training shows, in TensorBoard, Weights & Biases or MLflow.

They are those of Hugging Face accelerate, see numbers that training has measured anyway, and change none. What each has
been told is kept in a file, so that a run which goes on after it was stopped tells nothing twice.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robcal.base.checks import IntArray, check_choice, refuse
from robcal.base.extras import import_extra
from robcal.base.storage import load_json, save_json
from robcal.base.types import EpochRow
from robcal.calibration.metrics import accuracy, calibration_error, negative_log_likelihood

#: Names of the trackers, which are those of their packages and of the extras that install them.
TRACKERS = ("tensorboard", "wandb", "mlflow")

#: Which epochs each has been told, and the name of the run there.
FILE = "trackers.json"

#: What runs are gathered under: the project of W&B (WANDB_PROJECT), the experiment of MLflow (MLFLOW_EXPERIMENT_NAME).
PROJECT = "robcal"


def epoch_figures(
    row: EpochRow, learning_rate: float, losses: Sequence[float], probs: Sequence[Any], labels: IntArray
) -> dict[str, float]:
    """Return the figures of an epoch by name; of several networks with a prefix, "ensemble/" or "member-K/"."""
    figures = {
        "train/loss": row.train_loss,
        "val/accuracy": row.val_accuracy,
        "val/nll": row.val_nll,
        "val/ece": row.val_ece,
        "learning_rate": learning_rate,
        **{f"smoothing/level-{level}": value for level, value in enumerate(row.epsilon)},
        **{f"gap/level-{level}": value for level, value in enumerate(row.gap)},
    }
    if len(losses) == 1:
        return figures
    measures = {"val/accuracy": accuracy, "val/nll": negative_log_likelihood, "val/ece": calibration_error}
    members = {
        f"member-{k}/{name}": value
        for k, (loss, own) in enumerate(zip(losses, probs, strict=True))
        for name, value in {"train/loss": loss, **{name: of(own, labels) for name, of in measures.items()}}.items()
    }
    return {**{f"ensemble/{name}": value for name, value in figures.items()}, **members}


class Tracking:
    """Tell trackers the figures of each epoch, once: below the run's directory, or where MLFLOW_TRACKING_URI says."""

    def __init__(self, names: Sequence[str], directory: Path, title: str, settings: Mapping[str, Any]) -> None:
        for name in names:
            check_choice(name, TRACKERS, "tracker")
            import_extra(name, name, f"--tracker {name}")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            refuse(f"the tracker {twice[0]} was given twice", "each is told every epoch once", "Name it once")
        self.directory, self.title = directory, title
        plain = (bool, int, float, str)
        self.settings = {name: value if isinstance(value, plain) else str(value) for name, value in settings.items()}
        self.names, self._open, self._told = tuple(names), dict[str, Any](), dict[str, dict[str, Any]]()

    def __call__(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Tell every tracker the figures of an epoch that it has not been told yet."""
        if not self._told:
            self._told = self._read()
        for name in self.names:
            about = self._told[name]
            if epoch > about["epoch"]:
                tracker = self._open[name] = self._open.get(name) or self._started(name, about)
                tracker.log(dict(figures), step=epoch)
                about["epoch"] = epoch
                save_json(self._told, self.directory / FILE)

    def close(self) -> None:
        """Let the trackers write what they keep."""
        for tracker in self._open.values():
            tracker.finish()
        self._open = {}

    def _read(self) -> dict[str, dict[str, Any]]:
        file = self.directory / FILE
        told = load_json(file, "what trackers were told") if file.exists() else {}
        return {**told, **{name: told.get(name) or {"epoch": 0, "run": None} for name in self.names}}

    def _started(self, name: str, about: dict[str, Any]) -> Any:
        """Open a tracker; it refuses what its own settings lack by errors of any class, which are told in a line."""
        try:
            return self._opened(name, about)
        except Exception as error:
            why = next(iter(str(error).strip().splitlines()), type(error).__name__)
            refuse(
                f"the tracker {name} did not start ({why})",
                "it goes by settings of its own, such as a login or the place that it writes to",
                "Set these (wandb login, WANDB_MODE=offline, MLFLOW_TRACKING_URI=sqlite:///mlflow.db), or leave it out",
            )

    def _opened(self, name: str, about: dict[str, Any]) -> Any:
        """Open a tracker, on the run that it keeps already if there is one."""
        from accelerate import tracking

        place, run = str(self.directory), about["run"]
        tracker: Any
        if name == "tensorboard":
            tracker = tracking.TensorBoardTracker("tensorboard", logging_dir=place)
        elif name == "wandb":
            about["run"] = run or secrets.token_hex(8)
            tracker = tracking.WandBTracker(PROJECT, name=self.title, dir=place, id=about["run"], resume="allow")
        else:
            tracker = tracking.MLflowTracker(PROJECT, run_name=self.title, run_id=run)
        tracker.start()
        if name == "mlflow":
            about["run"] = tracker.tracker.info.run_id
        if about["epoch"] == 0 and name == "tensorboard":  # its hyper-parameters would be a run of their own
            tracker.log({"settings": "\n".join(f"    {key}: {value}" for key, value in self.settings.items())}, step=0)
        elif about["epoch"] == 0:
            tracker.store_init_configuration(self.settings)
        return tracker
