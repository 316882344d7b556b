"""
An ordinary PyTorch loop
========================

AR-AdaLS in an ordinary PyTorch loop: `train_with_robcal` is `train` with the lines marked `# robcal` changed.
Run it by::

    python examples/pytorch.py

Both train a small network on noisy handwritten digits (scikit-learn's, no download); accuracy and calibration error on
test examples are printed. It takes about ten seconds on one CPU core.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import robcal  # robcal

EPOCHS, CLASSES = 40, 10


def train(data: TensorDataset, val: TensorDataset) -> nn.Module:
    """Train as usual."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(data, batch_size=50, shuffle=True)
    for epoch in range(EPOCHS):
        model.train()
        for inputs, labels in loader:
            loss = nn.functional.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        val_logits = predict(model, val)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: accuracy {(val_logits.argmax(1) == val.tensors[1]).float().mean():.3f}")
    return model


def train_with_robcal(data: TensorDataset, val: TensorDataset) -> nn.Module:
    """Train by AR-AdaLS."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    data = TensorDataset(*data.tensors, torch.arange(len(data)))  # robcal: the position of each example beside it
    loader = DataLoader(data, batch_size=50, shuffle=True)
    smoothing = robcal.ARAdaLS(CLASSES, epochs=EPOCHS)  # robcal
    for epoch in range(EPOCHS):
        model.train()
        for inputs, labels, index in loader:  # robcal
            loss = smoothing.loss(model(inputs), labels, index)  # robcal
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        val_logits = predict(model, val)
        update = smoothing.end_epoch(val_logits, val.tensors[1])  # robcal
        if epoch % 10 == 9:
            print(update)  # robcal
    return model


def predict(model: nn.Module, data: TensorDataset) -> torch.Tensor:
    """Return the logits of all examples in eval mode."""
    model.eval()
    with torch.no_grad():
        return model(data.tensors[0])


def network() -> nn.Module:
    """Return a network with the same weights each time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, CLASSES))


def load() -> list[TensorDataset]:
    """Return 500 training, 597 validation and 700 test examples; noise makes some of them hard."""
    generator = torch.Generator().manual_seed(0)
    images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    images = images.float() / 16 + 0.4 * torch.randn(images.shape, generator=generator)
    order = torch.randperm(len(images), generator=generator)
    return [TensorDataset(images[part], labels[part]) for part in order.split([500, 597, 700])]


def main() -> None:
    """Train both ways, and print what calibration they have on the test examples."""
    data, val, test = load()
    for name, way in (("as usual", train), ("with robcal", train_with_robcal)):
        probs, labels = predict(way(data, val), test).softmax(1), test.tensors[1]
        accuracy, error = (probs.argmax(1) == labels).float().mean(), robcal.calibration_error(probs, labels)
        print(f"{name}: test accuracy {accuracy:.3f}, calibration error (ECE) {error:.3f}\n")


if __name__ == "__main__":
    main()
