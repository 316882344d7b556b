"""Results on disk: a few files of arrays, each small enough to be carried away, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from robcal.base.checks import refuse
from robcal.base.storage import load_arrays, save_arrays

#: Bytes of arrays after which the next file is begun.
PACK_BYTES = 15 * 2**20

Arrays = dict[str, npt.NDArray[Any]]


class Results:
    """Arrays and facts of finished runs, by name.

    Args:
        folder: where the files results-00.safetensors, results-01.safetensors … are.
        key: of the plan and the data; files of another are refused.

    Raises:
        InputError: if files there are of another plan.
    """

    def __init__(self, folder: Path, key: str | None = None) -> None:
        self.folder, self.key = folder, key
        self.arrays: dict[str, Arrays] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.about: dict[str, Any] = {}
        self._packs: list[list[str]] = []
        for file in sorted(folder.glob("results-*.safetensors")):
            self._read(file)

    def __contains__(self, name: str) -> bool:
        return name in self.facts

    def add(self, name: str, arrays: Mapping[str, npt.NDArray[Any]], facts: Mapping[str, Any]) -> None:
        """Keep the results of a run, on disk when this returns."""
        self.add_all({name: (arrays, facts)})

    def add_all(self, runs: Mapping[str, tuple[Mapping[str, npt.NDArray[Any]], Mapping[str, Any]]]) -> None:
        """Keep the arrays and facts of several runs, each file written once."""
        changed = set()
        for name, (arrays, facts) in runs.items():
            size = sum(array.nbytes for array in arrays.values())
            if not self._packs or self._bytes(self._packs[-1]) + size > PACK_BYTES:
                self._packs.append([])
            self.arrays[name], self.facts[name] = dict(arrays), dict(facts)
            self._packs[-1].append(name)
            changed.add(len(self._packs) - 1)
        for number in sorted(changed):
            self._write(number)

    def _bytes(self, names: list[str]) -> int:
        return sum(array.nbytes for name in names for array in self.arrays[name].values())

    def _write(self, number: int) -> None:
        names = self._packs[number]
        flat = {f"{name}:{key}": array for name in names for key, array in self.arrays[name].items()}
        about = {**self.about, "key": self.key, "runs": {name: self.facts[name] for name in names}}
        save_arrays(flat, self.folder / f"results-{number:02d}.safetensors", about=about)

    def _read(self, file: Path) -> None:
        arrays, about = load_arrays(file, "the results")
        if self.key is not None and about.get("key") != self.key:
            refuse(f"{file} is of another plan or other data", "a folder holds one", "Name another folder with --out")
        self.about = {name: value for name, value in about.items() if name not in ("key", "runs")}
        self._packs.append(list(about["runs"]))
        self.facts |= about["runs"]
        for name in about["runs"]:
            self.arrays[name] = {}
        for path, array in arrays.items():
            name, _, key = path.rpartition(":")
            self.arrays[name][key] = array
