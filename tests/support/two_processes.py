"""Two processes that meet as those of `torchrun` do, without the third that starts them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

#: Seconds after which a process that waits for the other says where, and ends.
PATIENCE = 240

PROGRAM = f"""
import faulthandler, runpy, sys
faulthandler.dump_traceback_later({PATIENCE}, exit=True)
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def in_two_processes(file: Path, out: Path) -> None:
    """Run a file of tests as a program in two processes, which find their rank in RANK and the folder `out` in OUT."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, **meeting, "OUT": str(out), "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROGRAM, str(file)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
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
