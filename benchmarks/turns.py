"""Contenders in turn: each does a little work, hands over, and goes on later, so that all meet the same machine.

Ratios of times taken minutes apart say more about what else ran than about the code. Here every contender runs in a
thread of its own, but only one at a time, and each is timed only while it has the turn.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from robcal.base.progress import Advance

Clock = Callable[[], float]


class Contender(threading.Thread):
    """Work that reports each step through `advance`, the way `robcal.base.progress.Reporter` asks for.

    Args:
        name: for tables.
        work: is handed this contender, and calls `task(…)(done)` after each step.
        every: steps a turn.
        clock: seconds; the process's CPU time unless given.
    """

    def __init__(
        self, name: str, work: Callable[[Contender], object], *, every: int, clock: Clock = time.process_time
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.work, self.every, self.clock = work, every, clock
        self.times: list[float] = []
        self.error: BaseException | None = None
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)

    def task(self, description: str, total: int) -> Advance:
        """See `robcal.base.progress.Reporter`."""
        return self.advance

    def advance(self, done: int) -> None:
        """Count a step; at the end of a turn, hand over and wait for the next."""
        if done % self.every:
            return
        self._stop_clock()
        self._wait()

    def run(self) -> None:
        """See `threading.Thread`."""
        self._wait()
        try:
            self.work(self)
        except BaseException as error:  # handed to the thread that gives the turns
            self.error = error
        self._stop_clock()

    def turn(self) -> None:
        """Let it work until it hands over.

        Raises:
            BaseException: whatever its work raised.
        """
        self._go.release()
        self._back.acquire()
        if self.error is not None:
            raise self.error

    def _wait(self) -> None:
        self._go.acquire()
        self._begin = self.clock()

    def _stop_clock(self) -> None:
        self.times.append(self.clock() - self._begin)
        self._back.release()


def take_turns(contenders: Sequence[Contender], turns: int, *, seed: int = 0) -> np.ndarray:
    """Give every contender `turns` turns, in an order drawn anew for each round; (contenders, turns) seconds."""
    order = np.random.default_rng(seed)
    for contender in contenders:
        contender.start()
    for _ in range(turns):
        for number in order.permutation(len(contenders)):
            contenders[number].turn()
    return np.array([contender.times[:turns] for contender in contenders])


def median_interval(values: Sequence[float], *, resamples: int = 4000, seed: int = 0) -> tuple[float, float, float]:
    """Median with the 95% percentile bootstrap interval."""
    array = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(len(array), size=(resamples, len(array)))
    low, high = np.quantile(np.median(array[draws], axis=1), [0.025, 0.975])
    return float(np.median(array)), float(low), float(high)


def machine() -> str:
    """Cores and processor, where the system tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} CPU cores ({names[0] if names else platform.processor()})"
