"""Two processes that meet as those of `torchrun` do, without the third that starts them."""

import os
import subprocess
import sys
from pathlib import Path

#: Seconds after which a process that waits for the other says where, and ends.
PATIENCE = 240

#: One process imports what both need, which takes most of the time, and becomes two.
PROGRAM = f"""
import faulthandler, importlib, os, sys, traceback
import torch
modules = [importlib.import_module(name) for name in sys.argv[1:]]
for library in [library for module in modules for library in getattr(module, "LIBRARIES", ())]:
    importlib.import_module(library)
other = os.fork()
os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0" if other else "1"
faulthandler.dump_traceback_later({PATIENCE}, exit=True)
try:
    meeting = f"file://{{os.environ['OUT']}}/meeting"  # a port that is free now may be another's by then
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=int(not other), world_size=2)
    for module in modules:
        module.worker()
    torch.distributed.destroy_process_group()
except BaseException:
    traceback.print_exc()
    os._exit(1)
if other and os.waitpid(other, 0)[1]:
    sys.exit("rank 1 failed")
"""


def in_two_processes(modules: list[str], folder: Path, out: Path) -> None:
    """Call `worker()` of each module of tests in `folder`, in two processes of one group.

    They find their rank in the environment, RANK, and the folder `out` in OUT. What a module lists as LIBRARIES is
    imported for both at once.
    """
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    paths = [str(folder), str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **meeting, "OUT": str(out), "OMP_NUM_THREADS": "1"}
    started = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, *modules],
        env={**environment, "PYTHONPATH": os.pathsep.join(paths)},
        cwd=out,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE + 30,
        check=False,
    )
    assert started.returncode == 0, started.stdout
