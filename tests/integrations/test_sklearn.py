"""The estimator against scikit-learn: its own checks, a pipeline and a search."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, make_classification
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

import robcal
from robcal.integrations.sklearn import ARAdaLSClassifier

pytestmark = pytest.mark.slow


@parametrize_with_checks([ARAdaLSClassifier(epochs=20, learning_rate=0.01, random_state=0)])
def test_scikit_learns_own_checks(estimator, check) -> None:
    check(estimator)


def test_pipeline_and_search() -> None:
    X, y = load_breast_cancer(return_X_y=True)
    names = np.array(["malignant", "benign"])[y]
    pipeline = make_pipeline(MinMaxScaler(), ARAdaLSClassifier(epochs=15, random_state=0))
    search = GridSearchCV(pipeline, {"aradalsclassifier__learning_rate": [1e-7, 3e-3]}, cv=2).fit(X, names)
    assert search.best_params_ == {"aradalsclassifier__learning_rate": 3e-3}
    probs = search.predict_proba(X)
    assert search.score(X, names) > 0.95
    assert (search.classes_[probs.argmax(1)] == search.predict(X)).all()
    assert search.classes_.tolist() == ["benign", "malignant"]


def test_it_is_better_calibrated_than_its_network_with_hard_labels() -> None:
    """The same estimator whose smoothing is held at 0 is the control."""
    X, y = make_classification(500, 20, n_informative=5, flip_y=0.3, random_state=0)
    ours = ARAdaLSClassifier(epochs=50, random_state=0)
    error = robcal.calibration_error(cross_val_predict(ours, X, y, cv=2, method="predict_proba"), y)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robcal.smoothing.smoother.AdaptiveLabelSmoother.update", lambda self, *_: None)
        plain = robcal.calibration_error(cross_val_predict(clone(ours), X, y, cv=2, method="predict_proba"), y)
    assert plain > 0.15
    assert error < 0.7 * plain


def test_a_network_of_ones_own() -> None:
    X, y = make_classification(100, 6, random_state=0)
    before = torch.get_rng_state()
    made = ARAdaLSClassifier(nn.Linear, epochs=5, num_levels=2, random_state=1).fit(X, y)
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(made.network_.network, nn.Linear)
    assert made.epsilon_.shape == (2,)
    again = pickle.loads(pickle.dumps(made))
    np.testing.assert_array_equal(again.predict_proba(X), made.predict_proba(X))


def test_features_that_float32_does_not_tell_apart_are_named_and_the_advice_helps() -> None:
    """As times in milliseconds since 1970 are; a column that is constant in what was given is none of them."""
    X, y = make_classification(200, 4, n_informative=4, n_redundant=0, random_state=0)
    X[:, 3] = 0.1
    far = X + 1e9 * (np.arange(4) == 1)
    ours = ARAdaLSClassifier(epochs=5, learning_rate=0.01, random_state=0)
    with pytest.warns(UserWarning, match=r"feature 1 is constant .* float32.*StandardScaler"):
        ours.fit(far, y)
    expected, found = (make_pipeline(StandardScaler(), ours).fit(x, y).predict_proba(x) for x in (X, far))
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_network_with_batch_normalisation_never_meets_a_batch_of_one() -> None:
    """81 examples train in batches of at most 16: cut one after the other, the sixth would hold a single one."""
    X, y = make_classification(101, 6, random_state=0)
    sizes: list[int] = []

    def network(features: int, classes: int) -> nn.Module:
        built = nn.Sequential(nn.Linear(features, 8), nn.BatchNorm1d(8), nn.Linear(8, classes))
        built.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
        return built

    ARAdaLSClassifier(network, epochs=1, batch_size=16, num_levels=2, random_state=0).fit(X, y)
    assert sorted(sizes[:6]) == [13, 13, 13, 14, 14, 14]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"epochs": 0}, "epochs"), ({"validation_fraction": 1.0}, "validation_fraction"), ({"num_levels": 0}, "levels")],
)
def test_arguments_out_of_range(arguments: dict, message: str) -> None:
    X, y = make_classification(40, random_state=0)
    with pytest.raises(ValueError, match=message):
        ARAdaLSClassifier(**arguments).fit(X, y)


def test_torchs_default_dtype_changes_nothing() -> None:
    X, y = make_classification(60, random_state=0)
    probs = ARAdaLSClassifier(epochs=1, random_state=0).fit(X, y).predict_proba(X)
    torch.set_default_dtype(torch.float64)
    try:
        again = ARAdaLSClassifier(epochs=1, random_state=0).fit(X, y).predict_proba(X)
        built = robcal.build_model("mlp", input_shape=(4,), num_classes=3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert again.shape == probs.shape
    assert {value.dtype for value in built.state_dict().values()} == {torch.float32}
