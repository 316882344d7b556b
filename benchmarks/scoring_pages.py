"""The pages that the raw results of `benchmarks/scoring.py` give: docs/scoring.md, and its details."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from robcal.base.files import replacing
from scoring_limits import ERRORS, with_errors
from scoring_report import Record, agreement, below, figure, numbers, share, table


def write_pages(docs: Path, records: list[Record]) -> None:
    """Write docs/scoring.md, docs/evidence/scoring-details.md and the figures of these measurements."""
    (docs / "figures").mkdir(parents=True, exist_ok=True)
    parts = [DETAILS]
    for record in records:
        record["noise"] = noise(record)
        title = called(record)
        picture = (
            docs / "figures" / f"scoring-{title.split(',')[0].split(' ')[0].lower()}-{record['model'].lower()}.svg"
        )
        parts += [f"## {title}, {record['images']:,} images\n", table(record)]
        if record.get("limits"):
            parts += [limits(record)]
        if any(row["kind"] != "ours" for row in record["rows"]):
            figure(record, picture)
            parts += [f"![Cost against agreement](../figures/{picture.name})\n"]
    parts += [TRIED]
    page = PAGE.format(table=answer(records), limits="\n".join(limit(record) for record in records if record["limits"]))
    for file, text in (("scoring.md", page), ("evidence/scoring-details.md", "\n".join(parts))):
        with replacing(docs / file) as temporary:
            temporary.write_text(text.rstrip() + "\n", encoding="utf-8")


def called(record: Record) -> str:
    """The data and the network."""
    return f"{record['data']}, {record['model']}"


def answer(records: list[Record]) -> str:
    """The table of ours on everything measured, beside the fastest other attack that does as well."""
    lines = [
        "| network | method | passes | same level of ten (95%) | within one | ρ | fastest other attack as good |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for record in records:
        peers = [row for row in record["rows"] if row["kind"] != "ours" and "same" in row]
        for row in (row for row in record["rows"] if row["kind"] == "ours"):
            low, high = row["same_interval"]
            cells = [f"{called(record)}, {record['images']:,} images", f"`{row['name']}`", f"{row['passes']:.1f}"]
            cells += [f"{row['same']:.3f} ({low:.3f}–{high:.3f})", share(row["within_one"]), share(row["spearman"])]
            lines.append("| " + " | ".join([*cells, fastest(row, peers)]) + " |")
    return "\n".join(lines)


def fastest(row: Record, peers: list[Record]) -> str:
    """The attack of another library that reaches the agreement of ours in the least CPU time, and how much that is."""
    equal = [peer for peer in peers if not below(peer, row)]
    if not peers:
        return "not measured"
    if not equal:
        return "none"
    fast = min(equal, key=lambda peer: peer["cpu_milliseconds"])
    return f"{fast['name']}, {fast['cpu_milliseconds'] / row['cpu_milliseconds']:.1f} times the CPU time"


def spread(values: list[float], digits: int) -> str:
    """The mean, and the least and largest value."""
    return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def noise(record: Record) -> dict[float, float]:
    """Share of images in the right level where each distance is too long by a random error of known mean."""
    best, margin = numbers(record["best"]), numbers(record["margin"])
    return {
        error: float(np.mean([agreement(drawn, best, margin)[0] for drawn in with_errors(best, error)]))
        for error in ERRORS
    }


def width(record: Record) -> float:
    """The median of log(upper cut / lower cut) over the levels between two cuts."""
    cuts = np.quantile(numbers(record["best"]), np.arange(1, 10) / 10)
    return float(np.median(np.diff(np.log(cuts))))


def limits(record: Record) -> str:
    """The table of what seeds change, what complete descents reach, and what errors of known size cost."""
    auto, lines = record["limits"]["auto"], ["| | passes | same level of ten |", "|---|--:|--:|"]
    columns = (spread([row["passes"] for row in auto], 2), spread([row["same"] for row in auto], 3))
    lines += [f"| auto, {len(auto)} seeds: mean (least–largest) | {columns[0]} | {columns[1]} |"]
    lines += [f"| {row['name']} | {row['passes']:.1f} | {row['same']:.3f} |" for row in record["limits"]["complete"]]
    errors = ", ".join(f"{error:.1%}: {value:.3f}" for error, value in record["noise"].items())
    return "\n".join([
        *lines,
        "",
        f"Median width of a level in log distance: {width(record):.3f}. Reference distances that are made longer by "
        f"random errors (exponential, of the mean named, 50 draws) keep so many images in their level: {errors}.",
        "",
    ])  # fmt: skip


def limit(record: Record) -> str:
    """What the limits of one network say, in a sentence."""
    auto, rows = record["limits"]["auto"], record["limits"]["complete"]
    one, full = rows[-2], rows[-1]
    return (
        f"- {called(record)}: `auto` {np.mean([row['same'] for row in auto]):.3f} in "
        f"{np.mean([row['passes'] for row in auto]):.2f} passes (mean of {len(auto)} seeds); a single complete descent "
        f"{one['same']:.3f} in {one['passes']:.1f}; complete descents on all boundaries in doubt {full['same']:.3f} in "
        f"{full['passes']:.1f}; errors of 2% in the mean alone leave {record['noise'][0.02]:.3f}."
    )


PAGE: Any = """# What a robustness score costs

