"""A trained run as a file that needs no robcal: the network with its normalisation and its recalibration folded in."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from robcal.base.checks import FloatArray, check_choice, check_output, refuse
from robcal.base.extras import import_extra
from robcal.base.files import reason_of, replacing
from robcal.base.types import ExportFormat, Predictions
from robcal.calibration.recalibration import Recalibrator, load_recalibrator
from robcal.calibration.recalibration.average import single
from robcal.calibration.recalibration.maps import Isotonic, Map, Temperature
from robcal.calibration.recalibration.recalibrator import digest_of_data
from robcal.calibration.recalibration.score_temperature import ScoreTemperature
from robcal.models.programs import load_onnx, load_program, quiet
from robcal.runs.deployed import Deployed
from robcal.runs.directory import load_networks, open_run
from robcal.training.predict import softmax

#: Probabilities of the file and those of robcal differ by at most this much.
TOLERANCE = 1e-5
#: The file is tried on at most so many validation inputs.
TRIED = 1000
#: Logits of two programs for one network differ by this share of a row's range; so many of such are drawn at random.
ROUNDING, DRAWS = 2e-6, 30

_OTHER = "robcal recalibrate RUN --method temperature --out FILE.json; and pass --recalibrator FILE"


@dataclass(frozen=True)
class Exported:
    """What `export` wrote."""

    path: Path  #: the file
    recalibration: str  #: name of the recalibration that is folded in; "none" for the network's own probabilities
    difference: float  #: largest difference between its probabilities and robcal's, over the validation inputs tried
    tried: int  #: number of these


def export(
    run: str | Path,
    out: str | Path,
    *,
    format: ExportFormat = "pt2",
    recalibrator: str | Path | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a finished run as a file that predicts without robcal (docs/export.md says how to load each).

    "pt2" (torch.export) and "onnx" hold a program: inputs (B, …) in input units, B any number → (B, Z) float32 logits
    whose softmax are the recalibrated probabilities; an ensemble is one program. "safetensors" holds tensors, for a
    network whose code is yours: the network's, "mean", "std" and "temperature".

    Args:
        run: run directory of `robcal train`.
        out: the file.
        format: "safetensors", "pt2" or "onnx" (which needs the extra `onnx`).
        recalibrator: a file of `robcal recalibrate`; default: recalibrator.json in the run, if there is one. A program
            takes all but a score temperature by scores of your own, "safetensors" no more than a temperature.
        overwrite: whether a file that is there may be replaced.

    Returns:
        What was written, with how far its probabilities are from robcal's.

    Raises:
        InputError: if the run is not finished, the run's recalibrator was fitted on another network or other data, the
            recalibration cannot be folded in, or the network cannot be exported for batches of any size; nothing is
            written then.
        RuntimeError: if the probabilities of the file are not those of robcal to 1e-5; the file is removed.
    """
    opened, target = open_run(Path(run)), check_output(Path(out), overwrite=overwrite)
    check_choice(format, get_args(ExportFormat), "format")
    known = opened.predictions("val")
    found = _recalibrator(opened.directory, known, None if recalibrator is None else Path(recalibrator))
    maps = () if found is None else _foldable(found, format)
    networks = load_networks(opened)
    if format == "safetensors" and len(networks) > 1:
        refuse(
            f"{opened.directory} holds {len(networks)} networks", "a safetensors file holds one", "Pass --format pt2"
        )
    split = opened.dataset().split("val")
    inputs = split.batch(np.arange(min(len(split), TRIED)))
    with replacing(target) as temporary:
        predict = _WRITERS[format](networks, maps, inputs[:2], temporary)
        difference = _difference(predict, known, found, inputs)
        if not difference <= TOLERANCE:
            raise RuntimeError(f"{target} was not written: its probabilities differ from robcal's by {difference:.2g}")
    return Exported(target, "none" if found is None else found.method, difference, len(inputs))


def _recalibrator(run: Path, known: Predictions, file: Path | None) -> Recalibrator | None:
    """Return the recalibration that the user named, or that in the run, fitted on its validation split; or None."""
    own = run / "recalibrator.json"
    if file is not None or not own.exists():
        return None if file is None else load_recalibrator(file)
    found = load_recalibrator(own)
    if found.data != digest_of_data(known.as_logits(), known.labels):
        refuse(
            f"{own} was not fitted on this run's predictions of its validation split",
            "the recalibrator in a run directory belongs to its network",
            f"Fit it again: robcal recalibrate {run} --overwrite; or, if another one is meant, pass "
            "--recalibrator FILE",
        )
    return found


