"""Recalibrate published logits by every method, fitted on their validation split and measured on their test split.

Usage: python benchmarks/recalibration.py LOGITS.npz [LOGITS.npz …]

A file holds `val_logits`, `val_labels`, `test_logits` and `test_labels`. One network and one split: the interval of the
difference to one temperature (paired, 95%) is of the test examples alone. `svs` and `sms` need robcal[recalibration].
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from robcal.calibration import aurc, calibration_error, calibration_noise_floor
from robcal.calibration.recalibration import Recalibrator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    for file in parser.parse_args().files:
        report(file)


def report(file: Path) -> None:
    """Print one table; the method that `auto` chooses is bold."""
    with np.load(file, allow_pickle=False) as data:
        val, test = ((data[f"{split}_logits"], data[f"{split}_labels"]) for split in ("val", "test"))
    begun = time.process_time()
    chosen = Recalibrator().fit(*val)
    print(f"\n{file.stem}: {len(val[1])} validation and {len(test[1])} test examples; auto took "
          f"{time.process_time() - begun:.1f} CPU s\n")  # fmt: skip
    print("| method | NLL | against one temperature | ECE | floor | AURC | s |\n|---|--:|--:|--:|--:|--:|--:|")
    plain = losses(Recalibrator("temperature").fit(*val), *test)
    for row in chosen.comparison:
        begun = time.process_time()
        fitted = Recalibrator(row.method).fit(*val)
        seconds, probs = time.process_time() - begun, fitted.predict_proba(test[0])
        each = losses(fitted, *test)
        half = 1.96 * (each - plain).std(ddof=1) / np.sqrt(len(each))
        name = f"**{row.method}**" if row.chosen else row.method
        figures = (calibration_error(probs, test[1]), calibration_noise_floor(probs), aurc(probs, test[1]))
        print(f"| {name} | {each.mean():.4f} | {(each - plain).mean():+.4f} ± {half:.4f} | "
              f"{figures[0]:.4f} | {figures[1]:.4f} | {figures[2]:.5f} | {seconds:.2f} |")  # fmt: skip


def losses(fitted: Recalibrator, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return -np.log(fitted.predict_proba(logits)[np.arange(len(labels)), labels])


if __name__ == "__main__":
    main()
