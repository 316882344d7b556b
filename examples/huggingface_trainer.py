"""
Hugging Face's Trainer
======================

AR-AdaLS in the Trainer of Hugging Face: the lines marked `# robcal` are all that changes. Run it by::

    python examples/huggingface_trainer.py

Trains a small Transformer, made here from a configuration (no download), on sentences of token ids some of whose labels
are wrong, as usual and by AR-AdaLS, and prints accuracy and calibration error on test sentences.
"""

import tempfile

import numpy as np
import torch
from scipy.special import softmax
from transformers import BertConfig, BertForSequenceClassification, PrinterCallback, Trainer, TrainingArguments

import robcal
from robcal.integrations.transformers import TrainerSmoothing  # robcal

EPOCHS, CLASSES, LENGTH, TOKENS = 25, 3, 10, 60


def sentences(count: int, seed: int) -> list[dict]:
    """Return sentences: their class is the topic most of their tokens are of; one label in five is wrong."""
    draw = np.random.default_rng(seed)
    topics = draw.integers(CLASSES, size=count)
    own = draw.random((count, LENGTH)) < 0.5
    words = np.where(own, topics[:, None], draw.integers(CLASSES, size=(count, LENGTH)))
    ids = 1 + words * 19 + draw.integers(19, size=(count, LENGTH))
    labels = np.where(draw.random(count) < 0.2, draw.integers(CLASSES, size=count), topics)
    return [
        {"input_ids": row.tolist(), "attention_mask": [1] * LENGTH, "labels": int(label)}
        for row, label in zip(ids, labels, strict=True)
    ]


def network() -> BertForSequenceClassification:
    """Return a Transformer with the same weights each time."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=TOKENS, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=LENGTH, num_labels=CLASSES,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def main() -> None:
    """Train both ways."""
    train, val, test = sentences(300, 0), sentences(300, 1), sentences(1000, 2)
    labels = np.array([example["labels"] for example in test])
    for name in ("as usual", "with robcal"):
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder, num_train_epochs=EPOCHS, learning_rate=2e-3, per_device_train_batch_size=30, seed=0,
                eval_strategy="epoch", save_strategy="no", report_to=[], disable_tqdm=True, logging_strategy="no",
            )  # fmt: skip
            if name == "as usual":
                trainer = Trainer(network(), arguments, train_dataset=train, eval_dataset=val)
            else:
                smoothing = TrainerSmoothing(CLASSES, epochs=EPOCHS)  # robcal
                trainer = Trainer(
                    network(),
                    arguments,
                    train_dataset=smoothing.indexed(train),  # robcal
                    eval_dataset=val,
                    compute_loss_func=smoothing.loss,  # robcal
                    compute_metrics=smoothing.metrics,  # robcal
                    callbacks=[smoothing],  # robcal
                )
            trainer.remove_callback(PrinterCallback)  # it prints a line an epoch
            trainer.train()
            probs = softmax(trainer.predict(test).predictions.astype(np.float64), axis=1)
        accuracy, error = (probs.argmax(1) == labels).mean(), robcal.calibration_error(probs, labels)
        print(f"{name}: test accuracy {accuracy:.3f}, calibration error (ECE) {error:.3f}")


if __name__ == "__main__":
    main()
