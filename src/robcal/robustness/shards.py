"""Score a data set shard by shard: stopped at any moment it resumes, and several processes share the work.

A shard is the scores file of some examples in `OUT.parts/`, written whole or not at all. It names the model, the data
and the settings it was made with, and a shard of anything else is refused. Which examples a shard holds depends on
nothing but the settings, and a shard is always computed by itself: a resumed run, and a run of any number of processes,
ends in the same file, to the last byte, as an undisturbed one of one process (on the same kind of device, with the same
number of threads). Scores that are finished are left as they are, so the processes of a run may all be started again
at any moment, as `torchrun --max-restarts` does when one is lost.

Processes that torchrun started take the next shard when they are ready for one, so that a slow one holds up nobody;
rank 0 checks the inputs, joins the shards and writes the result. All of them must see the folder of `out`.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from robcal.base.checks import InputError, IntArray, check_num_levels, check_output, check_positive_int, refuse
from robcal.base.distributed import Group, process_group
from robcal.base.files import writing
from robcal.base.progress import SILENT, Reporter, StopRequested, stop_at_boundary
from robcal.base.storage import digest_of, kept_arrays, load_arrays, load_scores, save_arrays, save_scores
from robcal.base.types import STATUSES, Scores
from robcal.data.dataset import Inputs
from robcal.robustness.attacks import Attack, describe_attack
from robcal.robustness.linear_error import linear_error
from robcal.robustness.network import Network
from robcal.robustness.scoring import Scorer, refuse_without_gradients

#: Examples a shard: about what a killed run may lose. The batches of a shard run empty at its end: one of 1,797 digits
#: filled 74% of the slots of its batches of 256.
SHARD_SIZE = 4096

#: What the provenance of every shard counts.
_COUNTS = ("zero_gradient", "no_gradient")
_STATUS_TYPE = np.asarray(STATUSES).dtype


def score_in_shards(
    model: nn.Module,
    inputs: Inputs,
    *,
    out: Path,
    about: Mapping[str, Any],
    labels: IntArray | None = None,
    method: str | Attack | Callable[..., Any] = "projection",
    num_levels: int = 10,
    shard_size: int | None = None,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
    description: str = "score",
    **options: Any,
) -> Scores:
    """Score all inputs, write `out`, and keep every finished shard until then.

    Under torchrun every process must call this, with the same arguments; see the module's text.

    Args:
        model: see `robcal.score`.
        inputs: (N, …), read a batch at a time.
        out: target, a .parquet file; under torchrun on a file system that all processes see.
        about: what identifies model and data (their digests), JSON-able; kept as the scores' provenance.
        labels: (N,) true classes, for `reference="label"` only.
        method: of `robcal.score`.
        num_levels: of `robcal.score`.
        shard_size: examples a shard; default `SHARD_SIZE`.
        overwrite: replace `out` if it exists.
        reporter: shows progress in examples (on rank 0).
        description: of the progress.
        options: further options of `robcal.score`.

    Returns:
        The scores of all N inputs, as written; on every process. Those in `out`, if they are of this work already.

    Raises:
        InputError: on bad input (all of it is checked before any work, unless a finished shard shows that this was
            done), an existing `out` of something else, or shards of another model, data set or settings. A model
            without gradients is judged over the whole data set, at its end: parts of it may have none.
        KeyboardInterrupt: on Ctrl-C, when the next examples finish; finished shards are kept.
        RuntimeError: if another process failed.
    """
    check_output(out, overwrite=overwrite or out.is_file())
    size = check_positive_int(SHARD_SIZE if shard_size is None else shard_size, "shard_size")
    wanted = labels if options.get("reference") == "label" else None
    scorer = Scorer(model, inputs, method=method, labels=wanted, **options)
    settings = {"method": scorer.attack.name, "shard_size": size, **_brief(scorer)}
    if method == "auto":
        settings["num_levels"] = check_positive_int(num_levels, "num_levels")
        check_num_levels(num_levels, len(scorer))
    stamp = {**about, "settings": settings}
    with process_group(str(scorer.place)) as group, stop_at_boundary() as stop:
        group.stop = stop
        group.agree(digest_of([stamp, len(scorer)]), "model, data set or setting")
        report = reporter if group.is_main else SILENT
        work = _Work(scorer, group, stop, out, stamp, size, report.task(description, len(scorer)))
        if group.from_main("start", lambda: work.start(overwrite=overwrite)):
            return load_scores(out)
        with work:
            whole = _score_by_level(work, num_levels) if method == "auto" else _score_alike(work)
        group.barrier("joined")
        group.from_main("finish", lambda: work.finish(whole, overwrite=overwrite))
    return whole


def _score_alike(work: _Work) -> Scores:
    """All examples by the scorer's own attack."""
    work.phase("score", np.arange(len(work.scorer)))
    return work.joined()


