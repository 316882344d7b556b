"""
Keras, JAX and other libraries, with plain arrays
=================================================

AR-AdaLS in Keras, with plain arrays: the lines marked `# robcal` are all that changes. Run it by::

    KERAS_BACKEND=torch python examples/keras_arrays.py

Every library that fits to a table of soft targets can be used so, JAX for example: an epoch at a time, then one pass
over the training examples for their margins and one over the validation examples. Prints accuracy and calibration error
on test examples of noisy handwritten digits.
"""

import keras
import numpy as np
from sklearn.datasets import load_digits

import robcal

EPOCHS, CLASSES = 30, 10


def network() -> keras.Model:
    """Return a network with the same weights each time."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(256, "relu"), keras.layers.Dense(256, "relu"), keras.layers.Dense(CLASSES)]
    model = keras.Sequential(layers)
    model.compile("adam", keras.losses.CategoricalCrossentropy(from_logits=True))
    return model


def main() -> None:
    """Train both ways."""
    draw = np.random.default_rng(0)
    images, labels = load_digits(return_X_y=True)
    images = (images / 16 + 0.4 * draw.normal(size=images.shape)).astype("float32")
    (x, val_x, test_x), (y, val_y, test_y) = (np.split(array, [500, 1097]) for array in (images, labels))
    for name in ("as usual", "with robcal"):
        model, targets, index = network(), np.eye(CLASSES, dtype="float32")[y], np.arange(len(y))
        smoothing = robcal.ARAdaLS(CLASSES, epochs=EPOCHS)  # robcal
        for _ in range(EPOCHS):
            model.fit(x, targets, batch_size=50, verbose=0)
            if name == "with robcal":
                smoothing.keep_margins(model.predict(x, verbose=0), index)  # robcal
                smoothing.end_epoch(model.predict(val_x, verbose=0), val_y)  # robcal
                targets = smoothing.soft_targets(y, index)  # robcal
        logits = model.predict(test_x, verbose=0).astype("float64")
        probs = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
        accuracy, error = (probs.argmax(1) == test_y).mean(), robcal.calibration_error(probs, test_y)
        print(f"{name}: test accuracy {accuracy:.3f}, calibration error (ECE) {error:.3f}")


if __name__ == "__main__":
    main()
