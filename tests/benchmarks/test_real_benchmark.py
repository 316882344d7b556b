"""The measurements of benchmarks/real, on data made here, against closed forms."""

import dataclasses
import io
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from official_files import idx_bytes
from PIL import Image
from scipy.special import softmax
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier

from robcal import Recalibrator, TemperatureScaling, assign_levels
from robcal.base.checks import InputError

FOLDER = Path(__file__).parents[2] / "benchmarks"
if not FOLDER.is_dir():
    pytest.skip("benchmarks are not in the wheel", allow_module_level=True)
sys.path.insert(0, str(FOLDER))
import published  # noqa: E402
from real import claim, imagenet, natural, networks, page, people, tables, tuned  # noqa: E402

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
    found = claim.level_gaps(probs, np.repeat([0, 1], 50), assign_levels(np.arange(100.0), 10))
    np.testing.assert_allclose(found["gap"], [-0.25] * 5 + [0.75] * 5)
    np.testing.assert_allclose(found["rms"], np.sqrt((5 * 0.25**2 + 5 * 0.75**2) / 10))


def test_a_level_of_one_example_has_no_gap():
    found = claim.level_gaps(np.tile([0.75, 0.25], (5, 1)), np.array([0, 0, 0, 1, 0]), np.array([0, 0, 9, 9, 5]))
    assert found["gap"] == [-0.25, *[None] * 8, 0.25]
    assert found["half"].count(None) == 8


def test_a_small_set_is_repaired_on_rows_that_are_not_measured(monkeypatch):
    monkeypatch.setattr(claim, "FOLDS", 3)
    rng = np.random.default_rng(3)
    logits, labels = rng.normal(size=(150, 3)), rng.integers(0, 3, 150)
    probs, chosen = claim.cross_repaired(logits, labels)
    np.testing.assert_allclose(probs["none"], softmax(logits, axis=1))
    # the temperature of each row must be that of the other folds
    used = np.log(probs["temperature"][:, 0] / probs["temperature"][:, 1]) / (logits[:, 0] - logits[:, 1])
    temperatures = np.unique((1 / used).round(6))
    assert len(temperatures) == 3
    for value in temperatures:
        others = (1 / used).round(6) != value
        assert others.sum() == 100
        fitted = TemperatureScaling().fit(logits[others], labels[others])
        np.testing.assert_allclose(fitted.temperature, value, rtol=1e-4)
    assert sum(int(word[1:]) for word in chosen.split() if word[0] == "(") == 3


@pytest.fixture
def sample(tmp_path, monkeypatch):
    """80 pictures, half of them of the class with the largest logit, and the logits of a network of one layer."""

    class EfficientNet(torch.nn.Sequential):
        @classmethod
        def from_name(cls, name):
            return cls(torch.nn.Flatten(), torch.nn.Linear(12, 60))

    module = types.ModuleType("efficientnet_lite_pytorch")
    module.EfficientNet, module.__spec__ = EfficientNet, object()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    torch.manual_seed(0)
    network, rng = EfficientNet.from_name(""), np.random.default_rng(4)
    pixels = rng.integers(0, 256, (80, 2, 2, 3), dtype=np.uint8)
    for place in (imagenet.WEIGHTS, f"{imagenet.SAMPLE}/images.parquet"):
        (tmp_path / place).parent.mkdir(parents=True)
    torch.save(network.state_dict(), tmp_path / imagenet.WEIGHTS)
    with torch.no_grad():
        logits = network((torch.tensor(pixels.transpose(0, 3, 1, 2)).float() - 127) / 128).numpy()
    labels = np.where(rng.random(80) < 0.5, logits.argmax(1), rng.integers(0, 60, 80))
    table = pa.table({"image": [png(image) for image in pixels], "label": pa.array(labels, pa.int16())})
    pq.write_table(table, tmp_path / imagenet.SAMPLE / "images.parquet")
    row = rng.permutation(80)
    np.savez(tmp_path / imagenet.SAMPLE / "efficientnet-lite0-logits.npz", logits=logits[row], row=row)
    return tmp_path


