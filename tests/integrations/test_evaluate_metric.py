"""The metric for Hugging Face's `evaluate`, loaded as a local script by the real library, without the network."""

import numpy as np
import pytest

from robcal import InputError, calibration
from robcal.integrations import evaluate_script

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # the library warns of its own use of others
]


@pytest.fixture(scope="module")
def metric(tmp_path_factory: pytest.TempPathFactory):
    """The metric, with the caches of the library in a folder of the tests."""
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        import evaluate

        patch.setattr(evaluate.config, "HF_MODULES_CACHE", str(folder / "modules"))
        yield evaluate.load(evaluate_script(), cache_dir=str(folder))


def test_batches_give_the_numbers_of_robcal(metric) -> None:
    draw = np.random.default_rng(0)
    probs, labels = draw.dirichlet([1, 1, 1], 60), draw.integers(0, 3, 60)
    for part in np.split(np.arange(60), [7, 40]):
        metric.add_batch(predictions=probs[part], references=labels[part])
    levels = np.arange(60) // 20
    found = metric.compute(levels=levels)
    gaps = [row.gap.value for row in calibration.level_table(probs, labels, levels, resamples=20)]
    assert found.pop("level_gaps") == pytest.approx(gaps)
    expected = calibration.overall_metrics(probs, labels, resamples=20)
    assert found == pytest.approx(
        {name: estimate.value for name, estimate in expected.items()}
        | {"ece_floor": calibration.calibration_noise_floor(probs)}
    )
    wide = metric.compute(predictions=probs, references=labels, bins=3)
    assert wide["ece"] == pytest.approx(calibration.calibration_error(probs, labels, bins=3))
    assert "level_gaps" not in wide


def test_logits_are_refused(metric) -> None:
    with pytest.raises(InputError, match="probabilities lie in"):
        metric.compute(predictions=[[3.0, -1.0], [0.0, 2.0]], references=[0, 1])
