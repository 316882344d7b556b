"""Cutting splits: stratified, by seed, and always the validation part out of the training part.

A reader returns `Parts`: what its files hold. `assemble` turns them into a `Dataset`, in this order:

1. the files' own test part is kept; where there is none, a test part is cut that no seed changes;
2. validation is cut from all of the remaining training data, by seed, stratified by class;
3. only then are `train_limit` and `test_limit` applied, so that a limit never changes which examples are validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robcal.base.checks import IntArray, check_fraction, check_labels, check_positive_int, check_seed, refuse
from robcal.data.dataset import Box, Dataset, Split
from robcal.data.moments import Moments, constant_notes

#: Seed of every cut that must not depend on the user's seed: the test part, and a limited test part.
FIXED_SEED = 20210606
#: Share of a data set without a test part that is set aside as one.
TEST_FRACTION = 0.2
#: Share of the training data that becomes validation where nothing else is said.
VAL_FRACTION = 0.1


@dataclass(frozen=True)
class Parts:
    """What the files of a data set hold, before validation is cut; the fields are those of `Dataset`."""

    name: str
    parts: Mapping[str, Split]  #: "train", and "val" and "test" where the files have them
    class_names: tuple[str, ...]
    box: Box = (0.0, 1.0)
    kind: Literal["image", "table"] = "image"
    notes: tuple[str, ...] = ()
    val_fraction: float = VAL_FRACTION  #: share of the training data that becomes validation by default


@dataclass(frozen=True)
class CutOptions:
    """How the splits are cut; the arguments of `load_dataset`, checked.

    Without a `val_fraction` the files' own validation part is kept, or the default of the data set is cut off.
    """

    val_fraction: float | None = None
    train_limit: int | None = None
    test_limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.val_fraction is not None:
            check_fraction(self.val_fraction, "val_fraction")
        for name in ("train_limit", "test_limit"):
            if getattr(self, name) is not None:
                check_positive_int(getattr(self, name), name)
        check_seed(self.seed)


def assemble(parts: Parts, options: CutOptions, *, spec: str) -> Dataset:
    """Cut the splits that the files do not have, and apply the limits."""
    found, notes = dict(parts.parts), list(parts.notes)
    num_classes = len(parts.class_names)
    if "val" in found and options.val_fraction is not None:
        given = f"val_fraction is {options.val_fraction} and {spec} has a validation part of its own"
        fix = "Leave val_fraction out, or take the validation part out of the files"
        refuse(given, "validation is either the files' own or cut from the training data", fix)
    if "test" not in found:
        found["train"], found["test"] = cut(found["train"], TEST_FRACTION, FIXED_SEED, num_classes, "test")
        notes.append(
            f"no test part in the files: {len(found['test'])} examples ({TEST_FRACTION:.0%}, stratified, "
            "the same for every seed) were set aside"
        )
    if "val" not in found:
        share = parts.val_fraction if options.val_fraction is None else options.val_fraction
        found["train"], found["val"] = cut(found["train"], share, options.seed, num_classes, "validation")
    found["train"] = limit(found["train"], options.train_limit, options.seed, num_classes, "train_limit")
    found["test"] = limit(found["test"], options.test_limit, FIXED_SEED, num_classes, "test_limit")
    splits = {name: found[name] for name in ("train", "val", "test")}
    if all(isinstance(split.inputs, np.ndarray) for split in splits.values()):
        notes += constant_notes(splits, Moments.of(splits["train"]))
    return Dataset(parts.name, splits, parts.class_names, parts.box, parts.kind, spec, tuple(notes))


def cut(split: Split, fraction: float, seed: int, num_classes: int, what: str) -> tuple[Split, Split]:
    """Cut a stratified share off a split, which becomes `what`, "validation" or "test": what remains, and the share."""
    taken = stratified_cut(split.labels, fraction, seed, num_classes=num_classes, what=what)
    rest = np.setdiff1d(np.arange(len(split)), taken, assume_unique=True)
    return split.subset(rest), split.subset(taken)


def limit(split: Split, size: int | None, seed: int, num_classes: int, name: str) -> Split:
    """Draw a stratified subset of at most `size` examples, in the order of the files (None: all of them)."""
    if size is None or size >= len(split):
        return split
    return split.subset(stratified_subset(split.labels, size, seed, num_classes=num_classes, name=name))


def stratified_subset(
    labels: IntArray, size: int | None, seed: int = FIXED_SEED, *, num_classes: int, name: str = "the limit"
) -> IntArray:
    """Return the positions of at most `size` examples, each class in proportion, ascending (all where size is None).

    A `size` without room for one example of every class is refused.
    """
    if size is None or size >= len(labels):
        return np.arange(len(labels))
    counts = np.bincount(labels, minlength=num_classes)
    if size < np.count_nonzero(counts):
        given = f"{name} is {size} for {np.count_nonzero(counts)} classes"
        fix = f"Raise {name} to {np.count_nonzero(counts)} or more"
        refuse(given, "a stratified subset holds at least one example of every class", fix)
    return _choose(labels, _quotas(counts, size, np.minimum(counts, 1), counts), seed)


def stratified_cut(
    labels: IntArray, fraction: float, seed: int, *, num_classes: int | None = None, what: str = "the cut"
) -> IntArray:
    """Return the positions, ascending, of a stratified share of (N,) labels in 0 … Z - 1, chosen by the seed.

    Each class c gives fraction · n_c examples, rounded by largest remainder so that round(fraction · N) are taken in
    all, but at least one and never all of them. Where there are too few for that, it is refused.
    """
    check_fraction(fraction, "fraction")
    labels = check_labels(labels, num_classes=num_classes)
    counts = np.bincount(labels, minlength=num_classes or 0)
    few = np.flatnonzero(counts < 2)
    if few.size:
        given = f"class {int(few[0])} has {int(counts[few[0]])} training example(s) where {what} is cut"
        fix = f"Add examples of it, leave the class out, or give the files a {what} part of their own"
        refuse(given, "every class needs at least two, one for each side of the cut", fix)
    total, classes = round(fraction * len(labels)), len(counts)
    if total < classes or len(labels) - total < classes:
        refuse(
            f"a share of {fraction:g} of {len(labels)} examples is {total}, the rest {len(labels) - total}",
            f"both sides of the cut for {what} need one example of each of the {classes} classes",
            "Add examples, or give the files a test part of their own"
            if what == "test"
            else f"Choose a fraction from {classes / len(labels):.6g} to {1 - classes / len(labels):.6g}",
        )
    return _choose(labels, _quotas(counts, total, np.ones_like(counts), counts - 1), seed)


def _quotas(counts: IntArray, total: int, low: IntArray, high: IntArray) -> IntArray:
    """Return whole numbers in [low, high] per class, of this total, nearest to total · counts / N."""
    exact = counts * (total / counts.sum())
    quotas: IntArray = np.clip(np.floor(exact).astype(np.int64), low, high)
    while (missing := total - int(quotas.sum())) != 0:
        step = 1 if missing > 0 else -1
        allowed = quotas < high if step > 0 else quotas > low
        quotas[int(np.argmax(np.where(allowed, (exact - quotas) * step, -np.inf)))] += step
    return quotas


def _choose(labels: IntArray, quotas: IntArray, seed: int) -> IntArray:
    """Return the positions of `quotas[c]` examples of each class c, chosen by the seed, ascending."""
    rng = np.random.default_rng(check_seed(seed))
    order = rng.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels, minlength=len(quotas))
    starts = np.cumsum(counts) - counts
    rank = np.arange(len(labels)) - np.repeat(starts, counts)
    chosen: IntArray = np.sort(by_class[rank < np.repeat(quotas, counts)])
    return chosen
