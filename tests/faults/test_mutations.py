"""Every loader reads a few hundred damaged files right or refuses them; `make fuzz` tries 10,000."""

from mutations import mutated, run

COUNT = 400


def test_damaged_files_are_read_right_or_refused():
    outcome = run(seed=1, count=COUNT)
    assert outcome["wrong"] == []
    assert outcome["read"] + outcome["refused"] == COUNT
    assert outcome["refused"] > COUNT / 2  # the damage is real


def test_the_damage_is_that_of_its_seed():
    import random

    one, other = (mutated(bytes(100), random.Random("1-1")) for _ in range(2))
    assert one == other != bytes(100)
