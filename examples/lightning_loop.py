"""
Lightning
=========

AR-AdaLS in Lightning: the lines marked `# robcal` are what a LightningModule and its Trainer need. Run it by::

    python examples/lightning_loop.py

Trains a small network on noisy handwritten digits (scikit-learn's, no download), as usual and by AR-AdaLS, and prints
accuracy and calibration error on test examples.
"""

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import robcal  # robcal
from robcal.integrations.lightning import ARAdaLSCallback  # robcal

EPOCHS, CLASSES = 30, 10


class Classifier(lightning.LightningModule):
    """A network of three layers."""

    def __init__(self, smoothing: robcal.ARAdaLS | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(
            nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, CLASSES)
        )
        self.smoothing = smoothing  # robcal

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return the loss of a batch."""
        inputs, labels, index = batch  # robcal: the position of each example beside it
        if self.smoothing is not None:
            return self.smoothing.loss(self.network(inputs), labels, index)  # robcal
        return nn.functional.cross_entropy(self.network(inputs), labels)

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        """Return what the callback measures."""
        inputs, labels = batch
        return {"logits": self.network(inputs), "labels": labels}  # robcal

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def load() -> list[TensorDataset]:
    """Return 500 training, 597 validation and 700 test examples; noise makes some of them hard."""
    generator = torch.Generator().manual_seed(0)
    images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    images = images.float() / 16 + 0.4 * torch.randn(images.shape, generator=generator)
    order = torch.randperm(len(images), generator=generator)
    return [TensorDataset(images[part], labels[part]) for part in order.split([500, 597, 700])]


def main() -> None:
    """Train both ways."""
    train, val, test = load()
    train = TensorDataset(*train.tensors, torch.arange(len(train)))  # robcal
    for name, smoothing in (("as usual", None), ("with robcal", robcal.ARAdaLS(CLASSES, epochs=EPOCHS))):
        model = Classifier(smoothing)
        trainer = lightning.Trainer(
            max_epochs=EPOCHS,
            callbacks=[] if smoothing is None else [ARAdaLSCallback(smoothing)],  # robcal
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, DataLoader(train, 50, shuffle=True), DataLoader(val, 200))
        images, labels = test.tensors
        with torch.no_grad():
            probs = model.network(images).softmax(1)
        accuracy, error = (probs.argmax(1) == labels).float().mean(), robcal.calibration_error(probs, labels)
        print(f"{name}: test accuracy {accuracy:.3f}, calibration error (ECE) {error:.3f}")


if __name__ == "__main__":
    main()
