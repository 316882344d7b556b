"""A few steps of training on small files in the official formats, through the command line's own path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from official_files import write_fashion_mnist, write_imagenet, write_svhn

from robcal.base.storage import load_predictions
from robcal.data import Dataset, load_dataset
from robcal.data.augment import pad_crop_flip, random_resized_crop
from robcal.methods import make_method
from robcal.runs.directory import load_model
from robcal.runs.train import train_run
from robcal.training.loading import Part
from robcal.training.member import Member, open_engine
from robcal.training.settings import Recipe, TrainSettings


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "model", "size", "counts"),
    [
        (write_svhn, "preact-resnet-20", None, (30, 20)),
        (write_fashion_mnist, "mlp", None, (30, 20)),
        (write_imagenet, "resnet-50", 64, (9, 6)),
    ],
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
    shape = [1, 28, 28] if write is write_fashion_mnist else [3, size or 32, size or 32]
    assert about["input_shape"] == shape
    inputs = run.dataset().split("test").batch(np.arange(counts[1]))
    with torch.no_grad():
        logits = network(inputs).numpy()
    assert np.allclose(logits, predictions.logits, atol=1e-3)


def _first_batch(data: Dataset, augment: Any) -> torch.Tensor:
    recipe = Recipe(epochs=1, batch_size=4)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 2))
    member = Member(
        network, data, make_method("vanilla"), recipe, open_engine("float32", "cpu"), augment=augment, seed=0
    )
    member.start_epoch(0)
    index = np.array([3, 0, 2])
    return member._batch(Part((0, 0), index, index, 5), None)[0].inputs


def test_training_cuts_large_pictures_out_at_their_own_resolution(tmp_path: Path) -> None:
    """The window comes out of the stored 80x100 pixels, not out of the 32x32 that the test shows."""
    data = load_dataset(write_imagenet(tmp_path), val_fraction=0.25, image_size=32)
    split, index = data.split("train"), np.array([3, 0, 2])
    got = _first_batch(data, random_resized_crop)
    assert torch.equal(got, split.random_crops(index, torch.Generator().manual_seed(5)))
    coarse = random_resized_crop(split.batch(index), torch.Generator().manual_seed(5))
    assert (got - coarse).abs().mean() > 0.01
    assert torch.equal(_first_batch(data, None), split.batch(index))

    def shifted(inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return pad_crop_flip(inputs, generator=generator)

    assert torch.equal(_first_batch(data, shifted), shifted(split.batch(index), torch.Generator().manual_seed(5)))
