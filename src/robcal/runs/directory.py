"""Reading a run directory that `robcal.runs.train` made: its settings, data, history and networks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robcal.base.checks import refuse
from robcal.base.storage import decode, load_checkpoint, load_json
from robcal.base.types import EpochRow
from robcal.data import Dataset, load_dataset
from robcal.methods import make_method
from robcal.models import Normalized, build_model
from robcal.training.sampling import dropout_networks
from robcal.training.settings import FORMER_SETTINGS, TrainSettings


@dataclass(frozen=True)
class Run:
    """An existing run directory.

    Attributes:
        directory: where it is.
        settings: what it was made with.
    """

    directory: Path
    settings: TrainSettings

    @property
    def checkpoint(self) -> Path:
        """The trained network, of a run that trained one."""
        return self.directory / "model.safetensors"

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        """The networks that predict: one, the members of an ensemble, or those that SWAG drew."""
        members = self.settings.num_networks
        return (
            (self.checkpoint,)
            if members == 1
            else tuple(self.directory / f"member-{k}.safetensors" for k in range(members))
        )

    @property
    def is_complete(self) -> bool:
        """Whether training has ended."""
        return bool(load_json(self.directory / "run.json", "the run").get("complete"))

    def history(self) -> list[EpochRow]:
        """One row an epoch."""
        file = self.directory / "history.json"
        return [decode(EpochRow, row, file) for row in load_json(file, "the history")]

    def dataset(self) -> Dataset:
        """The data it was trained on, cut in the same way."""
        return load_data(self.settings)


def run_title(settings: TrainSettings) -> str:
    """Return what tables call a run: the method, and for AR-AdaLS what its levels are cut by.

    >>> [run_title(TrainSettings("digits", "mlp", method, 1)) for method in ("vanilla", "ar-adals")]
    ['Plain', 'AR-AdaLS (margin levels)']
    """
    title = make_method(settings.method).title
    return f"{title} ({settings.levels_from} levels)" if settings.method == "ar-adals" else title


def load_data(settings: TrainSettings) -> Dataset:
    """The data set that settings name.

    Raises:
        InputError: if it cannot be read.
    """
    return load_dataset(
        settings.data,
        val_fraction=settings.val_fraction,
        train_limit=settings.train_limit,
        test_limit=settings.test_limit,
        seed=settings.data_seed,
        image_size=settings.image_size,
    )


def open_run(directory: Path) -> Run:
    """Open a run directory.

    Raises:
        InputError: if it is none, or unreadable.
    """
    if not (directory / "run.json").exists():
        refuse(
            f"{directory} is no run directory (it has no run.json)",
            "`robcal train --out DIR` makes one",
            "Check the path",
        )
    record = load_json(directory / "run.json", "the run")
    try:
        kept = {name: value for name, value in record["settings"].items() if name not in FORMER_SETTINGS}
        settings = TrainSettings(**{"controller": "integral", **kept, "scores": ()})
    except (TypeError, KeyError) as error:
        refuse(
            f"{directory / 'run.json'} does not hold a run's settings ({error})",
            "it is written by `robcal train`",
            "Train again",
        )
    return Run(directory, settings)


def load_model(checkpoint: Path) -> tuple[Normalized, dict[str, Any]]:
    """The network of a checkpoint (or of a run directory), on the CPU in eval mode, and what is said about it.

    Raises:
        InputError: if the file is missing, truncated, of an unknown model, or its tensors do not fit that model; or if
            the run directory holds several networks.
    """
    file = checkpoint / "model.safetensors" if checkpoint.is_dir() else checkpoint
    members = len(list(file.parent.glob("member-*.safetensors"))) if file.name == "model.safetensors" else 0
    if members and not file.exists():
        refuse(
            f"{file.parent} holds {members} networks, the members of one ensemble",
            "one network is needed",
            "Name a member-K.safetensors, or take them all by robcal.runs.directory.load_networks",
        )
    tensors, about = load_checkpoint(file)
    model = build_model(about["model"], input_shape=tuple(about["input_shape"]), num_classes=about["num_classes"])
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        refuse(
            f"{file} does not fit its model {about['model']} ({str(error).splitlines()[0]})",
            "a checkpoint holds exactly the tensors of its model",
            "Train again",
        )
    return model.eval(), about


def load_networks(run: Run) -> list[Normalized]:
    """The networks that predict, on the CPU in eval mode: one, an ensemble's members, or draws of SWAG or MC dropout.

    `robcal.training.predict.predict` takes the list.

    Raises:
        InputError: as `load_model`.
    """
    networks = [load_model(checkpoint)[0] for checkpoint in run.checkpoints]
    if run.settings.method == "mc-dropout":
        return dropout_networks(networks[0], count=run.settings.samples, seed=run.settings.seed)
    return networks
