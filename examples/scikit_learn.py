"""
scikit-learn
============

AR-AdaLS as an estimator of scikit-learn: the lines marked `# robcal` are all that changes. Run it by::

    python examples/scikit_learn.py

Searches an option of a network on noisy handwritten digits, within a pipeline, as usual (scikit-learn's MLPClassifier
with its defaults) and by AR-AdaLS, and prints accuracy and calibration error on test examples.
"""

import warnings

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

import robcal
from robcal.integrations.sklearn import ARAdaLSClassifier  # robcal


def main() -> None:
    """Train both ways."""
    images, labels = load_digits(return_X_y=True)
    images = images / 16 + 0.4 * np.random.default_rng(0).normal(size=images.shape)
    train, test, labels, test_labels = train_test_split(images, labels, train_size=500, random_state=0)
    usual = MLPClassifier(random_state=0), "alpha", [1e-4, 1e-2]
    ours = ARAdaLSClassifier(random_state=0), "learning_rate", [3e-4, 1e-3]  # robcal
    for name, (classifier, option, values) in (("as usual", usual), ("with robcal", ours)):
        pipeline = make_pipeline(MinMaxScaler(), classifier)
        grid = {f"{type(classifier).__name__.lower()}__{option}": values}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            search = GridSearchCV(pipeline, grid, cv=2).fit(train, labels)
        probs = search.predict_proba(test)
        accuracy, error = (probs.argmax(1) == test_labels).mean(), robcal.calibration_error(probs, test_labels)
        print(f"{name}: test accuracy {accuracy:.3f}, calibration error (ECE) {error:.3f}")


if __name__ == "__main__":
    main()
