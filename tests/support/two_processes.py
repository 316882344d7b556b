"""Two processes that meet as those of `torchrun` do, without the third that starts them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

#: Seconds after which a process that waits for the other says where, and ends.
PATIENCE = 240

PROGRAM = f"""
import faulthandler, importlib, os, sys
import torch
faulthandler.dump_traceback_later({PATIENCE}, exit=True)
meeting = f"file://{{os.environ['OUT']}}/meeting"  # a port that is free now may be another's by then
torch.distributed.init_process_group("gloo", init_method=meeting, rank=int(os.environ["RANK"]), world_size=2)
for name in sys.argv[1:]:
    importlib.import_module(name).worker()
torch.distributed.destroy_process_group()
"""


def in_two_processes(modules: list[str], folder: Path, out: Path) -> None:
    """Call `worker()` of each module of tests in `folder`, in two processes of one group.

    They find their rank in the environment, RANK, and the folder `out` in OUT.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    paths = [str(folder), str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **meeting, "OUT": str(out), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROGRAM, *modules],
            env={**environment, "PYTHONPATH": os.pathsep.join(paths), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=out,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        for rank, process in enumerate(started):
            said, _ = process.communicate(timeout=PATIENCE + 30)
            assert process.returncode == 0, f"rank {rank}: {said}"
    finally:
        for process in started:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
