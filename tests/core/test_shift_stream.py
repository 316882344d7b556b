"""Cells stream in batches: the same figures as from whole arrays, in memory that does not grow with the images."""

import io
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch

from robcal.base.checks import InputError
from robcal.data import Split, load_dataset, shifts
from robcal.data.corrupted import load_corrupted
from robcal.data.corruptions import BENCHMARK_KINDS, corrupt
from robcal.data.shifts import IMAGE_CORRUPTIONS, official_files, table_corruptions
from robcal.data.table_shift import TABLE_KINDS, Features, shift_table
from robcal.models import build_model
from robcal.runs import shift as shift_module
from robcal.runs.shift import ShiftImages, _logits
from robcal.training.predict import average_logits, predict_logits

KINDS = ("fog", "shot_noise", "motion_blur", "elastic_transform", "jpeg_compression")


def networks(count, shape=(1, 8, 8), name="mlp"):
    return [build_model(name, input_shape=shape, num_classes=10, seed=seed).eval() for seed in range(count)]


def colour(n, side=32, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (n, 3, side, side), dtype=np.uint8)
    return Split(images, np.arange(n) % 10)


def at_once(split, kind, severity):
    """The whole cell as one array."""
    return corrupt(split.batch(np.arange(len(split))).numpy(), kind, severity, seed=0)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("values", [shift_module.BLOCK_VALUES, 500 * 64])
def test_logits_are_those_of_whole_arrays(members, kept, values, tmp_path, monkeypatch):
    """Bit for bit: 719 digits in two batches, made, kept and read back, one network and the average of three.

    Whether a block is all of them or a batch, as it is of many.
    """
    monkeypatch.setattr(shift_module, "BLOCK_VALUES", values)
    test, models = load_dataset("digits").split("test"), networks(members)
    images = ShiftImages.of(test, "digest", num_classes=10, folder=tmp_path if kept else None)
    for kind in KINDS:
        whole = Split(at_once(test, kind, 3), test.labels)
        expected = average_logits([predict_logits(model, whole, batch_size=500) for model in models])
        for _ in range(2 if kept else 1):
            np.testing.assert_array_equal(_logits(models, images.shifted(kind, 3), "cpu"), expected)


def test_kept_files_are_those_of_earlier_versions(tmp_path):
    """Their names, and the bytes that numpy.save writes of the whole cell."""
    test = colour(24)
    for limit, name in ((None, "1076e732feb10509"), (20, "4d20c3f4fa94c1b2")):
        images = ShiftImages.of(test, "0123456789abcdef", num_classes=10, limit=limit, folder=tmp_path / str(limit))
        cell = images.cell("snow", 4)
        (file,) = (tmp_path / str(limit)).rglob("*.npy")
        stream = io.BytesIO()
        np.save(stream, at_once(images.split, "snow", 4))
        assert file.read_bytes() == stream.getvalue()
        assert file.name == "snow-4.npy"
        assert file.parent.name == name
        np.testing.assert_array_equal(cell[np.arange(len(images.split))], at_once(images.split, "snow", 4))


@pytest.mark.parametrize("kind", BENCHMARK_KINDS)
def test_neither_batch_nor_order_nor_threads_change_an_image(kind, monkeypatch):
    test = colour(9, side=16)
    whole = at_once(test, kind, 2)
    lazy = IMAGE_CORRUPTIONS.shifted(test, np.arange(9), kind, 2).inputs
    assert (lazy.shape, lazy.dtype) == (whole.shape, whole.dtype)
    for index in (np.arange(9), np.arange(4, 9), np.array([7, 2, 3, 3, 0]), np.array([-1]), np.array([], int)):
        np.testing.assert_array_equal(lazy[index], whole[index])
    monkeypatch.setattr(shifts, "LARGE_VALUES", 1)
    monkeypatch.setattr(shifts, "CHUNK_VALUES", 2 * whole[0].size)
    for cores in (1, 4):
        monkeypatch.setattr("os.sched_getaffinity", lambda pid, cores=cores: set(range(cores)), raising=False)
        np.testing.assert_array_equal(lazy[np.arange(9)], whole)


def test_large_images_are_corrupted_by_several_threads_and_small_ones_are_not(monkeypatch):
    import threading

    workers = set()

    def watched(*arguments, **options):
        workers.add(threading.get_ident())
        return corrupt(*arguments, **options)

    monkeypatch.setattr(shifts, "corrupt", watched)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)), raising=False)
    for side, alone in ((32, True), (148, False)):
        workers.clear()
        test = colour(20, side)
        IMAGE_CORRUPTIONS.shifted(test, np.arange(20), "brightness", 1).inputs[np.arange(20)]
        assert (threading.get_ident() in workers) is alone


@pytest.mark.parametrize("kind", TABLE_KINDS)
def test_rows_of_tables_are_those_of_the_whole_table(kind):
    rows = np.random.default_rng(1).normal(size=(600, 5)).astype(np.float32)
    features = Features.of(rows)
    test = Split(rows, np.arange(600) % 3)
    for box in (None, (-1.0, 1.5)):
        images = ShiftImages.of(test, "digest", num_classes=3, source=table_corruptions(features, box))
        whole = shift_table(rows, kind, 4, features=features, seed=0)
        whole = whole if box is None else np.clip(whole, *box)
        for index in (np.arange(600), np.arange(500, 600), np.array([17, 4])):
            np.testing.assert_array_equal(images.shifted(kind, 4).inputs[index], whole[index])


