"""How a model is run while it is measured: in eval mode, in float32 arithmetic, and left as it was found."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


@contextmanager
def scoring_mode(model: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Eval mode without parameter gradients, in float32; everything is put back on leaving, also after an error.

    Kept: `training` of every submodule, `requires_grad` of every parameter (their `.grad` is never touched), and the
    random state of torch (CPU and every CUDA device in use), numpy and Python.
    """
    module = model if isinstance(model, torch.nn.Module) else torch.nn.Module()
    trainable = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002  (kept, never drawn from)
    devices = sorted({p.device.index or 0 for p, _ in trainable if p.device.type == "cuda"})
    with ExitStack() as stack:
        stack.enter_context(eval_mode(module))
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(float32_arithmetic())
        for kind in ("cpu", "cuda") if devices else ("cpu",):
            stack.enter_context(torch.autocast(kind, enabled=False))
        try:
            for parameter, _ in trainable:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter, flag in trainable:
                parameter.requires_grad_(flag)
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Let new tensors be of a dtype unless they say another, as torch.set_default_dtype does for good."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


@contextmanager
def eval_mode(module: torch.nn.Module) -> Iterator[None]:
    """Put every part of a module into eval mode, and back afterwards.

    The flags are set by hand: exported programs forbid `eval()`, and parts of frozen scripts have no mode.
    """
    training = [(part, part.training) for part in module.modules() if hasattr(part, "training")]
    try:
        for part, _ in training:
            part.training = False
        yield
    finally:
        for part, flag in training:
            part.training = flag


@contextmanager
def float32_arithmetic() -> Iterator[None]:
    """Compute products of float32 numbers in float32, not in TF32 or bfloat16, which keep 10 and 7 bits of them.

    GPUs take TF32 for convolutions unless told not to, and torch.set_float32_matmul_precision("medium") makes CPUs take
    bfloat16. Both ways of setting this, the older and that of torch 2.9, are put back as they were found.
    """
    newer = _newer_settings()
    found = [place.fp32_precision for place in newer]
    try:
        products = torch.get_float32_matmul_precision()
    except RuntimeError:  # set in the newer way, which is put back below
        products = "highest"
    convolutions = torch.backends.cudnn.allow_tf32
    try:
        _set_older("highest", False)
        for place in newer:
            place.fp32_precision = "ieee"
        yield
    finally:
        _set_older(products, convolutions)
        for place, value in zip(newer, found, strict=True):
            place.fp32_precision = value


def _set_older(products: str, convolutions: bool) -> None:
    """Set what models and compilers may still ask for in the older way; torch for GPUs warns that there is a newer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def _newer_settings() -> list[Any]:
    """Where torch 2.9 and later keep the precision of float32 products; none in an earlier one."""
    backends: Any = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):
        return []
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    return [backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]