def png(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def test_published_weights_must_give_the_published_logits_and_distances_are_kept(sample, monkeypatch):
    simple = {"none": "none", "temperature": "temperature", "auto": "temperature"}
    monkeypatch.setattr(claim, "Recalibrator", lambda variant: Recalibrator(simple[variant]))
    assert imagenet.at_hand(sample)
    read = imagenet.read_sample(sample)
    with pytest.raises(ValueError, match="differs by"):
        imagenet.published_efficientnet(sample, dataclasses.replace(read, images=255 - read.images))
    one = claim.efficientnet(sample, sample / "work")
    kept = sample / "work/EfficientNet-lite0, images.parquet"
    before = kept.stat().st_mtime_ns
    again = claim.efficientnet(sample, sample / "work")
    assert kept.stat().st_mtime_ns == before
    np.testing.assert_array_equal(again.scores["adversarial distance"], one.scores["adversarial distance"])
    found = claim.record(one)
    loss = found["variants"]["none"]["levels"][claim.LOSS]["accuracy"]
    assert loss[:3] == [0, 0, 0]  # the loss knows who is right
    assert loss[-1] == 1
    assert (found["n"], found["scored"]) == (80, 80)
    assert claim.LOSS not in found["regression"]
    text = page.claim([found])
    assert text.count("adversarial distance") == 3 + 1 + 1
    assert "adversarial distance (" not in text
    assert "nan" not in text


def test_a_network_on_fashion_mnist_is_trained_twice_and_its_first_images_get_a_distance(tmp_path, monkeypatch):
    (tmp_path / "fashion-mnist").mkdir()
    rng = np.random.default_rng(6)
    for stem, count in (("train", 700), ("t10k", 90)):
        labels = np.arange(count) % 10
        images = rng.integers(0, 60, (count, 6, 6)) + 20 * labels[:, None, None]
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            (tmp_path / "fashion-mnist" / f"{stem}-{kind}-ubyte").write_bytes(idx_bytes(array))
    short = {"model": "mlp", "epochs": 1, "train_limit": 300}
    made = claim.fashion_settings
    monkeypatch.setattr(claim, "fashion_settings", lambda *given: dataclasses.replace(made(*given), **short))
    one = claim.fashion(claim.fashion_mnist(tmp_path), 80, tmp_path / "work")
    assert (len(one.labels), len(one.scores["adversarial distance"])) == (80, 80)
    assert spearmanr(one.scores["adversarial distance"], one.scores["margin"])[0] > 0.3
    assert not np.allclose(one.scores["margin of another network"], one.scores["margin"], rtol=0.01)
    assert one.labels.tolist() == (np.arange(80) % 10).tolist()


@pytest.fixture
def tinted(tmp_path, monkeypatch):
    """Pictures whose tint tells their class, in the files of CIFAR-10, and random weights of a ResNet-20."""
    rng = np.random.default_rng(8)
    (tmp_path / "cifar10").mkdir()
    for part, count in (("train", 120), ("test", 120)):
        labels = np.arange(count) % 10
        tints = np.stack([labels % 2, labels // 2 % 3, labels // 6], axis=1) * 80 + 40
        pixels = (tints[:, None, None] + rng.integers(0, 40, (count, 32, 32, 3))).astype(np.uint8)
        table = pa.table({"img": [{"bytes": png(image)} for image in pixels], "label": labels})
        pq.write_table(table, tmp_path / f"cifar10/{part}-0.parquet")
    torch.manual_seed(0)
    file = tmp_path / "pretrained/resnet-cifar10" / networks.PUBLISHED[20]
    file.parent.mkdir(parents=True)
    state = networks.CifarResNet(20).state_dict()
    old = {f"module.{name}": value for name, value in state.items() if "num_batches" not in name}
    torch.save({"best_prec1": 10.0, "state_dict": old}, file)
    made = tuned.tuned_settings
    short = {"batch_size": 12, "epochs": 4, "augment": "none", "val_fraction": 0.2}
    monkeypatch.setattr(tuned, "tuned_settings", lambda *given: dataclasses.replace(made(*given), **short))
    return tmp_path


def test_a_published_resnet_is_trained_further_once_and_from_its_own_weights(tinted, monkeypatch):
    images, labels = networks.cifar10_test(tinted)
    found = [networks.published_resnet(tinted, 20), tuned.tuned_resnet(tinted, 20, tinted / "work")]
    right = [(networks.run(one, images).argmax(1) == labels).mean() for one in found]
    assert right[1] > right[0] + 0.2
    kept = tinted / "work" / tuned.TUNED[20] / "model.safetensors"
    before = kept.stat().st_mtime_ns
    again = tuned.tuned_resnet(tinted, 20, tinted / "work")
    assert kept.stat().st_mtime_ns == before
    np.testing.assert_array_equal(networks.run(again, images), networks.run(found[1], images))
    monkeypatch.setitem(tuned.PUBLISHED, 56, networks.PUBLISHED[20])
    with pytest.raises(InputError, match="do not fit the network"):
        tuned.tuned_resnet(tinted, 56, tinted / "work")


def test_each_of_two_tuned_networks_is_the_referee_of_the_other(tinted, monkeypatch):
    torch.manual_seed(0)
    linear = {depth: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10)) for depth in (20, 56, 32)}
    for module in (claim, tuned):
        monkeypatch.setattr(module, "tuned_resnet", lambda folder, depth, work: linear[depth])
    monkeypatch.setattr(claim, "published_resnet", lambda folder, depth: linear[depth])
    jobs = claim.jobs(tinted, 20, tinted / "work")
    images, labels = networks.cifar10_test(tinted)
    test = networks.halves(120, 20)[1]
    logits = {depth: networks.run(network, images[test]) for depth, network in linear.items()}
    logits["mean"] = np.log((softmax(logits[20], axis=1) + softmax(logits[56], axis=1)) / 2)
    margin = {name: np.diff(np.sort(found, axis=1)[:, -2:], axis=1)[:, 0] for name, found in logits.items()}
    for name, own, other in ((tuned.TUNED[20], 20, 56), (tuned.TUNED[56], 56, 20), (tuned.BOTH, "mean", 32)):
        one = jobs[name]()
        np.testing.assert_allclose(one.scores["margin"], margin[own], atol=1e-5)
        np.testing.assert_allclose(one.scores["margin of another network"], margin[other], atol=1e-5)
        np.testing.assert_array_equal(one.labels, labels[test])
        assert len(one.scores["adversarial distance"]) == 20


def test_what_the_file_holds_is_not_measured_again(tmp_path):
    asked = []
    jobs = {name: lambda name=name: asked.append(name) or {"value": name} for name in ("a", "b")}
    few = published.measured(tmp_path / "x.json", jobs, dict, ["b"])
    assert [one["name"] for one in few] == ["b"]
    every = published.measured(tmp_path / "x.json", jobs, dict)
    assert asked == ["b", "a"]
    assert [(one["name"], one["value"]) for one in every] == [("a", "a"), ("b", "b")]


def test_shifted_images_have_the_label_of_their_class_in_the_other_set(tmp_path):
    (tmp_path / "cifar10-natural-shift").mkdir()
    (tmp_path / "tinyimagenet32").mkdir()
    lines = ("tiny_label\ttiny_name\tcifar10_label", "2\tbullfrog\t6", "30\ttabby\t3")
    (tmp_path / "cifar10-natural-shift/map.tsv").write_text("\n".join(lines) + "\n")
    for part, labels in (("train", [0, 2, 30, 2]), ("val", [30, 199])):
        images = [png(np.full((32, 32, 3), label, np.uint8)) for label in labels]
        table = pa.table({"image": images, "label": pa.array(labels, pa.int16())})
        pq.write_table(table, tmp_path / f"tinyimagenet32/{part}.parquet")
    images, labels = natural.read_shifted(tmp_path, 10)
    assert images.shape == (4, 3, 32, 32)
    assert sorted(zip(labels, (images[:, 0, 0, 0] * 255).round(), strict=True)) == [(3, 30), (3, 30), (6, 2), (6, 2)]
    assert len(natural.read_shifted(tmp_path, 3)[1]) == 3


def test_levels_without_shift_hold_more_shifted_inputs_where_scores_are_smaller(tmp_path):
    rng = np.random.default_rng(5)
    torch.manual_seed(0)
    network = torch.nn.Linear(2, 2, bias=False)
    parts = [(rng.normal(size=(400, 2)) * scale).astype(np.float32) for scale in (1, 0.5)]
    labels = [rng.integers(0, 2, 400) for _ in parts]
    fitted = claim.repairs(networks.run(network, torch.from_numpy(parts[0])), labels[0])
    made = (natural.applied(network, fitted, name, *rows, 400, None, tmp_path) for name, rows in
            zip(("here", "there"), zip(parts, labels, strict=True), strict=True))  # fmt: skip
    found = natural.record(natural.Shifted("made", *made))
    weight = (network.weight[0] - network.weight[1]).detach().numpy()
    margin = [abs(inputs @ weight) for inputs in parts]
    cuts = np.sort(margin[0])[39:-1:40]  # the last example of every level but the highest
    wanted = np.bincount(np.searchsorted(cuts, margin[1]), minlength=10) / 400
    for score in natural.SCORES:  # of a linear network the distance is the margin, divided by a constant
        np.testing.assert_allclose(found["shares"][score], wanted, atol=0.011)
    assert sum(found["shares"]["margin"][:3]) > 0.45
    few = natural.Shifted("few", *(natural.applied(network, fitted, f"few {count}", part, rows, count, None, tmp_path)
                                   for part, rows, count in zip(parts, labels, (100, 50), strict=True)))  # fmt: skip
    assert "adversarial distance (50)" in page.natural([natural.record(few)])
    text = page.natural([found])
    assert text.count("\n| there") == 3 + 3 + 1
    assert "nan" not in text


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
