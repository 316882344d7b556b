"""benchmarks/training.py and turns.py: the loops do the same work, and only the one whose turn it is is timed."""

import argparse
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="benchmarks are not in the wheel")


def load(name):
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def training():
    return load("training")


@pytest.fixture(scope="module")
def turns():
    return load("turns")


@pytest.fixture
def options():
    return argparse.Namespace(
        model="mlp", train=70, val=20, epochs=3, batch_size=16, turn=5, augment="none", precision="float32",
        device="cpu", threads=1, seed=3, also=[],
    )  # fmt: skip


@pytest.mark.slow
def test_the_hand_written_loop_ends_in_the_weights_of_ours(training, options):
    data = training.synthetic("mlp", options.train, options.val)
    by_hand = training.hand_written(training.network(options, data), data, options, lambda done: None)
    ours = training.network(options, data)
    before = [weight.clone() for weight in ours.parameters()]
    training.fit(
        ours, data, training.make_method("vanilla"), epochs=options.epochs, batch_size=options.batch_size,
        seed=options.seed, device="cpu",
    )  # fmt: skip
    for start, mine, theirs in zip(before, ours.parameters(), by_hand.parameters(), strict=True):
        assert not torch.equal(start, mine)
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_every_loop_is_timed_for_every_epoch_but_the_first(training, options):
    seconds, loops = training.measure(options, training.synthetic("mlp", options.train, options.val))
    assert seconds.shape == (len(loops), 2)
    assert (seconds > 0).all()
    assert {name for pair in training.TARGETS for name in pair} == set(loops)


def test_the_table_holds_medians_of_paired_ratios(training):
    loops = ["hand-written", "hand-written, again", "plain", "label smoothing", "AR-AdaLS"]
    loops += ["AdaLS", "AR-AdaLS, running levels"]
    drift = np.array([1.0, 5.0, 2.0])  # the machine's, which the pairs cancel
    seconds = np.outer([1.0, 1.0, 1.5, 1.5, 3.0, 2.0, 2.5], drift)
    lines = training.table(loops, seconds, "CPU").splitlines()
    assert "| plain | 3 |" in lines
    assert "| AR-AdaLS / plain | 2.000 (2.000–2.000) | 1.03 |" in lines
    assert "| AR-AdaLS, running levels / AdaLS | 1.250 (1.250–1.250) | 1.03 |" in lines
    assert "| plain / hand-written | 1.500 (1.500–1.500) | 1.02 |" in lines


def test_turns_time_only_the_contender_that_works(turns):
    now, log = [0.0], []

    def work_of(name, cost):
        def work(contender):
            advance = contender.task("", 6)
            for step in range(1, 7):
                now[0] += cost
                log.append(name)
                advance(step)

        return work

    contenders = [
        turns.Contender(name, work_of(name, cost), every=2, clock=lambda: now[0])
        for name, cost in (("cheap", 1.0), ("dear", 10.0))
    ]
    times = turns.take_turns(contenders, 3)
    assert times.tolist() == [[2.0] * 3, [20.0] * 3]
    assert log.count("cheap") == log.count("dear") == 6
    assert all(first == second for first, second in zip(log[::2], log[1::2], strict=True))
    assert all(set(log[start : start + 4]) == {"cheap", "dear"} for start in (0, 4, 8))


def test_what_a_contender_raises_ends_the_measurement(turns):
    def work(contender):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        turns.take_turns([turns.Contender("one", work, every=1)], 2)


def test_the_interval_of_the_median_holds_it_and_narrows(turns):
    values = np.random.default_rng(0).normal(1.0, 0.1, 400)
    median, low, high = turns.median_interval(values)
    assert median == np.median(values)
    assert low < median < high
    few = turns.median_interval(values[:20])
    assert high - low < few[2] - few[1]
    expected = 2 * 1.96 * 0.1 * np.sqrt(np.pi / 2) / np.sqrt(400)  # of a normal law's median
    assert high - low == pytest.approx(expected, rel=0.35)
