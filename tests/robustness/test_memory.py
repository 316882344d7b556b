"""Memory does not grow with the data: inputs larger than what a process may take are scored by it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from robcal.base.storage import load_scores

pytestmark = pytest.mark.slow

COUNT, FEATURES = 100_000, 256
#: MB above what scoring a tenth of the inputs takes. The inputs are 102 MB; results take some 150 bytes an example
#: (their columns, and a copy of them while the table is written), that is 15 MB.
ALLOWED = 35

#: Scores a few inputs, then all of them, and prints by how many kilobytes the peak of resident memory grew.
WORKER = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from robcal.robustness.scoring import score
from robcal.robustness.shards import score_in_shards

class Windows:
    '''A memory map that is opened anew for every batch, so that pages once read do not count as this process's.'''
    def __init__(self, file, count, features):
        self.file, self.shape, self.dtype = file, (count, features), np.dtype(np.float32)
    def __getitem__(self, index):
        return np.array(np.memmap(self.file, self.dtype, "r", shape=(int(sys.argv[3]), self.shape[1]))[index])

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def run(inputs, name):
    if how == "score":
        return score(model, inputs, method="first-order", num_rivals=1, batch_size=1024, box=None)
    out = Path(sys.argv[2]).with_name(name)
    return score_in_shards(model, inputs, out=out, about={}, method="first-order", num_rivals=1, batch_size=1024,
                           box=None, shard_size=8192)

how, file, count, features = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(features, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
run(Windows(file, count // 10, features), "warm.parquet")
before = peak()
scores = run(Windows(file, count, features), "scores.parquet")
print(peak() - before, float(scores.distance.astype(np.float64).sum()))
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("memory") / "inputs.f32"
    rng = np.random.default_rng(0)
    with file.open("wb") as stream:
        for _ in range(20):
            stream.write(rng.random((COUNT // 20, FEATURES), dtype=np.float32).tobytes())
    return file


@pytest.mark.parametrize("how", ["score", "score_in_shards"])
def test_memory_stays_flat_in_the_number_of_inputs(inputs: Path, how: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-c", WORKER, how, str(inputs), str(COUNT), str(FEATURES)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    grown, total = done.stdout.split()
    assert int(grown) / 1000 < ALLOWED
    if how == "score_in_shards":
        scores = load_scores(inputs.with_name("scores.parquet"))
        assert len(scores) == COUNT
        assert float(scores.distance.astype(np.float64).sum()) == float(total)
