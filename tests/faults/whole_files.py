"""A whole file of every kind that robcal reads, with what reads it."""

from __future__ import annotations

import functools
import gzip
import importlib.util
import io
import pickle
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Reader = Callable[[Path], Any]
N = 40


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        file: the one that is damaged, below the folder of all.
        read: its reader; takes the file.
        told: whether any change of what it holds must be found, by a digest or a check sum.
        share: of the turns of other kinds that this one gets; less where a reading takes long.
    """

    file: str
    read: Reader
    told: bool = False
    share: float = 1.0


def write_all(folder: Path) -> None:
    """Write one whole file of each of `KINDS`, with the files that it needs beside it."""
    for write in (_artifacts, _user_files, _pictures, _data_sets, _a_run, _models):
        write(folder)


def _inputs() -> tuple[Any, Any]:
    return np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32), np.arange(N) % 2


def _artifacts(folder: Path) -> None:
    import torch

    from robcal.base import storage
    from robcal.base.encoding import sealed
    from robcal.base.results import MethodResult, Results
    from robcal.base.types import Estimate, FidelityRow, Levels, Predictions, Scores
    from robcal.calibration.recalibration import Recalibrator
    from robcal.models import build_model

    x, y = _inputs()
    probs, column = np.full((N, 2), 0.5, np.float32), x[:, 0].copy()
    scores = Scores(column, np.array(["verified"] * N), y, 1 - y, column, column, provenance={"model": "m"})
    network = build_model("mlp", input_shape=(3,), num_classes=2)
    about = {"model": "mlp", "input_shape": [3], "num_classes": 2}
    storage.save_scores(scores, folder / "scores.parquet")
    storage.save_levels(Levels(y, 2), folder / "levels.parquet")
    storage.save_predictions(Predictions(probs, y, probs), folder / "predictions.safetensors")
    storage.save_arrays({"logits": x, "index": y}, folder / "arrays.safetensors", about={"key": "k"})
    storage.save_checkpoint(network.state_dict(), about, folder / "model.safetensors")
    storage.save_state({"a": torch.arange(20.0), "b": [1, "x"]}, folder / "state.pt")
    method = MethodResult("vanilla", "Plain", (0,), {"ece": Estimate(0.1, 0.0, 0.2)})
    storage.save_results(Results("t", {"name": "d"}, (method,)), folder / "results.json")
    rows = [FidelityRow("projection", "candidate", {"near": Estimate(0.9, 0.8, 1.0)})]
    storage.save_json(sealed({"about": {"model": "m"}, "rows": rows}), folder / "fidelity.json")
    Recalibrator("temperature").fit(np.tile(x, (3, 1)), np.arange(3 * N) % 3).save(folder / "recalibrator.json")
    (folder / "plan.toml").write_text(
        'seeds = [0]\n[recipe]\ndata = "digits"\nmodel = "mlp"\nepochs = 1\n'
        '[[methods]]\nlabel = "a"\nmethod = "vanilla"\ngrid = {epochs = [1, 2]}\n'
    )


def _user_files(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    x, y = _inputs()
    np.save(folder / "array.npy", x)
    np.save(folder / "mapped.npy", x)
    np.savez_compressed(folder / "data.npz", x_train=x, y_train=y, extra=x)
    np.savez(folder / "arrays.npz", probs=x)
    rows = x[:, :2].tolist()
    (folder / "table.csv").write_text("a,b\n" + "".join(f"{a},{b}\n" for a, b in rows))
    (folder / "table.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in rows))
    (folder / "table.jsonl").write_text("".join(f'{{"a": {a}, "b": {b}}}\n' for a, b in rows))
    pq.write_table(pa.table({"a": x[:, 0], "b": x[:, 1]}), folder / "table.parquet")
    (folder / "batch.pickle").write_bytes(pickle.dumps({"data": x, "labels": y.tolist()}, protocol=2))


def _pictures(folder: Path) -> None:
    from PIL import Image

    picture = Image.fromarray(np.random.default_rng(1).integers(0, 255, (9, 9, 3)).astype(np.uint8))
    for suffix in ("png", "jpg", "gif", "bmp", "tif", "webp"):
        picture.save(folder / f"picture.{suffix}")


def _data_sets(folder: Path) -> None:
    """The official forms of image data sets, of a few pictures each."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image
    from scipy.io import savemat

    rng = np.random.default_rng(2)
    stems = (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")
    images = rng.integers(0, 256, (2, 3072), dtype=np.uint8)
    records = np.concatenate([[[1], [7]], images], axis=1).astype(np.uint8).tobytes()
    pickled = pickle.dumps({b"data": images, b"labels": [1, 7]}, protocol=2)
    for name in ("binary", "python", "parquet", "shards", "cifar10c"):
        (folder / name).mkdir()
    for stem in stems:
        (folder / "binary" / f"{stem}.bin").write_bytes(records)
        (folder / "python" / stem).write_bytes(pickled)
    with tarfile.open(folder / "binary.tar.gz", "w:gz") as archive:
        for stem in stems:
            info = tarfile.TarInfo(f"{stem}.bin")
            info.size = len(records)
            archive.addfile(info, io.BytesIO(records))
    encoded = []
    for row in images:
        stream = io.BytesIO()
        Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0)).save(stream, "PNG")
        encoded.append({"bytes": stream.getvalue(), "path": "a.png"})
    for place, column, parts in (("parquet", "img", ("train", "test")), ("shards", "image", ("train", "validation"))):
        for part in parts:
            pq.write_table(pa.table({column: encoded, "label": [0, 1]}), folder / place / f"{part}-0.parquet")
    np.save(folder / "cifar10c" / "labels.npy", np.tile([1, 7], 5))
    np.save(folder / "cifar10c" / "fog.npy", rng.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8))
    y = np.array([[1], [10]], np.uint8)
    for suffix, pack in (("", bytes), (".gz", gzip.compress)):
        (folder / f"idx{suffix}").mkdir()
        for stem in ("train", "t10k"):
            for kind, array in (("images-idx3", images.reshape(24, 16, 16)), ("labels-idx1", np.arange(24) % 8)):
                header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
                whole = pack(header + array.astype(np.uint8).tobytes())
                (folder / f"idx{suffix}" / f"{stem}-{kind}-ubyte{suffix}").write_bytes(whole)
    savemat(folder / "train_32x32.mat", {"X": rng.integers(0, 256, (32, 32, 3, 2), dtype=np.uint8), "y": y})


