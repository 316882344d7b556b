"""Networks and their recalibration as one module: tensor operations that torch.export and ONNX can express."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from scipy.interpolate import BSpline, PPoly
from torch import Tensor, nn

from robcal.calibration.recalibration.average import Average
from robcal.calibration.recalibration.maps import MASKED, Affine, Isotonic, Map, Temperature
from robcal.calibration.recalibration.score_temperature import DEGREE, ScoreTemperature, knots_of


class Deployed(nn.Module):
    """One network or the mean of several, then the maps of a recalibration: inputs (B, …) → (B, Z) float32 logits."""

    def __init__(self, networks: Sequence[nn.Module], maps: Sequence[Map]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.maps = _Maps(maps)

    def forward(self, x: Tensor) -> Tensor:
        """Predict; the softmax of what comes back are the probabilities."""
        outputs = [network(x).double() for network in self.networks]
        logits: Tensor = outputs[0]
        if len(outputs) > 1:
            probs = torch.stack([one.softmax(1) for one in outputs]).mean(0)
            logits = probs.clamp_min(torch.finfo(torch.float64).tiny).log()
        best = logits.topk(2, dim=1).values
        margin = best[:, :1] - best[:, 1:]
        recalibrated: Tensor = self.maps(logits, margin)
        return recalibrated.float()


class _Maps(nn.ModuleList):
    """Do several maps, one after another; each takes logits (B, Z) and margins (B, 1) and returns logits, float64."""

    def __init__(self, maps: Sequence[Map]) -> None:
        super().__init__(_MODULES[type(one)](one) for one in maps)

    def forward(self, logits: Tensor, margin: Tensor) -> Tensor:
        for one in self:
            logits = one(logits, margin)
        return logits


class _Buffered(nn.Module):
    """A map whose arrays are buffers of float64."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Tensor: ...

    def hold(self, **arrays: npt.ArrayLike) -> None:
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(np.array(array, dtype=np.float64, order="C")))


class _Divide(_Buffered):
    """Divide by one temperature."""

    def __init__(self, fitted: Temperature) -> None:
        super().__init__()
        self.hold(temperature=fitted.temperature)

    def forward(self, logits: Tensor, margin: Tensor) -> Tensor:
        return logits / self.temperature


class _DivideByScore(_Buffered):
    """Divide by T(margin), below the second largest by τ too: log T is a spline of u, u a broken line of the margin.

    Both are sums over their pieces, each a polynomial of how much of the piece lies below the argument: clamp(v - a, 0,
    length). So the graph holds sums and products only.
    """

    def __init__(self, fitted: ScoreTemperature) -> None:
        super().__init__()
        self.tail = fitted.tail
        points = np.unique(fitted.scale.points)
        places = fitted.scale(points)
        spline = BSpline(knots_of(len(fitted.coefficients)), fitted.coefficients, DEGREE)
        pieces = PPoly.from_spline((spline.t, spline.c, spline.k))
        used = np.flatnonzero(np.diff(pieces.x) > 0)
        self.hold(
            points=points[:-1],
            lengths=np.diff(points),
            slopes=np.diff(places) / np.diff(points),
            knots=pieces.x[used],
            widths=np.diff(pieces.x)[used],
            cubic=pieces.c[:3, used],
            ends=[places[0], float(spline(0.0))],
        )

    def forward(self, logits: Tensor, margin: Tensor) -> Tensor:
        below = torch.minimum((margin - self.points).clamp_min(0), self.lengths)
        u = self.ends[0] + (below * self.slopes).sum(1, keepdim=True)
        t = torch.minimum((u - self.knots).clamp_min(0), self.widths)
        first, second, third = self.cubic
        log_temperature = self.ends[1] + (((first * t + second) * t + third) * t).sum(1, keepdim=True)
        shifted = (logits - logits.amax(1, keepdim=True)).clamp_min(MASKED)
        apart = shifted - shifted.topk(2, dim=1).values[:, 1:]
        scaled: Tensor = (apart.clamp_min(0) + apart.clamp_max(0) / self.tail) / log_temperature.exp()
        return scaled


class _Affine(_Buffered):
    """Map log-probabilities to W x + b."""

    def __init__(self, fitted: Affine) -> None:
        super().__init__()
        self.temperature, self.mixture, self.least = fitted.temperature, fitted.mixture, fitted.least
        self.hold(weight=fitted.weight.T, bias=fitted.bias)

    def forward(self, logits: Tensor, margin: Tensor) -> Tensor:
        x = (logits / self.temperature).log_softmax(1)
        if self.mixture:
            x = ((1 - self.mixture) * x.exp() + self.mixture / x.shape[1]).log()
        if self.least is not None:
            x = x.clamp_min(self.least)
        return (x * self.weight if self.weight.ndim == 1 else x @ self.weight) + self.bias


class _Isotonic(_Buffered):
    """Replace the probability of each class by a broken line of it: the sum of how far each of K pieces has risen."""

    def __init__(self, fitted: Isotonic) -> None:
        super().__init__()
        most = max(2, *(len(x) for x in fitted.inputs)) - 1
        self.hold(
            starts=[_padded(x[:-1], most, 1.0) for x in fitted.inputs],
            lengths=[_padded(np.diff(x), most, 1.0) for x in fitted.inputs],
            rises=[_padded(np.diff(y), most, 0.0) for y in fitted.outputs],
            lowest=[y[0] for y in fitted.outputs],
        )

    def forward(self, logits: Tensor, margin: Tensor) -> Tensor:
        shares = ((logits.log_softmax(1).exp().unsqueeze(2) - self.starts) / self.lengths).clamp(0, 1)
        return (self.lowest + (shares * self.rises).sum(2)).log()


def _padded(values: npt.NDArray[np.float64], size: int, last: float) -> npt.NDArray[np.float64]:
    return np.append(values, np.full(size - len(values), last))


class _Average(_Buffered):
    """Average the probabilities of several recalibrations."""

    def __init__(self, fitted: Average) -> None:
        super().__init__()
        self.members = nn.ModuleList(_Maps(maps) for maps in fitted.members)
        self.hold(log_weights=np.log(fitted.weights))

    def forward(self, logits: Tensor, margin: Tensor) -> Tensor:
        logs = torch.stack([member(logits, margin).log_softmax(1) for member in self.members], 2)
        return (logs + self.log_weights).logsumexp(2)


_MODULES: dict[type, Callable[..., nn.Module]] = {
    Temperature: _Divide,
    ScoreTemperature: _DivideByScore,
    Affine: _Affine,
    Isotonic: _Isotonic,
    Average: _Average,
}
