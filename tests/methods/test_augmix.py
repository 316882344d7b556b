import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from robcal.base.checks import InputError
from robcal.data import Dataset, Split
from robcal.data.corruptions import CORRUPTIONS
from robcal.data.operations import OPERATIONS, Choice, operate
from robcal.methods import make_method
from robcal.methods.augmix import draw_chains, mixed
from robcal.training.loop import fit


def pictures(count, side=32, seed=0):
    """Smooth colour pictures, one of a single colour and one of two values among them."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    found = np.stack(
        [np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC)) for one in coarse]
    )
    found[0] = 77
    found[1] = np.where(rng.random((side, side, 1)) < 0.5, 10, 200)
    return found


def by_pillow(picture, name, level, sign):
    """The oracle: the operation as the authors' code calls Pillow, with the drawn strength."""
    image = Image.fromarray(picture)
    width, height = image.size

    def moved(*matrix):
        return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)

    return np.asarray({
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "posterize": lambda: ImageOps.posterize(image, 4 - int(level * 4 / 10)),
        "solarize": lambda: ImageOps.solarize(image, 256 - int(level * 256 / 10)),
        "rotate": lambda: image.rotate(sign * int(level * 30 / 10), resample=Image.Resampling.BILINEAR),
        "shear-x": lambda: moved(1, sign * level * 0.3 / 10, 0, 0, 1, 0),
        "shear-y": lambda: moved(1, 0, 0, sign * level * 0.3 / 10, 1, 0),
        "translate-x": lambda: moved(1, 0, sign * int(level * width / 3 / 10), 0, 1, 0),
        "translate-y": lambda: moved(1, 0, 0, 0, 1, sign * int(level * height / 3 / 10)),
    }[name]())  # fmt: skip


def tensor_of(found):
    return torch.from_numpy(np.ascontiguousarray(found.transpose(0, 3, 1, 2)))


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_pillow_s(name):
    rng, count = np.random.default_rng(1), 60
    found = pictures(count)
    level, sign = rng.uniform(0.1, 10, count), rng.choice([-1.0, 1.0], count)
    choice = Choice(torch.full((count,), OPERATIONS.index(name)), torch.from_numpy(level), torch.from_numpy(sign))
    made = operate(tensor_of(found), choice).numpy().transpose(0, 2, 3, 1).astype(int)
    expected = np.stack([by_pillow(*row) for row in zip(found, [name] * count, level, sign, strict=True)]).astype(int)
    assert (expected != found).mean() > 0.05
    if name in OPERATIONS[:3] or name == "solarize":
        np.testing.assert_array_equal(made, expected)
    else:  # sums of float32 and of float64 are cut off to whole numbers
        assert np.abs(made - expected).max() <= 1
        assert (made != expected).mean() < 0.01


def test_images_are_changed_each_by_its_own_operation_and_some_by_none():
    found, count = pictures(30), 30
    operation = np.arange(count) % 10 - 1
    rng = np.random.default_rng(2)
    level, sign = rng.uniform(0.1, 3, count), rng.choice([-1.0, 1.0], count)
    made = operate(tensor_of(found), Choice(*map(torch.from_numpy, (operation, level, sign)))).numpy()
    for row in range(count):
        name = OPERATIONS[operation[row]]
        expected = found[row] if operation[row] < 0 else by_pillow(found[row], name, level[row], sign[row])
        assert np.abs(made[row].transpose(1, 2, 0).astype(int) - expected).max() <= 1


def test_a_mixture_is_algorithm_1_by_hand():
    """Example by example, chain by chain, by Pillow."""
    found, chains = pictures(12, 16), draw_chains(12, 3.0, 3, 1.0, 5)
    inputs = tensor_of(found).float() / 255
    made = mixed(inputs, chains)
    for b in range(12):
        total = np.zeros((16, 16, 3))
        for w in range(3):
            picture = found[b]
            for step in range(3):
                if (number := chains.operation[b, w, step]) >= 0:
                    picture = by_pillow(picture, OPERATIONS[number], chains.level[b, w, step], chains.sign[b, w, step])
            total += chains.weight[b, w] * picture / 255
        by_hand = chains.share[b] * found[b] / 255 + (1 - chains.share[b]) * total
        np.testing.assert_allclose(made[b].numpy().transpose(1, 2, 0), by_hand, atol=0.02)
        assert np.abs(made[b].numpy().transpose(1, 2, 0) - by_hand).mean() < 1e-3


def test_draws_are_those_of_the_paper():
    chains = draw_chains(20_000, 3.0, 3, 1.0, 0)
    lengths = (chains.operation >= 0).sum(2)
    assert np.bincount(lengths.ravel())[1:] / lengths.size == pytest.approx([1 / 3] * 3, abs=0.01)
    used = chains.operation[chains.operation >= 0]
    assert np.bincount(used) / used.size == pytest.approx([1 / 9] * 9, abs=0.01)
    assert 0.1 <= chains.level.min() < 0.11
    assert 2.99 < chains.level.max() <= 3
    np.testing.assert_allclose(chains.weight.sum(1), 1)
    assert chains.weight.var(0) == pytest.approx([1 / 18] * 3, abs=2e-3)  # Dirichlet(1, 1, 1)
    assert (chains.share.mean(), chains.share.var()) == pytest.approx((1 / 2, 1 / 12), abs=5e-3)  # uniform


def test_no_operation_is_a_corruption_of_the_test():
    assert not set(OPERATIONS) & {name.replace("_", "-") for name in CORRUPTIONS}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_keeps_labels_range_layout_and_follows_the_generator(layout):
    inputs = (tensor_of(pictures(8)).float() / 255).contiguous(memory_format=layout)
    targets = torch.eye(8)
    method = make_method("augmix")
    made, same = method.augment(inputs, targets, torch.Generator().manual_seed(3))
    again, _ = method.augment(inputs, targets, torch.Generator().manual_seed(3))
    other, _ = method.augment(inputs, targets, torch.Generator().manual_seed(4))
    assert same is targets
    assert torch.equal(made, again)
    assert not torch.equal(made, other)
    assert made.is_contiguous(memory_format=layout)
    assert made.min() >= 0
    assert made.max() <= 1
    assert (made - inputs).abs().mean() > 0.01


@pytest.mark.slow
def test_it_learns_and_resumes_to_the_last_bit(resumes, digits, tiny_mlp):
    _, history = resumes(make_method("augmix"))
    assert np.isfinite([row.train_loss for row in history]).all()
    network = tiny_mlp()
    assert fit(network, digits, make_method("augmix"), epochs=15, batch_size=32, device="cpu")[-1].val_accuracy > 0.8


def test_tables_and_options_out_of_range_are_refused():
    split = Split(np.zeros((6, 4), np.float32), np.arange(6) % 2)
    table = Dataset("t", {"train": split, "val": split, "test": split}, ("a", "b"), None, "table", "t")
    for name in ("augmix", "adals+augmix"):
        with pytest.raises(InputError, match="method augmix with a table"):
            fit(torch.nn.Linear(4, 2), table, make_method(name), epochs=1, device="cpu",
                levels={part: np.zeros(6, np.int64) for part in ("train", "val")})  # fmt: skip
    with pytest.raises(InputError, match="severity"):
        make_method("augmix", severity=11)
    with pytest.raises(InputError, match="width"):
        make_method("augmix", width=0)
