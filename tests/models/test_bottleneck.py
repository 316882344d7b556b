from __future__ import annotations

import pytest
import torch
from torch import nn

from robcal.base.checks import InputError
from robcal.models import MODEL_NAMES, build_model
from robcal.models.resnet import Bottleneck, PreActivationBottleneck, large_resnet, preact_resnet


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _v2_formula(depth: int, classes: int) -> int:
    """Trainable parameters of the bottleneck v2 network, layer by layer from its description."""
    blocks, total, inside, width = (depth - 2) // 9, 3 * 9 * 16 + 16 + 2 * 16, 16, 16
    for stage, outside in enumerate((64, 128, 256)):
        for block in range(blocks):
            total += 0 if stage == block == 0 else 2 * inside  # normalisation
            total += (inside + 1) * width + 2 * width + (9 * width + 1) * width + 2 * width + (width + 1) * outside
            total += 0 if block else (inside + 1) * outside  # shortcut
            inside = outside
        width = outside
    return total + 2 * 256 + 257 * classes


def test_preactivation_networks_have_their_size() -> None:
    """ResNet-20 and 56 v2 as the summary of the Keras example prints them: all, and those that are not trained."""
    for depth, total, untrained in ((20, 574_090, 3_488), (56, 1_673_738, 10_400)):
        network = preact_resnet((3, 32, 32), 10, depth=depth)
        statistics = sum(buffer.numel() for name, buffer in network.named_buffers() if "running" in name)
        assert (_count(network) + statistics, statistics) == (total, untrained)
    for depth in (20, 29, 56, 110):
        for classes in (10, 100):
            assert _count(preact_resnet((3, 32, 32), classes, depth=depth)) == _v2_formula(depth, classes)


@pytest.mark.parametrize("depth", [20, 29, 56, 110])
def test_preactivation_networks_have_their_depth(depth: int) -> None:
    """Weighted layers on the longest path: the stem, three a block, and the last linear one."""
    network = preact_resnet((3, 32, 32), 10, depth=depth)
    layers = [m for name, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    shortcuts = [m for m in network.modules() if isinstance(m, PreActivationBottleneck) and m.shortcut is not None]
    assert len(layers) - len(shortcuts) == depth
    assert len(shortcuts) == 3


def test_large_networks_have_the_published_size() -> None:
    with torch.device("meta"):  # sizes only, nothing is stored
        sizes = {depth: _count(large_resnet((3, 224, 224), 1000, depth=depth)) for depth in (50, 101)}
    assert sizes == {50: 25_557_032, 101: 44_549_160}


def test_shapes_and_strides() -> None:
    small = build_model("preact-resnet-20", input_shape=(3, 32, 32), num_classes=7).eval()
    assert small(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    sides = [x.shape[-1] for x in _trace(small.network, torch.rand(1, 3, 32, 32)) if x.ndim == 4]
    assert [sides[position] for position in (0, 4, 6, 8)] == [32, 32, 16, 8]
    large = build_model("resnet-50", input_shape=(3, 64, 64), num_classes=5).eval()
    assert large(torch.rand(1, 3, 64, 64)).shape == (1, 5)
    sides = [x.shape[-1] for x in _trace(large.network, torch.rand(1, 3, 64, 64)) if x.ndim == 4]
    assert sorted(set(sides), reverse=True) == [32, 16, 8, 4, 2, 1]


def _trace(network: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    outputs = []
    assert isinstance(network, nn.Sequential)
    with torch.no_grad():
        for layer in network:
            x = layer(x)
            outputs.append(x)
    return outputs


def test_preactivation_block_is_the_papers_sum() -> None:
    """x + F(x), with F = conv(relu(bn(.))) three times (He et al. 2016b, equations 3 and 5)."""
    torch.manual_seed(0)
    block = PreActivationBottleneck(8, 4, 8, 1, active=False).eval()
    x = torch.randn(2, 8, 5, 5)
    y = x
    for norm, conv in ((block.norm1, block.conv1), (block.norm2, block.conv2), (block.norm3, block.conv3)):
        assert norm is not None
        y = conv((y / (1 + norm.eps) ** 0.5).clamp_min(0))
    torch.testing.assert_close(block(x), x + y)


def test_blocks_of_large_networks_begin_as_the_identity() -> None:
    network = large_resnet((3, 32, 32), 3, depth=50)
    block = next(m for m in network.modules() if isinstance(m, Bottleneck) and m.shortcut is None)
    x = torch.rand(2, block.conv1.in_channels, 4, 4)
    torch.testing.assert_close(block(x), x)


def test_models_of_large_images_by_seed() -> None:
    one, two = (build_model("preact-resnet-20", input_shape=(1, 8, 8), num_classes=3, seed=4) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("preact-resnet-21", (3, 32, 32), r"9 n \+ 2"),
        ("preact-resnet-2", (3, 32, 32), r"9 n \+ 2"),
        ("preact-resnet-20", (5,), "images"),
        ("resnet-18", (3, 224, 224), "resnet-50, resnet-101"),
        ("resnet-50", (3, 28, 28), "sides of 32 pixels"),
        ("resnet-101", (9,), "images"),
        ("resnet50", (3, 224, 224), "must be one of .*resnet-101, timm:NAME"),
    ],
)
def test_refused(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_model(name, input_shape=shape, num_classes=10)


def test_help_names_what_is_built() -> None:
    assert {"preact-resnet-110", "resnet-101", "timm:NAME", "package.module:factory"} <= set(MODEL_NAMES)
