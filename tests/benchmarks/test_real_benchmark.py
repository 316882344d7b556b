"""The measurements of benchmarks/real, on data made here, against closed forms."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier

FOLDER = Path(__file__).parents[2] / "benchmarks"
if not FOLDER.is_dir():
    pytest.skip("benchmarks are not in the wheel", allow_module_level=True)
sys.path.insert(0, str(FOLDER))
from real import claim, networks, page, people, tables  # noqa: E402

pytestmark = pytest.mark.slow


def test_a_scikit_learn_network_keeps_its_probabilities_in_torch():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(300, 4)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlp = MLPClassifier((8,), max_iter=20, n_iter_no_change=20, random_state=0).fit(
            inputs, (inputs.sum(1) > 0).astype(int)
        )
    logits = networks.run(tables.as_torch(mlp), torch.from_numpy(inputs))
    np.testing.assert_allclose(softmax(logits, axis=1), mlp.predict_proba(inputs), atol=1e-5)


def test_a_published_resnet_has_as_many_parameters_as_the_paper_says():
    """Table 6 of He et al. 2016: .27, .46, .66 and .85 million."""
    sizes = [sum(p.numel() for p in networks.CifarResNet(depth).parameters()) / 1e6 for depth in (20, 32, 44, 56)]
    np.testing.assert_allclose(sizes, [0.27, 0.46, 0.66, 0.85], atol=0.01)


def made(n=2000):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2, n, 3)) * 4
    labels = np.stack([[rng.choice(3, p=row) for row in softmax(part / 2, axis=1)] for part in logits])
    found = networks.Predictions("made", (logits[0], labels[0]), (logits[1], labels[1]))
    return claim.repaired(found, {"adversarial distance": rng.random(n), "margin of another network": rng.random(n)})


def test_one_temperature_takes_the_gaps_away_where_a_temperature_is_the_truth():
    one = claim.record(made())
    rows = {variant: one["variants"][variant]["levels"]["margin"] for variant in ("none", "temperature")}
    assert rows["none"]["rms"] > 0.05
    assert rows["none"]["outside"] >= 4
    assert rows["temperature"]["rms"] < 0.02
    assert rows["temperature"]["outside"] <= 2
    low, high = one["within margin"]["temperature"][1:]
    assert low < 0 < high  # a distance drawn at random knows nothing
    assert one["regression"]["adversarial distance"][2] > 0.01


def test_gaps_of_levels_are_confidence_minus_accuracy_of_tenths():
    probs = np.tile([0.75, 0.25], (100, 1))
    found = claim.level_gaps(probs, np.repeat([0, 1], 50), np.arange(100.0))
    np.testing.assert_allclose(found["gap"], [-0.25] * 5 + [0.75] * 5)
    np.testing.assert_allclose(found["rms"], np.sqrt((5 * 0.25**2 + 5 * 0.75**2) / 10))


def test_a_classifier_that_says_what_people_say_loses_nothing_against_them():
    votes = np.array([[30, 10, 0], [1, 49, 0], [20, 20, 10]] * 100)
    shares = people.shares(votes)
    one = people.Judged("made", np.tile([0, 1, 0], 100), votes, {"none": shares}, "none",
                             {"margin": np.arange(300.0)})  # fmt: skip
    row = people.against_people(one, shares)["mean"]
    np.testing.assert_allclose([row[key][0] for key in ("kl", "brier", "gap", "wrongly sure")], 0, atol=1e-12)
    np.testing.assert_allclose(row["nll"][0], -np.log([0.75, 0.98, 0.4]).mean())
    half = shares * 0.5 + 1 / 6  # KL by its definition, term by term
    wanted = np.mean(
        [sum(p * np.log(p / q) for p, q in zip(*rows, strict=True) if p) for rows in zip(shares, half, strict=True)]
    )
    np.testing.assert_allclose(people.against_people(one, half)["mean"]["kl"][0], wanted)


def test_the_score_that_is_the_excess_itself_finds_every_input():
    rng = np.random.default_rng(2)
    votes = np.stack([50 - (lost := rng.integers(0, 40, 200)), lost], axis=1)
    probs = np.tile([0.9, 0.1], (200, 1))
    excess = 0.9 - votes[:, 0] / 50
    one = people.Judged("made", np.zeros(200, int), votes, {"none": probs}, "none",
                             {"margin": -excess, "random": rng.random(200)})  # fmt: skip
    found = people.detection(one, "none")
    np.testing.assert_allclose(found["margin"][:3], 1)
    np.testing.assert_allclose(found["random"][0], roc_auc_score(excess > 0.25, -one.scores["random"]))
    assert found["random"][1] < 0.5 < found["random"][2]
    np.testing.assert_allclose(found["margin"][3], np.sort(excess)[:160].mean())


def test_pages_hold_every_row():
    record = claim.record(made(400))
    text = page.claim([{**record, "passes": 3.0}])
    assert text.count("\n| ") >= 12 + 1
    assert "nan" not in text
