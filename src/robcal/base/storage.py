"""Save and load every artifact: atomically, with provenance, and never executing code from a file.

Tables (scores, levels) are parquet, arrays (predictions, checkpoints) safetensors, everything else JSON. A file is
written under a temporary name beside its target and renamed, so that a reader never sees half of one. Tables and arrays
carry a seal (`robcal.base.seals`), so that a reader never sees what was changed afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from robcal.base.checks import InputError, check_file, check_output, refuse
from robcal.base.encoding import SEAL, plain, sealed, typed, unsealed
from robcal.base.extras import import_extra
from robcal.base.files import reading, refuse_unwritable, replacing
from robcal.base.npy import check_packing
from robcal.base.results import Results, of_now
from robcal.base.seals import check_seal, seal_of
from robcal.base.torch_files import check_torch_file
from robcal.base.types import FidelityRow, Levels, Predictions, Scores

if typing.TYPE_CHECKING:
    import torch

T = TypeVar("T")


def _version(package: str) -> str | None:
    """Return the version of a package, or None where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def provenance(**more: Any) -> dict[str, Any]:
    """Return the versions that an artifact depends on, and what else is handed in; no time and no place."""
    return {
        "robcal": _version("robcal"),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "numpy": np.__version__,
        **more,
    }


def digest_of(value: Any) -> str:
    """Return the SHA-256 of a JSON-able value, as 16 hexadecimal digits; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def digest_of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of named tensors (values, shapes, dtypes, names), as 16 hexadecimal digits."""
    import torch

    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        sha.update(tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return sha.hexdigest()[:16]


# JSON ----------------------------------------------------------------------------------------------------------------


def save_json(value: Any, path: Path) -> Path:
    """Write a JSON-able value (dataclasses, tuples, bytes and non-finite floats included)."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(plain(value), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path


def load_json(path: Path, what: str = "the file") -> Any:
    """Read JSON."""
    with reading(path, what):
        return unsealed(json.loads(path.read_text(encoding="utf-8")), path)


def save_results(results: Results, path: Path) -> Path:
    """Write results as JSON, sealed."""
    return save_json(sealed(results), path)


def load_results(path: Path) -> Results:
    """Read what `save_results` wrote, this version or an earlier one."""
    found = load_json(path, "the results")
    with reading(path, "the results"):
        return decode(Results, of_now(found), path)


def load_fidelity(path: Path, model: str | None = None) -> tuple[FidelityRow, ...]:
    """Read what `robcal fidelity` wrote, of the network with this digest; files of version 0.1.0 do not say which."""
    found = load_json(path, "the fidelity")
    if not isinstance(found, dict) or not isinstance(found.get("rows"), list):
        fix = f"Delete {path}, and measure it again: robcal fidelity"
        refuse(f"{path} holds no rows", "it must be the result of `robcal fidelity`", fix)
    about = found.get("about")
    made_by = about.get("model", model) if isinstance(about, dict) else model
    if model is not None and made_by != model:
        fix = f"Delete {path}, or measure it again with `robcal fidelity`"
        refuse(f"{path} was measured on another network", "a run shows how far its own scores can be trusted", fix)
    return tuple(decode(FidelityRow, row, path) for row in found["rows"])


def decode(kind: type[T], value: Any, path: Path) -> T:
    """Turn what `load_json` read into a dataclass, or refuse a value of another shape."""
    with reading(path, f"the {kind.__name__} file"):
        return typing.cast(T, typed(kind, value))


# Tables --------------------------------------------------------------------------------------------------------------


def save_scores(scores: Scores, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write scores as parquet, one column an array.

    Args:
        scores: of N examples.
        path: where to; written under a temporary name and renamed.
        overwrite: whether a file that is there may be replaced.

    Returns:
        The path.

    Raises:
        InputError: if the file exists and `overwrite` is false.
    """
    path = Path(path)
    check_output(path, overwrite=overwrite)
    columns = {name: getattr(scores, name) for name in Scores.columns()}
    about = {"method": scores.method, "reference": scores.reference, "provenance": plain(dict(scores.provenance))}
    return _save_table(columns, about, path)


def load_scores(path: str | os.PathLike[str]) -> Scores:
    """Read scores that `save_scores`, `robcal score` or `robcal train` wrote.

    Args:
        path: a parquet file.

    Returns:
        Scores of N examples, in the order of their split.

    Raises:
        InputError: if the file is missing, unreadable, or lacks a column.
    """
    path = Path(path)
    columns, about = _load_table(path, "the scores")
    missing = [name for name in Scores.columns() if name not in columns]
    if missing:
        given = f"{path} lacks the columns {', '.join(missing)}"
        fix = "Make it with `robcal score`"
        refuse(given, f"a scores file has {', '.join(Scores.columns())}; this one has {', '.join(columns)}", fix)
    kinds: dict[str, type] = {"status": np.str_, "prediction": np.int64, "rival": np.int64}
    arrays: dict[str, Any] = {name: columns[name].astype(kinds.get(name, np.float32)) for name in Scores.columns()}
    said = {name: about[name] for name in ("method", "reference", "provenance") if name in about}
    return Scores(**arrays, **said)


def save_levels(levels: Levels, path: Path, *, overwrite: bool = False) -> Path:
    """Write levels as parquet."""
    check_output(path, overwrite=overwrite)
    about = {"num_levels": levels.num_levels, "source": levels.source, "provenance": plain(dict(levels.provenance))}
    return _save_table({"level": levels.level}, about, path)


def load_levels(path: Path) -> Levels:
    """Read levels that `save_levels` wrote."""
    columns, about = _load_table(path, "the levels")
    if "level" not in columns or "num_levels" not in about:
        refuse(
            f"{path} has the columns {', '.join(columns)}", "a levels file has 'level'", "Make it with `robcal train`"
        )
    return Levels(columns["level"].astype(np.int64), about["num_levels"], about["source"], about["provenance"])


def is_scores_file(path: Path) -> bool:
    """Tell whether a file is one that `save_scores` wrote."""
    if path.suffix != ".parquet":
        return False
    pa, pq = _arrow(path)
    try:
        schema = pq.read_schema(check_file(path, "the scores"))
        return set(Scores.columns()) <= set(schema.names) and b"robcal" in (schema.metadata or {})
    except (pa.ArrowException, OSError, InputError):
        return False


def _arrow(path: Path) -> tuple[Any, Any]:
    """What parquet files are read and written by."""
    what = f"a parquet file ({path})"
    return tuple(import_extra(name, "parquet", what) for name in ("pyarrow", "pyarrow.parquet"))


def save_array(array: npt.NDArray[Any], path: Path) -> Path:
    """Write one array as .npy, replacing what is there."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    return path


def _save_table(columns: Mapping[str, npt.NDArray[Any]], about: Mapping[str, Any], path: Path) -> Path:
    pa, pq = _arrow(path)
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    table = table.replace_schema_metadata(_sealed(about, columns))
    with replacing(path) as temporary:
        pq.write_table(table, temporary)
    return path


def check_table(path: Path) -> None:
    """Refuse a parquet file that would be far larger in memory than it is; call it within `reading`."""
    _, pq = _arrow(path)
    about = pq.read_metadata(path)
    check_packing(about.num_rows * about.num_columns * 8, path.stat().st_size, str(path))


def _load_table(path: Path, what: str) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    _, pq = _arrow(path)
    with reading(path, what):
        check_table(path)
        table = pq.read_table(path, partitioning=None)
        said = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        columns = {name: table.column(name).to_numpy() for name in table.column_names}
        return columns, _unsealed(said, columns, path)


# Arrays --------------------------------------------------------------------------------------------------------------


def save_predictions(predictions: Predictions, path: Path, *, overwrite: bool = False) -> Path:
    """Write predictions as safetensors."""
    check_output(path, overwrite=overwrite)
    arrays: dict[str, npt.NDArray[Any]] = {"probs": predictions.probs, "labels": predictions.labels}
    if predictions.logits is not None:
        arrays["logits"] = predictions.logits
    return save_arrays(arrays, path, about=predictions.provenance)


def load_predictions(path: Path) -> Predictions:
    """Read what `save_predictions` wrote."""
    arrays, about = load_arrays(path, "the predictions")
    if "probs" not in arrays or "labels" not in arrays:
        fix = "Put back a copy from before, or train the run again with --overwrite"
        refuse(f"{path} holds {', '.join(arrays)}", "a predictions file holds probs and labels", fix)
    return Predictions(arrays["probs"], arrays["labels"], arrays.get("logits"), about)


def save_arrays(arrays: Mapping[str, npt.NDArray[Any]], path: Path, *, about: Mapping[str, Any] | None = None) -> Path:
    """Write named numpy arrays as safetensors, replacing what is there."""
    from safetensors.numpy import save_file

    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with _written(path) as temporary:
        save_file(contiguous, temporary, metadata=_sealed(plain(dict(about or {})), contiguous))
    return path


def load_arrays(path: Path, what: str = "the arrays") -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Read what `save_arrays` wrote: the arrays, and what was said about them."""
    return _load_safetensors(path, what, "numpy")


def kept_arrays(path: Path, key: str, what: str = "the arrays") -> dict[str, npt.NDArray[Any]] | None:
    """Return the arrays of a file that `save_arrays` wrote about this "key"; None where there is none."""
    arrays, about = load_arrays(path, what) if path.exists() else ({}, {})
    return arrays if about.get("key") == key else None


def _load_safetensors(path: Path, what: str, framework: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arrays of numpy, or the tensors of a checkpoint ("pt"), and what is said of them."""
    from safetensors import safe_open

    with reading(path, what), safe_open(path, framework=framework) as file:
        metadata = file.metadata() or {}
        if framework == "pt" and "model" not in json.loads(metadata.get("robcal", "{}")):
            given = f"{path} does not say which model it holds"
            refuse(given, "robcal writes that beside the tensors", "Make it with `robcal train`")
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return arrays, _unsealed(metadata, arrays, path)


@contextlib.contextmanager
def _written(path: Path) -> Iterator[Path]:
    """Do as `replacing`, for writers that tell of a full disk by errors of their own (safetensors, torch)."""
    from safetensors import SafetensorError

    with replacing(path) as temporary:
        try:
            yield temporary
        except (SafetensorError, RuntimeError) as error:
            refuse_unwritable(path, error)


def _sealed(about: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata of a table or of arrays: one entry, as safetensors writes several in any order."""
    return {"robcal": json.dumps({**about, SEAL: seal_of(_text(about), arrays)}, sort_keys=True)}


def _unsealed(metadata: Mapping[str, str], arrays: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return what a file says of its arrays, if they and it are as they were written."""
    said = json.loads(metadata.get("robcal", "{}"))
    if not isinstance(said, dict):
        raise TypeError(f"its metadata is {type(said).__name__}")
    check_seal(said.pop(SEAL, None), _text(said), arrays, path)
    return said


def _text(about: Mapping[str, Any]) -> str:
    """Return what is said of arrays as one text, the same before it is written and after it was read."""
    return json.dumps(json.loads(json.dumps(about)), sort_keys=True)


def save_checkpoint(state: Mapping[str, torch.Tensor], about: Mapping[str, Any], path: Path) -> Path:
    """Write a model's `state_dict` as safetensors, with the arguments of `build_model` that make it again."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    with _written(path) as temporary:
        save_file(tensors, temporary, metadata=_sealed(plain(dict(about)), tensors))
    return path


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `save_checkpoint` wrote: the tensors and what was said about the model."""
    return _load_safetensors(path, "the checkpoint", "pt")


def save_state(state: Mapping[str, Any], path: Path) -> Path:
    """Write the state of an unfinished run (tensors, numbers, strings, containers of these)."""
    import torch

    with _written(path) as temporary:
        torch.save(dict(state), temporary)
    return path


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote, tensors and plain values only."""
    import warnings

    import torch

    with reading(path, "the saved state"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a foreign pickle makes torch warn before it refuses
        check_torch_file(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"it holds {type(state).__name__}")
    return state
