"""Reading a run directory that `robcal.runs.train` made: its settings, data, history, networks and predictions.

run.json names every file that training wrote, with the digest of its bytes; each is checked when it is read, so that a
file of another run, or one that was changed, is refused. What is measured later says of which model and data it is.
Runs of version 0.1.0 have no such list: of these the network is checked, by the digest that they do hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from robcal.base import storage
from robcal.base.checks import check_file, check_readable, is_there, refuse
from robcal.base.files import reading
from robcal.base.seals import digest_of_file
from robcal.base.types import EpochRow, FidelityRow, Predictions, Scores
from robcal.data import Dataset, load_dataset
from robcal.models import Normalized, build_model
from robcal.models.external import is_external
from robcal.models.weights import check_numbers
from robcal.training.settings import TrainSettings

if TYPE_CHECKING:
    import torch
    from torch import nn

#: What training writes, as patterns: the files that run.json lists.
TRAINED = ("model.safetensors", "member-*.safetensors", "history.json", "predictions-*.safetensors", "levels-*.parquet")

#: What is written of a run besides: its record, what is unfinished, what is measured, and files of earlier versions.
BESIDE = (
    *("state.pt", "scores-*.parquet", "shift-*.safetensors", "ood-*.safetensors", "inference.json", "fidelity.json"),
    *("trackers.json", "tensorboard/events.out.*", "results.json", "measurement.safetensors"),
    *("levels-history.json", "online-history.json"),
)

#: Settings that never changed what a run trained.
_WITHOUT_EFFECT = ("online", "online_sample")
_ADAPTIVE = {"controller": "controller", "gain": "gain", "step_size": "step_size"}
_ATTACK = {"attack_epsilon": "epsilon", "attack_steps": "steps"}
#: Options were settings of their own: for each method the name of the setting → the option.
_FORMER_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "label-smoothing": {"epsilon": "epsilon"},
    **dict.fromkeys(("adals", "random-levels", "ar-adals"), _ADAPTIVE),
    "mixup": {"mixup_alpha": "alpha"},
    "focal": {"focal_gamma": "gamma"},
    "crl": {"ranking_weight": "weight"},
    "ccat": {**_ATTACK, "ccat_rho": "rho"},
    "adversarial-training": {**_ATTACK, "attack_step_size": "step_size"},
    "swag": {"swag_start": "start", "swag_rank": "rank", "samples": "samples"},
    "mc-dropout": {"samples": "samples"},
}


@dataclass(frozen=True)
class Run:
    """An existing run directory."""

    directory: Path  #: where it is
    settings: TrainSettings  #: what it was made with

    @property
    def checkpoint(self) -> Path:
        """The trained network, of a run that trained one."""
        return self.directory / "model.safetensors"

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        """The networks that predict: one, the members of an ensemble, or those that the method drew and kept."""
        if (members := self.settings.num_networks) == 1:
            return (self.checkpoint,)
        return tuple(self.directory / f"member-{k}.safetensors" for k in range(members))

    @property
    def record(self) -> dict[str, Any]:
        """What run.json says; refused where it is unreadable, or does not fit the run's settings."""
        return _load_record(self.directory)

    @property
    def is_complete(self) -> bool:
        """Whether training has ended, and left its networks."""
        return bool(self.record.get("complete")) and all(file.exists() for file in self.checkpoints)

    @property
    def model_digest(self) -> str | None:
        """Of what predicts: by it, what is measured of a run is told from what is measured of others."""
        return self.record.get("model_digest")

    def history(self) -> list[EpochRow]:
        """Return one row an epoch."""
        file = own_file(self.directory / "history.json")
        return [storage.decode(EpochRow, row, file) for row in storage.load_json(file, "the history")]

    def fidelity(self) -> tuple[FidelityRow, ...]:
        """Return how far its scores can be trusted, by `robcal fidelity`; nothing where that was not measured."""
        file = self.directory / "fidelity.json"
        alone = self.settings.num_networks == 1 and self.settings.training_method().predictors is None
        return storage.load_fidelity(file, self.model_digest if alone else None) if file.exists() else ()

    def predictions(self, split: str) -> Predictions:
        """Return what it predicts of "val" or "test"; refuse files that are missing, damaged, or not this run's."""
        return storage.load_predictions(own_file(self.directory / f"predictions-{split}.safetensors"))

    def scores(self, file: Path, model: str | None) -> Scores:
        """Return scores kept in a file, made with the network of the run whose tensors have the digest `model`."""
        scores = storage.load_scores(file)
        if scores.provenance.get("model") not in (model, None):
            given = f"{file} holds the scores of another network"
            fix = f"Delete {file}; the same command makes it anew"
            refuse(given, f"it must be scored with the network of {self.directory}", fix)
        return scores

    def dataset(self) -> Dataset:
        """Return the data it was trained on, cut in the same way."""
        return load_data(self.settings)


