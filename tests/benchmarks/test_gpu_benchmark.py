"""benchmarks/gpu.py on a CPU: it trains as robcal does, side by side as alone, and goes on where it was stopped."""

import dataclasses
import io
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from one_thread import one_thread  # noqa: F401
from PIL import Image

from robcal.base.checks import InputError
from robcal.base.storage import load_arrays
from robcal.calibration.metrics import accuracy, calibration_error, negative_log_likelihood
from robcal.calibration.recalibration.maps import margins
from robcal.data import load_dataset, read_parts
from robcal.data.augment import pad_crop_flip
from robcal.methods import make_method
from robcal.models import build_model
from robcal.smoothing.own_loop import ARAdaLS
from robcal.smoothing.smoother import AdaptiveLabelSmoother
from robcal.training.loop import fit, schedule
from robcal.training.predict import predict_logits, softmax
from robcal.training.recipe import build_networks
from robcal.training.settings import TrainSettings

FOLDER = Path(__file__).parents[2] / "benchmarks"
if not FOLDER.is_dir():
    pytest.skip("benchmarks are not in the wheel", allow_module_level=True)
sys.path.insert(0, str(FOLDER))
import gpu  # noqa: E402
from wide import speed  # noqa: E402
from wide.engine import Engine, Shape, as_inputs, mixed_loss, unsearched  # noqa: E402
from wide.images import read_images  # noqa: E402
from wide.inputs import draw_epoch, steps_of  # noqa: E402
from wide.levels import make_levels  # noqa: E402
from wide.measure import halved  # noqa: E402
from wide.noise import NoisyLabels, noise_of_levels, rows_of  # noqa: E402
from wide.people import against_people, noise_ranks, noise_rows, read_votes  # noqa: E402
from wide.plan import Plan, Regime, groups, load_plan, parse_plan, trial_of  # noqa: E402
from wide.recipes import RECIPES, Recipe  # noqa: E402
from wide.report import outcomes, section, splits, told  # noqa: E402
from wide.store import Results  # noqa: E402
from wide.training import OutOfTimeError, Trainer, make_run  # noqa: E402
from wide.validation import both_splits  # noqa: E402

CPU = torch.device("cpu")
NEVER = lambda: False  # noqa: E731

