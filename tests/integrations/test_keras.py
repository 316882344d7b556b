"""Keras with arrays: no torch in the user's code."""

import pytest
from example_runs import check_example

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Keras warns of its own use of others


def test_the_example_runs_and_is_better_calibrated(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    check_example("keras_arrays.py", lambda: capsys.readouterr().out)
