"""Synthetic predictions with known truth."""

import numpy as np


def two_class(confidence, correct, dtype=np.float64):
    """Probabilities and labels of a two-class model with these confidences (>= 1/2) for class 1."""
    confidence = np.asarray(confidence, dtype=dtype)
    return np.stack([1 - confidence, confidence], axis=1), np.asarray(correct).astype(int)


def with_confidence(confidence, correct, classes=10):
    """Probabilities with these confidences for class 0, the rest spread evenly; wrong means class 1."""
    confidence = np.asarray(confidence, dtype=np.float64)
    probs = np.repeat(((1 - confidence) / (classes - 1))[:, None], classes, axis=1)
    probs[:, 0] = confidence
    return probs, np.where(np.asarray(correct), 0, 1)


def softmax_sample(seed, n=500, classes=5, scale=2.0, sharpen=1.0):
    """Labels drawn from softmax(z), and the logits sharpen · z."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((n, classes)) * scale
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (true.cumsum(1) > rng.random((n, 1))).argmax(1)
    return logits * sharpen, labels, true


def probabilities(logits):
    exp = np.exp(logits - logits.max(1, keepdims=True))
    return exp / exp.sum(1, keepdims=True)
