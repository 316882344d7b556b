import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from scipy.linalg import null_space
from scipy.stats import multivariate_normal

from robcal import AdaptiveLabelSmoother, InputError
from robcal.smoothing.controllers import (
    DEFAULT_LEAD,
    _random_walks,
    common_squared_errors,
    integral_update,
    justified_mass,
    smooth_over_levels,
    squared_errors,
    stable_update,
    step_of_run,
)

unit = st.floats(0, 1, allow_nan=False)


def stable(num_levels=4, num_updates=20, **options):
    return AdaptiveLabelSmoother(num_levels, 10, controller="stable", num_updates=num_updates, **options)


def levels_of(size):
    return hnp.arrays(np.float64, size, elements=unit)


# ---- the gap of each level, smoothed over the levels


def walk_of(gap, variance, walk):
    likelihoods, means = _random_walks(gap, variance, np.full((1, len(gap) - 1), walk))
    return likelihoods[0], means[0]


def test_likelihood_of_the_walk_is_that_of_the_gaps_contrasts():
    """Independent: the restricted likelihood is the density of any basis of contrasts, whose covariance is known."""
    draw = np.random.default_rng(0)
    for size in (2, 5, 9):
        gap, variance = draw.normal(size=size), draw.uniform(0.1, 1, size)
        contrasts = null_space(np.ones((1, size))).T
        differences = []
        for walk in (0.0, 0.1, 1.0, 5.0):
            covariance = np.diag(variance) + walk * np.minimum.outer(np.arange(size), np.arange(size))
            density = multivariate_normal(np.zeros(size - 1), contrasts @ covariance @ contrasts.T)
            differences.append(walk_of(gap, variance, walk)[0] - density.logpdf(contrasts @ gap))
        np.testing.assert_allclose(differences, differences[0], atol=1e-9)


def test_smoothed_gap_is_the_posterior_mean():
    """Independent: conditioning of the joint Gaussian, with a height of the walk that is all but flat."""
    draw = np.random.default_rng(1)
    gap, variance, walk = draw.normal(size=6), draw.uniform(0.1, 1, 6), 0.3
    prior = 1e7 + walk * np.minimum.outer(np.arange(6), np.arange(6))
    expected = prior @ np.linalg.solve(prior + np.diag(variance), gap)
    np.testing.assert_allclose(walk_of(gap, variance, walk)[1], expected, atol=1e-5)


@given(st.integers(0, 10_000), st.integers(1, 12), st.just(0.0) | st.floats(1e-6, 1e4))
def test_smoothed_gaps_are_weighted_means_of_the_gaps(seed, size, walk):
    draw = np.random.default_rng(seed)
    variance = draw.uniform(1e-4, 1, size)
    weights = np.stack([walk_of(unit_gap, variance, walk)[1] for unit_gap in np.eye(size)], axis=1)
    assert weights.min() > -1e-9
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-9)


def test_level_without_examples_lies_between_its_neighbours():
    """Independent: a walk whose height is known on both sides has its mean on the line between, and stays beyond."""
    gap, variance = np.array([0.0, 0.3, 0.0, 0.0, -0.3, 0.0]), np.array([np.inf, 1e-9, np.inf, np.inf, 1e-9, np.inf])
    np.testing.assert_allclose(smooth_over_levels(gap, variance), [0.3, 0.3, 0.1, -0.1, -0.3, -0.3], atol=1e-3)


def test_levels_that_differ_by_noise_alone_share_one_gap():
    draw = np.random.default_rng(2)
    variance = np.full(10, 4e-4)
    gaps = 0.05 + draw.normal(0, 0.02, (300, 10))
    smoothed = np.array([smooth_over_levels(gap, variance) for gap in gaps])
    assert np.mean(np.ptp(smoothed, axis=1) < 1e-12) > 0.5  # most often the pooled gap itself
    assert smoothed.std(axis=1).mean() < 0.3 * gaps.std(axis=1).mean()


def test_a_trend_beyond_the_noise_is_kept():
    draw = np.random.default_rng(3)
    truth = np.linspace(0.2, -0.1, 10)
    errors = [smooth_over_levels(truth + draw.normal(0, 0.02, 10), np.full(10, 4e-4)) - truth for _ in range(200)]
    assert np.sqrt(np.mean(np.square(errors))) < 0.017  # better than the .02 of the raw gaps
    assert abs(np.mean(errors, axis=0)).max() < 0.012


def test_levels_alike_take_the_gap_of_the_whole_split():
    """Where the levels differ by nothing but noise the update is that of AdaLS, however unlike their accuracies are."""
    accuracy, counts = np.array([0.3, 0.6, 0.9, 0.99]), np.array([90, 100, 110, 100])
    gap = np.array([0.03, 0.01, 0.02, 0.005])
    integral, mass = stable_update(
        np.full(4, 0.995), accuracy + gap, accuracy, counts, step=0.5, least_mass=np.zeros(4), lead=0.25
    )
    np.testing.assert_allclose(integral, 0.995 - 0.5 * (gap @ counts) / 400, atol=1e-12)
    np.testing.assert_allclose(mass, 0.995 - 0.75 * (gap @ counts) / 400, atol=1e-12)


