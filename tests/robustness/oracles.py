"""Classifiers whose distance to the decision boundary is known exactly, by closed form or by enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from scipy.optimize import brentq, nnls
from torch import nn


def least_distance(constraints: np.ndarray, bounds: np.ndarray) -> float:
    """min ‖u‖ with constraints @ u >= bounds, inf where infeasible (Lawson & Hanson 1974, LDP by NNLS)."""
    matrix = np.vstack([constraints.T, bounds])
    target = np.zeros(len(matrix))
    target[-1] = 1
    dual, residual = nnls(matrix, target, maxiter=1000)
    if residual < 1e-9:
        return np.inf
    slack = matrix @ dual - target
    u = -slack[:-1] / slack[-1]
    return float(np.linalg.norm(u)) if (constraints @ u >= bounds - 1e-7 * (1 + np.abs(bounds))).all() else np.inf


def box_rows(x: np.ndarray, box: tuple[float, float] | None) -> tuple[np.ndarray, np.ndarray]:
    """The box around x as constraints on u = x' - x."""
    if box is None:
        return np.zeros((0, len(x))), np.zeros(0)
    eye = np.eye(len(x))
    return np.vstack([eye, -eye]), np.concatenate([box[0] - x, x - box[1]])


def linear_model(weight: np.ndarray, bias: np.ndarray) -> nn.Linear:
    model = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        model.weight.copy_(torch.as_tensor(weight))
        model.bias.copy_(torch.as_tensor(bias))
    return model


def linear_distance(model: nn.Linear, x: torch.Tensor, box: tuple[float, float] | None) -> np.ndarray:
    """Exact distances of a linear classifier: a closed form without a box, a one-dimensional root a class with one."""
    weight, bias = model.weight.detach().double().numpy(), model.bias.detach().double().numpy()
    out = []
    for point in x.double().numpy():
        z = weight @ point + bias
        y = int(z.argmax())
        found = [np.inf]
        for j in set(range(len(z))) - {y}:
            w, gap = weight[y] - weight[j], z[y] - z[j]
            if box is None:
                found.append(gap / np.linalg.norm(w))
                continue
            corner = np.where(w > 0, box[0], box[1])
            if w @ (point - corner) < gap:
                continue
            step = lambda t, w=w, p=point: np.clip(p - t * w, *box) - p  # noqa: E731
            top = gap / (w @ w)
            while -w @ step(top) < gap and top < 1e9:
                top *= 2
            found.append(np.linalg.norm(step(brentq(lambda t: -w @ step(t) - gap, 0, top, xtol=1e-14))))  # noqa: B023
        out.append(min(found))
    return np.array(out)


class NearestCentroid(nn.Module):
    """Logits -‖x - c_j‖²: the boundaries are the bisecting hyperplanes."""

    def __init__(self, centres: np.ndarray) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.as_tensor(centres, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -((x[:, None] - self.centres) ** 2).sum(-1)

    def distance(self, x: torch.Tensor) -> np.ndarray:
        c, points = self.centres.detach().double().numpy(), x.double().numpy()
        square = ((points[:, None] - c) ** 2).sum(-1)
        near = square.argmin(1)
        gap = square - square[np.arange(len(x)), near][:, None]
        width = 2 * np.linalg.norm(c[near][:, None] - c, axis=-1)
        width[np.arange(len(x)), near] = np.nan
        return np.nanmin(gap / width, axis=1)


class Spheres(nn.Module):
    """Class j + 1 inside ball j, class 0 outside all of them (the balls are disjoint)."""

    def __init__(self, centres: np.ndarray, radii: np.ndarray) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.as_tensor(centres, dtype=torch.float32))
        self.radii = nn.Parameter(torch.as_tensor(radii, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inside = self.radii**2 - ((x[:, None] - self.centres) ** 2).sum(-1)
        return torch.cat([torch.zeros(len(x), 1), inside], 1)

    def distance(self, x: torch.Tensor) -> np.ndarray:
        centres, radii = self.centres.detach().double(), self.radii.detach().double()
        gap = torch.cdist(x.double(), centres) - radii
        return gap.abs().amin(1).numpy()


def curved_cases(rng: np.random.Generator) -> list[tuple[NearestCentroid | Spheres, int]]:
    """Models whose distances are known in closed form, and how many inputs each takes."""
    centroid = NearestCentroid(rng.normal(size=(6, 5)))
    spheres = Spheres(np.array([[2.0, 0, 0], [-2, 0, 0], [0, 3, 0]]), np.array([1.0, 1.2, 0.8]))
    return [(centroid, 5), (spheres, 3), (Spheres(np.zeros((1, 4)), np.array([1.0])), 4)]


class ReluNet(nn.Module):
    """One hidden layer of a few units: its linear pieces can be enumerated."""

    def __init__(self, inputs: int, hidden: int, classes: int, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.first = linear_model(rng.normal(size=(hidden, inputs)), rng.normal(size=hidden) * 0.5)
        self.last = linear_model(rng.normal(size=(classes, hidden)), rng.normal(size=classes) * 0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x)))

    def distance(self, x: torch.Tensor, box: tuple[float, float] | None) -> np.ndarray:
        """Over every activation pattern and every rival, the nearest point of that polytope beyond the boundary."""
        w1, b1 = self.first.weight.detach().double().numpy(), self.first.bias.detach().double().numpy()
        w2, b2 = self.last.weight.detach().double().numpy(), self.last.bias.detach().double().numpy()
        out = []
        for point in x.double().numpy():
            y = int((w2 @ np.maximum(w1 @ point + b1, 0) + b2).argmax())
            fence, fence_bound = box_rows(point, box)
            best = np.inf
            for pattern in itertools.product([0, 1], repeat=len(b1)):
                on = np.array(pattern, dtype=float)
                sign = 2 * on - 1
                slope = (w2 * on) @ w1
                value = (w2 * on) @ (w1 @ point + b1) + b2
                for j in set(range(len(b2))) - {y}:
                    rows = np.vstack([sign[:, None] * w1, slope[j] - slope[y], fence])
                    bound = np.concatenate([-sign * (w1 @ point + b1), [value[y] - value[j]], fence_bound])
                    best = min(best, least_distance(rows, bound))
            out.append(best)
        return np.array(out)


def relu_case(inputs: int, seed: int, count: int) -> tuple[ReluNet, torch.Tensor]:
    """A net of six hidden units and three classes, and points of [-1, 1]^inputs: many local minima of the distance."""
    points = np.random.default_rng(seed + 100).uniform(-1, 1, (count, inputs))
    return ReluNet(inputs, 6, 3, seed), torch.tensor(points, dtype=torch.float32)
