"""The Trainer of Hugging Face against the real library, on a small Transformer that is made from a configuration."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from robcal.base.checks import InputError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("transformers"),
    pytest.mark.filterwarnings("ignore"),  # the library warns of its own use of others
]

#: What a pair of processes imports once; see `two_processes`.
LIBRARIES = ("transformers.trainer", "transformers.models.bert.modeling_bert", "robcal.integrations.transformers")

EPOCHS, EXAMPLES = 3, 48


def examples(count: int, seed: int) -> list[dict]:
    """Token ids (integers), the class, and columns that no model takes; labels are noisy."""
    draw = np.random.default_rng(seed)
    made = []
    for row in range(count):
        ids = draw.integers(2, 30, 6)
        label = int(ids[0] > 15) if draw.random() < 0.7 else int(draw.integers(2))
        made.append({"input_ids": ids.tolist(), "attention_mask": [1] * 6, "labels": label, "source": row})
    return made


def model():
    """A Transformer of one layer, with the same weights each time."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=2,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def smoother(**options):
    from robcal.integrations.transformers import TrainerSmoothing

    return TrainerSmoothing(2, 3, epochs=EPOCHS, controller="integral", step_size=0.5, **options)


def trainer(folder: Path, smoothing, *, epochs: int = EPOCHS, batch: int = 8, train=None, **arguments):
    """A Trainer with the usual arguments; without `smoothing` the library's own loss."""
    from transformers import Trainer, TrainingArguments

    train = examples(EXAMPLES, 0) if train is None else train
    ours = {} if smoothing is None else {
        "compute_loss_func": smoothing.loss, "compute_metrics": smoothing.metrics, "callbacks": [smoothing],
    }  # fmt: skip
    return Trainer(
        model(),
        TrainingArguments(
            str(folder), num_train_epochs=epochs, per_device_train_batch_size=batch, learning_rate=1e-2, seed=1,
            report_to=[], use_cpu=True, disable_tqdm=True, lr_scheduler_type="constant",
            **{"eval_strategy": "epoch", "save_strategy": "epoch", **arguments},
        ),
        train_dataset=train if smoothing is None else smoothing.indexed(train),
        eval_dataset=examples(40, 1),
        **ours,
    )  # fmt: skip


def weights(trained) -> dict[str, torch.Tensor]:
    return trained.model.state_dict()


def test_hard_labels_are_the_trainers_own_loss(tmp_path: Path) -> None:
    """In the first epoch nothing is smoothed; two accumulated batches, the second smaller, weigh as one."""
    ours, theirs = trainer(tmp_path / "a", smoother(), epochs=1), trainer(tmp_path / "b", None, epochs=1)
    for one in (ours, theirs):
        one.train()
    torch.testing.assert_close(weights(ours), weights(theirs))
    small = examples(12, 0)
    parts = trainer(
        tmp_path / "c", smoother(), epochs=1, batch=8, train=small, gradient_accumulation_steps=2,
    )  # fmt: skip
    whole = trainer(tmp_path / "d", None, epochs=1, batch=12, train=small)
    for one in (parts, whole):
        one.train()
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-3, atol=1e-4)


