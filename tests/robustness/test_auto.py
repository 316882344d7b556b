from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import NearestCentroid, ReluNet, curved_cases, linear_distance, linear_model
from torch import nn

from robcal.base.checks import InputError
from robcal.base.levels import assign_levels
from robcal.robustness import auto
from robcal.robustness.attacks import attack_batch
from robcal.robustness.auto import draw_rounds, score_auto
from robcal.robustness.cuts import cut_bands, level_tolerance
from robcal.robustness.engine import Rows
from robcal.robustness.network import Network
from robcal.robustness.restarts import Restarts
from robcal.robustness.scoring import score

Box = tuple[float, float] | None


@pytest.fixture
def small_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pilot of 16 and a last round after 64, so that small data sets see two rounds."""
    monkeypatch.setattr(auto, "PILOT", 16)
    monkeypatch.setattr(auto, "BEFORE_LAST", 64)


@pytest.mark.usefixtures("small_rounds")
@pytest.mark.parametrize(("box", "tolerance"), [(None, 1.02), ((0.0, 1.0), 1.03)])
def test_linear_models_and_inputs_on_the_ends_of_the_box(box: Box, tolerance: float) -> None:
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(5, 12)), rng.normal(size=5) * 0.2
    bias[4] = -6.0  # a class that is never predicted
    model = linear_model(weight, bias)
    x = torch.tensor(rng.uniform(-0.3, 1.3, size=(200, 12)).clip(0, 1), dtype=torch.float32)
    assert ((x == 0) | (x == 1)).any(1).float().mean() > 0.9
    exact = linear_distance(model, x, box)
    scores = score_auto(model, x, box=box, num_rivals=99)
    assert scores.provenance["rounds"] == [64, 136]
    reachable = np.isfinite(exact)
    np.testing.assert_array_equal(scores.status == "verified", reachable)
    np.testing.assert_array_equal(scores.status == "censored", ~reachable)
    ratio = scores.distance[reachable] / exact[reachable]
    assert ratio.min() >= 1 - 1e-6
    assert ratio.max() <= tolerance
    assert (scores.prediction != 4).all()
    assert (assign_levels(scores) == assign_levels(exact)).mean() >= 0.95
    plain = attack_batch(Restarts(num_rivals=99), model, x, None, box)
    ratio = plain.distance.numpy()[reachable] / exact[reachable]
    assert ratio.max() <= tolerance


@pytest.mark.usefixtures("small_rounds")
def test_curved_models_with_a_known_distance() -> None:
    """Polyhedral cells and balls: exact in closed form, and every level of theirs right but where a cut is grazed."""
    rng = np.random.default_rng(0)
    for model, dims in curved_cases(rng):
        x = torch.tensor(rng.normal(size=(200, dims)) * 1.3, dtype=torch.float32)
        exact = model.distance(x)
        scores = score_auto(model, x, box=None, num_rivals=9)
        assert (scores.status == "verified").all()
        ratio = scores.distance / exact
        assert ratio.min() >= 1 - 1e-5
        assert np.median(ratio) <= 1.02
        level, known = assign_levels(scores), assign_levels(exact)
        assert (level == known).mean() >= 0.9
        assert (np.abs(level - known) <= 1).all()


@pytest.mark.usefixtures("small_rounds")
@pytest.mark.parametrize("box", [None, (-1.0, 1.0)])
def test_relu_nets_never_below_the_enumerated_distance(box: Box) -> None:
    rng = np.random.default_rng(0)
    model = ReluNet(3, 5, 3, 0)
    x = torch.tensor(rng.uniform(-1, 1, (40, 3)), dtype=torch.float32)
    exact = model.distance(x, box)
    result = attack_batch(Restarts(num_rivals=9), model, x, None, box)
    scores = score_auto(model, x, box=box, num_rivals=9, num_levels=5)
    for distance in (result.distance.numpy(), scores.distance):
        found = np.isfinite(distance)
        assert (distance[found] >= exact[found] * (1 - 1e-6)).all()
        assert found[np.isfinite(exact)].mean() >= 0.9
        assert np.median(distance[found] / exact[found]) <= 1.02
    with torch.no_grad():
        after = torch.cat([model(row[None]) for row in result.point]).argmax(1)
    assert (after[result.verified] == result.rival[result.verified]).all()
    assert (after[result.verified] != result.prediction[result.verified]).all()
    if box is not None:
        assert result.point.min() >= box[0]
        assert result.point.max() <= box[1]


def test_another_boundary_is_found_where_the_nearest_linear_picture_misleads() -> None:
    """Rival 1 seems nearer (1.0 against 1.05) and bends away to 1.38; rival 2 is linear."""

    def model(x: torch.Tensor) -> torch.Tensor:
        a, b = x[:, 0], x[:, 1]
        return torch.stack([torch.ones_like(a), a - 0.2 * a * a, b / 1.05], 1)

    x = torch.zeros(1, 2)
    alone = attack_batch(Restarts(slack=0.0), model, x, None, None)
    both = attack_batch(Restarts(slack=0.1), model, x, None, None)
    assert alone.distance.item() == pytest.approx((1 - 0.2**0.5) / 0.4, rel=0.01)
    assert both.distance.item() == pytest.approx(1.05, rel=0.01)
    assert both.rival.item() == 2
    assert both.distance.item() >= 1.05
    settled = attack_batch(Restarts(slack=0.1, cuts=((5.0, 6.0),)), model, x, None, None)
    assert settled.passes < both.passes
    assert settled.distance >= both.distance


def test_a_descent_that_ends_short_of_its_boundary_is_lengthened_before_others_are_tried() -> None:
    """One linearisation says 1.0, the boundary bends away to 1.38; that of rival 2 is linear, and at 5."""

    def model(x: torch.Tensor) -> torch.Tensor:
        a, b = x[:, 0], x[:, 1]
        return torch.stack([torch.ones_like(a), a - 0.2 * a * a, b / 5], 1)

    x = torch.zeros(3, 2)
    result = attack_batch(Restarts(slack=0.0, max_steps=0), model, x, None, None)
    np.testing.assert_allclose(result.distance, (1 - 0.2**0.5) / 0.4, rtol=0.03)
    assert (result.rival == 1).all()
    # a forward and two backwards, the line search and two more evaluations of it: no other start
    assert (result.passes <= 0.5 + 1 + 0.5 * (4 + 2)).all()
    settled = attack_batch(Restarts(slack=0.0, max_steps=0, cuts=((9.0, 9.1),)), model, x, None, None)
    assert (settled.passes < result.passes).all()
    np.testing.assert_allclose(settled.distance, result.distance, rtol=0.15)
    both = attack_batch(Restarts(slack=9.0, max_steps=0), model, x, None, None)
    np.testing.assert_allclose(both.distance, result.distance, rtol=0.03)
    assert (both.passes > result.passes).all()  # rival 2 was tried, from the same first descent


def test_where_even_the_longer_step_finds_nothing_the_other_boundaries_are_tried() -> None:
    """Rival 1 seems to be 1 away and is never reached; rival 2 is linear, and at 5."""

    def model(x: torch.Tensor) -> torch.Tensor:
        a, b = x[:, 0], x[:, 1]
        return torch.stack([torch.ones_like(a), 0.9 * torch.tanh(a / 0.9), b / 5], 1)

    result = attack_batch(Restarts(slack=0.0, looks=0), model, torch.zeros(2, 2), None, None)
    assert result.verified.all()
    np.testing.assert_allclose(result.distance, 5, rtol=0.02)


def steep_rivals() -> tuple[nn.Module, torch.Tensor]:
    """Two inputs whose nearest boundary is that of the class with the fourth largest logit, whose gradient is steep."""
    weight = np.array([[0.0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 3, 0]])
    bias = np.array([0.0, -1.0, -1.05, -1.1, -1.5])
    return linear_model(weight, bias), torch.tensor([[0.0, 0, 0, 0, 0], [0.01, 0, 0, 0.02, 0.5]])


def test_rivals_behind_the_first_are_looked_at_where_they_may_be_nearer() -> None:
    model, x = steep_rivals()
    exact = linear_distance(model, x, None)
    blind = attack_batch(Restarts(num_rivals=1, more_rivals=0), model, x, None, None)
    near = attack_batch(Restarts(num_rivals=1, more_rivals=2, looks=1, rival_doubt=0.4), model, x, None, None)
    twice = attack_batch(Restarts(num_rivals=1, more_rivals=2, rival_doubt=0.4), model, x, None, None)
    both = attack_batch(Restarts(num_rivals=1, more_rivals=3, rival_doubt=0.4), model, x, None, None)
    assert exact[0] == pytest.approx(0.5)
    assert (blind.rival == 1).all()
    assert (near.rival == 1).all()  # the steep one is the third behind
    assert (twice.rival == 4).all()
    assert (twice.passes > both.passes).all()  # a forward more for the second look
    assert (both.rival == 4).all()
    assert (both.distance.numpy() <= 1.02 * exact).all()
    # one forward and three backwards for the look, and what the descent on its best boundary takes
    assert (both.passes >= blind.passes + 2).all()
    # a rival that would have to be half as far as the gradients seen say is not looked for
    sure = attack_batch(Restarts(num_rivals=1, more_rivals=3, rival_doubt=0.0001, slack=0.0), model, x, None, None)
    assert (sure.rival == 1).all()
    assert torch.equal(sure.passes, blind.passes)


@pytest.mark.parametrize(("looks", "found"), [(1, 4), (2, 7)])
def test_a_second_look_goes_on_behind_the_first(looks: int, found: int) -> None:
    """Classes 1 to 7 in the order of their logits, each steeper than the one before and so nearer than it seems."""
    slopes = np.array([0.0, 1, 1.3, 1.7, 2.2, 2.9, 3.8, 5])
    weight = np.diag(slopes)[:, 1:]
    model = linear_model(weight, -np.array([0.0, 1, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06]))
    x = torch.zeros(3, 7)
    result = attack_batch(Restarts(num_rivals=1, more_rivals=3, looks=looks), model, x, None, None)
    assert (result.rival == found).all()
    nearest = linear_distance(model, x, None)[0] if looks == 2 else 1.03 / 2.2
    np.testing.assert_allclose(result.distance, nearest, rtol=0.02)


def test_doubts_grow_with_the_error_of_the_linear_picture() -> None:
    sure, unsure = Restarts().for_error(0.04), Restarts().for_error(0.16)
    for name, errors in (("step_doubt", 0.65), ("start_doubt", 2.2), ("screen_doubt", 2.0)):
        assert getattr(sure, name) == pytest.approx(1 - np.exp(-0.04 * errors))
        assert getattr(unsure, name) == pytest.approx(1 - np.exp(-0.16 * errors))
    assert sure.rival_doubt == pytest.approx(1 - np.exp(-2.1 * np.sqrt(0.04**2 + 0.15**2)))
    assert sure.slack == pytest.approx(np.exp(1.75 * 0.04) - 1)
    assert Restarts().for_error(7.0) == Restarts().for_error(0.25)
    assert Restarts().for_error(0.0) == Restarts().for_error(0.02)
    assert Restarts(seed=3).for_error(None) == Restarts(seed=3)
    default = Restarts().for_error(0.15)
    for name in ("slack", "step_doubt", "start_doubt", "rival_doubt"):
        assert getattr(default, name) == pytest.approx(getattr(Restarts(), name), abs=0.03)


def sines(rng: np.random.Generator) -> Callable[[torch.Tensor], torch.Tensor]:
    """A strongly curved classifier of 8 numbers into 6 classes."""
    weight = torch.tensor(rng.normal(size=(6, 8)), dtype=torch.float32)
    return lambda x: torch.sin(3 * x) @ weight.T + (x * x) @ weight.flip(0).T


def test_further_boundaries_are_doubted_by_the_descents_of_all_and_not_of_the_pilot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    doubts = set()
    look = Restarts._look

    def watched(self: Restarts, network: Network, rows: Rows, ended: torch.Tensor) -> tuple[torch.Tensor, Rows]:
        doubts.update([self.rival_doubt] if ended.any() else [])
        return look(self, network, rows, ended)

    monkeypatch.setattr(Restarts, "_look", watched)
    rng = np.random.default_rng(0)
    model, x = sines(rng), torch.tensor(rng.normal(size=(200, 8)), dtype=torch.float32)
    errors = [score_auto(model, x, box=None, seed=seed).provenance["linear_error"] for seed in range(2)]
    assert errors[0] == pytest.approx(errors[1], rel=0.05)
    assert sorted(doubts) == pytest.approx(
        sorted({Restarts().for_error(error).rival_doubt for error in errors}), rel=0.005
    )


@pytest.mark.usefixtures("small_rounds")
def test_a_curved_network_is_looked_at_more_closely_than_a_flat_one() -> None:
    rng = np.random.default_rng(0)
    flat = linear_model(rng.normal(size=(6, 8)), rng.normal(size=6) * 0.1)
    curved = sines(rng)
    x = torch.tensor(rng.normal(size=(300, 8)), dtype=torch.float32)
    sure, unsure = (score_auto(model, x, box=None) for model in (flat, curved))
    assert sure.provenance["linear_error"] < 0.02
    assert unsure.provenance["linear_error"] > 0.05
    for name in ("slack", "step_doubt", "start_doubt", "rival_doubt"):
        assert sure.provenance["attack"][name] < unsure.provenance["attack"][name]
    assert sure.passes.mean() + 0.5 < unsure.passes.mean()


def test_no_rivals_are_looked_at_where_no_cut_may_be_crossed() -> None:
    model, x = steep_rivals()
    settings = {"num_rivals": 1, "more_rivals": 3, "rival_doubt": 0.4}
    far = attack_batch(Restarts(**settings, cuts=((5.0, 6.0),)), model, x, None, None)
    between = attack_batch(Restarts(**settings, cuts=((0.7, 0.8),)), model, x, None, None)
    assert (far.rival == 1).all()
    assert (between.rival == 4).all()
    assert (far.passes < between.passes).all()


def test_boundaries_out_of_reach_of_the_box_end_censored() -> None:
    model = linear_model(np.array([[0.0, 0], [1, 0], [0, 1], [1, 1], [-1, 1]]), np.array([0.0, -9, -8, -7, -6]))
    x = torch.rand(8, 2, generator=torch.Generator().manual_seed(0))
    for num_rivals, more_rivals, looks in ((1, 3, 2), (2, 2, 1), (4, 0, 2), (3, 3, 2), (1, 1, 9), (1, 2, 2), (2, 2, 0)):
        attack = Restarts(num_rivals=num_rivals, more_rivals=more_rivals, looks=looks)
        result = attack_batch(attack, model, x, None, (0.0, 1.0))
        assert not result.verified.any()
        assert torch.isinf(result.distance).all()


@pytest.mark.usefixtures("small_rounds")
def test_levels_of_digits_in_fewer_passes(digits: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    model, x, _ = digits
    whole = score(model, x, method=Restarts())
    scores = score_auto(model, x, num_levels=4)
    assert (scores.status == "verified").all()
    assert scores.method == "auto"
    assert scores.passes.mean() < whole.passes.mean()
    assert (assign_levels(scores, 4) == assign_levels(whole, 4)).mean() >= 0.95
    known = score(model, x, method=Restarts(cuts=cut_bands(whole.distance, len(x), 4)))
    assert (assign_levels(known, 4) == assign_levels(whole, 4)).mean() >= 0.95
    assert known.passes.mean() < whole.passes.mean()


@pytest.mark.usefixtures("small_rounds")
def test_neither_batch_size_nor_order_nor_repetition_matters(
    digits: tuple[nn.Module, torch.Tensor, torch.Tensor],
) -> None:
    model, x, _ = digits
    x = torch.cat([x[:40], x[:20]])  # a third of the data is there twice
    whole = score_auto(model, x)
    np.testing.assert_allclose(whole.distance[40:], whole.distance[:20], rtol=1e-4)
    for batch_size in (7, 1000):
        part = score_auto(model, x, batch_size=batch_size)
        close = np.isclose(part.distance, whole.distance, rtol=1e-3)
        assert close.mean() >= 0.95  # float32 rounding may decide whether a further step is worth it
        np.testing.assert_allclose(part.distance, whole.distance, rtol=0.1)
    order = np.random.default_rng(0).permutation(60)
    moved = score_auto(model, x[order])
    assert np.isclose(moved.distance, whole.distance[order], rtol=1e-3).mean() >= 0.95
    again = score_auto(model, x)
    np.testing.assert_array_equal(again.distance, whole.distance)


def test_ties_are_equal_distances_cut_by_margin_and_draw() -> None:
    model = linear_model(np.array([[1.0, 0.0], [-1.0, 0.0]]), np.zeros(2))
    x = torch.tensor([[0.25, 0.5]]).repeat(30, 1)
    scores = score_auto(model, x, num_levels=3)
    assert len(set(scores.distance.tolist())) == 1
    assert np.bincount(assign_levels(scores, 3)).tolist() == [10, 10, 10]


def test_train_mode_is_left_as_found_and_does_not_matter() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))
    x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
    model(x)  # statistics of its own
    model.train()
    model[3].eval()
    statistics = model[1].running_mean.clone()
    scores = score_auto(model, x)
    assert [part.training for part in model] == [True, True, True, False, True]
    assert torch.equal(model[1].running_mean, statistics)
    np.testing.assert_array_equal(score_auto(model.eval(), x).distance, scores.distance)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda x: (x[:, :2] > 0.5).float(), "do not depend differentiably"),
        (lambda x: 0 * x[:, :2] + torch.tensor([1.0, 0.0]), "gradients are zero at all 20 examples"),
    ],
)
def test_models_without_gradients_are_refused(model: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        score_auto(model, torch.rand(20, 3, generator=torch.Generator().manual_seed(0)))


def test_fewer_examples_than_levels_are_a_level_each() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(3, 2), torch.rand(9, 3)
    by_ten, by_nine = score_auto(model, x, num_levels=10), score_auto(model, x, num_levels=9)
    np.testing.assert_array_equal(by_ten.distance, by_nine.distance)
    assert by_ten.provenance["num_levels"] == 9


def test_no_levels_are_refused_before_any_work() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("called")

    with pytest.raises(InputError, match="num_levels"):
        score_auto(model, torch.rand(9, 3), num_levels=0)


@pytest.mark.usefixtures("small_rounds")
def test_progress_and_reference_labels() -> None:
    rng = np.random.default_rng(1)
    model = NearestCentroid(rng.normal(size=(4, 5)))
    x = torch.tensor(rng.normal(size=(100, 5)), dtype=torch.float32)
    seen: list[tuple[int, int]] = []
    scores = score_auto(model, x, box=None, progress=lambda done, total: seen.append((done, total)), batch_size=20)
    assert seen[-1] == (100, 100)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    labels = scores.prediction.copy()
    labels[::10] = (labels[::10] + 1) % 4
    wrong = score_auto(model, x, box=None, reference="label", labels=labels)
    assert (wrong.distance[::10] == 0).all()
    assert (wrong.distance > 0).sum() == 90


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 9000), kinds=st.integers(1, 3000), seed=st.integers(0, 99))
def test_rounds_are_a_partition_that_parts_no_equals(count: int, kinds: int, seed: int) -> None:
    inputs = np.random.default_rng(seed).integers(0, kinds, size=(count, 1)).astype(np.float32)
    rounds = draw_rounds(inputs, seed=seed)
    np.testing.assert_array_equal(np.sort(np.concatenate(rounds)), np.arange(count))
    assert all((np.diff(part) > 0).all() for part in rounds)
    values = [set(inputs[part, 0].tolist()) for part in rounds]
    assert sum(len(part) for part in values) == len(set.union(*values))
    if count <= auto.PILOT:
        assert len(rounds) == 1
    if len(set(inputs[:, 0].tolist())) == count > auto.PILOT:
        assert [len(part) for part in rounds[:2]] == [auto.PILOT, min(count, auto.BEFORE_LAST) - auto.PILOT]


def test_narrow_levels_are_told_apart_more_precisely() -> None:
    values = np.exp(np.random.default_rng(0).normal(0, 0.3, size=5000))
    cuts = np.quantile(values, np.arange(1, 10) / 10)
    width = np.median(np.log(cuts[1:] / cuts[:-1]))
    assert level_tolerance(values, 10) == pytest.approx(width / 16, rel=0.01)
    assert level_tolerance(values, 30) == pytest.approx(width / 48, rel=0.2)
    assert level_tolerance(values, 2) == level_tolerance(values**9, 10) == 0.01
    assert level_tolerance(values, 1000) == 0.002
    assert level_tolerance(values**9, 10, most=0.02) == 0.02
    assert level_tolerance(np.ones(50), 10) == 0.002
    assert level_tolerance(np.full(50, np.inf), 10) == level_tolerance(np.zeros(50), 10) == 0.01


@pytest.mark.usefixtures("small_rounds")
def test_distances_of_a_linear_model_are_finer_where_levels_are_narrow() -> None:
    """Distances within 10% of each other, and the same over a factor of e^3; exact in closed form."""
    model = linear_model(np.array([[1.0, 0, 0], [-1, 0, 0]]), np.zeros(2))
    rng = np.random.default_rng(0)
    found = {}
    for name, spread in (("narrow", 0.1), ("wide", 3.0)):
        x = torch.tensor(rng.normal(size=(300, 3)), dtype=torch.float32)
        x[:, 0] = torch.tensor(np.exp(spread * rng.random(300)))
        scores = score_auto(model, x, box=None)
        found[name] = scores.provenance["attack"]["tolerance"]
        assert (assign_levels(scores) == assign_levels(x[:, 0].abs().numpy())).mean() > 0.9
    assert found["narrow"] == pytest.approx(0.002)
    assert found["wide"] == pytest.approx(0.01)


class Curved(nn.Module):
    """Eight classes whose boundaries bend; counts the inputs that it evaluates."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(4)
        self.first = nn.Parameter(torch.tensor(rng.normal(size=(8, 8)), dtype=torch.float32))
        self.second = nn.Parameter(torch.tensor(rng.normal(size=(8, 8)), dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(2 * x) @ self.first + (x * x) @ self.second


def test_a_round_that_fits_into_memory_is_judged_together_in_fewer_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without, the second of four rounds knows the cuts by 32 distances only."""
    model, x = Curved(), torch.rand(300, 8, generator=torch.Generator().manual_seed(0))
    together = score_auto(model, x)
    assert together.provenance["rounds"] == [300]
    monkeypatch.setattr(auto, "GATHERED_VALUES", 100)
    apart = score_auto(model, x)
    assert apart.provenance["rounds"] == [32, 96, 128, 44]
    assert together.passes.mean() < apart.passes.mean()
    whole = score(model, x, method=Restarts()).distance
    assert (assign_levels(together) == assign_levels(whole)).mean() >= 0.9
    assert (together.status == "verified").all()
    assert together.provenance["attack"]["judging"] is None


def test_examples_that_are_judged_together_are_done_once_and_all_count_in_the_cuts() -> None:
    """Labels that are wrong are DONE at once, at distance 0, and still belong to the lowest levels."""
    model, x = Curved(), torch.rand(200, 8, generator=torch.Generator().manual_seed(1))
    seen: list[int] = []
    labels = model(x).argmax(1).numpy()
    labels[::5] = (labels[::5] + 1) % 8
    scores = score_auto(
        model, x, reference="label", labels=labels, num_levels=5, progress=lambda done, _: seen.append(done)
    )
    assert seen == sorted(seen)
    assert seen[-1] == 200
    assert (scores.distance[::5] == 0).all()
    assert (scores.distance > 0).sum() == 160
    whole = score(model, x, method=Restarts(), reference="label", labels=labels)
    assert (assign_levels(scores, 5) == assign_levels(whole, 5)).mean() >= 0.9


def test_a_start_is_screened_by_a_forward_before_it_is_descended_on() -> None:
    """Rival 2 seems to be 1.05 away and bends off to 3; rival 1 is linear, and at 1: a forward tells, no descent."""

    def model(x: torch.Tensor) -> torch.Tensor:
        a, b = x[:, 0], x[:, 1]
        return torch.stack([torch.ones_like(a), a, b / 1.05 - 0.207 * b * b], 1)

    x = torch.zeros(2, 2)
    alone = attack_batch(Restarts(slack=0.0, looks=0), model, x, None, None)
    screened = attack_batch(Restarts(slack=0.5, looks=0, screen_doubt=0.1), model, x, None, None)
    descended = attack_batch(Restarts(slack=0.5, looks=0, screen_doubt=0.9), model, x, None, None)
    torch.testing.assert_close(screened.passes, alone.passes + 0.5)
    assert (descended.passes >= screened.passes + 1).all()
    np.testing.assert_allclose(screened.distance, 1, rtol=0.01)


def test_bands_hold_the_true_cuts_as_often_as_two_errors_should() -> None:
    rng = np.random.default_rng(0)
    values = rng.gamma(2.0, size=2000)
    cuts = np.sort(values)[200::200]  # where ten levels of 200 begin
    held = []
    for _ in range(200):
        sample = rng.choice(values, 300, replace=False)
        bands = np.array(cut_bands(sample, 2000, 10, errors=2.0))
        held.append((bands[:, 0] <= cuts) & (cuts <= bands[:, 1]))
    assert np.mean(held) >= 0.94
    whole = np.array(cut_bands(values, 2000, 10))
    np.testing.assert_allclose(whole[:, 1], cuts)
    assert (np.searchsorted(np.sort(values), whole[:, 0]) + 1 == np.searchsorted(np.sort(values), cuts)).all()
    assert np.isfinite(cut_bands([0.1, np.inf, np.inf, np.inf], 4, 2)).all()


@pytest.mark.parametrize("name", ["step_doubt", "start_doubt", "rival_doubt", "screen_doubt"])
def test_doubts_are_shares(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is 1.5"):
        Restarts(**{name: 1.5})  # type: ignore[arg-type]