def test_common_errors_by_hand():
    accuracy, counts = np.array([0.5, 0.9, 0.0]), np.array([100, 300, 0])
    half, high = (50.5 / 101) * (50.5 / 101), (270.5 / 301) * (30.5 / 301)
    variance = (100 * half + 300 * high) / 400
    np.testing.assert_allclose(common_squared_errors(accuracy, counts), [variance / 100, variance / 300, np.inf])


def test_a_level_without_examples_takes_its_neighbours_gap():
    counts = np.array([500, 0, 500])
    gap, accuracy = np.array([0.3, 0.0, 0.3]), np.array([0.5, 0.0, 0.5])
    np.testing.assert_allclose(smooth_over_levels(gap, common_squared_errors(accuracy, counts)), 0.3)
    np.testing.assert_array_equal(smooth_over_levels(gap, np.full(3, np.inf)), 0)


# ---- laws of the controller


@given(levels_of(5), levels_of(5))
def test_calibrated_levels_are_the_fixed_point(mass, accuracy):
    assume((mass >= accuracy).all())
    counts = np.full(5, 300)
    least = justified_mass(accuracy, counts)
    for moved in stable_update(mass, accuracy, accuracy, counts, step=0.2, least_mass=least):
        np.testing.assert_allclose(moved, mass, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float64, (15, 3), elements=unit), hnp.arrays(np.float64, (15, 3), elements=unit))
def test_softening_stays_within_what_validation_justifies(confidence, accuracy):
    """Bounded under any sequence of gaps: no level's mass falls below the accuracy that it has surely had."""
    smoother, counts = stable(3, 15, min_true_mass=0.15), np.array([40, 200, 1000])
    surely = np.zeros(3)
    for sure, right in zip(confidence, accuracy, strict=True):
        surely = np.maximum(surely, right - 2 * np.sqrt(squared_errors(right, counts)))
        smoother.update(sure, right, counts)
        assert (smoother.true_mass <= 1).all()
        assert (smoother.true_mass >= np.minimum(1, np.maximum(surely, 0.15)) - 1e-12)[smoother.epsilon > 0].all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the smoother was made for num_updates")
@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float64, (10, 4), elements=unit), st.floats(0.01, 0.3), st.floats(0.5, 8))
def test_no_windup(history, deficit, gain):
    """However long the levels were over-confident, eps turns with the first update of the reversed gap, and is gone
    within softening / (step * gap) updates.
    """
    smoother, counts = stable(4, 40, gain=gain, start=0.0), np.full(4, 250)
    for sure in history:
        smoother.update(sure, np.zeros(4), counts)
    wound = smoother.epsilon
    smoother.update(np.full(4, 0.5 - deficit), np.full(4, 0.5), counts)
    turned = smoother.epsilon
    assert (turned[wound > 1e-9] < wound[wound > 1e-9]).all()
    needed = int(
        np.ceil((1 - smoother.state_dict()["integral"].min().item()) / (step_of_run(gain, 40) * deficit) + 1e-9)
    )
    for _ in range(needed):
        smoother.update(np.full(4, 0.5 - deficit), np.full(4, 0.5), counts)
    np.testing.assert_allclose(smoother.epsilon, 0, atol=1e-9)


def course(smoother, num_updates, plant=0.8):
    """eps over a run in which the model's own over-confidence grows and softening takes part of it back."""
    accuracy, counts = np.array([0.4, 0.6, 0.8, 0.95]), np.full(4, 1000)
    masses = []
    for update in range(num_updates):
        own = np.array([0.3, 0.2, 0.1, 0.03]) * min(1, 2 * (update + 1) / num_updates)
        confidence = np.clip(accuracy + own - plant * (1 - smoother.true_mass), 0, 1)
        smoother.update(confidence, accuracy, counts)
        masses.append(smoother.true_mass)
    return np.array(masses)


def test_course_does_not_depend_on_the_length_of_the_run():
    runs = {num: course(stable(4, num), num) for num in (20, 40, 200)}
    for share in (0.5, 0.75, 1.0):
        at = {num: masses[int(share * num) - 1] for num, masses in runs.items()}
        np.testing.assert_allclose(at[20], at[200], atol=0.025)
        np.testing.assert_allclose(at[40], at[200], atol=0.012)
    published = {
        num: course(AdaptiveLabelSmoother(4, 10, controller="published", step_size=0.05), num)[-1] for num in (20, 200)
    }
    assert abs(published[20] - published[200]).max() > 0.05  # the same step size is another course


