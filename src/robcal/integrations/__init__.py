"""robcal beside other libraries: AR-AdaLS in their training loops, and their models, metrics and logs.

Each module needs its library, which an extra of robcal installs; nothing here is imported unless it is asked for.
"""

from pathlib import Path

__all__ = ["evaluate_script"]


def evaluate_script() -> str:
    """Return the path of the metric for Hugging Face's `evaluate`: `evaluate.load(evaluate_script())`.

    >>> evaluate_script().endswith("robcal_calibration.py")
    True
    """
    return str(Path(__file__).with_name("robcal_calibration.py"))