Take `auto`, the default of `robcal score` and `robcal.score`. Its distances are verified upper bounds, and for its
passes no other attack measured here puts as many images into the right one of ten robustness levels. A pass is one
forward and one backward to the input, of one image; each of the two counts as half a pass.

- Where a rough rank is enough, or where a pass costs much: `quick`. Every distance is verified, but some per cent too
  long: use the order of the examples. `first-order`, 2.5 passes, is an estimate; no point is verified. It does as well
  where the linear picture is right (mlp), and worse elsewhere. On strongly curved networks (small ones with batch
  normalisation) both are far from the levels.
- Where the single distance matters rather than its level: `projection`. In the middle of a level `auto` stops early,
  so its distances are looser there by some per cent.
- Where you want to know how right all this is on your network: `robcal fidelity`, which compares a sample with the
  best of three strong attacks.

{table}

*Same level* is the share of images that fall into the same tenth as by the reference: for each image, the smallest
verified distance that any method, any other library or any strong attack of robcal found. *ρ* is Spearman's rank
correlation with it. The last column names the attack of another library (foolbox, adv-lib) that took the least CPU
time among those that do not have significantly fewer images in the right level (exact McNemar test on the same images,
5%). All peers, settings, times, versions and the hardware: [details](evidence/scoring-details.md).

## How far can the levels be trusted?

A distance of `auto`, `projection` or `quick` is never too small: the point was evaluated again in float32 and lies in
the box. It may be too large, and then the example may stand in too high a level. Three things decide how often.

1. *The width of a level.* Ten levels of a network whose distances spread widely are wide, and an error of 1% moves few
   images over a cut. On digits a level is about .1 wide in log distance.
2. *How curved the network is.* Near a curved boundary the first gradient says little about the nearest point, and other
   boundaries may be nearer than they seem. `auto` measures this on your network and spends its passes accordingly
   (`linear_error` in the provenance of the scores): 5 passes where the linear picture errs by 5%, 12 where by 18%.
3. *How complete the descents are.* This is the limit of every attack that follows gradients:

{limits}

Where complete descents on all boundaries in doubt have hardly more images in the right level than `auto`, more passes
of this kind buy nothing. What is left are images so near to a cut that an error of one or two per cent counts, and
images whose nearest boundary no such descent finds. Nearly all images are within one level of theirs. Choose fewer
levels (`num_levels=5`) where the exact level matters.

Most images have to be right only to within their level. Therefore `auto` judges images together: the descents of all
tell where the cuts lie and how far gradients can be trusted, and images that cannot cross a cut stop. The pilot of 32
images that it begins with hardly changes the result: see the range over seeds in the
[details](evidence/scoring-details.md).

## Tried and left out

