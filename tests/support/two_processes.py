"""Two processes that meet as those of `torchrun` do: this one, which has imported everything, and one more."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


def in_two_processes(worker: Callable[[], object], file: Path, out: Path) -> None:
    """Call `worker` here as rank 0, beside `file` run as a program as rank 1; both find the folder `out` in OUT."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {**meeting, "OUT": str(out), "OMP_NUM_THREADS": "1"}
    other = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(file)],
        env={**os.environ, **own, "RANK": "1", "LOCAL_RANK": "1", "PYTHONPATH": paths},
        cwd=out,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**own, "RANK": "0", "LOCAL_RANK": "0"}.items():
                patch.setenv(name, value)
            worker()
        said, _ = other.communicate(timeout=60)
        assert other.returncode == 0, said
    finally:
        other.kill()
        other.wait()
