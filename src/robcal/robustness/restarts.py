"""Projection from several boundaries, where it may move an example over a cut between levels (method, section 1)."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from robcal.base.checks import check_fraction
from robcal.robustness.averaging import Averaging
from robcal.robustness.cuts import Band, cut_bands, level_tolerance
from robcal.robustness.engine import DONE, WAITING, Rows, check_settings
from robcal.robustness.linear_error import linear_bias, linear_error, log_error_counts
from robcal.robustness.network import Linearisation, Network, mask_classes, signed_margin
from robcal.robustness.projection import Reach
from robcal.robustness.segment import resume_search, start_search
from robcal.robustness.steps import FAR, keep_best, l2, rows_at, rows_put, select

#: What a row is at: a descent on a boundary, the line search that lengthens one which found no point, a forward that
#: screens another start, a linearisation of more rivals at the clean input, or the closing line search.
DESCENT, LENGTHENING, SCREENING, LOOKING, CLOSING = range(5)

#: How many standard errors of the linear picture are doubted: about the next step of a descent, another boundary whose
#: gradient is known, one whose gradient is not, how much farther than the nearest a boundary may seem, and the secant
#: of a start. A gradient that is not known has an error of its own: the spread of log steepness over an input's rivals
#: (.13 to .21 on published ResNets and networks for digits).
_STEP, _START, _RIVAL, _SLACK, _SCREEN, _STEEPNESS = 0.65, 2.2, 2.1, 1.75, 2.0, 0.15
#: By how many errors of the linear picture a cut may lie elsewhere than linear distances say; a quarter of it after the
#: descents.
BLUR = 0.5
#: How far a step that may be averaged goes beyond a linearised boundary at most, relatively, and by half the error of
#: the linear picture; the closing search takes it back.
_OVERSHOOT = 0.05
#: How often an example is judged together with the others of its round: by its linear distance, and by its descent's.
_JUDGED = 2
#: The standard error of the linear picture that the defaults are for.
DEFAULT_ERROR = 0.15
#: The least and largest standard error taken into account.
_ERRORS = (0.02, 0.25)


@dataclass(frozen=True)
class Judging:
    """Say how the cuts of a round are judged by all of its examples together: after a look at each, and a descent."""

    size: int  # examples of the round
    total: int  # N, of the whole data set
    num_levels: int  # R
    known: tuple[float, ...] = ()  # (n,) distances of the rounds before
    # indices of the examples whose first descents come before all others', to tell how far the linear picture
    # errs; none where earlier rounds have told
    pilot: tuple[int, ...] = ()
    log_errors: tuple[tuple[int, ...], ...] = ()  # counts of `robcal.robustness.linear_error` of the rounds before

    def bands(self, distance: Tensor, finished: Tensor, blur: float) -> tuple[Band, ...]:
        """Return the bands of the cuts by distances of the round, of those that are DONE, and of the rounds before."""
        known = np.concatenate([self.known, finished.cpu().numpy(), distance.cpu().numpy()])
        bands = cut_bands(known, max(self.total, len(known)), self.num_levels)
        return tuple((low / math.exp(blur), high * math.exp(blur)) for low, high in bands)


@dataclass(frozen=True)
class Restarts(Averaging):
    """The projection attack with further starts on the boundaries that are nearly as near; knows where the cuts are.

    The nearest linearised boundary at x is not always the nearest boundary: after the first descent, others whose
    linear estimate is at most (1 + slack) times the smallest are descended on too, nearest first. (A first descent that
    ends short of the boundary is lengthened by a line search; if even that finds nothing, all other boundaries are
    descended on, until one yields a verified point.) Of the classes behind the first K rivals the logits tell how near
    their boundaries may be, if they are as steep as those seen: where that is near enough, `more_rivals` of them are
    linearised at x as well, and then as many again, up to `looks` times. A start is screened before it is descended on:
    a forward where it is as far away as the best point tells by the secant how far its boundary may be. With `cuts`, a
    step, a start or a look at more rivals is made only where it may change the level: where some band of `cuts` reaches
    into the interval from the distance hoped for, less its uncertainty, to the best verified one; a settled example is
    left two evaluations of the line search, which take the overshoot back. Without, wherever it may shorten the
    distance.

    How far the linear picture can be trusted depends on the network: `for_error` sets slack and doubts by its standard
    error, which "auto" measures on the way (`robcal.robustness.linear_error`). The defaults are for an error of .15.

    Attributes:
        slack: how much farther a boundary may seem than the nearest, relatively, to be descended on.
        more_rivals: rivals behind the first K that are linearised at x at once, where they may matter; 0 for none.
        looks: how often that may be done for an example.
        cuts: bands in which the cuts between levels lie; empty where they are unknown.
        step_doubt: by how much a descent may end nearer than the next linear picture says, relatively.
        start_doubt: the same for the descent on another boundary.
        rival_doubt: the same for the boundary of a rival whose gradient is not known yet.
        screen_doubt: by how much a descent may end nearer than the secant of a forward at its start says.
        judging: of a round whose examples are judged together: how; `cuts` then follow on the way.
    """

    slack: float = 0.3
    more_rivals: int = 3
    looks: int = 2
    cuts: tuple[Band, ...] = ()
    step_doubt: float = 0.1
    start_doubt: float = 0.28
    rival_doubt: float = 0.36
    screen_doubt: float = 0.26
    judging: Judging | None = None
    name: ClassVar[str] = "auto"

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        super().__post_init__()
        check_settings(self, more_rivals=0, looks=0)
        for doubt in ("step_doubt", "start_doubt", "rival_doubt", "screen_doubt"):
            check_fraction(getattr(self, doubt), doubt)

    def for_error(self, error: float | None) -> Restarts:
        """Return the same attack with the doubts that fit a network.

        Args:
            error: standard error of the linear picture, as a share of the distance; None where it is not known.
        """
        if error is None:
            return self
        error = min(max(error, _ERRORS[0]), _ERRORS[1])

        def doubt(errors: float) -> float:
            return 1 - math.exp(-errors * error)

        return dataclasses.replace(
            self,
            slack=math.exp(_SLACK * error) - 1,
            step_doubt=doubt(_STEP),
            start_doubt=doubt(_START),
            rival_doubt=1 - math.exp(-_RIVAL * math.hypot(error, _STEEPNESS)),
            screen_doubt=doubt(_SCREEN),
        )

    @property
    def num_kinds(self) -> int:
        """Those of the projection, and one more where a look at more rivals takes another number of them."""
        return super().num_kinds + (self.more_rivals not in (0, self.later_rivals, self.num_rivals))

    def open(self, network: Network, index: Tensor, x: Tensor, reference: Tensor) -> Rows:
        """Return the state of fresh examples: that of the projection, and the other boundaries' nearest points."""
        rows = super().open(network, index, x, reference)
        first, more = self._counts(network)
        infinite, kept = torch.full_like(rows["distance"], torch.inf), first - 1 + max(more, default=0)
        return rows | {
            "stage": torch.full_like(rows["flat"], DESCENT),
            "starts": x.new_zeros(len(x), kept, x.shape[1]),
            "start_distance": x.new_full((len(x), kept), torch.inf),
            "first_distance": infinite.clone(),
            "log_error": torch.full_like(infinite, torch.nan),
            "rivals": torch.full((len(x), first + sum(more)), -1, dtype=torch.int64, device=x.device),
            "unseen": infinite.clone(),
            "looks": torch.zeros_like(rows["flat"]),
            "judged": torch.full_like(rows["flat"], 0 if self.judging else _JUDGED),
        }

    def advance(self, network: Network, rows: Rows, need: int) -> Rows:
        """As of the projection, but for rows that are to be judged, screen a start, or had their descent lengthened."""
        if need:
            before = rows["step"]
            rows = super().advance(network, rows, need)
            begins = (before == 0) & (rows["step"] > 0) & (rows["judged"] == 0)
            return rows | {"need": torch.where(begins, WAITING, rows["need"])}
        screening = rows["stage"] == SCREENING
        if bool(screening.all()):
            return self._screen(network, rows)
        if bool(screening.any()):
            for some in (screening, ~screening):
                at = torch.nonzero(some).squeeze(1)
                rows = rows_put(rows, at, self.advance(network, rows_at(rows, at), need))
            return rows
        rows = super().advance(network, rows, need)
        back = (rows["stage"] == LENGTHENING) & (rows["need"] == DONE)
        return self._conclude(network, rows, back, rows["query"])

    @property
    def gathered(self) -> int:
        """Examples that are judged together; 0 for none."""
        return self.judging.size if self.judging else 0

    def judge(self, network: Network, rows: Rows, finished: Tensor) -> tuple[Restarts, Rows]:
        """Go on with a pilot, with all others when it has ended, and with all where their descents leave a doubt.

        Cuts lie where the linear distances of all say, then where their descents have ended; doubts follow from the
        errors of the pilot, then from those of all.
        """
        assert self.judging is not None
        how, fresh = self.judging, rows["judged"] == 0
        need = min(self.later_rivals, network.num_classes - 1)
        if bool(fresh.all()) and how.pilot:
            pilot = torch.isin(rows["index"], torch.tensor(how.pilot, device=fresh.device))
            if bool(pilot.any()):
                return self, _released(rows, pilot, need)
        counts = [*how.log_errors, log_error_counts(rows["log_error"].tolist())]
        error = linear_error(counts)
        blur = BLUR * (error or DEFAULT_ERROR)
        if bool(fresh.any()):
            linear = rows["first_distance"] * math.exp(linear_bias(counts))
            distance = torch.where(rows["verified"], rows["distance"], linear)
            known = np.concatenate([how.known, finished.cpu().numpy(), distance.cpu().numpy()])
            attack = self.fitted(error, known, how.num_levels)
            return dataclasses.replace(attack, cuts=how.bands(distance, finished, blur)), _released(rows, fresh, need)
        attack = dataclasses.replace(self.for_error(error), cuts=how.bands(rows["distance"], finished, blur / 4))
        rows = _released(rows, ~fresh, DONE)
        return attack, attack._conclude(network, rows, ~fresh, rows["query"])

    def fitted(self, error: float | None, known: Any, num_levels: int) -> Restarts:
        """Return the same attack with the doubts, precision, overshoot and steps that fit a network and its levels.

        Args:
            error: standard error of the linear picture; None where it is not known.
            known: (n,) distances, as far as they are known.
            num_levels: R.
        """
        precise = level_tolerance(known, num_levels, most=self.tolerance)
        wide = precise >= self.tolerance
        beyond = max(self.overshoot, min(_OVERSHOOT, (error or 0.0) / 2) if wide else 0.0)
        return dataclasses.replace(self.for_error(error), tolerance=precise, overshoot=beyond, averaging=wide)

    def _counts(self, network: Network) -> tuple[int, list[int]]:
        """How many rivals are linearised first, and how many more at each look."""
        first = min(self.num_rivals, network.num_classes - 1)
        left = range(first, network.num_classes - 1, max(1, self.more_rivals))[: self.looks if self.more_rivals else 0]
        return first, [min(self.more_rivals, network.num_classes - 1 - seen) for seen in left]

    def _linear(self, network: Network, rows: Rows, need: int) -> tuple[Linearisation, Tensor]:
        """The linearisation at the queries; rows that look at more rivals are told apart and get unseen ones."""
        looking = rows["stage"] == LOOKING
        seen = torch.where(looking.unsqueeze(1), rows["rivals"], -1)
        return network.linearise(rows["query"], rows["reference"], need, without=seen), looking

    def _note(self, network: Network, linear: Linearisation, rows: Rows, reach: Reach, going: Tensor) -> Rows:
        """Keep the nearest points of the boundaries that are not descended on at once, and where unseen ones may be."""
        first = going & torch.isinf(rows["first_distance"]) & (rows["step"] == 0)
        looking = going & (rows["stage"] == LOOKING)
        fresh = first | looking
        if not bool(fresh.any()):
            return rows
        nearest = reach.distance.argmin(1, keepdim=True)  # of the first look, this one is descended on at once
        told = select(first, reach.distance.scatter(1, nearest, torch.inf), reach.distance)
        told = select(fresh, told, torch.full_like(told, torch.inf))
        size = reach.multiplier.nan_to_num(posinf=FAR).unsqueeze(2)
        points = network.bounds.clamp(rows["x"].unsqueeze(1) - size * linear.normal)
        distance, starts = torch.cat([rows["start_distance"], told], 1), torch.cat([rows["starts"], points], 1)
        order = distance.argsort(dim=1, stable=True)[:, : rows["starts"].shape[1]]
        seen = torch.cat([rows["rivals"], linear.rivals], 1)[:, linear.rivals.shape[1] :]  # -1s make room
        seen = select(fresh, seen, rows["rivals"])
        return rows | {
            "start_distance": distance.gather(1, order),
            "starts": starts.gather(1, order.unsqueeze(2).expand(-1, -1, starts.shape[2])),
            "first_distance": torch.where(first, reach.distance.amin(1), rows["first_distance"]),
            "rivals": seen,
            "unseen": torch.where(fresh, _unseen(linear, reach, rows["reference"], seen), rows["unseen"]),
        }

    def _worth_a_step(self, rows: Rows, query: Tensor) -> Tensor:
        """(B,) bool, the next point would be nearer by more than the tolerance, and that may matter."""
        hope = l2(query, rows["x"])
        nearer = hope < (1 - self.tolerance) * rows["distance"]
        return nearer & self._matters(hope * (1 - self.step_doubt), rows["distance"])

    def _conclude(self, network: Network, rows: Rows, ended: Tensor, query: Tensor) -> Rows:
        """What follows where a descent, a search or a look has ended: another start, a look, or the closing search.

        A first descent that has found nothing is lengthened first.
        """
        if not bool(ended.any()):
            return rows
        short = ended & ~rows["verified"] & (rows["stage"] == DESCENT) & (self.max_searches > 0)
        short = short & (rows["searches"] == 0)
        known = ended & rows["verified"] & torch.isnan(rows["log_error"])
        rows["log_error"] = torch.where(known, self._scale(rows).log(), rows["log_error"])
        waits = ended & ~short & (rows["judged"] < _JUDGED)
        rows["need"] = torch.where(waits, WAITING, rows["need"])
        ended = ended & ~waits
        again, rows = self._restart(network, rows, ended & ~short)
        look, rows = self._look(network, rows, ended & ~short & ~again)
        return self._search(network, rows, ended & ~short & ~again & ~look, short, query)

    def _search(self, network: Network, rows: Rows, last: Tensor, short: Tensor, query: Tensor) -> Rows:
        """The closing line search of the rows in `last`, and the one that lengthens the descent of those in `short`.

        A settled row is left two evaluations; one whose descent was just lengthened goes on in the same bracket, for
        two more unless it is settled.
        """
        settled = rows["verified"] & ~self._matters(rows["distance"] * (1 - self.step_doubt), rows["distance"])
        onward = last & rows["verified"] & (rows["stage"] == LENGTHENING)
        left = torch.where(onward, torch.where(settled, 0, 2), torch.where(settled, 2, self.max_searches))
        rows["searches"] = torch.where(last, (self.max_searches - left).clamp_min(0), rows["searches"])
        stage = torch.where(last, CLOSING, rows["stage"])
        rows["stage"] = torch.where(short, LENGTHENING, stage)
        limits: dict[str, Any] = {"tolerance": self.tolerance, "max_searches": self.max_searches}
        rows = start_search(network, rows, (last & ~onward) | short, query, **limits)
        return resume_search(network, rows, onward, **limits)

    def _restart(self, network: Network, rows: Rows, ended: Tensor) -> tuple[Tensor, Rows]:
        """(B,) bool: which rows start again, on the nearest boundary that is left and may matter; and the rows.

        Where a point is known, the start is screened first: at the best distance so far, by a forward alone.
        """
        if not rows["starts"].shape[1]:
            return torch.zeros_like(ended), rows
        linear, best = rows["start_distance"], rows["distance"].unsqueeze(1)
        near = linear <= (1 + self.slack) * rows["first_distance"].unsqueeze(1)
        near = (near | ~rows["verified"].unsqueeze(1)) & torch.isfinite(linear)
        hope = torch.minimum(linear * self._scale(rows).unsqueeze(1), best)
        matters = self._matters(hope * (1 - self.start_doubt), best.expand_as(hope))
        open_ = near & matters & ended.unsqueeze(1)
        again, place = open_.any(1), torch.where(open_, linear, torch.inf).argmin(1, keepdim=True)
        start = rows["starts"].gather(1, place.unsqueeze(2).expand(-1, 1, rows["x"].shape[1])).squeeze(1)
        screen = again & rows["verified"]
        share = (1 - self.tolerance) * rows["distance"] / linear.gather(1, place).squeeze(1)
        scaled = network.bounds.clamp(rows["x"] + share.unsqueeze(1) * (start - rows["x"]))
        rows = rows | {
            "start_distance": select(again, linear.scatter(1, place, torch.inf), linear),
            "query": select(again, select(screen, scaled, start), rows["query"]),
            "stage": torch.where(screen, SCREENING, rows["stage"]),
            "need": torch.where(screen, 0, rows["need"]),
        }
        return again, self._descend(network, rows, again & ~screen)

    def _screen(self, network: Network, rows: Rows) -> Rows:
        """Look at the margin where a start is as far as the best point: descend on it where it has nearly gone."""
        logits = network.logits(rows["query"])
        rows, better = keep_best(rows | {"passes": rows["passes"] + 0.5}, logits)
        margin = signed_margin(logits, rows["reference"])
        rows["f_high"] = torch.where(better, margin, rows["f_high"])
        share = (margin / rows["margin"].clamp_min(1e-30)).clamp(max=1)
        hope = rows["distance"] / (1 - share).clamp_min(1e-3) * (1 - self.screen_doubt)
        near = better | ((hope < (1 - self.tolerance) * rows["distance"]) & self._matters(hope, rows["distance"]))
        rows = self._descend(network, rows, near)
        rows["need"] = torch.where(near, rows["need"], DONE)
        return self._conclude(network, rows, ~near, rows["query"])

    def _descend(self, network: Network, rows: Rows, mask: Tensor) -> Rows:
        """Let the rows in `mask` descend anew, from their query."""
        return rows | {
            "stage": torch.where(mask, DESCENT, rows["stage"]),
            "step": torch.where(mask, 1, rows["step"]),
            "residuals": select(mask, torch.full_like(rows["residuals"], -1.0), rows["residuals"]),
            "normals": select(mask, torch.zeros_like(rows["normals"]), rows["normals"]),
            "need": torch.where(mask, min(self.later_rivals, network.num_classes - 1), rows["need"]),
        }

    def _look(self, network: Network, rows: Rows, ended: Tensor) -> tuple[Tensor, Rows]:
        """(B,) bool: which rows linearise more rivals at the clean input, as one of them may matter; and the rows."""
        more = self._counts(network)[1]
        counts = torch.tensor([*more, 0], dtype=torch.int64, device=ended.device)
        seems = rows["unseen"] * (1 - self.rival_doubt)
        hope = seems * self._scale(rows)
        near = (hope < (1 - self.tolerance) * rows["distance"]) & (seems <= (1 + self.slack) * rows["first_distance"])
        near = near & self._matters(hope, rows["distance"])
        look = ended & (rows["looks"] < len(more)) & (near | ~rows["verified"])
        return look, rows | {
            "stage": torch.where(look, LOOKING, rows["stage"]),
            "looks": rows["looks"] + look.long(),
            "query": select(look, rows["x"], rows["query"]),
            "need": torch.where(look, counts[rows["looks"]], rows["need"]),
        }

    @staticmethod
    def _scale(rows: Rows) -> Tensor:
        """(B,) by how much the first descent ended farther than its linear picture said; 1 where it found nothing."""
        return torch.where(rows["verified"], rows["distance"] / rows["first_distance"], 1.0)

    def _matters(self, low: Tensor, high: Tensor) -> Tensor:
        """(B, …) bool, whether a cut may lie between `low` and the best distance `high`; without any, always."""
        if not self.cuts:
            return torch.ones_like(high, dtype=torch.bool)
        bands = torch.tensor(self.cuts, dtype=high.dtype, device=high.device)
        between = (low.unsqueeze(-1) <= bands[:, 1]) & (high.unsqueeze(-1) >= bands[:, 0])
        return between.any(-1) | torch.isinf(high)


def _released(rows: Rows, mask: Tensor, need: int) -> Rows:
    """The rows, of which those in the mask wait no longer."""
    return rows | {
        "judged": rows["judged"] + mask.long(),
        "need": torch.where(mask, need, rows["need"]),
    }


def _unseen(linear: Linearisation, reach: Reach, reference: Tensor, seen: Tensor) -> Tensor:
    """(B,) how far the boundary of the next rival would be, were it as steep as those linearised (geometric mean).

    +inf where there is no class but those seen, (B, M), or where no boundary is in reach.
    """
    behind = mask_classes(linear.logits, torch.cat([seen, reference.unsqueeze(1)], 1)).amax(1)
    gap = linear.logits.gather(1, reference.unsqueeze(1)).squeeze(1) - behind
    rate = (reach.distance / linear.gap.clamp_min(1e-30)).log()
    known = torch.isfinite(rate)
    mean = torch.where(known, rate, 0.0).sum(1) / known.sum(1)
    return torch.where(known.any(1), gap * mean.exp(), torch.inf)
