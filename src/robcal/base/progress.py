"""Progress of long work: bars with rate and time left on a terminal, plain lines elsewhere, and a clean stop.

`Reporter.task` is handed down to whatever takes long; a task is a callable `task(done)`. Library functions default to
`SILENT`. Worker processes report through a queue to the process that owns the terminal.
"""

from __future__ import annotations

import contextlib
import math
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol

Advance = Callable[[int], None]


class Reporter(Protocol):
    """Something that shows tasks."""

    def task(self, description: str, total: int) -> Advance:
        """Start a task of `total` units; call the returned function with the number of units done so far."""


class Silent:
    """Shows nothing."""

    def task(self, description: str, total: int) -> Advance:
        """See `Reporter.task`."""
        return lambda done: None


SILENT = Silent()


class Lines:
    """Plain lines on standard error: at the end of each task, and while tasks run one every `seconds` in all.

    A task that others keep silent still tells of itself every `6 * seconds`. The first line comes after a second.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        self.seconds = seconds
        self._last = -math.inf

    def task(self, description: str, total: int) -> Advance:
        """See `Reporter.task`."""
        start = own = time.monotonic()

        def advance(done: int) -> None:
            nonlocal own
            now = time.monotonic()
            finished = done >= total
            due = now - self._last >= self.seconds and now - own >= min(1.0, self.seconds)
            if finished or due or now - own >= 6 * self.seconds:
                own = now
                self.tell(description, done, total, start)

        return advance

    def tell(self, description: str, done: int, total: int, start: float) -> None:
        """Print a line on a task that began at `start`."""
        self._last = now = time.monotonic()
        rate = done / max(now - start, 1e-9)
        rest = f" in {now - start:.1f} s" if done >= total else f", {(total - done) / max(rate, 1e-9):.0f} s left"
        print(f"{description}: {done}/{total}, {rate:.3g}/s{rest}", file=sys.stderr, flush=True)

    def silent_for(self, now: float) -> float:
        """Return the seconds since the last line."""
        return now - self._last


class Parts:
    """Shows the parts of a task of `Lines`: a line where it was silent for `6 * seconds`, none at their ends."""

    def __init__(self, whole: Lines) -> None:
        self._whole = whole

    def task(self, description: str, total: int) -> Advance:
        """See `Reporter.task`."""
        start, shown = time.monotonic(), self._whole

        def advance(done: int) -> None:
            now = time.monotonic()
            if done < total and min(now - start, shown.silent_for(now)) >= 6 * shown.seconds:
                shown.tell(description, done, total, start)

        return advance


def parts_of(reporter: Reporter) -> Reporter:
    """Return what shows the parts of a task that `reporter` shows: bars have room for all, a log has not."""
    return Parts(reporter) if isinstance(reporter, Lines) else reporter


class Bars:
    """Bars on a terminal, drawn by rich on standard error."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress

    def task(self, description: str, total: int) -> Advance:
        """See `Reporter.task`."""
        from rich.markup import escape

        identifier = self._progress.add_task(escape(description), total=total)

        def advance(done: int) -> None:
            self._progress.update(identifier, completed=done)
            if done >= total:
                self._progress.stop_task(identifier)

        return advance


class Together:
    """Shows like runs that differ in their seed as one task a stage, of which each run is an equal share."""

    def __init__(self, reporter: Reporter, runs: int) -> None:
        self._reporter, self._runs = reporter, runs
        self._stages: dict[str, _Stage] = {}

    def task(self, description: str, total: int) -> Advance:
        """See `Reporter.task`."""
        name = re.sub(r", seed \d+$", "", description)
        if name not in self._stages:
            whole = self._runs * total
            self._stages[name] = _Stage(self._reporter.task(f"{name}, {self._runs} runs", whole), whole)
        stage, number = self._stages[name], len(self._stages[name].shares)
        stage.shares.append(0.0)

        def advance(done: int) -> None:
            stage.shares[number] = done / max(total, 1)
            stage.show(int(sum(stage.shares) / self._runs * stage.whole + 1e-6))

        return advance

    def __enter__(self) -> Together:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for stage in self._stages.values() if kind is None else ():
            stage.show(stage.whole)  # runs that had done it before did not tell


@dataclass
class _Stage:
    """One stage of several runs: what shares of it they have done, and how much of it is shown."""

    advance: Advance
    whole: int
    shares: list[float] = field(default_factory=list)
    shown: int = 0

    def show(self, done: int) -> None:
        if self.shown < min(done, self.whole):
            self.shown = min(done, self.whole)
            self.advance(self.shown)


class Relay:
    """Sends the tasks of a worker process through a queue; `relay_messages` shows them in the owner's process."""

    def __init__(self, queue: Any, worker: str, seconds: float = 0.2) -> None:
        self._queue, self._worker, self._seconds, self._count = queue, worker, seconds, 0

    def task(self, description: str, total: int) -> Advance:
        """See `Reporter.task`."""
        self._count += 1
        key, last = f"{self._worker}/{self._count}", 0.0
        self._queue.put((key, description, total, 0))

        def advance(done: int) -> None:
            nonlocal last
            now = time.monotonic()
            if done >= total or now - last >= self._seconds:
                last = now
                self._queue.put((key, description, total, done))

        return advance


@contextlib.contextmanager
def relay_messages(queue: Any, reporter: Reporter) -> Iterator[None]:
    """Show what `Relay`s put into `queue`, until the block ends."""
    tasks: dict[str, Advance] = {}

    def listen() -> None:
        while (message := queue.get()) is not None:
            key, description, total, done = message
            if key not in tasks:
                tasks[key] = reporter.task(description, total)
            tasks[key](done)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        queue.put(None)
        thread.join()


@contextlib.contextmanager
def open_reporter(*, quiet: bool = False, seconds: float = 10.0) -> Iterator[Reporter]:
    """Yield bars if standard error is a terminal, plain lines elsewhere (`seconds` apart), nothing if `quiet`."""
    if quiet:
        yield SILENT
    elif sys.stderr.isatty():
        from rich import console, progress

        count, left = progress.MofNCompleteColumn(), progress.TimeRemainingColumn()
        columns = ("{task.description}", progress.BarColumn(), count, progress.TimeElapsedColumn(), "left", left)
        with progress.Progress(*columns, console=console.Console(stderr=True)) as bars:
            yield Bars(bars)
    else:
        yield Lines(seconds)


class StopRequested:
    """Set by Ctrl-C (SIGINT) or SIGTERM; long loops look at it where their state is whole."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def raise_if_set(self) -> None:
        """Stop here if a stop was asked for: KeyboardInterrupt after SIGINT, SystemExit with code 143 after SIGTERM."""
        if self.signal == signal.SIGTERM:
            raise SystemExit(143)
        if self.signal is not None:
            raise KeyboardInterrupt


@contextlib.contextmanager
def stop_at_boundary() -> Iterator[StopRequested]:
    """Turn the first Ctrl-C or SIGTERM into a flag, so that work stops where nothing is half-done.

    A second Ctrl-C stops at once. Outside the main thread, and inside another such block, signals are left as they are.
    """
    stop = StopRequested()
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGINT) not in (signal.default_int_handler, signal.SIG_DFL):
        yield stop
        return
    before = {which: signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, frame: FrameType | None) -> None:
        if stop:
            raise KeyboardInterrupt
        stop.signal = number

    try:
        for which in before:
            signal.signal(which, request)
        yield stop
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
