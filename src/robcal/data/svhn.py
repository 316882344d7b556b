"""SVHN (Netzer et al. 2011), cropped digits, from the official MATLAB files."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from robcal.base.checks import check_labels, refuse
from robcal.base.npy import read_npy
from robcal.data.dataset import Split
from robcal.data.published import check_folder, where_to_find
from robcal.data.splits import Parts

#: The official files; `extra_32x32.mat`, easier digits, is left out as in the paper.
FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}


def read_svhn(path: str) -> Parts:
    """Read SVHN: 73,257 training and 26,032 test images of house numbers, inputs (3, 32, 32) uint8, the digits 0 to 9.

    The path is the folder that holds both files, or one of the two. They store X as (32, 32, 3, N) uint8 and y as (N,
    1) with 1 … 9 for these digits and 10 for the digit 0; here label 0 is the digit 0. Nothing in them is executed.
    """
    folder = check_folder(path, "SVHN")
    lost = [name for name in FILES.values() if not (folder / name).is_file()]
    if lost:
        fix = f"Fetch what is missing; {where_to_find('SVHN', *lost)}"
        refuse(f"{folder} has no {', '.join(lost)}", f"it must hold {' and '.join(FILES.values())}", fix)
    return Parts("SVHN", {part: _read_part(folder / name) for part, name in FILES.items()}, tuple(map(str, range(10))))


#: What the child runs: it takes the file and a folder, and writes X and y there as .npy files. It may take 8 GiB.
_CHILD = """
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
except (ImportError, ValueError, OSError):
    pass
try:
    import numpy
    from scipy.io import loadmat
    for name, array in loadmat(sys.argv[1], variable_names=("X", "y")).items():
        if name in ("X", "y"):
            numpy.save(f"{sys.argv[2]}/{name}.npy", numpy.asarray(array), allow_pickle=False)
except BaseException as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""

#: Seconds that reading may take; the official files take 5.
_SECONDS = 600


def _convert(file: Path, folder: Path) -> str:
    """Write the arrays X and y as .npy files, in another process: damaged files can end it. Returns what went wrong."""
    places = os.pathsep.join(place for place in sys.path if place)
    environment = {**os.environ, "PYTHONPATH": places, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _CHILD, str(file.absolute()), str(folder)]
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"its reader did not end within {_SECONDS} seconds"
    if done.returncode < 0:
        return f"its reader was ended by signal {-done.returncode}"
    return " ".join(done.stderr.decode(errors="replace").split())[-300:] if done.returncode else ""


def _read_part(file: Path) -> Split:
    again = f"Fetch it again; {where_to_find('SVHN', file.name)}"
    with tempfile.TemporaryDirectory() as folder:
        if reason := _convert(file, Path(folder)):
            given = f"{file} ({file.stat().st_size:,} bytes) is no readable MATLAB file ({reason})"
            refuse(given, "arrays X and y", again)
        arrays = {made.stem: read_npy(made, f"{made.stem} of {file}") for made in sorted(Path(folder).glob("*.npy"))}
    if not {"X", "y"} <= arrays.keys():
        have = ", ".join(name for name in arrays if not name.startswith("__")) or "nothing of them"
        refuse(f"{file} holds {have}", "it must hold the arrays X and y", again)
    images, stored = arrays["X"], np.asarray(arrays["y"]).ravel()
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
        refuse(f"X of {file} is {images.dtype} of shape {images.shape}", "it must be uint8 (32, 32, 3, N)", again)
    labels = check_labels(stored, n=images.shape[3], num_classes=11, name=f"y of {file}")
    if not labels.min():
        refuse(f"y of {file} holds 0", "labels are 1 to 10, where 10 is the digit 0", again)
    return Split(inputs=np.ascontiguousarray(images.transpose(3, 2, 0, 1)), labels=labels % 10)
