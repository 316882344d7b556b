"""Advice about comparisons on a cluster, carried out."""

from pathlib import Path

from hint_cases import Case, Steps

from robcal.commands.compare import _cluster
from robcal.comparison.cluster import open_cluster


def _unknown_option(folder: Path) -> Steps:
    yield lambda: open_cluster("local", folder, options=["queue=gpu"])
    yield lambda: (open_cluster("local", folder, options=["timeout_min=60"]), open_cluster("local", folder))


def _opened(executor: str | None, options: list[str], *others: tuple[str | None, list[str]]):  # type: ignore[no-untyped-def]
    def steps(folder: Path) -> Steps:
        yield lambda: _cluster(executor, options, folder, None)
        yield lambda: [_cluster(*other, folder, None) for other in others]

    return steps


CASES = [
    Case("a parameter that submitit does not know", "--executor submitit:local", _unknown_option),
    Case("a parameter without a value", "For example --executor-option slurm_partition=gpu",
         _opened("submitit:local", ["partition"], ("submitit:local", ["slurm_partition=gpu"]))),
    Case("an executor that there is not", "leave --executor out",
         _opened("ray", [], ("submitit:local", []), (None, []))),
    Case("parameters without a cluster", "Pass --executor submitit:local",
         _opened(None, ["timeout_min=60"], ("submitit:local", ["timeout_min=60"]))),
]  # fmt: skip
