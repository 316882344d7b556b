"""Samples as `lm_eval --log_samples` writes them: of versions 0.4.3 on, where numbers are texts, and of 0.4.0."""

import json
from pathlib import Path
from typing import Any

import numpy as np

CHOICES = ("apple", "a pear", "the third", "no fruit at all")


def sample(doc_id: int, likelihoods, target: Any, *, right: int | None = None, choices=CHOICES, **more: Any) -> dict:
    """One question of a multiple-choice task; `right` is what the harness counts as right, by default the target."""
    right = int(target) if right is None else right
    choices = choices[: len(likelihoods)]
    pairs = [[str(float(value)), "False"] for value in likelihoods]
    by_length = np.array(likelihoods) / [len(choice) for choice in choices]
    return {
        "doc_id": doc_id,
        "doc": {"question": f"Question {doc_id}?", "choices": list(choices)},
        "target": str(target),
        "arguments": {
            f"gen_args_{number}": {"arg_0": f"Question {doc_id}?\nAnswer:", "arg_1": f" {choice}"}
            for number, choice in enumerate(choices)
        },
        "resps": [[pair] for pair in pairs],
        "filtered_resps": pairs,
        "filter": "none",
        "metrics": ["acc", "acc_norm"],
        "doc_hash": "5f", "prompt_hash": "6f", "target_hash": "7f",
        "acc": float(np.argmax(likelihoods) == right),
        "acc_norm": float(np.argmax(by_length) == right),
        **more,
    }  # fmt: skip


def task(count: int, seed: int = 0, **more: Any) -> list[dict]:
    """Questions with three or four choices; half of them are answered right."""
    draw, made = np.random.default_rng(seed), []
    for doc_id in range(count):
        likelihoods = -draw.uniform(1, 20, draw.integers(3, 5)).round(3)
        target = likelihoods.argmax() if draw.random() < 0.5 else draw.integers(len(likelihoods))
        made.append(sample(doc_id, likelihoods, int(target), **more))
    return made


def of_version_0_4_0(row: dict) -> dict:
    """The same sample as the first versions wrote it: numbers, a list of requests, no filter."""
    pairs = [[float(value), False] for value, _ in row["filtered_resps"]]
    requests = [[one["arg_0"], one["arg_1"]] for one in row["arguments"].values()]
    kept = {name: value for name, value in row.items() if name not in ("filter", "metrics")}
    return {**kept, "target": int(row["target"]), "arguments": requests,
            "resps": [[pair] for pair in pairs], "filtered_resps": pairs}  # fmt: skip


def write(file: Path, rows: list[dict]) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file
