"""Damage files of every kind that robcal reads, by a seed, and read them: each must be read right or be refused.

python tests/faults/mutations.py --count 10000 --seed 0: children read a batch each, within limits on time and memory.
A line of JSON tells what was tried; the status is 1 if anything crashed, hung, ran code, raised another error than
InputError, or was read as something else than what was written.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 5
MEMORY = 6 * 2**30
BATCH = 500

Reader = Callable[[Path], Any]


def samples(folder: Path) -> dict[str, tuple[Path, Reader, bool]]:
    """Whole files: kind → file, its reader, and whether what it holds is sealed."""
    import numpy as np
    import torch

    from robcal.base import storage
    from robcal.base.types import Estimate, Levels, MethodResult, Predictions, Results, Scores
    from robcal.base.user_files import read_array
    from robcal.calibration.recalibration import Recalibrator, load_recalibrator
    from robcal.comparison.plan_file import load_plan
    from robcal.data.npz import read_npz
    from robcal.data.pickles import load_arrays
    from robcal.data.pictures import open_picture
    from robcal.models import build_model
    from robcal.runs.directory import load_model

    rng, n = np.random.default_rng(0), 40
    x, y = rng.normal(size=(n, 3)).astype(np.float32), np.arange(n) % 2
    probs = np.full((n, 2), 0.5, np.float32)
    floats = x[:, 0].copy()
    scores = Scores(floats, np.array(["verified"] * n), y, 1 - y, floats, floats, provenance={"model": "m"})
    network = build_model("mlp", input_shape=(3,), num_classes=2)
    about = {"model": "mlp", "input_shape": [3], "num_classes": 2}
    storage.save_scores(scores, folder / "scores.parquet")
    storage.save_levels(Levels(y, 2), folder / "levels.parquet")
    storage.save_predictions(Predictions(probs, y, probs), folder / "predictions.safetensors")
    storage.save_checkpoint(network.state_dict(), about, folder / "model.safetensors")
    storage.save_state({"a": torch.zeros(20), "b": [1, "x"]}, folder / "state.pt")
    method = MethodResult("vanilla", "Plain", (0,), {"ece": Estimate(0.1, 0.0, 0.2)})
    storage.save_results(Results("t", {"name": "d"}, (method,)), folder / "results.json")
    np.save(folder / "array.npy", x)
    np.savez_compressed(folder / "data.npz", x_train=x, y_train=y, extra=x)
    (folder / "batch.pickle").write_bytes(pickle.dumps({"data": x, "labels": y.tolist()}, protocol=2))
    (folder / "table.csv").write_text("a,b\n" + "".join(f"{a},{b}\n" for a, b in x[:, :2].tolist()))
    Recalibrator("temperature").fit(np.tile(x, (3, 1)), np.arange(3 * n) % 3).save(folder / "recalibrator.json")
    (folder / "plan.toml").write_text(
        'seeds = [0]\n[recipe]\ndata = "digits"\nmodel = "mlp"\nepochs = 1\n'
        '[[methods]]\nlabel = "a"\nmethod = "vanilla"\n'
        "grid = {epochs = [1, 2]}\n"
    )
    from PIL import Image

    for suffix in ("png", "jpg", "gif", "bmp", "tif", "webp"):
        Image.fromarray(rng.integers(0, 255, (9, 9, 3)).astype(np.uint8)).save(folder / f"picture.{suffix}")

    def array(path: Path) -> Any:
        return read_array(path, "it")

    readers: dict[str, tuple[Reader, bool]] = {
        "scores.parquet": (storage.load_scores, True),
        "levels.parquet": (storage.load_levels, True),
        "predictions.safetensors": (storage.load_predictions, True),
        "model.safetensors": (lambda path: load_model(path)[0].state_dict(), True),
        "state.pt": (storage.load_state, False),
        "results.json": (storage.load_results, False),
        "array.npy": (array, False),
        "data.npz": (lambda path: read_npz(str(path)), False),
        "table.csv": (array, False),
        "batch.pickle": (lambda path: load_arrays(path.read_bytes(), source=str(path)), False),
        "recalibrator.json": (load_recalibrator, False),
        "plan.toml": (lambda path: load_plan(str(path)), False),
        **{f"picture.{s}": (_decode(open_picture), False) for s in ("png", "jpg", "gif", "bmp", "tif", "webp")},
    }
    return {name: (folder / name, reader, sealed) for name, (reader, sealed) in readers.items()}


def _decode(open_picture: Callable[..., Any]) -> Reader:
    return lambda path: open_picture(path, "RGB")


def mutated(data: bytes, draw: random.Random) -> bytes:
    """The bytes with one to four pieces of damage."""
    made = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        place, kind = draw.randrange(len(made) + 1), draw.randrange(7)
        length = draw.choice((1, 2, 4, 8, 64))
        if kind == 0 and made:
            made[place % len(made)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            made[place : place + length] = draw.choice((b"\0", b"\xff", b"\x7f", b"9")) * length
        elif kind == 2:
            del made[place : place + length]
        elif kind == 3:
            made[place:place] = bytes(draw.randrange(256) for _ in range(length))
        elif kind == 4:
            del made[place:]
        elif kind == 5:
            made[place:place] = made[max(place - length, 0) : place] * draw.choice((1, 50))
        else:
            made[place : place + length] = draw.choice((b"null", b"1e999", b"-1", b"[[[[", b"{}", b'"', b"\n"))
    return bytes(made)


def same(one: Any, other: Any) -> bool:
    """Whether two values that were read hold the same arrays and words."""
    import numpy as np

    if hasattr(one, "__dataclass_fields__"):
        return all(same(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__)
    if hasattr(one, "items"):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


def read_batch(seed: int, count: int) -> dict[str, Any]:
    """Damage and read `count` files in this process; what is wrong with any is told by its kind and number."""
    import resource

    from robcal.base.checks import InputError

    warnings.simplefilter("ignore")
    wrong: list[str] = []
    tally: collections.Counter[str] = collections.Counter()

    def hung(*_: object) -> None:
        raise TimeoutError

    def watch(event: str, _: Any) -> None:
        if event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork"):
            wrong.append(f"ran code: {event}")

    with tempfile.TemporaryDirectory() as place:
        files = samples(Path(place))
        whole = {name: (file.read_bytes(), reader(file)) for name, (file, reader, _) in files.items()}
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        sys.addaudithook(watch)
        signal.signal(signal.SIGALRM, hung)
        for number in range(count):
            draw = random.Random(f"{seed}-{number}")
            name = draw.choice(sorted(files))
            file, reader, sealed = files[name]
            file.write_bytes(mutated(whole[name][0], draw))
            print(f"{name} {seed}-{number}", file=sys.stderr, flush=True)
            signal.alarm(SECONDS)
            try:
                found = reader(file)
                signal.alarm(0)
                tally["read"] += 1
                if sealed and not same(found, whole[name][1]):
                    wrong.append(f"{name} {seed}-{number}: accepted what was never written")
            except InputError:
                tally["refused"] += 1
            except BaseException as error:
                wrong.append(f"{name} {seed}-{number}: {type(error).__name__}: {str(error)[:100]}")
            finally:
                signal.alarm(0)
    return {**tally, "wrong": wrong}


def run(seed: int, count: int) -> dict[str, Any]:
    """Read `count` damaged files in children; a child that dies is told by the file that it was reading."""
    total: dict[str, Any] = {"read": 0, "refused": 0, "wrong": []}
    for start in range(0, count, BATCH):
        size = min(BATCH, count - start)
        command = [sys.executable, __file__, "--child", "--seed", str(seed + start), "--count", str(size)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=120 + SECONDS * size, env=os.environ, check=False
            )
        except subprocess.TimeoutExpired:
            total["wrong"].append(f"the batch {seed + start} did not end")
            continue
        if done.returncode:
            total["wrong"].append(f"a child ended with {done.returncode}: {done.stderr[-300:]}")
            continue
        made = json.loads(done.stdout.splitlines()[-1])
        for name in ("read", "refused"):
            total[name] += made.get(name, 0)
        total["wrong"] += made["wrong"]
    return total


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--child", action="store_true")
    given = parser.parse_args()
    outcome = (read_batch if given.child else run)(given.seed, given.count)
    print(json.dumps(outcome))
    sys.exit(bool(outcome["wrong"]) and not given.child)
