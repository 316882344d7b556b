"""Small files of every format, written once a test."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

BATCH_STEMS = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
PER_BATCH = 20


@pytest.fixture(scope="session")
def batches() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images (20, 3072) and labels of six small official batches."""
    rng = np.random.default_rng(0)
    return {
        stem: (rng.integers(0, 256, (PER_BATCH, 3072), dtype=np.uint8), rng.permutation(np.arange(PER_BATCH) % 10))
        for stem in BATCH_STEMS
    }


@pytest.fixture(scope="session")
def binary_members(batches: dict) -> dict[str, bytes]:
    """The batches as the binary version stores them."""
    return {
        f"{stem}.bin": np.concatenate([labels[:, None].astype(np.uint8), images], axis=1).tobytes()
        for stem, (images, labels) in batches.items()
    }


@pytest.fixture(scope="session")
def python_members(batches: dict) -> dict[str, bytes]:
    """The batches as the Python version stores them: pickled dicts with bytes for keys."""
    return {
        stem: pickle.dumps(
            {b"batch_label": stem.encode(), b"labels": labels.tolist(), b"data": images, b"filenames": [b"a.png"]},
            protocol=2,
        )
        for stem, (images, labels) in batches.items()
    }


@pytest.fixture
def write_tar() -> Callable[[Path, dict[str, bytes]], Path]:
    def write(path: Path, members: dict[str, bytes]) -> Path:
        with tarfile.open(path, "w:gz") as archive:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return path

    return write


def encode(image: np.ndarray, form: str = "PNG") -> bytes:
    """An (H, W, 3) or (H, W) uint8 image as a picture file."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, form)
    return stream.getvalue()


@pytest.fixture
def write_parquet() -> Callable[..., Path]:
    def write(
        path: Path,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        column: str = "img",
        label: str = "label",
        form: str = "PNG",
        struct: bool = True,
    ) -> Path:
        data = [encode(image.reshape(3, 32, 32).transpose(1, 2, 0), form) for image in images]
        cells = [{"bytes": item, "path": f"{row}.png"} for row, item in enumerate(data)] if struct else data
        pq.write_table(pa.table({column: cells, label: labels}), path)
        return path

    return write


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    """Ten 6x4 (height x width) colour PNGs in each of the classes ant and bee."""
    rng = np.random.default_rng(1)
    for name in ("ant", "bee"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(10):
            image = rng.integers(0, 256, (6, 4, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / "pictures" / name / f"{number}.png")
    return tmp_path / "pictures"
