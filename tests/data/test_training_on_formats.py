"""A few steps of training on small files in the official formats, through the command line's own path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from robcal.artifacts import load_predictions
from robcal.config import TrainSettings
from robcal.runs import load_model, train_run


def _write_svhn(folder: Path) -> str:
    rng = np.random.default_rng(0)
    for name, count in (("train", 40), ("test", 20)):
        y = np.tile(np.arange(1, 11, dtype=np.uint8), count // 10)[:, None]
        savemat(folder / f"{name}_32x32.mat", {"X": rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8), "y": y})
    return f"svhn:{folder}"


def _write_imagenet(folder: Path) -> str:
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 3)):
        for wnid in ("n01440764", "n01443537"):
            (folder / part / wnid).mkdir(parents=True)
            for number in range(count):
                image = rng.integers(0, 256, (80 + number, 100, 3), dtype=np.uint8)
                Image.fromarray(image).save(folder / part / wnid / f"{wnid}_{number}.JPEG")
    return f"imagenet:{folder}"


@pytest.mark.parametrize(
    ("write", "model", "size", "counts"),
    [(_write_svhn, "preact-resnet-20", None, (30, 20)), (_write_imagenet, "resnet-50", 64, (9, 6))],
)
def test_a_run(write: object, model: str, size: int | None, counts: tuple[int, int], tmp_path: Path) -> None:
    assert callable(write)
    (tmp_path / "data").mkdir()
    settings = TrainSettings(
        data=write(tmp_path / "data"),
        model=model,
        method="vanilla",
        epochs=1,
        batch_size=5,
        augment="standard",
        val_fraction=0.25,
        image_size=size,
        device="cpu",
    )
    run = train_run(settings, tmp_path / "run")
    predictions = load_predictions(tmp_path / "run" / "predictions-test.safetensors")
    assert len(predictions.labels) == counts[1]
    assert len(run.dataset().split("train")) == counts[0]
    network, about = load_model(tmp_path / "run")
    assert about["input_shape"] == [3, size or 32, size or 32]
    inputs = run.dataset().split("test").batch(np.arange(counts[1]))
    with torch.no_grad():
        logits = network(inputs).numpy()
    assert np.allclose(logits, predictions.logits, atol=1e-3)