Each of these was tried on such networks, and gave no more agreement for the same passes on all of them: one rival or
two in place of three at the input; the projection from the last point in place of the input; Anderson acceleration of
the points; steps lengthened by how the gap has bent so far; constant and growing weights of the mean direction, and
cutting planes beside it. What was tried lately, with figures: [details](evidence/scoring-details.md#tried).

## Measure it yourself

    pip install -r benchmarks/requirements.txt && pip install --no-deps adv-lib==0.2.8
    python benchmarks/scoring.py MLP --images 719 --batch-size 719 --seeds 7 --most-passes 110 --slow-images 0 \\
        --references long-projection ddn --reference-restarts 4 --out DIR
    python benchmarks/scoring.py CNN --images 300 --batch-size 300 --seeds 7 --most-passes 110 --slow-images 0 \\
        --only "DeepFool|FMN" --repeat-passes 16 --references long-projection --reference-restarts 1 --out DIR
    python benchmarks/scoring.py --page

MLP and CNN are directories that `robcal train --data digits --model mlp --method vanilla` and `--model cnn` made.
`resnet-20 --data FOLDER` (or `resnet-56`) in place of one measures weights that others published, and CIFAR-10, from
the folder of `make real`. The last command writes this page and its details from the raw results in
docs/evidence/scoring.
"""

DETAILS = """# What a robustness score costs: details

The answer, and the commands: [what a robustness score costs](../scoring.md). `python benchmarks/scoring.py --page`
writes both pages from the raw results in docs/evidence/scoring.

How to read the tables:

- *passes* are counted at the network, in the same way for robcal and for the other libraries.
- *ms* and *CPU ms*: wall time and CPU time of one image on one thread, after a first call that does not count. Other
  programs used the machine at the same time, so only ratios mean something. Methods that need few passes ran three
  times, in turn with those of robcal, and the median counts. The others ran once; compare their CPU time, not their
  wall time.
- *verified*: the share of images for which the attack gave a point inside the box that has another label. The
  benchmark itself evaluates the point, in float32.
- *median norm*: the median distance of the verified points. *to best*: the median ratio of the distance to the
  reference, over verified points.
- *Reference*: for each image, the smallest verified distance that any method of this page found, on this network: the
  strong references of robcal, its fast methods, the descents below, and all other attacks.
- *same level* and *within one*: the images are sorted by distance and cut into ten groups of equal size. Images for
  which a method found nothing come last, by their logit margin.
- *noise ceiling*: how often the two strongest references agree with each other.
- "our budget": the largest number of iterations that costs no more passes than the dearest method of robcal; one
  iteration, if even one costs more.
- An attack *reaches* the agreement of a method of robcal unless it has significantly fewer images in the right level
  (exact McNemar test on the same images, two-sided, 5%). On few images the test finds few differences, which is in
  favour of the other attack.
- All attacks are given frozen parameters, the memory format in which the network is fastest, and the labels to
  change. Settings that take more than 110 passes were left out, as were the attacks of Carlini and Wagner in
  torchattacks and in the Adversarial Robustness Toolbox; `--most-passes 1000` and an environment that has them bring
  them back.
- The second table of a network: `auto` under some seeds, which draw its pilot; descents that average their directions
  and that no cut between levels ends early, with so many gradients at most; and what errors of known size do to the
  levels.
"""

TRIED = """## Tried

What led to `quick`, and what did not make `auto` better. Same level of ten against strong references (in part others
than above), measured on 2026-11-26: 300 images of CIFAR-10 (JPEG) on the published ResNet-20 and ResNet-56; 719 digits
on the mlp and on small networks with batch normalisation (cnn-fast, cnn). The settings that were left out are in no
version.

*A verified rank for few passes.*

| | passes | ResNet-20 | ResNet-56 | mlp | cnn-fast | cnn |
|---|--:|--:|--:|--:|--:|--:|
| linear distance of 2 rivals, not verified | 1.5 | 0.807 | 0.737 | 0.798 | 0.537 | 0.414 |
| the plane of the gradient at the point it leads to, d, not verified | 2.5 | 0.840 | 0.720 | 0.918 | 0.592 | 0.331 |
| the boundary on the way to that point, T, not verified | 2.5 | 0.833 | 0.773 | 0.912 | 0.620 | 0.480 |
| √(T d), not verified | 2.5 | 0.903 | 0.867 | 0.918 | 0.682 | 0.522 |
| the same, a point on the mean direction verified | 3.0–3.2 | 0.893 | 0.860 | 0.915 | 0.695 | 0.541 |
| the same, another gradient where T > 1.3 d: `quick` | 3.0–3.7 | 0.903 | 0.893 | 0.915 | 0.709 | 0.572 |
| `quick` with 3 rivals | 3.5–4.0 | 0.903 | – | 0.944 | 0.764 | 0.634 |

A regression of the log distance on these quantities, cross-validated, was no better than √(T d) (ResNet-20 .81 to .87,
ResNet-56 .82 to .85). On 300 other images of ResNet-20, on which nothing was chosen, `quick` has 0.907 in 3.5
passes, `first-order` 0.830 in 2.5, `projection` 0.933 in 7.6 (complete descents on all boundaries in doubt as the
reference). One rival in place of two saves half a pass and loses .01 on ResNet-20, but .12 on the mlp. To
linearise the third rival only where its logit is near saved nothing: the look aside costs a forward of its own. `auto`
with one or two rivals took 5.7 to 5.8 passes on ResNet-20, and lost .015 to .025.

*Fewer passes for `auto`.* Its passes on ResNet-20 are 2.0 for the first linearisation, 3.2 for later gradients, .5 for
closing searches, .4 for other boundaries. A step that would settle an image by a forward alone: 5.7 passes in place of
6.05, but .920 in place of .927; cnn-fast 8.74 and .935 (8.84 and .940), mlp 4.77 and .955 (4.93 and .985). No closing
search for settled images: 5.7 and .913; mlp 4.53 and .935. Distances that are loose by different amounts lose more near
the cuts than these passes cost.
"""
