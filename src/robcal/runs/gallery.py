"""Images of wrong predictions for the page: each as it is, changed as little as flips its label, and the difference."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import nn

from robcal.base.checks import IntArray
from robcal.base.distributed import choose_device
from robcal.base.errors import InputError
from robcal.base.results import GalleryItem, SmallestChange
from robcal.base.types import Float32Array
from robcal.calibration.binning import AnyFloatArray
from robcal.data import Split
from robcal.models import Average
from robcal.robustness.attacks import attack_batch
from robcal.robustness.engine import AttackResult
from robcal.robustness.inputs import read
from robcal.robustness.projection import Projection
from robcal.runs.directory import load_networks, open_run
from robcal.runs.measure import Measured
from robcal.runs.scores import moved

#: The page shows images at most so large; larger ones are shrunk.
LARGEST = 128
#: So many images of small size are shown; of others half as many.
MOST = 24
SMALL = 64


def gallery(run: Measured, levels: IntArray, *, count: int | None = None) -> tuple[GalleryItem, ...]:
    """Return images of a measured run that are wrong and sure; see `model_gallery`. Without images it is empty."""
    if run.images is None:
        return ()
    position = np.arange(len(run)) if run.scored is None else run.scored
    run = run.on_scored()
    assert run.images is not None
    members = [network for directory in run.networks for network in load_networks(open_run(directory))]
    model = members[0] if len(members) == 1 else Average(members).eval() if members else None
    items = model_gallery(
        model, Split(run.images, run.labels), run.probs, levels, run.dataset["class_names"], count=count
    )
    distances = [None if run.distance is None else float(run.distance[item.index]) for item in items]
    return tuple(
        replace(item, index=int(position[item.index]), distance=distance)
        for item, distance in zip(items, distances, strict=True)
    )


def model_gallery(
    model: nn.Module | None,
    part: Split,
    probs: AnyFloatArray,
    levels: IntArray,
    class_names: Sequence[str],
    *,
    device: str | None = None,
    count: int | None = None,
) -> tuple[GalleryItem, ...]:
    """Return images that are wrong and sure, of every level, the lowest level first, with the model's smallest changes.

    At most `count` are shown, of which levels take turns; by default 24, of images above 64 pixels 12.
    """
    shape = tuple(part.inputs.shape[1:])
    chosen = _chosen(probs, part.labels, levels, count or (MOST if max(shape[1:]) <= SMALL else MOST // 2))
    if not len(chosen):
        return ()
    originals = read(part.inputs, chosen).reshape(-1, *shape)
    changes = smallest_changes(model, originals, class_names, device=device)
    return tuple(
        GalleryItem(
            index=int(index),
            image_png=_png(_shrunk(original.numpy())),
            label=class_names[part.labels[index]],
            prediction=class_names[int(probs[index].argmax())],
            confidence=float(probs[index].max()),
            level=int(levels[index]),
            change=change,
        )
        for index, original, change in zip(chosen, originals, changes, strict=True)
    )


def _chosen(probs: AnyFloatArray, labels: IntArray, levels: IntArray, count: int) -> IntArray:
    """Positions of wrong predictions: the surest of each level, then the second of each, …; in order of the levels."""
    wrong = np.flatnonzero(probs.argmax(1) != labels)
    wrong = wrong[np.lexsort((-probs[wrong].max(1), levels[wrong]))]
    starts = np.searchsorted(levels[wrong], levels[wrong])
    turns = np.arange(len(wrong)) - starts
    return wrong[np.sort(np.argsort(turns, kind="stable")[:count])]


def smallest_changes(
    model: nn.Module | None, originals: torch.Tensor, class_names: Sequence[str], *, device: str | None = None
) -> list[SmallestChange | None]:
    """Change images (n, C, H, W) as little as flips their model's label; None where that was not found or tried."""
    found = None if model is None else _attacked(model, originals, choose_device(device))
    if found is None:
        return [None] * len(originals)
    points, rivals = found.point.cpu(), found.rival.tolist()
    return [
        _drawn(original.numpy(), point.numpy(), class_names[rival]) if verified else None
        for original, point, rival, verified in zip(originals, points, rivals, found.verified.tolist(), strict=True)
    ]


def _attacked(model: nn.Module, originals: torch.Tensor, place: str) -> AttackResult | None:
    """The nearest points with another label, found as the scores are; None of a model that cannot be attacked."""
    with moved(model, place):
        try:
            return attack_batch(Projection(), model, originals.to(place))
        except InputError:
            return None


def _drawn(original: Float32Array, changed: Float32Array, becomes: str) -> SmallestChange:
    """The changed image, and the difference on grey, amplified to the largest whole factor that cuts nothing off."""
    shrunk = _shrunk(changed)
    difference = shrunk - _shrunk(original)
    factor = max(1, math.floor(0.5 / max(float(np.abs(difference).max()), 1e-6)))
    return SmallestChange(
        image_png=_png(shrunk),
        difference_png=_png(0.5 + factor * difference),
        factor=factor,
        prediction=becomes,
        distance=float(np.linalg.norm(changed.astype(np.float64) - original)),
    )


def _shrunk(image: Float32Array) -> Float32Array:
    """(C, H, W) → the same with no side longer than `LARGEST`; every pixel is the mean of those it covers."""
    height, width = image.shape[1:]
    scale = LARGEST / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.stack([np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BOX)) for one in image])


def _png(image: Float32Array) -> bytes:
    """(C, H, W) floats in [0, 1] → PNG bytes."""
    pixels = (image * 255).round().clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels[:3].transpose(1, 2, 0))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
