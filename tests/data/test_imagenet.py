from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from official_files import WNIDS, jpeg, write_shard, write_shards
from PIL import Image

from robcal.base.checks import InputError
from robcal.data import Dataset, load_dataset
from robcal.data.imagenet import read_imagenet
from robcal.data.parquet import ParquetRows
from robcal.data.pictures import LazyPictures, ManyPictures, fit, in_threads


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """train/ (8 a class) and val/ (2 a class) of three classes; one picture is grey, as some of ImageNet's are."""
    for part, count in (("train", 8), ("val", 2)):
        for label, wnid in enumerate(WNIDS):
            (tmp_path / part / wnid).mkdir(parents=True)
            for number in range(count):
                data = jpeg(100 * label + number, colour=bool(label or number))
                (tmp_path / part / wnid / f"{wnid}_{number}.JPEG").write_bytes(data)
    return tmp_path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_shards(tmp_path)


def test_folders(folders: Path) -> None:
    parts = read_imagenet(str(folders), 16)
    assert (parts.name, parts.class_names) == ("ImageNet (3 classes)", WNIDS)
    train, test = parts.parts["train"], parts.parts["test"]
    assert train.inputs.shape == (24, 3, 16, 16)
    assert train.labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert read_imagenet(str(folders)).parts["test"].inputs.shape == (6, 3, 224, 224)
    for position, file in ((0, "n01440764_0"), (9, "n01443537_1")):
        with Image.open(folders / "train" / file[:9] / f"{file}.JPEG") as picture:
            expected = np.asarray(fit(picture.convert("RGB"), (16, 16), 224 / 256)).transpose(2, 0, 1)
        assert np.array_equal(train.inputs[np.array([position])][0], expected)


def test_the_standard_centre() -> None:
    """Resizing the shorter side to 256 and cutting the central 224 shows this window; an exact one at whole pixels."""
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None] * 4, (32, 64, 3))
    shown = np.asarray(fit(Image.fromarray(np.ascontiguousarray(ramp)), (28, 28), 224 / 256))
    assert np.array_equal(shown, ramp[2:30, 18:46])  # 28 of 32 rows, and as many columns about the middle


def test_validation_is_cut_and_stays_lazy(folders: Path) -> None:
    data = load_dataset(f"imagenet:{folders}", val_fraction=0.25, image_size=8, train_limit=12, seed=3)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 12, "val": 6, "test": 6}
    assert np.bincount(data.split("val").labels).tolist() == [2, 2, 2]
    for split in data.splits.values():
        assert isinstance(split.inputs, ManyPictures)
        names = [Path(name).parent.name for name, _ in split.inputs.source.read(np.arange(len(split)))]
        assert names == [WNIDS[label] for label in split.labels]


def test_shards(shards: Path) -> None:
    parts = read_imagenet(str(shards), 16)
    assert parts.class_names == WNIDS
    train, test = parts.parts["train"], parts.parts["test"]
    assert train.labels.tolist() == [seed % 3 for seed in range(24)]
    assert len(test) == 6
    order = np.array([23, 0, 19, 20, 7, 7])
    got = train.inputs[order]
    for row, seed in enumerate(order):
        with Image.open(io.BytesIO(jpeg(int(seed)))) as picture:
            assert np.array_equal(got[row], np.asarray(fit(picture, (16, 16), 0.875)).transpose(2, 0, 1))
    subset = train.subset(np.array([20, 3]))
    assert np.array_equal(subset.inputs[np.array([1, 0])], train.inputs[np.array([3, 20])])


def test_shards_without_names_of_classes(tmp_path: Path) -> None:
    for part, first in (("train", 0), ("validation", 10)):
        write_shard(tmp_path / f"{part}.parquet", [(label, first + label) for label in range(4)], names=None)
    assert read_imagenet(str(tmp_path)).class_names == ("0", "1", "2", "3")


