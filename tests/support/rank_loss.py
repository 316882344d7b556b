"""What each process of `test_rank_loss.py` runs under torchrun: `robcal train`, then `robcal score`, killed on the way.

    torchrun … rank_loss.py JOB …     one process of each job (below)
    rank_loss.py JOB …                the same by torchrun's engine with forked processes, which import nothing anew

A job is a JSON list [folder, method, kills, folder of the same without kills]. `kills` is a list of [command, rank,
share], one for each start of the processes: that rank kills itself by SIGKILL in that command, when it has called, or
returned from, that share of the functions of robcal that the undisturbed process calls; if it calls fewer, when the
command has ended.
"""

import importlib
import json
import math
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

ROBCAL = f"{os.sep}robcal{os.sep}"
TRAIN = ["--data", "digits", "--model", "rank_loss:network", "--levels", "5", "--epochs", "3", "--batch-size", "50"]
TRAIN += ["--train-limit", "400", "--device", "cpu", "--quiet"]
METHODS = {"ar-adals": ["--levels-from", "robustness", "--scorer", "projection", "--gain", "40"], "crl": []}
SCORE = ["--split", "test", "--shard-size", "40", "--device", "cpu", "--quiet", "--factory", "rank_loss:network"]


def network(*, input_shape, num_classes):
    """A network that draws numbers in training, and whose state is more than its weights."""
    size = math.prod(input_shape)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(size, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, num_classes)
    )


def commands(folder, method):
    """The two command lines, by the name of the command."""
    run, scores = folder / "run", folder / "scores.parquet"
    return {
        "train": ["train", *TRAIN, "--method", method, *METHODS[method], "--out", str(run)],
        "score": ["score", *SCORE, "--model", str(run), "--out", str(scores)],
    }


class Count:
    """A profiler that counts the events in functions of robcal, and kills the process at one of them."""

    def __init__(self, at):
        self.at, self.events = at, 0

    def __call__(self, frame, event, argument):
        file = frame.f_code.co_filename
        if ROBCAL in file and not file.endswith("distributed.py"):  # how often a rank waits depends on the others
            self.events += 1
            if self.events == self.at:
                die()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def work(folder, method, kills, whole):
    from robcal.commands.cli import main as robcal
    from robcal.training import loop

    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # torchrun's processes are no forks and have not its handler either
    loop.fit.__kwdefaults__["state_seconds"] = 0.02  # so that a short run is resumed in the middle
    rank, start, counted = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"]), {}
    for name, arguments in commands(Path(folder), method).items():
        mine = [share for command, killed, share in kills[start : start + 1] if (command, killed) == (name, rank)]
        events = Path(whole, f"events-{rank}.json")
        count = Count(math.ceil(mine[0] * json.loads(events.read_text())[name]) if mine else 0)
        sys.setprofile(count)
        try:
            robcal(arguments)
        except SystemExit as ended:
            sys.setprofile(None)
            if ended.code:
                raise
        if mine:
            die()
        counted[name] = count.events
    if not kills:
        Path(folder, f"events-{rank}.json").write_text(json.dumps(counted))


def launch(job):
    """What torchrun does on one machine."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in ("accelerate", "sklearn.datasets", "torch._dynamo", "robcal.runs.train"):
        importlib.import_module(name)  # before the fork, once for all
    options = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "rank-loss", "start_method": "fork"}
    config = LaunchConfig(1, 1, 2, max_restarts=len(job[2]), monitor_interval=0.1, **options)
    elastic_launch(config, work)(*job)


if __name__ == "__main__":
    for text in sys.argv[1:]:
        work(*json.loads(text)) if "RANK" in os.environ else launch(json.loads(text))
