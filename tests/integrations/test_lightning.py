"""The Lightning callback against the real library: the same numbers as a loop by hand, also over a checkpoint."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import robcal
from robcal.base.checks import InputError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("lightning"),
    pytest.mark.filterwarnings("ignore"),  # Lightning warns of its own use of torch
]

#: What a pair of processes imports once; see `two_processes`.
LIBRARIES = ("lightning", "robcal.integrations.lightning")

EPOCHS = 4
OPTIONS = {"num_classes": 3, "num_levels": 3, "epochs": EPOCHS, "controller": "integral", "step_size": 0.5}


def data() -> tuple[TensorDataset, TensorDataset]:
    """60 training examples with their positions, 45 validation examples; labels are noisy."""
    draw = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(105, 4, generator=draw), torch.randint(0, 3, (105,), generator=draw)
    return TensorDataset(inputs[:60], labels[:60], torch.arange(60)), TensorDataset(inputs[60:], labels[60:])


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))


def module(smoothing: robcal.ARAdaLS, outputs=lambda logits, labels: {"logits": logits, "labels": labels}):
    """A LightningModule that trains by AR-AdaLS."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = network()

        def training_step(self, batch, batch_idx):
            inputs, labels, index = batch
            return smoothing.loss(self.network(inputs), labels, index)

        def validation_step(self, batch, batch_idx):
            inputs, labels = batch
            return outputs(self.network(inputs), labels)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.3, momentum=0.9)

    return Module()


def trained(folder: Path, smoothing: robcal.ARAdaLS, epochs: int, start: Path | None = None, **options):
    """Fit, with a checkpoint after every epoch; returns the module."""
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint

    from robcal.integrations.lightning import ARAdaLSCallback

    train, val = data()
    trainer = lightning.Trainer(
        max_epochs=epochs,
        callbacks=[ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1), ARAdaLSCallback(smoothing)],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    made = module(smoothing)
    trainer.fit(made, DataLoader(train, 20), DataLoader(val, 20), ckpt_path=start)
    return made, trainer


def test_the_same_as_a_loop_by_hand(tmp_path: Path) -> None:
    """Two sanity batches before training are no update."""
    smoothing, by_hand = robcal.ARAdaLS(**OPTIONS), robcal.ARAdaLS(**OPTIONS)
    made, trainer = trained(tmp_path, smoothing, EPOCHS, num_sanity_val_steps=2)
    train, val = data()
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9)
    for _ in range(EPOCHS):
        for inputs, labels, index in DataLoader(train, 20):
            optimizer.zero_grad()
            by_hand.loss(net(inputs), labels, index).backward()
            optimizer.step()
        with torch.no_grad():
            update = by_hand.end_epoch(net(val.tensors[0]), val.tensors[1])
    assert by_hand.epsilon.max() > 0.01
    np.testing.assert_allclose(smoothing.epsilon, by_hand.epsilon, rtol=1e-5)
    torch.testing.assert_close(made.network.state_dict(), net.state_dict())
    assert int(smoothing.state_dict()["smoother.updates"]) == EPOCHS
    share = update.counts / update.counts.sum()
    assert float(trainer.callback_metrics["robcal/accuracy"]) == pytest.approx(share @ update.accuracy)


def test_a_checkpoint_holds_the_smoothing(tmp_path: Path) -> None:
    whole, first, second = (robcal.ARAdaLS(**OPTIONS) for _ in range(3))
    expected, _ = trained(tmp_path / "whole", whole, EPOCHS)
    trained(tmp_path / "parts", first, 2)
    made, _ = trained(tmp_path / "parts", second, EPOCHS, start=tmp_path / "parts" / "epoch=1.ckpt")
    np.testing.assert_array_equal(second.epsilon, whole.epsilon)
    np.testing.assert_array_equal(second.levels, whole.levels)
    torch.testing.assert_close(made.network.state_dict(), expected.network.state_dict())


def test_a_validation_without_training_is_no_update(tmp_path: Path) -> None:
    smoothing = robcal.ARAdaLS(**OPTIONS)
    made, trainer = trained(tmp_path, smoothing, 2)
    before = smoothing.epsilon.copy()
    trainer.validate(made, DataLoader(data()[1], 20), verbose=False)
    np.testing.assert_array_equal(smoothing.epsilon, before)


def of_share(smoothing: robcal.ARAdaLS, **options) -> nn.Module:
    """Fit; validation examples are numbered, for a sampler that shares them out repeats some."""
    import lightning

    from robcal.integrations.lightning import ARAdaLSCallback

    train, val = data()
    val = TensorDataset(val.tensors[0], torch.stack([val.tensors[1], torch.arange(len(val))], 1))
    trainer = lightning.Trainer(
        max_epochs=EPOCHS, callbacks=[ARAdaLSCallback(smoothing)], accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip
    made = module(smoothing, lambda logits, both: {"logits": logits, "labels": both[:, 0], "index": both[:, 1]})
    count, rank = trainer.world_size, trainer.global_rank
    share = DistributedSampler(train, num_replicas=count, rank=rank, shuffle=False)
    trainer.fit(made, DataLoader(train, 20 // count, sampler=share), DataLoader(val, 20 // count))
    return made


def worker() -> None:
    """One process of two."""
    smoothing = robcal.ARAdaLS(**OPTIONS)
    made = of_share(smoothing, strategy="ddp", devices=2)
    rank = os.environ["RANK"]
    found = (smoothing.state_dict(), torch.from_numpy(smoothing.levels), made.network.state_dict())
    torch.save(found, f"{os.environ['OUT']}/lightning-{rank}.pt")


def test_what_validation_step_must_return(tmp_path: Path) -> None:
    from robcal.integrations.lightning import ARAdaLSCallback

    class State:
        sanity_checking = False

    callback = ARAdaLSCallback(robcal.ARAdaLS(**OPTIONS))
    with pytest.raises(InputError, match=r'Let it return {"logits": logits, "labels": labels}'):
        callback.on_validation_batch_end(State(), None, None, None, 0)
    callback.on_validation_batch_end(State(), None, {"logits": torch.zeros(2, 3), "labels": torch.zeros(2)}, None, 0)


def test_a_training_without_validation_is_refused_at_its_start(tmp_path: Path) -> None:
    """It trained to the end without any smoothing."""
    smoothing = robcal.ARAdaLS(**OPTIONS)
    with pytest.raises(InputError, match="Pass validation data to fit"):
        trained(tmp_path, smoothing, 1, limit_val_batches=0)
    assert not smoothing.examples_shown