@pytest.mark.parametrize("form", ["folders", "shards"])
def test_random_crops_come_from_the_stored_picture(form: str, request: pytest.FixtureRequest) -> None:
    split = read_imagenet(str(request.getfixturevalue(form)), 12).parts["train"]
    index = np.array([5, 0, 11, 5])
    one, two = (split.random_crops(index, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.shape == (4, 3, 12, 12)
    assert 0 <= one.min() < one.max() <= 1
    assert not torch.equal(one[0], one[3])
    assert not torch.equal(one, split.random_crops(index, torch.Generator().manual_seed(5)))


def test_a_crop_shows_its_window(tmp_path: Path) -> None:
    """A window of the picture's own resolution, resized by Pillow, mirrored or not."""
    from robcal.data.augment import CropDraws
    from robcal.data.pictures import FileList

    image = np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    pictures = LazyPictures(FileList.of(tmp_path, ["a.png"]), (10, 10), "RGB", True)
    share, corner = 100 / 800, (5.5 / 11, 10.5 / 31)  # a 10x10 window at row 5 and column 10
    for mirrored in (False, True):
        draws = CropDraws(np.array([[share]]), np.array([[1.0]]), np.array([corner]), np.array([mirrored]))
        expected = image[5:15, 10:20][:, :: -1 if mirrored else 1]
        assert np.array_equal(pictures.crops(np.array([0]), draws)[0], expected.transpose(2, 0, 1))


def _digests(path: Path) -> list[str]:
    data: Dataset = load_dataset(f"imagenet:{path}", val_fraction=0.25, image_size=8)
    return [data.digest(name) for name in data.splits]


@pytest.mark.parametrize("form", ["folders", "shards"])
def test_digests_decode_nothing_and_tell_files_apart(
    form: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = request.getfixturevalue(form)
    monkeypatch.setattr(LazyPictures, "__getitem__", lambda self, index: pytest.fail("decoded"))
    first = _digests(path)
    assert first == _digests(path)
    assert len(set(first)) == 3
    file = sorted(file for file in path.rglob("*train*") if file.is_file() or form == "folders")[0]
    file = next(file.rglob("*.JPEG")) if file.is_dir() else file
    with file.open("ab") as stream:
        stream.write(b"\0" if form == "folders" else b"")
    if form == "shards":
        write_shard(file, [(seed % 3, seed) for seed in range(19)] + [(1, 99)])
    assert _digests(path) != first


def test_threads_change_nothing(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = read_imagenet(str(folders), 16).parts["train"].inputs
    monkeypatch.setattr("robcal.data.pictures.MAX_WORKERS", 1)
    alone = inputs[np.arange(24)]
    monkeypatch.setattr("robcal.data.pictures.MAX_WORKERS", 8)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)), raising=False)
    assert np.array_equal(inputs[np.arange(24)], alone)


def test_pictures_are_decoded_by_several_threads(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from robcal.data import pictures

    workers = set()

    def decode(*arguments: object, **options: object) -> object:
        workers.add(threading.get_ident())
        return open_picture(*arguments, **options)  # type: ignore[arg-type]

    open_picture = pictures.open_picture
    monkeypatch.setattr(pictures, "open_picture", decode)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)), raising=False)
    read_imagenet(str(folders), 16).parts["train"].inputs[np.arange(24)]
    assert workers
    assert threading.get_ident() not in workers


def test_errors_of_threads_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)), raising=False)
    threads = in_threads(lambda item: (item, threading.get_ident()), range(40), each=1)
    assert [item for item, _ in threads] == list(range(40))
    assert threading.get_ident() not in {ident for _, ident in threads}
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda item: 1 / (item - 7), range(40))


def test_a_row_group_is_read_once_a_batch(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from robcal.data import parquet

    inputs = read_imagenet(str(shards), 8).parts["train"].inputs
    assert isinstance(inputs, ManyPictures)
    assert isinstance(inputs.source, ParquetRows)
    parquet._read_group.cache_clear()
    inputs[np.arange(24)]
    assert parquet._read_group.cache_info().misses == 7 + 2  # 20 and 4 rows in groups of 3


def _remove_val(path: Path) -> None:
    (path / "val").rename(path / "elsewhere")


def _flat_val(path: Path) -> None:
    _remove_val(path)
    (path / "val").mkdir()
    (path / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(jpeg(0))


def _foreign_class(path: Path) -> None:
    (path / "val" / "n01440764").rename(path / "val" / "n09999999")


def _damage(path: Path) -> None:
    (path / "train" / WNIDS[1] / f"{WNIDS[1]}_1.JPEG").write_bytes(jpeg(0)[:50])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_remove_val, r"no val/ with class folders.*ILSVRC2012_img_val.tar \(6,744,924,160 bytes"),
        (_flat_val, "no val/ with class folders.*sort the pictures"),
        (_foreign_class, "has a class n09999999"),
        (_damage, "n01443537_1.JPEG is no readable picture"),
    ],
)
def test_damaged_folders(change: object, message: str, folders: Path) -> None:
    assert callable(change)
    change(folders)
    with pytest.raises(InputError, match=message):
        read_imagenet(str(folders), 8).parts["train"].inputs[np.arange(24)]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no train/ .* and no val/ .*image-net.org.*147,897,477,120 bytes"):
        read_imagenet(str(tmp_path))


def test_damaged_shards(shards: Path) -> None:
    (shards / "data" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(InputError, match=r"1 of 2 shards.*missing is train-00001-of-00002.parquet"):
        read_imagenet(str(shards))
    write_shard(shards / "data" / "train-00001-of-00002.parquet", [(3, 0)])
    with pytest.raises(InputError, match="holds 3 at index 20"):
        read_imagenet(str(shards))
    table = pa.table({"image": pa.array([{"bytes": None}], pa.struct([("bytes", pa.binary())])), "label": [1]})
    pq.write_table(table, shards / "data" / "train-00001-of-00002.parquet")
    with pytest.raises(InputError, match=r"row 0 of .*train-00001-of-00002.parquet has no image bytes"):
        read_imagenet(str(shards)).parts["train"].inputs[np.array([20])]
    (shards / "data" / "validation-00000-of-00001.parquet").unlink()
    with pytest.raises(InputError, match=r"no val\*.parquet"):
        read_imagenet(str(shards))