def _score_by_level(work: _Work, num_levels: int) -> Scores:
    """The cascade of `robcal.robustness.auto`, round after round; every process knows the distances of all rounds."""
    from robcal.robustness.auto import attack_of_round, draw_rounds, gathered_of, with_pilot
    from robcal.robustness.cuts import cut_bands
    from robcal.robustness.restarts import Restarts

    base = work.scorer.attack
    assert isinstance(base, Restarts)
    drawn = work.remember("rounds", lambda: draw_rounds(work.scorer.inputs, seed=base.seed))
    rounds, pilot = with_pilot(work.scorer.inputs, drawn)
    index = work.scorer.index[pilot].tolist()
    distances: list[Any] = []
    for number, positions in enumerate(rounds):
        together = gathered_of(work.scorer.inputs, positions)
        attack = attack_of_round(
            base, work.log_errors, distances, len(work.scorer), num_levels, gathered=together, pilot=index
        )
        work.phase(f"round-{number}", positions, attack, together=bool(together))
        distances.append(work.columns["distance"][positions])
    cuts = cut_bands(np.concatenate(distances), len(work.scorer), num_levels)
    return work.joined(
        rounds=[len(positions) for positions in rounds], cuts=cuts, linear_error=linear_error(work.log_errors)
    )


class _Work:
    """One scoring of one data set: its shards on disk, and this process's part in making them.

    Args:
        scorer: makes the scores.
        group: the processes that share the work.
        stop: set when the user wants to stop.
        out: the target; shards go to a folder beside it.
        stamp: what the scores depend on, JSON-able.
        size: examples a shard.
        advance: shows how many examples are done.

    Attributes:
        columns: the (N,) columns of the scores, filled phase by phase, on every process.
        log_errors: of every shard so far, the counts of `robcal.robustness.linear_error`.
    """

    def __init__(
        self,
        scorer: Scorer,
        group: Group,
        stop: StopRequested,
        out: Path,
        stamp: Mapping[str, Any],
        size: int,
        advance: Callable[[int], None],
    ) -> None:
        self.scorer, self.group, self.stop, self.out, self.stamp = scorer, group, stop, out, stamp
        self.size, self._advance, self._shown = size, advance, -1
        self.parts = _folder_of_shards(out)
        self.columns: dict[str, Any] = {}
        self._counts = dict.fromkeys(_COUNTS, 0)
        self.log_errors: list[list[int]] = []
        self._in_place = 0
        self._network: Network | None = None
        self._open = contextlib.ExitStack()

    def __enter__(self) -> _Work:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def network(self) -> Network:
        """Return the model in scoring mode, opened when it is first needed."""
        if self._network is None:
            self._network = self._open.enter_context(self.scorer.opened())
        return self._network

    def start(self, *, overwrite: bool) -> bool:
        """Return whether all is done; if not, check the inputs unless a finished shard shows that this was done.

        What a killed run left half-written is cleared.

        Raises:
            InputError: on bad inputs, an output of something else, or shards of another model, data set or settings.
        """
        if self.out.exists() and not overwrite:
            self._check_finished()
            remove_shards(self.out)
            return True
        _clear_half_written(self.out)
        finished = [file for file in sorted(self.parts.glob("*.parquet")) if self._load(file) is not None]
        if not finished:
            self.scorer.check_inputs()
        return False

    def _check_finished(self) -> None:
        """Refuse an existing output unless it holds the scores that this work would make.

        Raises:
            InputError: if so.
        """
        ours = _as_json(self.stamp)
        try:
            theirs = _as_json(load_scores(self.out).provenance)
        except InputError:
            theirs = {}
        check_output(self.out, overwrite=ours.items() <= theirs.items())

    def remember(self, name: str, compute: Callable[[], list[IntArray]]) -> list[IntArray]:
        """Arrays that rank 0 computes once for this work, kept with the shards."""
        file, key = self.parts / f"{name}.safetensors", digest_of([self.stamp, len(self.scorer)])

        def make() -> None:
            if kept_arrays(file, key) is None:
                save_arrays({f"{n:06d}": part for n, part in enumerate(compute())}, file, about={"key": key})

        self.group.from_main(name, make)
        arrays = load_arrays(file)[0]
        return [arrays[number] for number in sorted(arrays)]

    def phase(self, name: str, positions: IntArray, attack: Attack | None = None, *, together: bool = False) -> None:
        """Score the examples at these positions, together with the other processes, and put them into `columns`.

        Args:
            name: of the phase; its shards are called after it.
            positions: (n,) int64; the same on all processes.
            attack: another one than the scorer's own.
            together: whether all of them are one shard, however large.
        """
        size = len(positions) if together else self.size
        blocks = [positions[start : start + size] for start in range(0, len(positions), size)]
        files = [self.parts / f"{name}-{number:06d}.parquet" for number in range(len(blocks))]
        keys = [self._key(block, attack) for block in blocks]
        missing = self.group.from_main(
            f"{name}/missing", lambda: [n for n, key in enumerate(keys) if not self._has(files[n], key)]
        )
        before = len(positions) - sum(len(blocks[number]) for number in missing)

        def show(under_way: int = 0, _: int = 0) -> bool:
            """Show how far all processes are, with what this one has done of its shard; True when nothing is left."""
            self.stop.raise_if_set()
            done = before + self.group.add(f"{name}/done", 0)
            self._show(self._in_place + min(done + under_way, len(positions)))
            return done >= len(positions)

        for turn in self.group.queue(f"{name}/queue", len(missing)):
            number = missing[turn]
            made = self.scorer.run(self.network(), blocks[number], attack=attack, progress=show)
            save_scores(_stamped(made, keys[number], self.stamp), files[number], overwrite=True)
            self.group.add(f"{name}/done", len(blocks[number]))
            show()
        self.group.wait(show)
        for block, file in zip(blocks, files, strict=True):
            self._put(load_scores(file), block)

    def _put(self, shard: Scores, block: IntArray) -> None:
        """A shard's columns in their places."""
        for name in Scores.columns():
            values = getattr(shard, name)
            if name not in self.columns:
                width = _STATUS_TYPE if name == "status" else values.dtype
                self.columns[name] = np.empty(len(self.scorer), dtype=width)
            self.columns[name][block] = values
        for name in _COUNTS:
            self._counts[name] += shard.provenance[name]
        if "log_errors" in shard.provenance:
            self.log_errors.append(shard.provenance["log_errors"])
        self._in_place += len(block)

    def joined(self, **more: Any) -> Scores:
        """Return the scores of all phases.

        Raises:
            InputError: if no example has ever shown a gradient.
        """
        about = {**self.stamp, **self._counts, **more}
        reference = self.scorer.reference
        whole = Scores(**self.columns, method=self.scorer.attack.name, reference=reference, provenance=about)
        refuse_without_gradients(whole)
        return whole

    def finish(self, whole: Scores, *, overwrite: bool) -> None:
        """Write the result and remove the shards."""
        save_scores(whole, self.out, overwrite=overwrite)
        remove_shards(self.out)

    def _show(self, done: int) -> None:
        if self.group.is_main and done != self._shown:
            self._advance(done)
            self._shown = done

    def _key(self, block: IntArray, attack: Attack | None) -> str:
        """What a shard of these examples depends on, as a digest."""
        how = None if attack is None else describe_attack(attack)
        return digest_of([self.stamp, len(self.scorer), hashlib.sha256(block.tobytes()).hexdigest(), how])

    def _has(self, file: Path, key: str) -> bool:
        """Whether the shard is there; one of the same work but of an earlier phase with another outcome is not."""
        shard = self._load(file) if file.exists() else None
        return shard is not None and shard.provenance["key"] == key

    def _load(self, file: Path) -> Scores | None:
        """A finished shard; None if it is damaged (by a crash of the machine: a killed process leaves none).

        Raises:
            InputError: if it is of another model, data set or setting.
        """
        try:
            shard = load_scores(file)
        except InputError:
            return None
        theirs, ours = shard.provenance.get("stamp", {}), _as_json(self.stamp)
        differing = sorted(key for key in {*theirs, *ours} if theirs.get(key) != ours.get(key))
        if differing:
            refuse(
                f"{file} was made with another model, data set or setting ({', '.join(differing)})",
                "the shards of one run belong together",
                f"Delete {file.parent} to start again, or choose another --out",
            )
        return shard


