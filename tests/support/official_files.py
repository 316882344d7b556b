"""Small data sets of random pixels in the files that the originals are published in; each returns its `--data` text."""

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from scipy.io import savemat

WNIDS = ("n01440764", "n01443537", "n02119789")


def write_svhn(folder: Path) -> str:
    rng = np.random.default_rng(0)
    for name, count in (("train", 40), ("test", 20)):
        y = np.tile(np.arange(1, 11, dtype=np.uint8), count // 10)[:, None]
        savemat(folder / f"{name}_32x32.mat", {"X": rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8), "y": y})
    return f"svhn:{folder}"


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of bytes as an idx file (LeCun et al. 1998)."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(length.to_bytes(4, "big") for length in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_fashion_mnist(folder: Path) -> str:
    """The training part packed, as it is published, the test part not."""
    rng = np.random.default_rng(0)
    for stem, count, suffix, pack in (("train", 40, ".gz", gzip.compress), ("t10k", 20, "", bytes)):
        images, labels = rng.integers(0, 256, (count, 28, 28)), np.arange(count) % 10
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            (folder / f"{stem}-{kind}-ubyte{suffix}").write_bytes(pack(idx_bytes(array)))
    return f"fashion-mnist:{folder}"


def write_imagenet(folder: Path) -> str:
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 3)):
        for wnid in ("n01440764", "n01443537"):
            (folder / part / wnid).mkdir(parents=True)
            for number in range(count):
                image = rng.integers(0, 256, (80 + number, 100, 3), dtype=np.uint8)
                Image.fromarray(image).save(folder / part / wnid / f"{wnid}_{number}.JPEG")
    return f"imagenet:{folder}"


def jpeg(seed: int, *, colour: bool = True) -> bytes:
    """A picture of a size of its own, as ImageNet's are."""
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(20, 60)), int(rng.integers(20, 60)), 3)[: 3 if colour else 2]
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def write_shard(path: Path, rows: list[tuple[int, int]], *, names: tuple[str, ...] | None = WNIDS, group: int = 3):
    """A shard of rows (label, seed) as hubs write them: bytes and path, an int64 label, features as JSON."""
    table = pa.table(
        {
            "image": [{"bytes": jpeg(seed), "path": f"{seed}.JPEG"} for _, seed in rows],
            "label": pa.array([label for label, _ in rows], pa.int64()),
        }
    )
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=group)


def write_shards(folder: Path) -> Path:
    """20 + 4 training rows in two shards and 6 of validation, labels in no order; a test shard without labels."""
    rows = [(seed % 3, seed) for seed in range(24)]
    (folder / "data").mkdir(parents=True)
    write_shard(folder / "data" / "train-00000-of-00002.parquet", rows[:20])
    write_shard(folder / "data" / "train-00001-of-00002.parquet", rows[20:])
    write_shard(folder / "data" / "validation-00000-of-00001.parquet", [(seed % 3, 50 + seed) for seed in range(6)])
    write_shard(folder / "data" / "test-00000-of-00001.parquet", [(-1, 90), (-1, 91)])
    return folder