def test_cells_too_large_for_the_disk_are_made_anew(tmp_path, monkeypatch):
    test = load_dataset("digits").split("test")
    images = ShiftImages.of(test, "digest", num_classes=10, limit=60, folder=tmp_path)
    monkeypatch.setattr(shift_module, "KEPT_BYTES", 60 * 64 * 4 - 1)
    made = images.cell("fog", 2)[np.arange(60)]
    assert not list(tmp_path.rglob("*"))
    monkeypatch.setattr(shift_module, "KEPT_BYTES", 60 * 64 * 4)
    np.testing.assert_array_equal(images.cell("fog", 2)[np.arange(60)], made)
    assert len(list(tmp_path.rglob("*.npy"))) == 1
    monkeypatch.setattr(shift_module, "KEPT_BYTES", 0)  # what is there is read, whatever its size
    monkeypatch.setattr(shifts, "corrupt", lambda *arguments, **options: pytest.fail("made again"))
    np.testing.assert_array_equal(images.cell("fog", 2)[np.arange(60)], made)


def test_a_damaged_file_is_named(tmp_path):
    images = ShiftImages.of(load_dataset("digits").split("test"), "digest", num_classes=10, folder=tmp_path)
    images.cell("fog", 2)
    (file,) = tmp_path.rglob("*.npy")
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"fog-2\.npy"):
        images.cell("fog", 2)


def test_batches_of_large_images_are_small():
    class Seen(torch.nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            return x.mean((2, 3))

    for shape, expected in (((3, 32, 32), [500, 200]), ((3, 224, 224), [111] * 6 + [34])):
        sizes = []
        inputs = np.broadcast_to(np.zeros((1, 1, 1, 1), np.uint8), (700, *shape))
        _logits([Seen()], Split(inputs, np.zeros(700, np.int64)), "cpu")
        assert sizes == expected


def test_official_arrays_stay_on_disk(tmp_path, monkeypatch):
    """A cell of CIFAR-10-C, 10,000 images, is 30.7 MB; what is read of it at a time is a block."""
    monkeypatch.setattr(shift_module, "BLOCK_VALUES", 500 * 3072)
    kinds = ("fog",)
    labels = np.tile(np.arange(10_000, dtype=np.uint8) % 10, 5)
    np.save(tmp_path / "labels.npy", labels)
    shape = (50_000, 32, 32, 3)
    np.lib.format.open_memmap(tmp_path / "fog.npy", mode="w+", dtype=np.uint8, shape=shape).flush()  # a sparse file
    source = official_files(load_corrupted(f"cifar10c:{tmp_path}", kinds=kinds))
    index = np.arange(9_000)
    test = Split(np.broadcast_to(np.uint8(0), (9_000, 3, 32, 32)), labels[:9_000].astype(np.int64))
    tracemalloc.start()
    split = source.shifted(test, index, "fog", 5)
    for block in shift_module._blocks(split):
        assert block.inputs.shape == (500, 3, 32, 32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6
    limited = load_corrupted(f"cifar10c:{tmp_path}", kinds=kinds, test_limit=5000)["fog", 1]
    assert not isinstance(limited.inputs, np.ndarray)


def test_official_arrays_in_parts_are_the_rows_they_name(tmp_path):
    stored = np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "fog.npy", stored)
    np.save(tmp_path / "labels.npy", np.tile(np.arange(20) % 10, 5))
    cell = load_corrupted(f"cifar10c:{tmp_path}", kinds=("fog",))["fog", 3]
    part = cell.subset(np.array([19, 3, 4, 8])).subset(np.array([3, 0]))
    np.testing.assert_array_equal(part.inputs[np.array([1, 0])], stored[[59, 48]].transpose(0, 3, 1, 2))
    assert part.inputs.shape == (2, 3, 32, 32)
    assert part.labels.tolist() == [8, 9]


MEMORY = """
import resource, sys
import numpy as np, torch
from pathlib import Path
from PIL import Image
from robcal.data import load_dataset
from robcal.data.shifts import IMAGE_CORRUPTIONS, official_files
from robcal.data.corrupted import load_corrupted
from robcal.runs.shift import ShiftImages, _logits
torch.set_num_threads(1)
root = Path(sys.argv[1])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
class Mean(torch.nn.Module):
    def forward(self, x): return x.mean((2, 3))
data = load_dataset(f"imagenet:{root / 'imagenet'}", val_fraction=0.5)
test = data.split("test")
cells = load_corrupted(f"imagenetc:{root / 'imagenet-c'}", kinds=("fog",), class_names=data.class_names)
for source, kind in ((IMAGE_CORRUPTIONS, "contrast"), (official_files(cells), "fog")):
    peaks = []
    for limit in (130, None):
        images = ShiftImages.of(test, data.digest("test"), num_classes=2, limit=limit, source=source)
        assert _logits([Mean()], images.shifted(kind, 1), "cpu").shape == (limit or 600, 3)
        peaks.append(peak())
    print(*peaks)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory are in other units elsewhere")
def test_memory_does_not_grow_with_the_images(tmp_path):
    """600 pictures of 224x224 pixels are 361 MB as floats; the peak with them is that with 130, made or read."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(stream, "JPEG")
    for folder, count in (
        ("imagenet/train", 4),
        ("imagenet/val", 300),
        *((f"imagenet-c/fog/{s}", 300) for s in "12345"),
    ):
        for wnid in ("n01440764", "n01443537"):
            (tmp_path / folder / wnid).mkdir(parents=True)
            for number in range(count if not folder.endswith(tuple("2345")) else 1):
                (tmp_path / folder / wnid / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(stream.getvalue())
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        few, many = map(float, line.split())
        assert many - few < 60, done.stdout
    assert len(done.stdout.splitlines()) == 2