def test_every_evaluation_in_training_is_an_update(tmp_path: Path) -> None:
    smoothing = smoother()
    one = trainer(tmp_path, smoothing)
    one.evaluate()  # before training: no update
    one.train()
    state = smoothing.smoothing.state_dict()
    assert int(state["smoother.updates"]) == EPOCHS
    assert (smoothing.smoothing.levels >= 0).sum() == EXAMPLES
    assert smoothing.smoothing.epsilon.max() > 0.01
    before = smoothing.smoothing.epsilon.copy()
    found = one.evaluate()  # after training: no update
    np.testing.assert_array_equal(smoothing.smoothing.epsilon, before)
    logits = torch.from_numpy(one.predict(examples(40, 1)).predictions)
    labels = torch.tensor([example["labels"] for example in examples(40, 1)])
    assert found["eval_accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert found["eval_confidence"] == pytest.approx(float(logits.softmax(1).amax(1).mean()))


@pytest.mark.parametrize(
    ("left_out", "advice"),
    [
        ("eval_strategy", 'eval_strategy="epoch"'),
        ("compute_metrics", "compute_metrics=smoothing.metrics"),
        ("callbacks", "callbacks=.smoothing."),
    ],
)
def test_a_part_that_is_left_out_is_told_in_the_first_epoch(tmp_path: Path, left_out: str, advice: str) -> None:
    """Each of these trained to the end without any smoothing."""
    arguments = {"eval_strategy": "no"} if left_out == "eval_strategy" else {}
    smoothing = smoother()
    one = trainer(tmp_path, smoothing, **arguments)
    if left_out == "compute_metrics":
        one.compute_metrics = None
    if left_out == "callbacks":
        one.remove_callback(smoothing)
    with pytest.raises(InputError, match=advice):
        one.train()
    assert one.state.epoch is None or one.state.epoch <= 1


def test_margins_are_those_of_the_examples(tmp_path: Path) -> None:
    """Whatever the order of the batches: the model's own margins, by position."""
    smoothing = smoother(decay=0.5)
    one = trainer(tmp_path, smoothing, epochs=1, max_grad_norm=1e-12, weight_decay=0.0)
    one.args.learning_rate = 0.0
    one.train()
    logits = torch.from_numpy(one.predict(examples(EXAMPLES, 0)).predictions)
    best = logits.topk(2).values
    found = smoothing.smoothing.state_dict()["train_margins"]
    torch.testing.assert_close(found.float(), best[:, 0] - best[:, 1], rtol=1e-4, atol=1e-5)


def test_training_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    whole, first, second = smoother(), smoother(), smoother()
    expected = trainer(tmp_path / "whole", whole)
    expected.train()
    trainer(tmp_path / "parts", first, epochs=2).train()
    resumed = trainer(tmp_path / "parts", second)
    resumed.train(resume_from_checkpoint=True)
    np.testing.assert_allclose(second.smoothing.epsilon, whole.smoothing.epsilon, atol=1e-6)
    np.testing.assert_array_equal(second.smoothing.levels, whole.smoothing.levels)
    (tmp_path / "parts" / f"checkpoint-{EXAMPLES // 8 * EPOCHS}" / "robcal_smoothing.safetensors").unlink()
    with pytest.raises(InputError, match="Resume from a checkpoint in output_dir"):
        trainer(tmp_path / "parts", smoother(), epochs=EPOCHS + 1).train(resume_from_checkpoint=True)


def told(smoothing, trained) -> dict[str, torch.Tensor]:
    """All that two processes must agree on."""
    levels, loss = torch.from_numpy(smoothing.smoothing.levels), trained.state.log_history[-2]["eval_loss"]
    return {**smoothing.smoothing.state_dict(), **weights(trained), "levels": levels, "eval_loss": torch.tensor(loss)}


def worker() -> None:
    """One process of two, with half of each batch; it goes on from a checkpoint in the middle of the second epoch."""
    folder, rank = Path(os.environ["OUT"]), os.environ["RANK"]
    for part, options in (("whole", {}), ("resumed", {"resume_from_checkpoint": str(folder / f"checkpoint-{STOP}")})):
        smoothing = smoother()
        one = trainer(folder, smoothing, batch=4, save_strategy="steps", save_steps=STOP)
        one.train(**options)
        torch.save(told(smoothing, one), folder / f"transformers-{part}-{rank}.pt")


#: Steps of the Trainer before a checkpoint, which is in the second epoch of six steps.
STOP = 8


def test_training_labels_without_positions_are_refused(tmp_path: Path) -> None:
    smoothing = smoother()
    one = trainer(tmp_path, smoothing)
    one.train_dataset = examples(EXAMPLES, 0)
    with pytest.raises(InputError, match=r"Pass train_dataset=smoothing.indexed\(train_dataset\)"):
        one.train()
    with pytest.raises(InputError, match="its class stands under labels, label, label_ids"):
        smoothing.indexed([{"input_ids": [1], "category": 1}])[0]


@pytest.mark.parametrize("label", [-1, 2, 0.5, "1", [0, 1]])
def test_labels_that_are_no_class_are_never_taken_for_those_of_another_position(label: object) -> None:
    """As -1 is, for a class that is not known: it was the last class of the example before."""
    smoothing = smoother()
    with pytest.raises(
        InputError, match=r"label of training example 1 is .*; classes are integers from 0 to 1, or -100"
    ):
        smoothing.indexed([{"label": 1}, {"label": label}])[1]
    whole = [{"label": given} for given in (1, 1.0, np.int64(1), torch.tensor([1]))]
    assert [smoothing.indexed(whole)[k]["label"] for k in range(4)] == [3, 5, 7, 9]


@pytest.mark.parametrize("label", [-1, 2, 7])
def test_an_evaluation_with_labels_that_are_no_class_is_refused(label: int) -> None:
    """Classes from 1 to Z: the last was taken for class 0 of an example with a position."""
    prediction = SimpleNamespace(predictions=np.zeros((3, 2)), label_ids=np.array([1, label, -100]))
    with pytest.raises(InputError, match=f"labels of the evaluation are no class: {label}, 1 in all; classes are"):
        smoother().metrics(prediction)


def test_the_training_set_may_be_evaluated_too() -> None:
    labels = np.array([smoother().indexed([{"label": 0}, {"label": 1}])[k]["label"] for k in range(2)])
    prediction = SimpleNamespace(predictions=np.array([[1.0, 0.0], [1.0, 0.0]]), label_ids=labels)
    assert smoother().metrics(prediction)["accuracy"] == 0.5


def test_ignored_labels_are_not_counted() -> None:
    smoothing = smoother()
    smoothing.on_train_begin(SimpleNamespace(eval_strategy="epoch"), SimpleNamespace(global_step=0), None)
    dataset = smoothing.indexed([{"labels": 1}, {"labels": -100}, {"labels": 0}])
    labels = torch.tensor([dataset[k]["labels"] for k in range(3)])
    logits = torch.tensor([[0.0, 1.0], [5.0, 0.0], [2.0, 0.0]], requires_grad=True)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([1, -100, 0]))
    torch.testing.assert_close(smoothing.loss({"logits": logits}, labels), expected)
    torch.testing.assert_close(smoothing.loss((logits,), labels, num_items_in_batch=4), expected / 2)
