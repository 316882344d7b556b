"""Where the time of training goes: how long its steps wait for data, and what they take otherwise."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

#: What a step, and the end of an epoch, consist of, in the order in which they are told.
PARTS = ("data", "forward", "backward", "optimizer", "validation")

_NOTHING: AbstractContextManager[None] = nullcontext()


class Profile:
    """Seconds that the parts of a training take; hand it to `robcal.fit`.

    The time of a GPU is that until it has finished, so a training that is watched waits for it after every part.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)  #: of each of `PARTS`
        self.total = 0.0  #: of the whole training

    @contextmanager
    def part(self, name: str, device: torch.device) -> Iterator[None]:
        """Count the time of the block for one of `PARTS`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            if device.type != "cpu":
                torch.get_device_module(device).synchronize(device)
            self.seconds[name] += time.perf_counter() - start

    def shares(self) -> dict[str, float]:
        """Return the share of each part of the whole time, and of all "other" work: saving, progress, the loop."""
        whole = max(self.total, 1e-12)
        shares = {name: seconds / whole for name, seconds in self.seconds.items()}
        return {**shares, "other": max(0.0, 1 - sum(shares.values()))}

    def step_waits(self) -> float:
        """Return the share of the steps' time that waits for data."""
        steps = sum(seconds for name, seconds in self.seconds.items() if name != "validation")
        return self.seconds["data"] / max(steps, 1e-12)

    def lines(self) -> list[str]:
        """Return what `robcal train --profile` prints."""
        if self.total == 0:
            return ["the run was finished already: nothing was trained"]
        told = ", ".join(f"{name} {100 * share:.1f}%" for name, share in self.shares().items())
        return [
            f"training took {self.total:.1f} s: {told}",
            f"a step waits {100 * self.step_waits():.1f}% for its data",
        ]


def timed(profile: Profile | None, name: str, device: torch.device) -> AbstractContextManager[None]:
    """Count the time of the block if there is a profile; costs nothing if there is none."""
    return _NOTHING if profile is None else profile.part(name, device)
