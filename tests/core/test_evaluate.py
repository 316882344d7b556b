import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

import robcal
from robcal.base.checks import InputError
from robcal.calibration.corrected import corrected_calibration_error
from robcal.calibration.intervals import metric_range
from robcal.calibration.replicates import Resampling
from robcal.data.corruptions import BENCHMARK_KINDS, SEVERITIES
from robcal.report.verdicts import paired_difference
from robcal.runs.collect import collect
from robcal.runs.gallery import gallery
from robcal.runs.measure import Measured
from robcal.runs.shift import Shift
from robcal.training.settings import TrainSettings

N, Z = 120, 3
CELLS = tuple((kind, severity) for kind in BENCHMARK_KINDS for severity in SEVERITIES)


def measured(method, seed, *, sharpness=1.0, n=N, with_shift=True, labels_seed=0):
    rng = np.random.default_rng([seed, 7])
    labels = np.random.default_rng(labels_seed).integers(0, Z, n)
    logits = sharpness * (rng.normal(size=(n, Z)) + 1.5 * np.eye(Z)[labels])
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    sure = rng.uniform(0.4, 1, (75, n)).astype(np.float32)
    shift = Shift(CELLS, sure, rng.random((75, n)) < sure, rng.random((75, n)).astype(np.float32),
                  rng.random((75, n)).astype(np.float32)) if with_shift else None  # fmt: skip
    return Measured(
        directory=Path(f"{method}-{seed}"),
        settings=TrainSettings(data="digits", model="mlp", method=method, epochs=1, seed=seed, levels=4),
        dataset={"name": "toy", "class_names": ["a", "b", "<c>"], "sizes": {"test": n}},
        probs=probs.astype(np.float32),
        labels=labels,
        distance=rng.random(n).astype(np.float32),
        shift=shift,
        history=(),
        images=np.zeros((n, 1, 8, 8), np.float32),
    )


def scaled(run, temperature):
    return dataclasses.replace(run, label="Plain + temperature", temperature=temperature)


class TestResampling:
    def test_replicates_equal_brute_force(self):
        rng = np.random.default_rng(0)
        sure, right = rng.random(60), rng.random(60) < 0.5
        resampling = Resampling.draw(60, resamples=7, seed=3)
        assert (resampling.counts.sum(1) == 60).all()
        mask = rng.random(60) < 0.6
        errors = np.abs(resampling.bin_gaps(sure, right)).sum(1)
        parts = np.abs(resampling.bin_gaps(sure, right, mask)).sum(1)
        means = resampling.mean(sure, mask)
        for row, error, part, mean in zip(resampling.counts.astype(int), errors, parts, means, strict=True):
            index = np.repeat(np.arange(60), row)
            assert error == pytest.approx(binned_error(sure[index], right[index]), abs=1e-5)
            inside = index[mask[index]]
            assert part == pytest.approx(binned_error(sure[inside], right[inside]), abs=1e-5)
            assert mean == pytest.approx(sure[inside].mean(), abs=1e-5)

    def test_variance_is_that_of_the_mean(self):
        values = np.random.default_rng(1).normal(size=400)
        replicates = Resampling.draw(400, resamples=3000).mean(values)
        assert replicates.std() == pytest.approx(values.std() / 20, rel=0.06)


def binned_error(sure, right):
    """ECE by its definition, bin by bin."""
    total = 0.0
    for k in range(15):
        inside = (sure > k / 15) & (sure <= (k + 1) / 15)
        if inside.any():
            total += inside.sum() * abs(sure[inside].mean() - right[inside].mean())
    return total / len(sure)