def remove_shards(out: Path) -> None:
    """Remove the shards of finished scores, if there are any: at once, so that a kill leaves all or none."""
    _clear_half_written(out)
    shards = _folder_of_shards(out)
    if not shards.exists():
        return
    trash = out.with_name(f".{out.name}.{os.getpid()}.tmp")  # a name in the same folder, which takes no room
    with writing(trash), contextlib.suppress(FileNotFoundError):  # another process is faster
        shards.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def _clear_half_written(out: Path) -> None:
    """Remove what a killed process was writing, or removing."""
    for file in [*out.parent.glob(f".{glob.escape(out.name)}.*.tmp"), *_folder_of_shards(out).glob(".*.tmp")]:
        shutil.rmtree(file, ignore_errors=True) if file.is_dir() else file.unlink(missing_ok=True)


def _folder_of_shards(out: Path) -> Path:
    return out.with_name(out.name + ".parts")


def _stamped(scores: Scores, key: str, stamp: Mapping[str, Any]) -> Scores:
    """The scores of a shard, with what they were made for."""
    columns = {name: getattr(scores, name) for name in Scores.columns()}
    counts = {name: scores.provenance[name] for name in (*_COUNTS, "log_errors") if name in scores.provenance}
    about = {"key": key, "stamp": stamp, **counts}
    return Scores(**columns, method=scores.method, reference=scores.reference, provenance=about)


def _brief(scorer: Scorer) -> dict[str, Any]:
    """The settings of a scorer, with arrays (a box per feature, reference labels) by their digests."""
    settings: dict[str, Any] = dict(scorer.settings)
    if scorer.box is not None:
        ends = [np.asarray(end) for end in scorer.box]
        settings["box"] = [end.tolist() if end.ndim == 0 else hashlib.sha256(end.tobytes()).hexdigest() for end in ends]
    if scorer.reference == "label":
        settings["labels"] = hashlib.sha256(scorer.labels.tobytes()).hexdigest()[:16]
    return settings


def _as_json(value: Any) -> Any:
    """The value as it comes back from a file."""
    import json

    return json.loads(json.dumps(value, sort_keys=True, default=str))