def run_title(settings: TrainSettings) -> str:
    """Return what tables call a run: the method, and what its levels are cut by if it takes them from scores."""
    title = settings.training_method().title
    return f"{title} ({settings.levels_from} levels)" if settings.takes_scores else title


def load_data(settings: TrainSettings) -> Dataset:
    """Return the data set that settings name."""
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
    return Run(directory, _settings_of(_load_record(directory)))


def own_file(path: Path) -> Path:
    """Return `path` if the training of the run beside it wrote it so; where that lists no files nothing is checked."""
    if not (path.parent / "run.json").is_file():
        return check_file(path, "the file of a run")
    if not path.is_file():
        _refuse_foreign(path, "is missing, and belongs to this run")
    listed = _load_record(path.parent).get("files")
    if isinstance(listed, dict):
        with reading(path, "the file of a run"):
            found = digest_of_file(path)
        if listed.get(path.name) != found:
            _refuse_foreign(path)
    return path


def list_files(directory: Path) -> dict[str, str]:
    """Return the files that training wrote to a run directory, with the digests of their bytes."""
    files = sorted(file for pattern in TRAINED for file in directory.glob(pattern))
    return {file.name: digest_of_file(file) for file in files}


def clear(directory: Path) -> None:
    """Remove what an earlier run wrote to a directory."""
    for pattern in (*TRAINED, *BESIDE):
        for file in directory.glob(pattern):
            file.unlink()


def _load_record(directory: Path) -> dict[str, Any]:
    file = directory / "run.json"
    if not is_there(file) or not file.is_file():
        given = f"{directory} is no run directory (it has no run.json)"
        refuse(given, "`robcal train --out DIR` makes one", _nearest_run(directory))
    record = storage.load_json(file, "the run")
    if not isinstance(record, dict) or not isinstance(record.get("settings"), dict):
        _refuse_record(directory, "there are none")
    try:
        _settings_of(record)
    except (TypeError, KeyError, ValueError) as error:
        _refuse_record(directory, str(error))
    if "options" in record["settings"] and record.get("digest") != run_digest(record):
        refuse(
            f"{file} was changed: its settings are not those that the run was made with",
            "a run's record stays as `robcal train` wrote it; where data moved, a link at the old place helps",
            f"Put back a copy from before, or delete {directory} and train again",
        )
    return record


def run_digest(record: Any) -> str | None:
    """Return what names the run of a record: its settings and data; None of what is no record of a run."""
    if not isinstance(record, dict) or not isinstance(record.get("settings"), dict):
        return None
    try:
        identity = _settings_of(record).identity()
    except (TypeError, KeyError, ValueError):
        return None
    if "scores" in identity:  # a run is opened without them; their files may be gone
        identity["scores"] = record["settings"].get("scores")
    return storage.digest_of({"settings": identity, "data": record.get("data")})


def what_differs(record: Any, settings: TrainSettings) -> str:
    """Return the settings in which the run of a record differs from others, " (epochs: 3 there, 5 here)", or ""."""
    if not isinstance(record, dict) or run_digest(record) is None:
        return ""
    there, here = _settings_of(record).identity(), settings.identity()
    names = [name for name in dict.fromkeys((*there, *here)) if there.get(name) != here.get(name) and name != "scores"]
    told = [f"{name}: {there.get(name, 'none')} there, {here.get(name, 'none')} here" for name in names]
    return f" ({'; '.join(told)})" if told else ""


def settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that run.json holds, as `TrainSettings` takes them; those of now stay as they are."""
    settings = dict(record["settings"])
    if "options" in settings:
        return settings
    own = _FORMER_OPTIONS.get(settings.get("method", ""), {})
    if own is _ADAPTIVE:
        settings = {"controller": "integral", "levels_from": "robustness", **settings}  # before there were others
        settings.pop("step_size" if settings["controller"] == "stable" else "gain", None)  # the other's
    options = {option: settings[name] for name, option in own.items() if settings.get(name) is not None}
    former = {name for table in _FORMER_OPTIONS.values() for name in table} | set(_WITHOUT_EFFECT)
    kept = {name: value for name, value in settings.items() if name not in former}
    return {**kept, "options": options}


def _settings_of(record: Mapping[str, Any]) -> TrainSettings:
    return TrainSettings(**{**settings_of(record), "scores": ()})


def _refuse_record(directory: Path, why: str) -> NoReturn:
    fix = f"Put back a copy from before, or delete {directory} and train again"
    refuse(f"{directory / 'run.json'} does not hold a run's settings ({why})", "it is written by `robcal train`", fix)


def _refuse_foreign(
    path: Path, why: str = "is not the file that this run's training wrote: its digest is not the one in run.json"
) -> NoReturn:
    fix = f"Put back a copy from before, or delete {path.parent} and train again"
    refuse(f"{path} {why}", "every file of a run is its own", fix)


def _nearest_run(directory: Path) -> str:
    """Say which run directory may be meant: one inside, the one around, or none."""
    inside = sorted(file.parent for file in directory.glob("*/run.json"))
    around = [parent for parent in directory.parents if (parent / "run.json").exists()]
    if found := [*inside, *around]:
        return f"Name one, such as {found[0]}"
    return "Correct the path, or make it: robcal train --data DATA --out DIR"


def load_model(checkpoint: Path) -> tuple[Normalized, dict[str, Any]]:
    """Return the network of a checkpoint or run directory, on the CPU in eval mode, and what is said about it."""
    if checkpoint.name != "model.safetensors":
        check_readable(checkpoint, "the checkpoint")
    file = checkpoint / "model.safetensors" if checkpoint.is_dir() else checkpoint
    members = len(list(file.parent.glob("member-*.safetensors"))) if file.name == "model.safetensors" else 0
    if members and not file.exists():
        fix = "Name a member-K.safetensors, or take them all by robcal.runs.directory.load_networks"
        refuse(f"{file.parent} holds {members} networks, the members of one ensemble", "one network is needed", fix)
    check_readable(checkpoint, "the checkpoint")
    tensors, about = storage.load_checkpoint(own_file(file))
    if file.name == "model.safetensors":
        _check_network(file, tensors)
    check_numbers(file, tensors)
    return _build(file, tensors, about).eval(), about


def _build(file: Path, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> Normalized:
    """Build the network that a checkpoint names; sizes are compared before memory is taken for its tensors."""
    import torch

    with reading(file, "the checkpoint"):
        name, shape, classes = str(about["model"]), tuple(map(int, about["input_shape"])), int(about["num_classes"])
        if not is_external(name):  # code of others may not know the device "meta"
            with torch.device("meta"):
                outline = build_model(name, input_shape=shape, num_classes=classes).state_dict()
            _check_fit(file, name, {key: value.shape for key, value in outline.items()}, tensors)
        model = build_model(name, input_shape=shape, num_classes=classes)
        _check_fit(file, name, {key: value.shape for key, value in model.state_dict().items()}, tensors)
        model.load_state_dict(dict(tensors))
    return model


def _check_fit(file: Path, name: str, wanted: Mapping[str, torch.Size], tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors that are not those of the model, or of other shapes."""
    wrong = [key for key in {**wanted, **tensors} if key not in tensors or wanted.get(key) != tensors[key].shape]
    if wrong:
        given = f"{file} does not fit its model {name} ({', '.join(wrong[:3])})"
        fix = "Copy it from its run directory again, or train again"
        refuse(given, "a checkpoint holds exactly the tensors of its model", fix)


def _check_network(file: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse the network of another run in a run of version 0.1.0, whose record holds the digest of its one network."""
    if not (file.parent / "run.json").is_file():
        return
    record = _load_record(file.parent)
    wanted, settings = record.get("model_digest"), _settings_of(record)
    alone = settings.members == 1 and settings.training_method().predictors is None
    if "files" not in record and wanted and alone and storage.digest_of_tensors(tensors) != wanted:
        _refuse_foreign(file)


def load_networks(run: Run) -> list[nn.Module]:
    """Load the networks that predict, on the CPU in eval mode: one, an ensemble's, or those that a method draws."""
    networks = [load_model(checkpoint)[0] for checkpoint in run.checkpoints]
    predictors = run.settings.training_method().predictors
    if predictors is None or predictors.kept:
        return list(networks)
    return list(predictors.draw(networks[0], {}, None, run.settings.seed))