class TestCollect:
    def runs(self):
        return [measured(m, s, sharpness=k) for m, k in (("vanilla", 2.0), ("ar-adals", 1.0)) for s in (0, 1, 2)]

    def test_values_are_means_over_seeds_of_the_public_metrics(self):
        runs = self.runs()
        results = collect(runs)
        for method, part in zip(results.methods, (runs[:3], runs[3:]), strict=True):
            for key, function in (
                ("ece", robcal.calibration_error),
                ("nll", robcal.negative_log_likelihood),
                ("brier", robcal.brier_score),
            ):
                values = [function(run.probs, run.labels) for run in part]
                assert method.metrics[key].per_seed == pytest.approx(values)
                assert method.metrics[key].value == pytest.approx(np.mean(values))
                assert method.metrics[key].low < method.metrics[key].value < method.metrics[key].high
            cells = [
                binned_error(s, r) for run in part for s, r in zip(run.shift.confidence, run.shift.correct, strict=True)
            ]
            assert method.metrics["shift_ece"].value == pytest.approx(np.mean(cells), abs=1e-6)
            fog = next(c for c in method.shift if (c.corruption, c.severity) == ("fog", 3))
            number = CELLS.index(("fog", 3))
            each = [run.shift.correct[number].mean() for run in part]
            assert fog.accuracy == pytest.approx(np.mean(each))
            assert fog.per_seed["accuracy"] == pytest.approx(each, abs=1e-5)

    def test_calibration_errors_have_their_floor_and_are_compared_without_their_bias(self):
        runs = self.runs()
        results = collect(runs)
        for method, part in zip(results.methods, (runs[:3], runs[3:]), strict=True):
            floors = [robcal.calibration_noise_floor(run.probs) for run in part]
            assert method.floors["ece"] == pytest.approx(np.mean(floors))
            assert method.floors["shift_ece"] == pytest.approx(np.mean([cell.ece_floor for cell in method.shift]))
            assert all(row.ece_floor > method.floors["ece"] for row in method.levels)  # of a quarter of the examples
        errors = [[corrected_calibration_error(run.probs, run.labels) for run in part] for part in (runs[3:], runs[:3])]
        difference = results.methods[1].minus["vanilla"]["ece"]
        assert difference.per_seed == pytest.approx(np.subtract(*errors))
        assert difference.bias_left > 0
        shifted = [method.metrics["shift_ece_corrected"].per_seed for method in results.methods]
        assert results.methods[1].minus["vanilla"]["shift_ece"].per_seed == pytest.approx(np.subtract(*shifted[::-1]))
        assert any("bias removed" in note for note in results.notes)

    def test_differences_are_paired_and_of_the_right_sign(self):
        runs = self.runs()
        difference = collect(runs).methods[1].minus["vanilla"]["nll"]
        pairs = [robcal.negative_log_likelihood(b.probs, b.labels) - robcal.negative_log_likelihood(a.probs, a.labels)
                 for a, b in zip(runs[:3], runs[3:], strict=True)]  # fmt: skip
        assert difference.per_seed == pytest.approx(pairs)
        assert difference.value == pytest.approx(np.mean(pairs))

    def test_identical_methods_do_not_differ(self):
        plain = [measured("vanilla", seed) for seed in (0, 1)]
        same = [
            dataclasses.replace(run, settings=dataclasses.replace(run.settings, method="ar-adals")) for run in plain
        ]
        differences = dict(collect([*plain, *same]).methods[1].minus["vanilla"])
        assert {"accuracy", "ece", "nll", "brier", "shift_ece"} <= set(differences)
        assert differences.pop("mce").low is None  # a difference of largest gaps has no interval
        for estimate in differences.values():
            assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0, 0, 0))

    def test_levels_are_those_of_the_baseline(self):
        runs = self.runs()
        results = collect(runs)
        for method in results.methods:
            assert [row.n for row in method.levels] == [30] * 4
        expected = np.mean([
            (run.correct[robcal.assign_levels(base.distance, 4) == 2]).mean()
            for base, run in zip(runs[:3], runs[3:], strict=True)
        ])  # fmt: skip
        assert results.methods[1].levels[2].accuracy.value == pytest.approx(expected)
        assert results.methods[0].levels[0].score_low == pytest.approx(
            np.mean([run.distance.min() for run in runs[:3]])
        )

    def test_equal_distances_share_a_level_which_a_seed_may_lack(self):
        runs = self.runs()
        for run in (runs[0], runs[3]):  # of the 120, 70 are censored: positions 50 to 119, whose middle is in level 2
            run.distance[np.argsort(run.distance)[50:]] = np.inf
        for method in collect(runs).methods:
            assert [row.group for row in method.levels] == ["0", "1", "2", "3"]
            assert [row.n for row in method.levels] == [30, round((20 + 30 + 30) / 3), round((70 + 60) / 3), 30]
            assert len(method.levels[3].ece.per_seed) == 2

    def test_a_constant_distance_gives_one_level_and_no_trend(self):
        runs = [dataclasses.replace(run, distance=np.full(N, np.inf, np.float32)) for run in self.runs()]
        for method in collect(runs).methods:
            assert [row.n for row in method.levels] == [N]
            assert method.trends == ()

    def test_levels_may_be_of_a_part_of_the_test_split(self):
        index = np.arange(3, N, 5)
        runs = [
            dataclasses.replace(run, distance=run.distance[: len(index)], scored=index, label=f"<{run.name}>")
            for run in self.runs()
        ]
        results = collect(runs)
        assert [method.name for method in results.methods] == ["<vanilla>", "<ar-adals>"]
        assert [row.n for row in results.methods[0].levels] == [6] * 4
        found = np.mean([
            run.correct[index][robcal.assign_levels(base.distance, 4) == 1].mean()
            for base, run in zip(runs[:3], runs[3:], strict=True)
        ])  # fmt: skip
        assert results.methods[1].levels[1].accuracy.value == pytest.approx(found)
        shown = gallery(runs[0], robcal.assign_levels(runs[0].distance, 4))
        assert shown
        assert {item.index for item in shown} <= set(index.tolist())

    def test_shift_may_be_of_a_part_of_the_test_split(self):
        def part(shift):
            arrays = {name: getattr(shift, name)[:, :50] for name in ("confidence", "correct", "nll", "brier")}
            return Shift(shift.cells, **arrays)

        runs = [dataclasses.replace(run, shift=part(run.shift)) for run in self.runs()]
        found = collect(runs).methods[0].metrics["shift_accuracy"]
        assert found.value == pytest.approx(np.mean([run.shift.correct.mean() for run in runs[:3]]))

    @pytest.mark.slow
    def test_further_pairs_are_compared_as_those_with_the_baseline_are(self):
        """The difference to another method is what it is where that method is the baseline."""
        runs = [*self.runs(), *(scaled(measured("vanilla", seed, sharpness=1.2), 1.5 + seed) for seed in (0, 1, 2))]
        results = collect(runs, against=["Plain + temperature"])
        scaled_too = "Plain + temperature"
        minus = {method.name: set(method.minus) for method in results.methods}
        assert minus == {"vanilla": set(), "ar-adals": {"vanilla", scaled_too}, scaled_too: {"vanilla"}}
        other = collect([*runs[6:], *runs[:6]])
        assert results.method("ar-adals").minus[scaled_too] == other.method("ar-adals").minus[scaled_too]
        assert results.provenance["runs"] == 6
        assert any("1.50 to 3.50 over the seeds" in note for note in results.notes)
        for metric in ("ece", "nll", "accuracy"):
            ours = paired_difference(results, metric, "ar-adals", "Plain + temperature")
            theirs = paired_difference(results, metric, "Plain + temperature", "ar-adals")
            assert (ours.value, ours.low, ours.high) == (-theirs.value, -theirs.high, -theirs.low)

    def test_one_seed_has_an_interval_of_the_test_split(self):
        results = collect([measured("vanilla", 0, with_shift=False)])
        estimate = results.methods[0].metrics["accuracy"]
        p = estimate.value
        assert estimate.high - p == pytest.approx(1.96 * np.sqrt(p * (1 - p) / N), rel=0.1)
        assert "One seed" in results.notes[0]
        assert results.methods[0].shift == ()

    def test_other_test_examples_are_refused(self):
        with pytest.raises(InputError, match="other test examples"):
            collect([measured("vanilla", 0), measured("ar-adals", 0, labels_seed=5)])
        with pytest.raises(InputError, match="120"):
            collect([measured("vanilla", 0), measured("ar-adals", 0, n=60)])
        more = measured("ar-adals", 0)
        more = dataclasses.replace(more, probs=np.column_stack([more.probs, 0 * more.probs[:, 0]]))
        with pytest.raises(InputError, match="other test examples"):
            collect([measured("vanilla", 0), more])

    def test_other_test_inputs_of_the_same_labels_are_told(self):
        other = dataclasses.replace(measured("ar-adals", 0, with_shift=False), test_digest="other")
        for run, told in ((other, True), (dataclasses.replace(other, test_digest=""), False)):
            notes = collect([measured("vanilla", 0, with_shift=False), run]).notes
            assert (
                any(re.match(r"The test inputs of AR-AdaLS.* are not those of Plain", note) for note in notes) == told
            )

    def test_methods_without_a_common_seed_are_refused(self):
        with pytest.raises(InputError, match="share no seed"):
            collect([measured("vanilla", 0), measured("ar-adals", 1)])


def test_intervals_and_differences_of_two_seeds_stay_in_their_ranges():
    """Student's t with one degree of freedom reaches 13 times the spread."""
    runs = [measured(name, seed, sharpness=s, n=24) for name, s in (("vanilla", 1), ("ar-adals", 4)) for seed in (0, 1)]
    results = collect(runs)
    cut = 0
    for method in results.methods:
        for name, estimate in method.metrics.items():
            least, most = metric_range(name)
            if estimate.low is None:  # where no interval covers
                assert name == "mce"
                continue
            least = min(least, estimate.value) if name.endswith("ece_corrected") else least  # its noise goes both ways
            assert least <= estimate.low <= estimate.value <= estimate.high <= most, name
            cut += estimate.low == least or estimate.high == most
        for row in method.levels:
            assert -1 <= row.joint_gap.low <= row.gap.low <= row.gap.high <= row.joint_gap.high <= 1
    for name, estimate in results.methods[1].minus["vanilla"].items():
        least, most = metric_range(name)
        if estimate.low is None:
            assert name == "mce"
            continue
        assert least - most <= estimate.low <= estimate.high <= most - least, name
        cut += estimate.low == least - most or estimate.high == most - least
    assert cut > 5
