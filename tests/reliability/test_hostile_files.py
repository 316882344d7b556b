"""Files that are damaged, of another kind, or declare what they do not hold are refused by name and at once."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.io import savemat

from robcal.base.checks import InputError, check_output
from robcal.base.encoding import sealed
from robcal.base.files import locked, replacing
from robcal.base.npy import map_npy
from robcal.base.results import MethodResult, Results
from robcal.base.storage import (
    load_arrays,
    load_checkpoint,
    load_fidelity,
    load_json,
    load_results,
    load_scores,
    load_state,
    save_array,
    save_arrays,
    save_checkpoint,
    save_json,
    save_results,
    save_state,
)
from robcal.base.types import Estimate, FidelityRow
from robcal.base.user_files import read_array
from robcal.calibration.recalibration import Recalibrator, load_recalibrator
from robcal.comparison.plan_file import load_plan
from robcal.data import load_dataset
from robcal.data.cifar import read_cifar10
from robcal.data.npz import read_npz
from robcal.data.pickles import load_arrays as load_pickle
from robcal.data.pictures import open_picture
from robcal.data.svhn import read_svhn
from robcal.models import build_model
from robcal.runs.directory import load_model
from robcal.training.settings import TrainSettings

X, Y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2

READERS = {
    "json": load_json,
    "results.json": load_results,
    "parquet": load_scores,
    "safetensors": load_arrays,
    "checkpoint.safetensors": load_model,
    "pt": load_state,
    "npy": lambda path: read_array(path, "it"),
    "npz": lambda path: read_npz(str(path)),
    "csv": lambda path: read_array(path, "it"),
    "toml": lambda path: load_plan(str(path)),
    "recalibrator.json": load_recalibrator,
    "png": lambda path: open_picture(path, "RGB"),
}


# kinds of places -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("what", ["pipe", "folder", "long name", "below a file"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, kind, what):
    path = tmp_path / f"x.{kind}"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "long name":
        path = tmp_path / f"{'x' * 300}.{kind}"
    else:
        (tmp_path / "file").touch()
        path = tmp_path / "file" / path.name
    start = time.perf_counter()
    with pytest.raises(InputError):
        READERS[kind](path)
    assert time.perf_counter() - start < 5


# what cannot be written ----------------------------------------------------------------------------------------------

WRITERS = {
    "json": lambda path: save_json([0] * 100_000, path),
    "array": lambda path: save_array(np.arange(100_000), path),
    "safetensors": lambda path: save_arrays({"x": np.arange(100_000)}, path),
    "checkpoint": lambda path: save_checkpoint({"w": torch.zeros(100_000)}, {"model": "mlp"}, path),
    "state": lambda path: save_state({"w": torch.zeros(100_000)}, path),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_told_by_name_and_keeps_what_was_there(tmp_path, kind):
    """A limit on the size of files fails the write as a full disk does, in whatever library writes."""
    import resource

    path = tmp_path / "x.out"
    path.write_text("before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(InputError, match=r"x\.out cannot be written"):
            WRITERS[kind](path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_folder_that_takes_no_files_is_told_by_name(tmp_path, code):
    with (
        mock.patch("tempfile.mkstemp", side_effect=OSError(code, os.strerror(code))),
        pytest.raises(InputError, match=rf"x\.json cannot be written \({os.strerror(code)}\)"),
    ):
        save_json({}, tmp_path / "x.json")


def test_a_file_where_a_folder_should_be_is_told(tmp_path):
    (tmp_path / "file").touch()
    for call in (
        lambda: save_json({}, tmp_path / "file" / "deep" / "x.json"),
        lambda: check_output(tmp_path / "file" / "deep" / "x.json", overwrite=True),
        lambda: locked(tmp_path / "file" / "x.lock").__enter__(),
    ):
        with pytest.raises(InputError, match="file"):
            call()


def test_what_a_killed_writer_left_is_removed_by_the_next_process_and_no_living_one_loses_its_file(tmp_path):
    program = (
        "import sys, os, signal; from pathlib import Path; from robcal.base.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); "
    )
    target = tmp_path / "x.json"
    subprocess.run([sys.executable, "-c", program + "os.kill(os.getpid(), signal.SIGKILL)", target], check=False)
    assert len(list(tmp_path.glob(".x.json.*.tmp"))) == 1
    with tempfile.TemporaryDirectory() as other, replacing(Path(other) / "x.json") as living:
        whole = (
            "from robcal.base.storage import save_json; import sys, pathlib; save_json({}, pathlib.Path(sys.argv[1]))"
        )
        for folder in (tmp_path, Path(other)):
            subprocess.run([sys.executable, "-c", whole, folder / "x.json"], check=True)
        assert list(tmp_path.iterdir()) == [target]
        assert living.exists()


# crafted files -------------------------------------------------------------------------------------------------------


def header(text: str, data: bytes = b"") -> bytes:
    body = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body + data


HEADERS = {
    "a billion entries": "{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000,)}",
    "a negative size": "{'descr': '<i8', 'fortran_order': False, 'shape': (-1,)}",
    "sizes whose product overflows": f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({2**62}, 4)}}",
    "a structure": "{'descr': [('a', '<i8')], 'fortran_order': False, 'shape': (1,)}",
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
    "no dictionary": "[1, 2]",
    "an expression": "__import__('os').system('true')",
    "depth": "(" * 5000,
    "missing keys": "{'descr': '<i8'}",
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_of_npy_that_lie_are_refused_before_memory_is_taken(tmp_path, name):
    (tmp_path / "x.npy").write_bytes(header(HEADERS[name], b"\0" * 8))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x_train.npy", header(HEADERS[name], b"\0" * 8))
    for call in (
        lambda: read_array(tmp_path / "x.npy", "it"),
        lambda: map_npy(tmp_path / "x.npy", "it"),
        lambda: read_npz(str(tmp_path / "x.npz")),
    ):
        with pytest.raises(InputError, match=r"x\.np"):
            call()


def test_a_member_of_npz_that_is_no_array_is_named(tmp_path):
    np.savez(tmp_path / "x.npz", x_train=X, y_train=Y)
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("notes.txt", "text")
    with pytest.raises(InputError, match=r"notes\.txt: it is no \.npy file"):
        read_npz(str(tmp_path / "x.npz"))


def test_results_and_metadata_of_another_shape_are_refused(tmp_path):
    path = tmp_path / "x.json"
    for text in ("[]", "3", '{"title": 3, "dataset": {}, "methods": []}', '{"methods": {"a": 1}}', "[" * 100_000):
        path.write_text(text)
        with pytest.raises(InputError, match=r"x\.json"):
            load_results(path)
    pq.write_table(pa.table({"distance": [1.0]}).replace_schema_metadata({"robcal": "[1]"}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"x\.parquet"):
        load_scores(tmp_path / "x.parquet")
    (tmp_path / "x.pt").write_bytes(pickle.dumps([1]))
    with pytest.raises(InputError, match=r"x\.pt"):
        load_state(tmp_path / "x.pt")


def test_nested_toml_and_wrong_kinds_of_keys_are_refused(tmp_path):
    for text in ("a = " + "[" * 100_000, "methods = 3", "recipe = 3\nmethods = []\nseeds = [0]", "ood = []", "\x00"):
        (tmp_path / "x.toml").write_text(text)
        with pytest.raises(InputError):
            load_plan(str(tmp_path / "x.toml"), recipe={"epochs": 1}, seeds=[0], ood={"x": "digits"})


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    model = build_model("mlp", input_shape=(3,), num_classes=2)
    about = {"model": "mlp", "input_shape": [3], "num_classes": 2}
    save_checkpoint(model.state_dict(), about, tmp_path / "good.safetensors")
    load_model(tmp_path / "good.safetensors")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    next(tensor for tensor in state.values() if tensor.ndim == 2)[0, 0] = float("nan")
    save_checkpoint(state, about, tmp_path / "bad.safetensors")
    with pytest.raises(InputError, match=r"bad\.safetensors holds NaN"):
        load_model(tmp_path / "bad.safetensors")


# a reader that dies --------------------------------------------------------------------------------------------------


def test_the_death_of_the_reader_of_mat_files_is_a_refusal(tmp_path):
    images = np.zeros((32, 32, 3, 4), np.uint8)
    for part in ("train", "test"):
        savemat(tmp_path / f"{part}_32x32.mat", {"X": images, "y": np.array([[1], [2], [10], [3]])})
    assert read_svhn(str(tmp_path)).parts["train"].labels.tolist() == [1, 2, 0, 3]
    dying = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    with mock.patch("robcal.data.svhn._CHILD", dying), pytest.raises(InputError, match="ended by signal 11"):
        read_svhn(str(tmp_path))


# sizes that are declared ---------------------------------------------------------------------------------------------


def big_npz(path: Path, name: str) -> None:
    """A file of about 1 MB whose member inflates to 1 GB of zeros."""
    np.savez(path, x_train=X, y_train=Y)
    text = "{'descr': '|u1', 'fortran_order': False, 'shape': (1073741824,)}"
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open(f"{name}.npy", "w") as member:
        member.write(header(text))
        for _ in range(64):
            member.write(bytes(2**24))


@pytest.fixture(scope="module")
def inflated(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("npz") / "big.npz"
    big_npz(path, "unused")
    return path


def test_a_member_that_nobody_uses_is_not_read(inflated):
    assert inflated.stat().st_size < 2**21
    start = time.perf_counter()
    assert read_npz(str(inflated)).parts["train"].inputs.shape == (40, 3)
    assert time.perf_counter() - start < 1


def test_a_member_that_inflates_to_a_gigabyte_is_refused_in_under_a_second(inflated):
    start = time.perf_counter()
    with pytest.raises(InputError, match=r"unused of .*big\.npz would be 1,024 MiB"):
        read_array(Path(f"{inflated}:unused"), "the labels")
    assert time.perf_counter() - start < 1


def test_a_parquet_file_of_a_billion_equal_labels_is_refused(tmp_path):
    with pq.ParquetWriter(tmp_path / "x.parquet", pa.schema([("label", pa.int64())])) as writer:
        part = pa.table({"label": np.zeros(10_000_000, np.int64)})
        for _ in range(5):
            writer.write_table(part)
    assert (tmp_path / "x.parquet").stat().st_size < 2**20
    with pytest.raises(InputError, match=r"x\.parquet would be"):
        read_array(tmp_path / "x.parquet", "the labels")


def rewritten(source: Path, target: Path, change, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))


def read_state_dict(path: Path) -> object:
    from robcal.models.weights import read_weights

    return read_weights(path)


@pytest.mark.parametrize("load", [load_state, read_state_dict])
def test_a_file_of_torch_that_declares_more_than_it_holds_is_refused_before_torch_reads_it(tmp_path, load):
    good, bad = tmp_path / "good.pt", tmp_path / "bad.pt"
    save_state({"w": torch.zeros(4), "b": torch.zeros(3, dtype=torch.float64)}, good)
    assert load(good)["b"].dtype == torch.float64

    def many(name: str, data: bytes) -> bytes:
        number = b"J" + struct.pack("<i", 2**30)
        return data.replace(b"K\x04tq", number + b"tq").replace(b"K\x04\x85", number + b"\x85")

    rewritten(good, bad, many)
    with mock.patch("torch.load", side_effect=AssertionError("torch reads it")):
        with pytest.raises(InputError, match=r"it declares 4,294,967,296 bytes of tensor \d, and 16 are stored"):
            load(bad)
        rewritten(good, bad, lambda name, data: bytes(2**26) if name.endswith("data/0") else data, zipfile.ZIP_DEFLATED)
        assert bad.stat().st_size < 2**18
        with pytest.raises(InputError, match=r"bad\.pt .*its members are packed"):
            load(bad)


def test_what_a_state_names_is_neither_imported_nor_called(tmp_path):
    class Runs:
        def __reduce__(self):
            return os.system, ("touch " + str(tmp_path / "ran"),)

    torch.save({"w": torch.zeros(2), "x": Runs()}, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"x\.pt"):
        load_state(tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_that_names_one_list_a_billion_times_is_refused():
    value: object = [0]
    for _ in range(30):
        value = [value, value]
    start = time.perf_counter()
    with pytest.raises(InputError, match="more than 300,000 things"):
        load_pickle(pickle.dumps(value), source="laughs")
    assert time.perf_counter() - start < 5


def test_a_pickle_that_numbers_an_object_two_billion_is_refused():
    with pytest.raises(InputError, match="it numbers an object 2147483647"):
        load_pickle(b"\x80\x02]r\xff\xff\xff\x7f.", source="memo")


def test_a_grid_of_millions_and_a_billion_members_are_refused(tmp_path):
    plan = 'seeds = [0]\n[recipe]\ndata = "digits"\nmodel = "mlp"\nepochs = 1\n'
    plan += '[[methods]]\nlabel = "a"\nmethod = "vanilla"\n'
    values = list(range(1, 301))
    grid = f"grid = {{epochs = {values}, batch_size = {values}, learning_rate = {values}}}\n"
    members = '[[ensembles]]\nlabel = "e"\nof = "a"\nmembers = 1000000000\n'
    for text, message in ((plan + grid, "has 27,000,000 points"), (plan + members, "members is 1000000000")):
        (tmp_path / "x.toml").write_text(text)
        start = time.perf_counter()
        with pytest.raises(InputError, match=message):
            load_plan(str(tmp_path / "x.toml"))
        assert time.perf_counter() - start < 1
    with pytest.raises(InputError, match="--members is 1,000,000,000"):
        TrainSettings("digits", "mlp", "vanilla", epochs=1, members=10**9)


@pytest.mark.parametrize(
    "about",
    [
        {"model": "wrn-1000000-100", "input_shape": [3, 32, 32], "num_classes": 10},
        {"model": "wrn-28-100000", "input_shape": [3, 32, 32], "num_classes": 10},
        {"model": "preact-resnet-900002", "input_shape": [3, 32, 32], "num_classes": 10},
        {"model": "mlp", "input_shape": [3], "num_classes": 10**9},
        {"model": "mlp", "input_shape": [10**9], "num_classes": 2},
        {"model": "mlp", "input_shape": 3, "num_classes": 2},
        {"model": "mlp", "input_shape": [3], "num_classes": -1},
        {"model": "mlp" + "+dropout" * 5000, "input_shape": [3], "num_classes": 2},
        {"model": 7, "input_shape": None, "num_classes": "x"},
    ],
    ids=lambda about: str(about)[:80],
)
def test_a_checkpoint_that_declares_a_network_of_any_size_is_refused(tmp_path, about):
    save_checkpoint({"w": torch.zeros(3)}, about, tmp_path / "m.safetensors")
    start = time.perf_counter()
    with pytest.raises(InputError):
        load_model(tmp_path / "m.safetensors")
    assert time.perf_counter() - start < 2
    assert load_checkpoint(tmp_path / "m.safetensors")[1] == json.loads(json.dumps(about))


def test_a_picture_of_a_hundred_million_pixels_in_a_kilobyte_is_refused(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    whole = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(whole)
    assert len(whole) < 1000
    for source, mode in ((tmp_path / "x.png", "RGB"), (tmp_path / "x.png", None), (io.BytesIO(whole).read(), "L")):
        start = time.perf_counter()
        with pytest.raises(InputError, match="is no readable picture"):
            open_picture(source, mode)
        assert time.perf_counter() - start < 1


def test_a_data_set_that_is_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "p")
    for spec in ("npz", "cifar10", "cifar100", "svhn", "fashion-mnist", "idx", "imagenet", "folder"):
        with pytest.raises(InputError):
            load_dataset(f"{spec}:{tmp_path / 'p'}")


def write_cifar(path: Path, size: int | None = None) -> None:
    """The binary archive of CIFAR-10 with one picture a batch; `size`: what the first header declares."""
    record = bytes([3]) + bytes(range(256)) * 12
    with tarfile.open(path, "w:gz") as archive:
        for stem in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
            info = tarfile.TarInfo(f"{stem}.bin")
            info.size = len(record)
            archive.addfile(info, io.BytesIO(record))
    if size is not None:
        info.size = size
        path.write_bytes(gzip.compress(info.tobuf() + record))


def test_an_archive_is_read_to_its_checksum_and_no_member_of_any_size_is_taken(tmp_path):
    path = tmp_path / "cifar-10-binary.tar.gz"
    write_cifar(path)
    assert read_cifar10(str(path)).parts["train"].labels.tolist() == [3] * 5
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] + bytes(4) + whole[-4:])
    with pytest.raises(InputError, match=r"is no readable archive .*CRC"):
        read_cifar10(str(path))
    write_cifar(path, size=2**40)
    with pytest.raises(InputError, match=r"is no readable archive .*test_batch\.bin would be 1,099,511,627,776 bytes"):
        read_cifar10(str(path))


def test_a_state_whose_bytes_were_changed_is_refused(tmp_path):
    save_state({"w": torch.arange(100.0)}, tmp_path / "state.pt")
    data = bytearray((tmp_path / "state.pt").read_bytes())
    at = data.index(np.float32(57).tobytes())
    data[at] ^= 1
    (tmp_path / "state.pt").write_bytes(data)
    with pytest.raises(InputError, match="checksum"):
        load_state(tmp_path / "state.pt")


def test_a_changed_number_in_results_or_a_recalibrator_is_refused_and_files_without_a_seal_are_read(tmp_path):
    method = MethodResult("vanilla", "Plain", (0,), {"ece": Estimate(0.125, 0.0, 0.25)})
    recalibrator = Recalibrator("temperature").fit(4 * np.eye(3)[np.arange(90) % 3], np.arange(90) // 2 % 3)
    row = FidelityRow("projection", "candidate", {"near": Estimate(0.125)})
    for path, load, digits in (
        (save_results(Results("t", {"name": "d"}, (method,)), tmp_path / "results.json"), load_results, "0.125"),
        (save_json(sealed({"rows": [row], "about": {}}), tmp_path / "fidelity.json"), load_fidelity, "0.125"),
        (recalibrator.save(tmp_path / "recalibrator.json"), load_recalibrator, '"seed": 0'),
    ):
        whole = path.read_text()
        load(path)
        changed = whole.replace(digits, digits[:-1] + "7", 1)
        assert changed != whole
        path.write_text(changed)
        with pytest.raises(InputError, match=rf"{path.name} was changed after it was written"):
            load(path)
        older = json.loads(whole)
        del older["seal"]
        path.write_text(json.dumps(older))
        load(path)