def _foldable(found: Recalibrator, format: ExportFormat) -> Sequence[Map]:
    """Return the maps of a recalibration, if the file can hold them."""
    if format == "safetensors" and not all(isinstance(one, Temperature) for one in found.maps):
        given = f"the recalibration is {found.method}"
        fix = f"Pass --format pt2, which holds any; or fit one: {_OTHER}"
        refuse(given, "a safetensors file holds tensors for your own code: none or a temperature", fix)
    if found.score != "margin" and any(isinstance(one, ScoreTemperature) for one in single(found.maps)):
        refuse(
            f"the recalibration is {found.method} by {found.score}",
            "what is exported takes inputs alone, so that it has no scores but the margin of the network",
            f"Fit one without scores: {_OTHER}",
        )
    return found.maps


def _difference(
    predict: Callable[[Tensor], Tensor], known: Predictions, found: Recalibrator | None, inputs: Tensor
) -> float:
    """Return the largest difference of probabilities, in batches of several sizes, from robcal's own."""
    size, parts = len(inputs), (inputs[:1], inputs[1:3], *torch.split(inputs[3:], 256))
    with torch.no_grad():
        outputs = [predict(part) for part in parts if len(part)]
    probs = softmax(torch.cat(outputs).numpy())
    if found is None:
        return float(np.abs(probs - known.probs[:size]).max())
    low, high = _range(found, known.as_logits()[:size])
    return float(np.abs(probs - probs.clip(low, high)).max())


def _range(found: Recalibrator, logits: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the lowest and highest recalibrated probabilities of logits (N, Z) as they are.

    The examples tried are the very ends of an isotonic map's steps: with one, all logits count that are equal to these
    in float32 arithmetic, which differs from one program to the next.
    """
    tried = [found.predict_proba(logits)]
    if any(isinstance(one, Isotonic) for one in single(found.maps)):
        rng, reach = np.random.default_rng(0), ROUNDING * np.maximum(np.ptp(logits, axis=1, keepdims=True), 1)
        tried += [found.predict_proba(logits + reach * rng.uniform(-1, 1, logits.shape)) for _ in range(DRAWS)]
    return np.min(tried, axis=0), np.max(tried, axis=0)


# Writers: each returns what predicts from the file that it wrote ------------------------------------------------------


def _write_pt2(
    networks: Sequence[nn.Module], maps: Sequence[Map], inputs: Tensor, file: Path
) -> Callable[[Tensor], Tensor]:
    buffer = io.BytesIO()
    torch.export.save(_exported(Deployed(networks, maps).eval(), inputs), buffer)
    file.write_bytes(buffer.getvalue())
    return load_program(file, "pt2")


def _write_onnx(
    networks: Sequence[nn.Module], maps: Sequence[Map], inputs: Tensor, file: Path
) -> Callable[[Tensor], Tensor]:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        import_extra(package, "onnx", "--format onnx")
    program = _exported(Deployed(networks, maps).eval(), inputs)
    try:
        with quiet():
            made = torch.onnx.export(
                program, dynamo=True, input_names=["inputs"], output_names=["logits"], verbose=False
            )
    except ImportError as error:
        given = f"torch {torch.__version__} cannot use the onnxscript that is installed ({error})"
        fix = "Take a newer one: pip install --upgrade onnxscript; or pass --format pt2"
        refuse(given, "onnxscript must be as new as torch", fix)
    assert made is not None
    made.save(file)
    return load_onnx(file)


def _exported(module: nn.Module, inputs: Tensor) -> torch.export.ExportedProgram:
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(module, (inputs,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False)
    except Exception as error:  # torch raises many kinds
        given = f"torch.export cannot make a graph of the network ({reason_of(error)})"
        fix = "Change its code so; or pass --format safetensors, which takes the weights alone"
        refuse(given, "its forward must not depend on the values of a tensor or on the size of the batch", fix)


def _write_safetensors(
    networks: Sequence[nn.Module], maps: Sequence[Map], inputs: Tensor, file: Path
) -> Callable[[Tensor], Tensor]:
    from safetensors.torch import load_file, save_file

    (network,) = networks
    temperature = np.prod([one.temperature for one in maps]) if maps else 1.0  # type: ignore[attr-defined]
    tensors = {name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()}
    tensors["temperature"] = torch.tensor(float(temperature))
    save_file(tensors, file, metadata={"logits": "network((x - mean) / std) / temperature"})
    read = load_file(file)
    scale, again = read.pop("temperature"), copy.deepcopy(network)
    again.load_state_dict(read)

    return lambda x: again(x) / scale


_Writer = Callable[[Sequence[nn.Module], Sequence[Map], Tensor, Path], Callable[[Tensor], Tensor]]
_WRITERS: dict[ExportFormat, _Writer] = {"safetensors": _write_safetensors, "pt2": _write_pt2, "onnx": _write_onnx}
