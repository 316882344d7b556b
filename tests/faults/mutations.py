"""Damage files of every kind that robcal reads, by a seed, and read them: each must be read right or be refused.

python tests/faults/mutations.py --count 10000 --seed 0: children read a batch each, within limits on time and memory.
A line of JSON tells what was tried; the status is 1 if anything crashed, hung, ran code, raised another error than
InputError, or was read as something else than what was written.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import whole_files
from whole_files import Kind

SECONDS = 5
MEMORY = 6 * 2**30
BATCH = 500


def mutated(data: bytes, draw: random.Random) -> bytes:
    """The bytes with one to four pieces of damage, most often one."""
    made = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 4))):
        place, kind = draw.randrange(len(made) + 1), draw.randrange(9)
        length = draw.choice((1, 2, 4, 8, 64))
        if kind == 0 and made:
            made[place % len(made)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            made[place : place + length] = draw.choice((b"\0", b"\xff", b"\x7f", b"9")) * length
        elif kind == 2:
            del made[place : place + length]
        elif kind == 3:
            made[place:place] = bytes(draw.randrange(256) for _ in range(length))
        elif kind == 4:
            del made[place:]
        elif kind == 5:
            made[place:place] = made[max(place - length, 0) : place] * draw.choice((1, 50))
        elif kind == 6:
            made[place : place + length] = draw.choice((b"null", b"1e999", b"-1", b"[[[[", b"{}", b'"', b"\n"))
        elif kind == 7:  # another digit where one is
            digits = [at for at in range(place, min(place + 400, len(made))) if chr(made[at]).isdigit()]
            for at in digits[:1]:
                made[at] = ord(draw.choice("0123456789"))
        else:  # a piece of the file in another place
            start = draw.randrange(len(made) + 1)
            made[place : place + length] = made[start : start + length]
    return bytes(made)


def same(one: Any, other: Any) -> bool:
    """Whether two values that were read hold the same arrays and words."""
    import numpy as np

    if hasattr(one, "__dataclass_fields__"):
        return type(one) is type(other) and all(
            same(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__
        )
    if hasattr(one, "items"):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


def chosen(kinds: dict[str, Kind], draw: random.Random) -> str:
    """The kind of file whose turn it is."""
    names = sorted(kinds)
    return draw.choices(names, [kinds[name].share for name in names])[0]


def read_batch(seed: int, count: int, folder: Path) -> dict[str, Any]:
    """Damage and read `count` files in this process; what is wrong with any is told by its kind and number."""
    import resource

    from robcal.base.checks import InputError

    warnings.simplefilter("ignore")
    wrong: list[str] = []
    tally: dict[str, collections.Counter[str]] = {}
    kinds = whole_files.kinds()
    whole = {name: (folder / name).read_bytes() for name in kinds}
    expected = {name: kind.read(folder / name) for name, kind in kinds.items() if kind.told}
    ran: list[str] = []

    def hung(*_: object) -> None:
        raise TimeoutError

    def watch(event: str, _: Any) -> None:
        if event in ("os.system", "os.exec", "os.posix_spawn", "os.fork"):
            ran.append(event)

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sys.addaudithook(watch)
    signal.signal(signal.SIGALRM, hung)
    for number in range(count):
        draw = random.Random(f"{seed}-{number}")
        name = chosen(kinds, draw)
        file, turn = folder / name, f"{name} {seed}-{number}"
        file.write_bytes(mutated(whole[name], draw))
        print(turn, file=sys.stderr, flush=True)
        signal.alarm(SECONDS)
        try:
            found = kinds[name].read(file)
            signal.alarm(0)
            outcome = "read"
            if kinds[name].told and not same(found, expected[name]):
                wrong.append(f"{turn}: accepted what was never written")
        except InputError:
            outcome = "refused"
        except BaseException as error:
            outcome = "wrong"
            wrong.append(f"{turn}: {type(error).__name__}: {str(error)[:100]}")
        finally:
            signal.alarm(0)
        wrong += [f"{turn}: ran code: {event}" for event in ran]
        ran.clear()
        tally.setdefault(name, collections.Counter())[outcome] += 1
        file.write_bytes(whole[name])
    return {"kinds": tally, "wrong": wrong}


def run(seed: int, count: int) -> dict[str, Any]:
    """Read `count` damaged files in children; a child that dies is told by the file that it was reading."""
    total: dict[str, Any] = {"read": 0, "refused": 0, "wrong": [], "kinds": {}}
    with tempfile.TemporaryDirectory() as place:
        _child("--write", place, seconds=300)
        for start in range(0, count, BATCH):
            size = min(BATCH, count - start)
            numbers = ("--seed", str(seed + start), "--count", str(size))
            try:
                done = _child("--read", place, *numbers, seconds=120 + SECONDS * size)
            except subprocess.TimeoutExpired:
                total["wrong"].append(f"the batch {seed + start} did not end")
                continue
            if done.returncode:
                total["wrong"].append(f"a child ended with {done.returncode}: {done.stderr[-300:]}")
                continue
            made = json.loads(done.stdout.splitlines()[-1])
            total["wrong"] += made["wrong"]
            for name, outcomes in made["kinds"].items():
                kept = total["kinds"].setdefault(name, {"read": 0, "refused": 0})
                for outcome in ("read", "refused"):
                    kept[outcome] += outcomes.get(outcome, 0)
                    total[outcome] += outcomes.get(outcome, 0)
    return total


def _child(*arguments: str, seconds: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=os.environ, check=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--write", type=Path, help="write the whole files to this folder")
    parser.add_argument("--read", type=Path, help="damage the files of this folder one by one, and read them")
    given = parser.parse_args()
    if given.write:
        whole_files.write_all(given.write)
    elif given.read:
        print(json.dumps(read_batch(given.seed, given.count, given.read)))
    else:
        outcome = run(given.seed, given.count)
        print(json.dumps(outcome, indent=1))
        sys.exit(bool(outcome["wrong"]))
