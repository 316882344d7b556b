"""Inputs of any kind, a few at a time: what they must look like, and flat float32 tensors of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robcal.base.checks import IntArray, refuse
from robcal.data.dataset import Box, Inputs
from robcal.robustness.box import Bounds

#: What to do about inputs that are looked up in a table.
TOKENS = (
    "which have no distances, score the embeddings: pass their vectors as inputs (box=None), and as model the part "
    "that follows them"
)
#: Inputs are checked this many values at a time.
_CHECK_VALUES = 1 << 20


def read(inputs: Tensor | Inputs, index: IntArray) -> Tensor:
    """Return (B, D) float32 flat inputs at these positions, on the CPU; uint8 images are divided by 255."""
    values = inputs[torch.from_numpy(index)] if isinstance(inputs, Tensor) else torch.from_numpy(_copy(inputs[index]))
    flat = values.detach().cpu().reshape(len(index), -1)
    return flat.float() / 255 if flat.dtype == torch.uint8 else flat.float()


def _copy(values: Any) -> Any:
    """A contiguous, writable array in native byte order, which is what torch takes."""
    array = np.array(values)
    native = array.dtype.newbyteorder("=")
    return array.astype(np.float64 if native == np.longdouble else native, copy=False)


def check_shape(inputs: Tensor | Inputs) -> tuple[int, ...]:
    """Return the shape (N, …) of inputs of a kind that can be scored.

    Raises:
        InputError: for another kind, shape or dtype.
    """
    if not hasattr(inputs, "shape") or not hasattr(inputs, "dtype"):
        refuse(
            f"inputs are a {type(inputs).__name__}",
            "they must be a tensor, an array, or have shape, dtype and __getitem__",
            "Convert them with numpy.asarray or torch.stack",
        )
    if hasattr(inputs, "toarray") or getattr(inputs, "is_sparse", False) or getattr(inputs, "is_sparse_csr", False):
        dense = "`inputs.toarray()`" if hasattr(inputs, "toarray") else "`inputs.to_dense()`"
        refuse("inputs are sparse", "an adversarial input may differ anywhere", f"Pass {dense}")
    if isinstance(inputs, np.ma.MaskedArray) and np.ma.getmaskarray(inputs).any():
        refuse(
            f"{int(np.ma.getmaskarray(inputs).sum())} values of the inputs are masked",
            "every value is known",
            "Fill them as the model expects, for example `inputs.filled(inputs.mean())`",
        )
    shape = tuple(int(size) for size in inputs.shape)
    if len(shape) < 2:
        refuse(
            f"inputs have shape {shape}",
            "they must be (N, …), an example a row",
            "A single input is a batch of one, `inputs[None]`; single numbers are a column, `inputs[:, None]`",
        )
    if 0 in shape:
        refuse(f"inputs have shape {shape}", "there must be at least one example and one feature", "Check the split")
    dtype: Any = inputs.dtype
    if isinstance(dtype, torch.dtype):
        allowed, convert = dtype.is_floating_point or dtype == torch.uint8, "`inputs.float()`"
    else:
        allowed = np.dtype(dtype).kind == "f" or np.dtype(dtype) == np.uint8
        convert = '`np.asarray(inputs).astype("float32")`'
    if not allowed:
        refuse(
            f"inputs have dtype {dtype}",
            "distances are between real numbers: float32, or uint8 images from 0 to 255",
            f"Convert measurements by {convert}, with their box; of token ids, {TOKENS}",
        )
    return shape


def _blocks(shape: tuple[int, ...]) -> Iterator[IntArray]:
    rows = max(1, _CHECK_VALUES // max(1, int(np.prod(shape[1:]))))
    for start in range(0, shape[0], rows):
        yield np.arange(start, min(start + rows, shape[0]))


def check_values(inputs: Tensor | Inputs, shape: tuple[int, ...], bounds: Bounds, box: Box) -> None:
    """Read all inputs once, a few at a time, and refuse what is not finite or lies outside the box.

    Raises:
        InputError: if there are any such inputs.
    """
    is_bytes = inputs.dtype in (torch.uint8, np.uint8)
    if is_bytes and not (bool((bounds.lo > 0).any()) or bool((bounds.hi < 1).any())):
        return
    outside, worst, where = 0, 0.0, -1
    for index in _blocks(shape):
        x = read(inputs, index)
        bad = ~torch.isfinite(x).all(1)
        if bool(bad.any()):
            refuse(
                f"{int(bad.sum())} inputs hold NaN or infinite values (first at index {int(index[bad.numpy()][0])})",
                "inputs must be finite",
                "Fill the gaps as they were filled in training, or leave these inputs out",
            )
        excess = bounds.excess(x)
        outside += int((excess > 0).sum())
        if float(excess.max()) > worst:
            worst, where = float(excess.max()), int(index[int(excess.argmax())])
    if outside:
        refuse(
            f"{outside} of {shape[0]} inputs lie outside box={box}, by up to {worst:.4g} (index {where})",
            "every input lies in the box",
            "Pass the box of these inputs, or box=None; put any normalisation inside the model, not before it",
        )