PLAN = """
model = "wrn-10-1"
batch_size = 16
precision = "float32"
members = {members}
shift_images = 8
severities = [3]

[[regimes]]
name = "few"
title = "few images"
train_limit = 32
epochs = 3
learning_rate = 0.05
augment = true
recipes = ["plain", "mixup-running", "margin"]
seeds = [0, 1]
referee = 9
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """Noisy images of three classes that differ in brightness; a third of the labels are wrong."""
    rng, arrays = np.random.default_rng(0), {}
    for name, count in (("train", 48), ("val", 30), ("test", 40)):
        labels = rng.integers(0, 3, count)
        images = rng.integers(0, 150, (count, 3, 8, 8)) + 40 * labels[:, None, None, None]
        told = np.where(rng.random(count) < 0.5, rng.integers(0, 3, count), labels)
        arrays |= {f"x_{name}": images.astype(np.uint8), f"y_{name}": told}
    file = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(file, **arrays)
    return f"npz:{file}"


@pytest.fixture(scope="module")
def data(spec):
    return load_dataset(spec)


def network_of(spec, data, seed=3):
    return build_networks(TrainSettings(spec, "wrn-10-1", "vanilla", epochs=1, seed=seed), data)[0]


def weights_of(network):
    return torch.cat([value.detach().ravel().float() for value in network.state_dict().values()])


def engine_of(network, data, members=1, *, augmented=False, batch_size=16):
    count = len(data.split("train"))
    shape = Shape(count, data.input_shape, data.num_classes, batch_size, steps_of(count, batch_size))
    return Engine(
        network, shape, members=members, device=CPU, weight_decay=5e-4, precision="float32", augmented=augmented,
        compiled=False, captured=False,
    )  # fmt: skip


def trainer_of(spec, data, recipes, tmp_path, *, augment=False, epochs=3, out_of_time=NEVER, seed=3):
    plan = Plan("wrn-10-1", 16, (), levels=3, precision="float32")
    regime = Regime("a", "A", epochs, 0.2, (), (), augment=augment)
    margins = {name: np.linspace(1, 0, len(data.split(name))) for name in ("train", "val")}
    runs = []
    for number, recipe in enumerate(recipes):
        levels = make_levels(recipe, seed, data, lambda source: margins, plan.levels)
        network = network_of(spec, data, seed + number)
        runs.append(make_run(recipe, seed + number, data, network, levels, plan, regime))
    engine = engine_of(runs[0].network, data, len(runs), augmented=augment)
    return Trainer(engine, runs, plan, regime, tmp_path / "state.pt", "key", out_of_time, lambda text: None)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "augment"), [("plain", True), ("margin", False), ("mixup-adals", True)])
def test_it_ends_in_the_weights_and_the_smoothing_of_robcal(spec, data, tmp_path, name, augment):
    """The oracle is the loop of `robcal train`: other code, which draws, mixes and steps batch by batch."""
    recipe = RECIPES[name]
    trainer = trainer_of(spec, data, [recipe], tmp_path, augment=augment, epochs=6)
    trainer.train()
    run, method, network = trainer.runs[0], recipe.method(), network_of(spec, data)
    if recipe.alpha is not None:
        method = dataclasses.replace(method, augment=make_method("mixup", alpha=recipe.alpha).augment)
    history = fit(
        network, data, method, epochs=6, batch_size=16, learning_rate=0.2, seed=3, levels=run.levels.of, num_levels=3,
        augment=(lambda inputs, generator: pad_crop_flip(inputs, generator=generator)) if augment else None,
        device="cpu",
    )  # fmt: skip
    trained = trainer.engine.slots[0].network
    assert (weights_of(network) - weights_of(network_of(spec, data))).abs().max() > 0.01
    torch.testing.assert_close(weights_of(trained), weights_of(network), rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(run.history, history, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs.train_loss, rel=1e-4)
        np.testing.assert_allclose(ours["epsilon"], theirs.epsilon, rtol=1e-3, atol=1e-5)
    assert name == "plain" or max(run.history[-1]["epsilon"]) > 0.01


@pytest.mark.slow
def test_running_levels_are_those_of_a_loop_of_ones_own(spec, data, tmp_path):
    """The oracle is `robcal.ARAdaLS` in a loop written here, which sees every batch."""
    trainer = trainer_of(spec, data, [RECIPES["running"]], tmp_path, epochs=6)
    trainer.train()
    network = network_of(spec, data).to(memory_format=torch.channels_last)  # another layout rounds otherwise
    smoothing = ARAdaLS(num_classes=3, num_levels=3, epochs=6)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9, nesterov=True, weight_decay=5e-4)
    train, val = data.split("train"), data.split("val")
    for epoch in range(6):
        order = np.random.default_rng([3, epoch]).permutation(48).reshape(3, 16)
        for number, index in enumerate(order):
            optimizer.param_groups[0]["lr"] = 0.2 * schedule(3 * epoch + number, 18)
            logits = network(as_inputs(train.batch(index)))
            loss = smoothing.loss(logits, torch.from_numpy(train.labels[index]), torch.from_numpy(index))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        smoothing.end_epoch(predict_logits(network, val), val.labels)
        network.train()
        np.testing.assert_allclose(trainer.runs[0].history[epoch]["epsilon"], smoothing.epsilon, rtol=1e-3, atol=1e-5)
    assert max(trainer.runs[0].history[-1]["epsilon"]) > 0.01
    torch.testing.assert_close(weights_of(trainer.engine.slots[0].network), weights_of(network), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_levels_of_mixed_training_are_cut_by_images_as_they_are(spec, data, tmp_path):
    trainer = trainer_of(spec, data, [RECIPES["mixup-running"]], tmp_path, epochs=1)
    trainer.train()
    logits = predict_logits(trainer.engine.slots[0].network, data.split("train"))
    np.testing.assert_allclose(trainer.runs[0].levels.averages["train"], margins(logits), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_members_side_by_side_are_what_each_is_alone(spec, data, tmp_path):
    recipes = [RECIPES["plain"], RECIPES["mixup-adals"]]
    together = trainer_of(spec, data, recipes, tmp_path)
    together.train()
    for number, recipe in enumerate(recipes):
        alone = trainer_of(spec, data, [recipe], tmp_path, seed=3 + number)
        alone.train()
        ours, theirs = (one.network for one in (together.engine.slots[number], alone.engine.slots[0]))
        torch.testing.assert_close(weights_of(ours), weights_of(theirs), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_stacked_members_are_what_each_is_alone(spec, data):
    """The alternative that `--speed` measures does the same work."""
    networks = [network_of(spec, data, seed) for seed in (0, 1)]
    count, size = 48, 16
    draws = [draw_epoch(seed, 0, count, size, augment=True, alpha=None) for seed in (0, 1)]
    split = data.split("train")
    images, targets = torch.from_numpy(split.inputs), torch.eye(3)[torch.from_numpy(split.labels)]
    cast = {"device_type": "cpu", "dtype": torch.bfloat16, "enabled": False}
    stack = speed.Stack(networks, cast, compiled=False, fused=False, weight_decay=5e-4)
    losses = torch.stack([stack.step(*speed.batch_of(images, targets, draws, step)) for step in range(3)]).mean(0)
    engine = engine_of(networks[0], data, 2, augmented=True)
    for member, network in enumerate(networks):
        engine.load(member, network.state_dict(), split.inputs)
    engine.run_epoch(draws, [targets, targets], [speed.RATE] * 3)
    for member, slot in enumerate(engine.slots):
        assert float(losses[member]) == pytest.approx(engine.train_loss(member), rel=1e-5)
        for name, weight in slot.network.named_parameters():
            torch.testing.assert_close(stack.weights[name][member], weight, rtol=1e-4, atol=1e-6)
        mean = stack.buffers["network.1.norm1.running_mean"][member]
        torch.testing.assert_close(mean, slot.network.network[1].norm1.running_mean, rtol=1e-4, atol=1e-6)


def test_targets_are_those_of_the_smoother(spec, data, tmp_path):
    trainer = trainer_of(spec, data, [RECIPES["margin"]], tmp_path)
    run = trainer.runs[0]
    smoother = AdaptiveLabelSmoother(3, 3, num_updates=3)
    for _ in range(2):
        smoother.update([0.9, 0.8, 0.7], [0.5, 0.6, 0.7], [10, 10, 10])
    run.state = {**smoother.state_dict(), "epsilon": torch.from_numpy(smoother.epsilon).float()}
    made = trainer._targets(run, trainer.engine.slots[0].images)
    split = data.split("train")
    torch.testing.assert_close(made, smoother.soft_targets(torch.from_numpy(split.labels), run.levels.of["train"]))
    assert made.max() < 1
    assert len(made.unique(dim=0)) > 3  # levels differ


@pytest.mark.slow
def test_a_training_that_was_stopped_goes_on(spec, data, tmp_path):
    recipes = [RECIPES["running"]]
    whole = trainer_of(spec, data, recipes, tmp_path, epochs=4)
    whole.train()
    asked = iter([False, True, True])
    stopped = trainer_of(spec, data, recipes, tmp_path, epochs=4, out_of_time=lambda: next(asked))
    with pytest.raises(OutOfTimeError):
        stopped.train()
    resumed = trainer_of(spec, data, recipes, tmp_path, epochs=4)
    resumed.train()
    assert resumed.runs[0].history[:2] == stopped.runs[0].history
    assert resumed.runs[0].history == whole.runs[0].history
    assert torch.equal(weights_of(resumed.engine.slots[0].network), weights_of(whole.engine.slots[0].network))
    other = trainer_of(spec, data, recipes, tmp_path, epochs=4)
    other.key = "another"
    other._begin()
    assert other.epoch == 0


def threads(count, mp_context):
    """In place of processes, which take seconds to start; the command that is killed has those."""
    return ThreadPoolExecutor(count)


def command(spec, out, plan, *more):
    return ["--data", spec, "--out", str(out), "--plan", str(plan), "--device", "cpu", *more]


@pytest.mark.slow
def test_a_killed_plan_ends_in_the_same_results_and_the_page_tells_them(spec, tmp_path, monkeypatch):
    monkeypatch.setattr("wide.measure.ProcessPoolExecutor", threads)
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.format(members=1), encoding="utf-8")
    with subprocess.Popen([sys.executable, str(FOLDER / "gpu.py"), *command(spec, tmp_path / "b", plan)]) as child:
        until = time.monotonic() + 60
        while not (tmp_path / "b" / "results-00.safetensors").exists() and time.monotonic() < until:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    begun = set(Results(tmp_path / "b").facts)
    assert 1 <= len(begun) < 7
    for folder in ("a", "b"):
        gpu.main(command(spec, tmp_path / folder, plan))
    whole, pieces = (load_arrays(tmp_path / folder / "results-00.safetensors")[0] for folder in ("a", "b"))
    assert sorted(whole) == sorted(pieces)
    for name, array in whole.items():
        np.testing.assert_array_equal(array, pieces[name], err_msg=name)
    assert {name.rpartition(":")[0] for name in whole} == {
        *(f"few/{recipe}/{seed}" for recipe in ("plain", "mixup-running", "margin") for seed in (0, 1)),
        "few/plain/9",
    }
    gpu.main(["--report", str(tmp_path / "a"), "--page", str(tmp_path / "gpu.md")])
    check_page(tmp_path, whole)
    plan.write_text(PLAN.format(members=2), encoding="utf-8")
    with pytest.raises(InputError, match="of another plan"):
        gpu.main(command(spec, tmp_path / "a", plan))


def check_page(folder, arrays):
    """Figures of the page are those of the arrays, computed here."""
    text = (folder / "gpu.md").read_text(encoding="utf-8")
    labels = arrays["few/margin/0:test_labels"]
    probs = [softmax(arrays[f"few/margin/{seed}:test"].astype(np.float32)) for seed in (0, 1)]
    row = next(line for line in text.splitlines() if line.startswith("| AR-AdaLS, margins of a plain network | 2 |"))
    cells = [cell.strip() for cell in row.split("|")][3:6]
    means = [np.mean([measure(one, labels) for one in probs]) for measure in
             (accuracy, calibration_error, negative_log_likelihood)]  # fmt: skip
    assert [float(cell) for cell in cells] == pytest.approx(means, abs=6e-4)
    assert "Minus AdaLS" not in text
    assert "As they come, minus plain + T" in text
    assert "no recipe uses (seed 9; 40 test images" in text
    assert (folder / "gpu.json").exists()


@pytest.mark.slow
def test_without_time_nothing_is_done_and_a_failing_recipe_costs_no_other(spec, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("wide.measure.ProcessPoolExecutor", threads)
    plan = tmp_path / "plan.toml"
    fewer = "test_images = 30\nkept_val = 12\ntitle = 'Few'\n"
    plan.write_text(fewer + PLAN.format(members=2).replace("epochs = 3", "epochs = 1"), encoding="utf-8")
    gpu.main(command(spec, tmp_path / "out", plan, "--minutes", "0"))
    assert not list((tmp_path / "out").glob("results-*"))
    monkeypatch.setitem(RECIPES, "mixup-running", Recipe("x", lambda: make_method("crl")))
    gpu.main(command(spec, tmp_path / "out", plan, "--turn", str(tmp_path / "turn")))
    said = capsys.readouterr().out
    assert "few/mixup-running/0, few/mixup-running/1 failed: x has a loss of its own" in said
    results = Results(tmp_path / "out")
    assert len(results.facts) == 5
    check_fewer(results)
    gpu.main(["--report", str(tmp_path / "out"), "--page", str(tmp_path / "few.md"), "--judges", str(tmp_path / "out")])
    text = (tmp_path / "few.md").read_text(encoding="utf-8")
    assert text.startswith("# Few\n")
    assert "fitted on 12 images of the validation split" in text
    assert "[every number](few.json)" in text


def check_fewer(results):
    """Fewer images are kept, no corrupted ones of the referee, whose distances judge other regimes as well."""
    run, referee = results.arrays["few/plain/0"], results.arrays["few/plain/9"]
    assert {name: run[name].shape for name in ("val", "val_labels", "test", "shift")} == {
        "val": (12, 3), "val_labels": (12,), "test": (30, 3), "shift": (15, 8, 3),
    }  # fmt: skip
    assert "shift" not in referee
    plan = parse_plan(results.about["plan"])
    regime = dataclasses.replace(plan.regimes[0], referee=None, judge="few/plain/9")
    other, own = (section(results, plan, one, None, results) for one in (regime, plan.regimes[0]))
    assert other.referee is not None
    assert "`few/plain/9` of another page" in told(other)
    gaps = [one.found["plain"].by_seed[0][0].levels["gap"] for one in (other, own)]
    np.testing.assert_array_equal(*gaps)


def test_one_process_trains_at_a_time(tmp_path):
    file, order = tmp_path / "turn", []

    def work(name):
        with gpu.turn(file):
            order.append(f"{name} begins")
            time.sleep(0.05)
            order.append(f"{name} ends")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, "ab"))
    assert [line.split()[1] for line in order] == ["begins", "ends"] * 2
    with gpu.turn(None):
        pass


def test_tiny_imagenet_is_read_at_the_size_that_it_is_stored_in(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (("train", 30), ("val", 6)):
        pixels, labels = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), np.arange(count) % 3
        cells = []
        for image in pixels:
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, "PNG")
            cells.append(stream.getvalue())
        pq.write_table(pa.table({"image": cells, "label": pa.array(labels, pa.int16())}), tmp_path / f"{name}.parquet")
    spec = f"imagenet:{tmp_path}"
    found = read_images(spec)
    assert np.array_equal(found.parts["test"].inputs, pixels.transpose(0, 3, 1, 2))
    data = load_dataset(spec, parts=found, seed=1)
    assert (data.num_classes, len(data.split("train")), len(data.split("val"))) == (3, 27, 3)
    assert np.array_equal(data.split("test").labels, labels)


def test_sizes_that_occur_once_are_not_searched_for():
    torch.backends.cudnn.benchmark = True
    try:
        with unsearched():
            assert not torch.backends.cudnn.benchmark
        assert torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark = False


def test_one_way_of_a_step_can_be_measured_alone(spec, tmp_path, monkeypatch):
    plan, lines = tmp_path / "plan.toml", []
    plan.write_text(PLAN.format(members=1), encoding="utf-8")
    found = {"step": 0.01, "first": 1.0, "memory": 0.0, "loss": 2.0}
    monkeypatch.setattr(speed, "measure", lambda way, *given: found)
    speed.measure_speed(spec, plan, "cpu", lambda: 1.0, lines.append, "float32")
    assert len(lines) == 3
    assert lines[2].split()[:5] == ["float32,", "nothing", "fused", "1600", "10.00"]


def test_results_fill_several_files_and_are_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr("wide.store.PACK_BYTES", 100)
    results = Results(tmp_path, "key")
    results.about = {"plan": "p"}
    for number in range(5):
        results.add(f"a/b/{number}", {"x": np.full(10, number, np.float32)}, {"seconds": number})
    assert len(list(tmp_path.iterdir())) == 3
    again = Results(tmp_path, "key")
    assert again.facts == results.facts
    assert again.about == {"plan": "p"}
    assert again.arrays["a/b/4"]["x"].tolist() == [4.0] * 10
    again.add("a/b/5", {"x": np.zeros(10, np.float32)}, {})
    assert len(list(tmp_path.iterdir())) == 3
    assert "a/b/5" in Results(tmp_path)


def test_halved_logits_keep_probabilities():
    logits = np.random.default_rng(0).normal(size=(2000, 10)).astype(np.float32) * 8 + 300
    assert np.abs(softmax(halved(logits).astype(np.float32)) - softmax(logits)).max() < 5e-4


def test_temperatures_come_from_validation(spec):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 300)
    logits = (rng.normal(size=(300, 3)) + 2 * np.eye(3)[labels]).astype(np.float32) * 5
    arrays = {"val": halved(logits), "val_labels": labels, "test": halved(logits), "test_labels": labels,
              "shift": np.zeros((15, 30, 3), np.float16)}  # fmt: skip
    raw, scaled = outcomes(arrays, Plan("", 1, (), severities=(1,)), None, None)
    assert (raw.temperature, scaled.temperature > 2) == (1.0, True)
    assert scaled.metrics["nll"].value < raw.metrics["nll"].value
    assert raw.metrics["accuracy"].value == scaled.metrics["accuracy"].value


def test_the_page_says_when_test_images_are_unlike_the_validation_images():
    rng, pages = np.random.default_rng(5), {}
    for share in (0.70, 0.65, 0.60):  # of right predictions of the test images; .70 of the validation images
        arrays = {}
        for name, right in (("val", 0.7), ("test", share)):
            labels = rng.integers(0, 3, 1000)
            given = np.where(np.arange(1000) < 1000 * right, labels, (labels + 1) % 3)
            arrays |= {name: np.log(0.9) * np.eye(3)[given] + np.log(0.05) * (1 - np.eye(3)[given])}
            arrays |= {f"{name}_labels": labels.astype(np.uint8)}
        found = both_splits(arrays)
        assert found == pytest.approx([0.7, share, 0.2, 0.9 - share, 0, 0.7 - share], abs=1e-3)
        one = SimpleNamespace(
            splits={"plain": [found]}, sizes=(1000, 1000), found={"plain": SimpleNamespace(label="p")}
        )
        pages[share] = splits(one)
    assert pages[0.70] == pages[0.65] == ""  # 2.4 standard errors
    assert "not like the validation images" in pages[0.60]  # 4.7
    assert "| p | .700 | .600 | +.200 | +.300 | .000 | +.100 |" in pages[0.60]


def test_batches_that_differ_in_size_are_refused_with_one_that_fits():
    with pytest.raises(InputError, match=r"batch_size is 7 for 45000 .* Set batch_size = (\d+)") as error:
        steps_of(45_000, 7)
    assert steps_of(45_000, int(str(error.value).rsplit("= ", 1)[1].rstrip("."))) > 0


def test_plans_are_done_seed_by_seed_and_references_come_first(tmp_path):
    for name in ("deep.toml", "aggregate.toml", "tiny.toml", "plan.toml"):
        plan = load_plan(FOLDER / "wide" / name)
        for one in (plan, trial_of(plan)):
            for regime in one.regimes:
                assert steps_of(regime.train_limit or 45_000, one.batch_size) >= 20
        assert {(regime.epochs, len(regime.seeds)) for regime in one.regimes} == {(2, 1)}
    assert load_plan(FOLDER / "wide/deep.toml").regimes[0].judge in {f"{one.name}/plain/100" for one in plan.regimes}
    done = [(group.regime, group.recipe, group.seeds) for group in groups(plan)]
    assert done[0] == ("overfit", "plain", (0,))
    assert done.index(("overfit", "plain", (100,))) < done.index(("full", "plain", (0,)))
    (tmp_path / "p.toml").write_text(PLAN.format(members=1).replace('"plain", ', ""), encoding="utf-8")
    with pytest.raises(InputError, match="Name 'plain' first"):
        load_plan(tmp_path / "p.toml")


def test_operations_are_those_counted_by_hand():
    """WRN-16-4 at 32x32: two a multiplication of its convolutions, two blocks a stage, and of its last layer."""
    network = build_model("wrn-16-4", input_shape=(3, 32, 32), num_classes=10)
    products, inside = 1024 * 27 * 16 + 256 * 10, 16
    for pixels, width in ((1024, 64), (256, 128), (64, 256)):
        products += pixels * width * (9 * inside + inside + 27 * width)
        inside = width
    assert speed.flops_of(network, (3, 32, 32)) == 2 * products


@pytest.mark.slow
def test_one_compilation_serves_all_members(spec, data):
    """A compilation for each member would cost a minute each, and after eight nothing would be fused."""
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    torch._dynamo.reset()
    loss = torch.compile(mixed_loss, backend=backend)
    images, targets = torch.from_numpy(data.split("train").inputs[:4]), torch.eye(3)[[0, 1, 2, 0]]
    for seed in range(3):
        network = network_of(spec, data, seed).to(memory_format=torch.channels_last)
        for training in (True, False, True):
            network.train(training)
            if training:
                loss(network, images, targets, torch.ones(()), torch.arange(4))[0].backward()
    assert len(compiled) == 1


def test_noisy_labels_reach_the_training_images_that_people_gave_them_to(spec, tmp_path):
    """Every training image has the label that stands at its official place."""
    parts = read_parts(spec)
    known = parts.parts["train"]
    order = np.random.default_rng(0).permutation(len(known))  # row of the file → official position
    given = (known.labels + 1) % 3
    official = np.empty_like(given)
    official[order] = given
    np.savez(tmp_path / "labels.npz", worst=official.astype(np.uint8))
    np.save(tmp_path / "index-of-shared-parquet.npy", order)
    for seed in (0, 1):
        data = load_dataset(spec, parts=parts, seed=seed, train_limit=40)
        noisy = NoisyLabels(tmp_path).train_on("worst", data, parts, seed=seed, train_limit=40)
        assert np.array_equal(noisy.split("train").labels, (data.split("train").labels + 1) % 3)
        assert np.array_equal(noisy.split("val").labels, data.split("val").labels)
        rows = rows_of(spec, parts, seed=seed, train_limit=40)
        assert np.array_equal(known.inputs[rows], data.split("train").inputs[np.arange(40)])
    with pytest.raises(InputError, match="one of worst"):
        NoisyLabels(tmp_path).train_on("best", data, parts, seed=0, train_limit=40)
    levels = np.arange(40) % 2
    mixed = np.where(levels == 0, data.split("train").labels, noisy.split("train").labels)
    assert noise_of_levels(mixed, data.split("train").labels, levels, 2) == [0.0, 1.0]


def test_a_network_that_says_what_people_say_loses_nothing_after_its_temperature(tmp_path):
    rng = np.random.default_rng(3)
    votes = rng.multinomial(50, [0.7, 0.2, 0.1], size=400)
    order = rng.permutation(400)
    np.save(tmp_path / "cifar10h-counts.npy", votes)
    np.save(tmp_path / "index-of-shared-parquet.npy", order)
    shares = (read_votes(tmp_path) + 1e-9) / 50  # the file's row i is the official image order[i]
    assert np.array_equal(read_votes(tmp_path)[0], votes[order[0]])
    logits = np.log(shares)
    labels = np.array([rng.choice(3, p=row / row.sum()) for row in shares], dtype=np.uint8)
    arrays = {"val": 3 * logits, "test": 3 * logits, "val_labels": labels, "test_labels": labels}
    raw, scaled = against_people(arrays, read_votes(tmp_path))
    assert raw["kl"] > 0.1 > 0.02 > scaled["kl"]
    assert abs(scaled["excess"]) < 0.05 < raw["excess"]
    assert scaled["nll"] == pytest.approx(
        negative_log_likelihood(shares / shares.sum(1, keepdims=True), labels), abs=0.02
    )


def test_smoothing_and_noise_are_means_over_seeds():
    facts = {
        "running": [
            {"noise": [0.4, 0.2], "history": [{"epsilon": [9.0, 9.0]}, {"epsilon": [0.3, 0.1]}]},
            {"noise": [0.2, 0.0], "history": [{"epsilon": [0.1, 0.1]}]},
            {"noise": [0.3, 0.1], "history": [{"epsilon": [0.2, 0.1]}]},
            {"noise": [0.1, 0.3], "history": [{"epsilon": [0.2, 0.1]}]},
        ],
        "plain": [{"history": []}],
    }
    assert noise_rows(facts, {"running": "r"}) == [
        ["r: share of wrong labels", ".25", ".15"],
        ["r: ε at the end", ".20", ".10"],
    ]
    assert noise_ranks(facts, {"running": "r"}) == "r +1.00, –, +1.00, −1.00"
