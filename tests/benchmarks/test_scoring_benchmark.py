"""The parts of benchmarks/scoring.py that need no peer: what counts passes, checks points and judges agreement."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from robcal.robustness.attacks import attack_batch
from robcal.robustness.projection import Projection

FOLDER = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="benchmarks are not in the wheel")


def load(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def peers():
    return load("peers")


@pytest.fixture(scope="module")
def report():
    return load("scoring_report")


@pytest.fixture(scope="module")
def pages():
    sys.path.insert(0, str(FOLDER))
    try:
        return load("scoring_pages")
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))


def test_counts_images_forward_and_every_backward(peers, network):
    counted = peers.Counted(network)
    x = torch.rand(5, 3, 2, 2, requires_grad=True)
    with torch.no_grad():
        counted(x)
    logits = counted(x)
    torch.autograd.grad(logits[:, 0].sum(), x, retain_graph=True)
    torch.autograd.grad(logits[:, 1].sum(), x)
    assert (counted.forwards, counted.backwards, counted.passes) == (10, 10, 10.0)
    counted.reset()
    assert counted.passes == 0


def test_our_own_count_is_what_the_network_sees(peers, network):
    probes = []
    for count in (40, 200):
        counted = peers.Counted(network)
        x = torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(1))
        says = float(attack_batch(Projection(), counted, x).passes.sum())
        probes.append(counted.passes - says)
    assert probes[0] == probes[1]  # what tries the model before it is scored, on a few rows
    assert 0 <= probes[0] <= 30


def test_a_point_is_judged_inside_the_box(peers):
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    model = lambda x: (x - 0.5) @ weight.T  # noqa: E731
    x = torch.tensor([[0.75, 0.5]]).repeat(5, 1)
    points = torch.tensor([[0.25, 0.5], [0.6, 0.5], [-1.0, 0.5], [math.nan, 0.5], [0.25, 1.5]])
    norms = peers.verify(model, x, points, torch.zeros(5, dtype=torch.int64))
    assert norms.tolist() == pytest.approx([0.5, math.inf, 0.75, math.inf, math.hypot(0.5, 0.5)])


def test_every_peer_has_settings_for_any_number_of_steps(peers):
    assert len({peer.name for peer in peers.PEERS}) == len(peers.PEERS) >= 7
    assert all(peer.small(3) != peer.small(4) for peer in peers.PEERS)


def test_agreement_against_a_count_by_hand(report):
    reference = np.arange(20.0)
    swapped = reference.copy()
    swapped[[1, 2]] = swapped[[2, 1]]  # across the first cut: two of twenty in another level
    swapped[19] = np.inf  # a failure comes last, where it belongs here
    assert report.agreement(swapped, reference, np.zeros(20)) == (0.9, 1.0)
    low, high = report.wilson(0.8, 10)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def make_row(name, kind, distance, seconds, estimate=False):
    return {
        "name": name, "package": name, "settings": "default", "kind": kind, "images": len(distance), "passes": seconds,
        "forwards": seconds, "backwards": seconds, "times": [{"wall": seconds, "cpu": seconds}],
        "distance": list(distance), "verified": list(distance), "estimate": estimate,
    }  # fmt: skip


def test_the_reference_is_the_best_of_all_and_the_fastest_equal_peer_is_named(report):
    exact = np.arange(1.0, 101.0)
    worse, shuffled = 1.1 * exact, np.random.default_rng(0).permutation(exact) + 100
    better = np.where(exact == 50, 49.99, exact)
    rows = [
        make_row("ours", "ours", exact, 2.0),
        make_row("quick and wrong", "budget", shuffled, 1.0),
        make_row("slow and right", "default", worse, 40.0),
        make_row("slower and right", "default", better, 80.0),
        make_row("few", "default", exact[:4], 9.0),
    ]
    references = {"a": list(worse), "b": list(worse)}
    record = {"margin": [0.0] * 100, "references": references, "rows": rows, "images": 100, "reference_settings": {}}
    record = report.judge(record)
    assert record["best"] == better.tolist()
    assert record["ceiling"]["same"] == 1.0
    assert [row.get("same") == 1.0 for row in record["rows"]] == [True, False, True, True, False]
    assert record["rows"][2]["ratio"] == pytest.approx(1.1)
    assert "same" not in record["rows"][4]
    assert "slow and right (default), 1.000, at 20.0 times its CPU time" in report.notes(record)[2]


def test_one_reference_has_no_noise_ceiling(report, pages, tmp_path):
    exact = np.arange(1.0, 101.0)
    record = {"margin": [0.0] * 100, "references": {"a": list(exact)}, "rows": [make_row("ours", "ours", exact, 1.0)],
              "images": 100, "reference_settings": {}, "data": "digits", "model": "mlp"}  # fmt: skip
    record = report.judge(record)
    assert record["ceiling"] is None
    assert "no noise ceiling" in report.notes(record)[0]
    report.figure(record, tmp_path / "f.svg")
    assert "two strongest" not in (tmp_path / "f.svg").read_text()
    assert "| digits, mlp, 100 images | `ours` | 1.0 | 1.000 (0.963–1.000) | 1.000 | 1.000 | not measured |" in (
        pages.answer([record])
    )


def test_noise_of_known_size_and_complete_descents_are_judged_by_the_same_reference(report, pages):
    exact = np.arange(1.0, 101.0)
    nearer = {"name": "complete", "passes": 9.0, "distance": list(np.where(exact == 50, 49.5, exact))}
    record = {"margin": [0.0] * 100, "references": {"a": list(exact)}, "rows": [make_row("ours", "ours", exact, 1.0)],
              "images": 100, "limits": {"auto": [], "complete": [nearer]}}  # fmt: skip
    record = report.judge(record)
    assert record["best"][49] == 49.5
    assert record["limits"]["complete"][0]["same"] == 1.0
    kept = list(pages.noise(record).values())
    assert kept == sorted(kept, reverse=True)
    assert 0.5 < kept[-1] < kept[0] < 1
    geometric = report.judge(record | {"references": {"a": list(np.exp(exact / 100))}, "rows": [], "limits": None})
    assert pages.width(geometric) == pytest.approx(0.1, abs=0.002)


def test_a_peer_reaches_ours_unless_an_exact_test_says_no(report):
    exact = np.arange(1.0, 201.0)

    def swapped(pairs):
        """Two of two hundred in another level for every pair, across the first cuts; none nearer than the exact."""
        distance = exact.copy()
        for cut in range(20, 20 * (pairs + 1), 20):
            distance[[cut - 1, cut]] = cut + 1.5, cut + 1.2
        return distance

    rows = [
        make_row("ours", "ours", exact, 1.0),
        make_row("two pairs", "default", swapped(2), 5.0),  # 4 of 4 in our favour: p = 2/16
        make_row("three pairs", "default", swapped(3), 4.0),  # 6 of 6: p = 2/64
    ]
    record = {"margin": [0.0] * 200, "references": {"a": list(exact), "b": list(exact)}, "rows": rows, "images": 200,
              "reference_settings": {}}  # fmt: skip
    ours, two, three = report.judge(record)["rows"]
    assert [two["same"], three["same"]] == pytest.approx([0.98, 0.97])
    assert not report.below(two, ours)
    assert report.below(three, ours)
    assert not report.below(ours, three)
    said = report.against(ours, [two, three])
    assert said.startswith(
        "the fastest peer that reaches its 1.000 is two pairs (default), 0.980, at 5.0 times its CPU"
    )
    assert "below" not in said
    two["same"], three["same"] = 0.98, 0.985  # a share within .02 alone is not enough
    assert "Within 0.02 of it, but below: three pairs (default), 0.985, at 4.0 times" in report.against(
        ours, [two, three]
    )
    assert report.against(ours, [three]).startswith("no peer's setting here reaches its 1.000. Within")
    assert report.against(ours, []) == "no peer was measured on this network."


def test_the_pages_are_what_the_raw_results_give(report, pages, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "figure", lambda record, target: target.touch())
    files = sorted((FOLDER.parent / "docs/evidence/scoring").glob("*.json"))
    (tmp_path / "evidence").mkdir()
    pages.write_pages(tmp_path, [report.judge(json.loads(file.read_text())) for file in files])
    assert len(files) >= 2
    for page in ("scoring.md", "evidence/scoring-details.md"):
        assert (tmp_path / page).read_text() == (FOLDER.parent / "docs" / page).read_text()
    assert len((tmp_path / "scoring.md").read_text().split()) <= 1800
    assert {file.name for file in (tmp_path / "figures").iterdir()} == {
        file.name for file in (FOLDER.parent / "docs/figures").glob("scoring-*")
    }
