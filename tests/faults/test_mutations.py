"""Every loader reads a few hundred damaged files right or refuses them; `make fuzz` tries 10,000."""

import random

import pytest
import whole_files
from mutations import chosen, mutated, run, same

from robcal.base.checks import InputError

COUNT = 400


@pytest.mark.slow
def test_damaged_files_are_read_right_or_refused():
    outcome = run(seed=1, count=COUNT)
    assert outcome["wrong"] == []
    assert outcome["read"] + outcome["refused"] == COUNT
    assert outcome["refused"] > COUNT / 2  # the damage is real
    assert sum(kept["read"] + kept["refused"] for kept in outcome["kinds"].values()) == COUNT
    assert len(outcome["kinds"]) > 35


@pytest.mark.slow
def test_whole_files_are_read_as_they_were_written(tmp_path):
    whole_files.write_all(tmp_path)
    kinds = whole_files.kinds()
    assert sum(kind.told for kind in kinds.values()) >= 15
    for name, kind in kinds.items():
        first = kind.read(tmp_path / name)
        if kind.told:
            assert same(kind.read(tmp_path / name), first), name
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2] if kind.told else b"")
        with pytest.raises(InputError):
            kind.read(tmp_path / name)
        (tmp_path / name).write_bytes(whole)


def test_the_damage_and_the_kinds_are_those_of_their_seed():
    one, other = (mutated(bytes(100), random.Random("1-1")) for _ in range(2))
    assert one == other != bytes(100)
    kinds = {"a": whole_files.Kind("a", len), "b": whole_files.Kind("b", len, share=0.1)}
    turns = [chosen(kinds, random.Random(f"{n}")) for n in range(400)]
    assert turns == [chosen(kinds, random.Random(f"{n}")) for n in range(400)]
    assert 10 < turns.count("b") < 70
