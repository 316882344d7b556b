"""The noise floor of an ECE stands beside it: in the terminal's level table, on the page, in the JSON."""

import numpy as np
import pytest

from robcal import audit
from robcal.report import render_html


@pytest.fixture(scope="module")
def found():
    """An audit of 20,000 predictions of a perfectly calibrated model."""
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.full(5, 0.4), 20_000)
    labels = (probs.cumsum(1) > rng.random((20_000, 1))).argmax(1)
    return audit(probs, labels, scores=rng.random(20_000) * 0.0123456, resamples=30)


def test_level_table_shows_the_floor_beside_the_error(found):
    text = found.to_text()
    assert max(map(len, text.splitlines())) <= 100
    low, high = (f(row.ece_floor for row in found.levels) for f in (min, max))
    assert f"an ECE of {low:.3f} to {high:.3f} on so few examples (noise floor)" in " ".join(text.split())


def test_floor_is_on_the_page_and_in_the_json(found):
    floors = [row["ece_floor"] for row in found.to_dict()["methods"][0]["levels"]]
    assert floors == [row.ece_floor for row in found.levels]
    measured = np.mean([row.ece.value for row in found.levels])
    assert np.mean(floors) == pytest.approx(measured, rel=0.15)  # all that is measured is noise
    page = render_html(found.results)
    assert f"{min(floors):.3f} to {max(floors):.3f} on so few examples" in page
    assert "ECE, bias removed" in page
