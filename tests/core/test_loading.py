"""Inputs that are read while a step is made, and what `robcal train --profile` tells of it."""

import re
import threading

import numpy as np
import pytest
import torch

from robcal.base.checks import InputError
from robcal.commands.cli import main
from robcal.data import Dataset, Split
from robcal.methods import make_method
from robcal.training import profile as profiles
from robcal.training.loading import AHEAD, Loader, Part
from robcal.training.loop import fit
from robcal.training.profile import PARTS, Profile

CPU = torch.device("cpu")


class OnDisk:
    """Inputs that are read when they are asked for; keeps what was."""

    def __init__(self, values, broken=()):
        self.values, self.broken, self.read, self.met = values, set(broken), [], threading.Condition()
        self.shape, self.dtype = values.shape, values.dtype

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        if self.broken & set(np.asarray(index).tolist()):
            raise InputError("a picture is damaged")
        with self.met:
            self.read.append(index.tolist())
            self.met.notify_all()
        return self.values[index]

    def wait_for(self, count):
        """Whether so many batches are read, now or soon."""
        with self.met:
            return self.met.wait_for(lambda: len(self.read) >= count, timeout=60)


def parts(count, size=4):
    index = np.arange(count * size).reshape(count, size)
    return [Part((number, 0), whole, whole, None) for number, whole in enumerate(index)]


def test_what_comes_next_is_read_while_nobody_asks():
    inputs, wanted = OnDisk(np.arange(40, dtype=np.float32)[:, None]), parts(6)
    loader = Loader(Split(inputs, np.zeros(40, np.int64)), CPU, crops=False)
    for number, part in enumerate(wanted):
        found, _ = loader.load(part, torch.from_numpy(part.index), wanted[number + 1 :])
        assert found.squeeze(1).tolist() == part.index.tolist()
        assert inputs.wait_for(min(number + 1 + AHEAD, len(wanted)))
    assert inputs.read == [part.index.tolist() for part in wanted]  # each once, in order
    loader.close()


def test_a_new_epoch_forgets_what_was_read():
    inputs = OnDisk(np.arange(40, dtype=np.float32)[:, None])
    loader, (first, second, *_) = Loader(Split(inputs, np.zeros(40, np.int64)), CPU, crops=False), parts(2)
    loader.load(first, torch.from_numpy(first.index), [second])
    loader.start_epoch()
    other = Part(second.key, second.everyone + 20, second.index + 20, None)
    found, _ = loader.load(other, torch.from_numpy(other.index), [])
    assert found.squeeze(1).tolist() == other.index.tolist()
    loader.close()


def test_inputs_are_turned_into_floats_where_they_are_wanted():
    """Bytes move to a GPU in a quarter of the time of floats."""
    split = Split(np.arange(48, dtype=np.uint8).reshape(1, 3, 4, 4), np.zeros(1, np.int64))
    found = split.batch(np.array([0]), device="meta")
    assert (found.device.type, found.dtype, found.shape) == ("meta", torch.float32, (1, 3, 4, 4))
    torch.testing.assert_close(split.batch(np.array([0])), torch.arange(48).reshape(1, 3, 4, 4) / 255)


def data_of(inputs):
    splits = {
        name: Split(inputs, np.arange(len(inputs)) % 3) if name == "train" else Split(inputs.values, np.arange(60) % 3)
        for name in ("train", "val", "test")
    }
    return Dataset("blobs", splits, ("a", "b", "c"), None, "table", "blobs")


def trained(data, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(8, 3)
        )
    fit(model, data, make_method("mixup"), epochs=2, batch_size=20, accumulate=2, device="cpu", **options)
    return torch.cat([parameter.detach().ravel() for parameter in model.parameters()])


def test_reading_ahead_changes_no_number():
    values = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    on_disk = data_of(OnDisk(values))
    kept = Dataset(**{**vars(on_disk), "splits": {**on_disk.splits, "train": Split(values, np.arange(60) % 3)}})
    noise = lambda inputs, generator: inputs + torch.randn(inputs.shape, generator=generator)  # noqa: E731
    assert torch.equal(trained(on_disk, augment=noise), trained(kept, augment=noise))


def test_what_cannot_be_read_ends_the_training_with_its_message():
    values = np.zeros((60, 5), np.float32)
    with pytest.raises(InputError, match="a picture is damaged"):
        trained(data_of(OnDisk(values, broken=[59])))


def test_a_profile_adds_up(monkeypatch):
    """By a clock that moves on a second at each look: every part takes one, and the rest is other."""
    ticks = iter(range(1000))
    monkeypatch.setattr(profiles.time, "perf_counter", lambda: float(next(ticks)))
    profile, values = Profile(), np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    trained(data_of(OnDisk(values)), profile=profile)
    micro_batches, steps, epochs = 12, 6, 2
    assert list(profile.seconds) == list(PARTS)
    assert list(profile.seconds.values()) == [micro_batches, micro_batches, micro_batches, steps, epochs]
    assert profile.step_waits() == pytest.approx(12 / 42)
    profile.total = 100.0
    assert profile.shares() == pytest.approx(
        {"data": 0.12, "forward": 0.12, "backward": 0.12, "optimizer": 0.06, "validation": 0.02, "other": 0.56}
    )


@pytest.mark.slow
def test_the_command_tells_what_its_steps_wait_for(tmp_path, capsys):
    command = ["train", "--data", "digits", "--model", "mlp", "--method", "vanilla", "--epochs", "2", "--train-limit",
               "200", "--device", "cpu", "--quiet", "--profile", "--out", str(tmp_path / "run")]  # fmt: skip
    told = []
    for _ in range(2):
        with pytest.raises(SystemExit, match="0"):
            main(command)
        told.append(capsys.readouterr().out)
    shares = [float(share) for share in re.findall(r"[a-z]+ ([\d.]+)%", told[0].partition("training took")[2])]
    assert len(shares) >= 6
    assert sum(shares[:6]) == pytest.approx(100, abs=0.4)
    assert re.search(r"a step waits [\d.]+% for its data", told[0])
    assert "nothing was trained" in told[1]