def _a_run(folder: Path) -> None:
    from robcal.runs.train import train_run
    from robcal.training.settings import TrainSettings

    x, y = _inputs()
    np.savez(folder / "small.npz", x_train=x, y_train=y)
    settings = TrainSettings(data=f"npz:{folder / 'small.npz'}", model="mlp", method="vanilla", epochs=1, device="cpu")
    train_run(settings, folder / "run")


def _models(folder: Path) -> None:
    import torch

    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval()
    torch.save(network.state_dict(), folder / "weights.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the writers of programs announce what will change in them
        torch.jit.script(network).save(str(folder / "script.pt"))
        torch.export.save(torch.export.export(network, (torch.zeros(2, 3),)), folder / "program.pt2")
        if has_onnx():
            torch.onnx.export(network, (torch.zeros(2, 3),), folder / "model.onnx", dynamo=True, verbose=False)


def has_onnx() -> bool:
    """Whether the optional readers of ONNX files are installed."""
    return all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))


def kinds() -> dict[str, Kind]:
    """Every kind of file by the name of its file, with its reader."""
    from robcal.base import storage
    from robcal.base.npy import map_npy
    from robcal.base.user_files import read_array
    from robcal.calibration.recalibration import load_recalibrator
    from robcal.comparison.plan_file import load_plan
    from robcal.data.cifar import read_cifar10
    from robcal.data.idx import read_idx
    from robcal.data.npz import read_npz
    from robcal.data.pickles import load_arrays
    from robcal.data.pictures import open_picture
    from robcal.data.svhn import _read_part
    from robcal.models.programs import load_program
    from robcal.models.weights import read_weights
    from robcal.runs.directory import load_model, open_run

    array = functools.partial(read_array, what="it")
    made = [
        Kind("scores.parquet", storage.load_scores, True),
        Kind("levels.parquet", storage.load_levels, True),
        Kind("predictions.safetensors", storage.load_predictions, True),
        Kind("arrays.safetensors", storage.load_arrays, True),
        Kind("model.safetensors", lambda path: load_model(path)[0].state_dict(), True),
        Kind("state.pt", storage.load_state, True),
        Kind("results.json", storage.load_results, True),
        Kind("fidelity.json", storage.load_fidelity, True),
        Kind("recalibrator.json", lambda path: vars(load_recalibrator(path)), True),
        Kind("plan.toml", lambda path: load_plan(str(path))),
        Kind("array.npy", array),
        Kind("mapped.npy", lambda path: map_npy(path, "it").sum()),
        Kind("arrays.npz", array, True),
        Kind("data.npz", lambda path: read_npz(str(path)).parts["train"], True),
        Kind("table.csv", array),
        Kind("table.tsv", array),
        Kind("table.jsonl", array),
        Kind("table.parquet", array),
        Kind("batch.pickle", lambda path: load_arrays(path.read_bytes(), source=str(path))),
        *(
            Kind(f"picture.{s}", functools.partial(open_picture, mode="RGB"))
            for s in ("jpg", "gif", "bmp", "tif", "webp")
        ),
        Kind("picture.png", functools.partial(open_picture, mode="RGB"), True),
        Kind("binary/data_batch_2.bin", _part_of(read_cifar10)),
        Kind("python/data_batch_2", _part_of(read_cifar10)),
        Kind("binary.tar.gz", lambda path: read_cifar10(str(path)).parts["train"], True),
        Kind("parquet/train-0.parquet", _part_of(read_cifar10)),
        Kind("shards/train-0.parquet", _decoded),
        Kind("cifar10c/fog.npy", _corrupted),
        Kind("cifar10c/labels.npy", _corrupted),
        Kind("train_32x32.mat", _read_part, share=0.1),
        Kind("idx/train-images-idx3-ubyte", _part_of(read_idx)),
        Kind("idx/train-labels-idx1-ubyte", _part_of(read_idx)),
        Kind("idx.gz/train-images-idx3-ubyte.gz", _part_of(read_idx)),
        Kind("run/run.json", lambda path: open_run(path.parent).settings.relevant(), True),
        Kind("run/history.json", lambda path: open_run(path.parent).history(), True),
        Kind("run/predictions-test.safetensors", lambda path: open_run(path.parent).predictions("test"), True),
        Kind("run/model.safetensors", lambda path: load_model(path)[0].state_dict(), True),
        Kind("weights.pt", read_weights, True),
        Kind("script.pt", lambda path: load_program(path, "torchscript").run.state_dict(), True, share=0.3),
        Kind("program.pt2", lambda path: load_program(path, "pt2").run.state_dict(), True, share=0.1),
    ]
    if has_onnx():
        from robcal.models.programs import load_onnx

        made.append(Kind("model.onnx", load_onnx, share=0.3))
    return {kind.file: kind for kind in made}


def _part_of(read: Callable[[str], Any]) -> Reader:
    return lambda path: read(str(path.parent)).parts["train"]


def _decoded(path: Path) -> Any:
    from robcal.data.imagenet import read_imagenet

    part = read_imagenet(str(path.parent), 8).parts["train"]
    return part.inputs[np.arange(len(part.labels))], part.labels


def _corrupted(path: Path) -> Any:
    from robcal.data.corrupted import load_corrupted

    cell = load_corrupted(f"cifar10c:{path.parent}", kinds=("fog",))["fog", 2]
    return cell.inputs[np.arange(len(cell.labels))], cell.labels
