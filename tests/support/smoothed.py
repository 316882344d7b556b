"""Soft targets that a smoothing of the test's own gives."""

import torch

from robcal.smoothing.soft_labels import mix_with_uniform


def soft_targets(labels, epsilon, num_classes):
    """The targets of labels with one smoothing, or with one an example."""
    classes = torch.as_tensor(labels)
    return mix_with_uniform(classes, torch.as_tensor(epsilon, dtype=torch.float32).expand(len(classes)), num_classes)