@settings(deadline=None)
@given(levels_of(4), levels_of(4), st.floats(0.05, 1), st.floats(0.05, 1))
def test_integral_of_a_linear_model_contracts(first, second, step, plant):
    """Without a lead two courses from any two starts approach each other at every update, for any step up to 1."""
    accuracy, counts, own = np.full(4, 0.5), np.full(4, 400), np.array([0.3, 0.2, 0.15, 0.1])
    distances = []
    masses = [first, second]
    for _ in range(6):
        distances.append(np.linalg.norm(masses[0] - masses[1]))
        moved = []
        for mass in masses:
            _, gap = walk_of(own - plant * (1 - mass), common_squared_errors(accuracy, counts), 4e-4)
            moved.append(np.clip(mass - step * gap, 0.2, 1))
        masses = moved
    assert (np.diff(distances) <= 1e-12).all()


@pytest.mark.slow
@settings(deadline=None, max_examples=15, phases=[Phase.explicit, Phase.generate])
@given(levels_of(3), st.floats(0.4, 2), st.floats(4, 8), st.integers(10, 20))
def test_courses_settle_for_a_model_that_answers_up_to_twofold(start, plant, gain, num_updates):
    """With the lead: from any start to the same calibrated end, for every plant gain up to 2 (Jury's criterion)."""
    accuracy, counts, own = np.array([0.5, 0.7, 0.8]), np.full(3, 10**8), np.array([0.25, 0.15, 0.1])
    step = step_of_run(gain, num_updates)
    assume(plant * step + 2 * plant * DEFAULT_LEAD < 1.85)
    integral, mass = start, start
    for _ in range(300):
        confidence = np.clip(accuracy + own - plant * (1 - mass), 0, 1)
        integral, mass = stable_update(integral, confidence, accuracy, counts, step=step, least_mass=np.full(3, 0.2))
    np.testing.assert_allclose(confidence, accuracy, atol=1e-3)
    np.testing.assert_allclose(mass, 1 - own / plant, atol=2e-3)


def test_the_lead_follows_a_model_whose_gap_keeps_falling():
    """Late in training the answer of the model grows; the integral alone lags behind and ends under-confident."""
    ends = {}
    for lead in (0.0, DEFAULT_LEAD):
        integral = mass = np.ones(1)
        for update in range(20):
            answer = 0.7 + 0.8 * max(0.0, (update - 10) / 10)
            gap = 0.15 - answer * (1 - mass)
            integral, mass = stable_update(
                integral, 0.6 + gap, np.full(1, 0.6), np.full(1, 4000), step=0.2, least_mass=np.zeros(1), lead=lead
            )
        ends[lead] = abs(float(gap[0]))
    assert ends[DEFAULT_LEAD] < 0.8 * ends[0.0]


def test_steps_above_one_never_happen_and_integral_ones_overshoot():
    assert 0 < step_of_run(100.0, 1) <= 1
    mass = np.array([0.5])
    swings = []
    for _ in range(6):  # the published update at step 2.5 on a model that answers at once: out of bounds, for ever
        mass = integral_update(mass, 0.8 - (1 - mass), np.array([0.6]), step_size=2.5, min_true_mass=0.2)
        swings.append(float(mass[0]))
    assert max(swings[-2:]) - min(swings[-2:]) > 0.3


def test_labels_stay_hard_until_the_model_has_settled():
    smoother, counts = stable(2, 20, start=0.25), np.full(2, 500)
    for update in range(1, 7):
        smoother.update([0.9, 0.9], [0.1, 0.5], counts)
        assert (smoother.epsilon > 0).any() == (update >= 5)


def test_justified_mass_by_hand():
    share = (0.8 * 100 + 0.5) / 101
    expected = 0.8 - 2 * np.sqrt(share * (1 - share) / 100)
    np.testing.assert_allclose(justified_mass(np.array([0.8, 0.0, 0.9]), np.array([100, 50, 0])), [expected, 0, 0])


def test_state_goes_on_where_it_was():
    draw = np.random.default_rng(4)
    figures = [(draw.uniform(0.5, 1, 3), draw.uniform(0, 0.7, 3), np.array([100, 120, 90])) for _ in range(12)]
    whole, first = stable(3, 12), stable(3, 12)
    for one in figures[:7]:
        first.update(*one)
    second = stable(3, 12)
    second.load_state_dict(first.state_dict())
    for one in figures[7:]:
        second.update(*one)
    for one in figures:
        whole.update(*one)
    np.testing.assert_array_equal(whole.epsilon, second.epsilon)
    assert (whole.epsilon > 0).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"controller": "stable"}, "num_updates"),
        ({"controller": "published"}, "step_size"),
        ({"controller": "other", "step_size": 0.1}, "controller"),
        ({"controller": "stable", "num_updates": 0}, "num_updates"),
        ({"controller": "stable", "num_updates": 5, "gain": 0.0}, "gain"),
        ({"controller": "stable", "num_updates": 5, "start": 1.0}, "start"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        AdaptiveLabelSmoother(2, 10, **options)


def test_the_stable_update_asks_for_counts_and_leaves_the_state_alone():
    smoother = stable(2, 4, start=0.0)
    for counts in (None, [1], [1, -1], [1, np.nan]):
        with pytest.raises(InputError, match="counts"):
            smoother.update([0.9, 0.9], [0.5, 0.5], counts)
    assert (smoother.epsilon == 0).all()
    assert int(smoother.state_dict()["updates"]) == 0
