"""scikit-learn: a classifier of tables that is trained by AR-AdaLS, for pipelines and searches."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from robcal.base.extras import refuse_untrainable

try:
    import torch
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    refuse_untrainable(error, "robcal.integrations.sklearn")

from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from robcal.base.checks import IntArray, check_fraction, check_positive_int, refuse
from robcal.data.moments import ROUNDING, named
from robcal.models import Normalized
from robcal.models.small import mlp
from robcal.smoothing.own_loop import ARAdaLS

__all__ = ["ARAdaLSClassifier"]

#: Fewest examples of a fit: some train, some are for validation.
LEAST_EXAMPLES = 5

#: Inputs that predictions are computed of at once.
_ROWS = 4096


class ARAdaLSClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A neural network for tables, trained by AR-AdaLS on the CPU.

    A part of the examples that `fit` is given, drawn class by class, is held out to measure the calibration that steers
    the smoothing; features are standardised inside the network.

    Args:
        network: (number of features, number of classes) → module from (B, D) float32 to (B, Z) logits; default: three
            layers of 128 units.
        epochs: passes over the examples.
        batch_size: most examples of a step; the sizes of the steps of an epoch differ by at most one.
        learning_rate: of Adam.
        num_levels: R, at most the number of examples held out.
        validation_fraction: part that is held out, strictly between 0 and 1.
        random_state: of the part that is held out, the initial weights and the order.

    Attributes:
        classes_: (Z,) labels.
        network_: the trained module, in eval mode.
        epsilon_: (R,) label smoothing of each level at the end, least robust first.
        n_features_in_: number of features.
        n_iter_: number of epochs.

    >>> draw = np.random.default_rng(0)
    >>> X, y = draw.normal(size=(60, 2)), np.repeat(["no", "yes"], 30)
    >>> X[30:] += 4
    >>> classifier = ARAdaLSClassifier(epochs=20, random_state=0).fit(X, y)
    >>> classifier.predict([[0, 0], [4, 4]]).tolist(), classifier.predict_proba(X).shape
    (['no', 'yes'], (60, 2))
    """

    def __init__(
        self,
        network: Callable[[int, int], nn.Module] | None = None,
        *,
        epochs: int = 50,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        num_levels: int = 10,
        validation_fraction: float = 0.2,
        random_state: Any = None,
    ) -> None:
        self.network = network
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.num_levels = num_levels
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> ARAdaLSClassifier:
        """Train.

        Args:
            X: (N, D) features.
            y: (N,) classes.

        Returns:
            This object.

        Raises:
            InputError: on fewer than two classes or five examples, or arguments out of range.
        """
        self._check_arguments()
        given, (X, y) = X, _validate(self, X, y)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            refuse(
                "y holds one class", "a classifier tells two classes or more apart", "Pass examples of another class"
            )
        if len(y) < LEAST_EXAMPLES:
            refuse(
                f"there are n_samples={len(y)} examples", f"at least {LEAST_EXAMPLES} are needed", "Pass more examples"
            )
        _warn_of_rounding(given, X)
        random = check_random_state(self.random_state)
        held = _held_out(labels, self.validation_fraction, random)
        inputs, targets = torch.from_numpy(X), torch.from_numpy(labels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(random.randint(2**31 - 1)))
            self.network_ = self._built(inputs[~held], len(self.classes_))
            self.epsilon_ = self._train(inputs[~held], targets[~held], inputs[held], targets[held])
        self.n_iter_ = self.epochs
        return self

    def predict_proba(self, X: Any) -> Any:
        """Return the (N, Z) probabilities of the classes, float64; rows sum to 1."""
        check_is_fitted(self)
        inputs = torch.from_numpy(_validate(self, X))
        return _logits(self.network_, inputs).double().softmax(1).numpy()

    def predict(self, X: Any) -> Any:
        """Return the (N,) most probable classes."""
        probs = self.predict_proba(X)
        return self.classes_[probs.argmax(1)]

    def _check_arguments(self) -> None:
        for name in ("epochs", "batch_size", "num_levels"):
            check_positive_int(getattr(self, name), name)
        check_fraction(self.learning_rate, "learning_rate", high=float("inf"))
        check_fraction(self.validation_fraction, "validation_fraction")

    def _built(self, inputs: Tensor, num_classes: int) -> nn.Module:
        """Return an untrained network that standardises by the training inputs."""
        features = inputs.shape[1]
        network = mlp((features,), num_classes) if self.network is None else self.network(features, num_classes)
        scale = inputs.std(0, correction=0)
        return Normalized(network, inputs.mean(0), torch.where(scale > 0, scale, 1.0)).float()

    def _train(self, inputs: Tensor, labels: Tensor, val_inputs: Tensor, val_labels: Tensor) -> Any:
        levels = min(self.num_levels, len(val_labels), len(labels))
        smoothing = ARAdaLS(len(self.classes_), levels, epochs=self.epochs)
        optimizer = torch.optim.Adam(self.network_.parameters(), lr=self.learning_rate)
        for _ in range(self.epochs):
            self.network_.train()
            for index in torch.tensor_split(torch.randperm(len(labels)), -(-len(labels) // self.batch_size)):
                optimizer.zero_grad()
                loss = smoothing.loss(self.network_(inputs[index]), labels[index], index)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            smoothing.end_epoch(_logits(self.network_, val_inputs), val_labels)
        return smoothing.epsilon


def _validate(estimator: ARAdaLSClassifier, *arrays: Any) -> Any:
    """Check features (and classes) as scikit-learn does; features are float32."""
    return validate_data(estimator, *arrays, dtype=np.float32, reset=len(arrays) == 2)


def _warn_of_rounding(given: Any, rounded: npt.NDArray[np.float32]) -> None:
    """Warn of features that vary, but by no more than the rounding of float32, in which the network computes."""
    spread = rounded.std(0, dtype=np.float64)
    lost = (np.ptp(np.asarray(given, dtype=np.float64), axis=0) > 0) & (spread <= ROUNDING * np.abs(rounded).max(0))
    if lost.any():
        warnings.warn(
            f"{named('feature', np.flatnonzero(lost))} constant up to the rounding of float32, in which the network "
            "computes, and not in what was given; subtract an offset first, as StandardScaler in a pipeline does",
            stacklevel=3,
        )


def _held_out(labels: IntArray, fraction: float, random: Any) -> Any:
    """Return (N,) bool: a part of every class, of which one example at least trains; never none."""
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        held[members[: min(round(fraction * len(members)), len(members) - 1)]] = True
    if not held.any():
        held[int(np.flatnonzero(labels == np.bincount(labels).argmax())[0])] = True
    return held


def _logits(network: nn.Module, inputs: Tensor) -> Tensor:
    network.eval()
    with torch.no_grad():
        return torch.cat([network(part) for part in torch.split(inputs, _ROWS)])
