"""What the words of the reports mean: written once, for the fold-out of every page and for docs/glossary.md.

`glossary_markdown()` is that document.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """A word of the reports.

    Attributes:
        name: the heading.
        text: what it means, in a sentence or two.
        also: other spellings that a text may use; the name itself counts too.
    """

    name: str
    text: str
    also: tuple[str, ...] = ()

    def occurs_in(self, text: str) -> bool:
        """Tell whether a text uses the word, as a whole word, with or without a plural s; acronyms as written."""
        for word in (self.name, *self.also):
            case = 0 if word.isupper() else re.IGNORECASE
            if re.search(rf"(?<![\w-]){re.escape(word)}s?(?![\w-])", text, case):
                return True
        return False


#: Every word, by its name.
GLOSSARY: tuple[Term, ...] = (
    Term("accuracy", "The share of examples whose most probable class is the true one."),
    Term(
        "AdaLS",
        "Adaptive label smoothing: one smoothing for all examples, moved after every epoch by the gap on validation "
        "data. It is the control of AR-AdaLS that knows no levels.",
    ),
    Term(
        "adversarial robustness",
        "How far an input is from the nearest input with another predicted class, as an l2 norm in input units. What "
        "an attack finds is an upper bound.",
        ("adversarial distance", "robustness"),
    ),
    Term(
        "AR-AdaLS",
        "Adversarial robustness based adaptive label smoothing (Qin et al., NeurIPS 2021): every robustness level "
        "has a smoothing of its own, moved after every epoch by the gap of that level on validation data.",
    ),
    Term(
        "AugMix",
        "Training on mixtures of several randomly changed versions of each image, by changes that are none of the "
        "corruptions of the test.",
    ),
    Term(
        "AUPR",
        "Area under the precision-recall curve, here of finding out-of-distribution inputs by their low confidence.",
    ),
    Term(
        "AURC",
        "Area under the risk-coverage curve: the error rate of the examples that are kept when the least confident "
        "ones are set aside, averaged over all shares kept. It judges the order of the confidences only; lower is "
        "better.",
    ),
    Term(
        "AUROC",
        "Chance that a test example has a higher confidence than an out-of-distribution input; 0.5 is no better than a "
        "coin.",
    ),
    Term(
        "BatchEnsemble",
        "An ensemble in one network: its members share all weights but for one vector at each end of every layer, and "
        "their probabilities are averaged.",
    ),
    Term(
        "Bonferroni",
        "To look at R rows at once with 95% confidence, each gets an interval of 1 - 0.05/R. Without that, a "
        "calibrated model shows a row beyond chance in two of five tables of ten levels.",
        ("looked at together", "at once"),
    ),
    Term(
        "Brier",
        "Mean squared distance of the probability vector from the one-hot label, from 0 to 2; lower is better. Its "
        "calibration part is what shifting every bin by its gap would remove, its refinement what that leaves.",
        ("Brier score",),
    ),
    Term(
        "censored",
        "An example for which no adversarial example was found. Its distance is infinite, so it sorts after all "
        "others.",
    ),
    Term(
        "classwise ECE",
        "The ECE of every class's probability, not only of the predicted class, averaged over the classes.",
    ),
    Term(
        "confidence",
        "The probability of the predicted class. (The confidence of an interval is how often such intervals hold the "
        "truth.)",
    ),
    Term(
        "controller",
        "The rule that moves the smoothing of a level after every epoch, from its gap on validation data: "
        "“published” adds up the gaps, “stable” also bounds and scales them.",
    ),
    Term(
        "cross-fit",
        "Every training example is scored by a network that was trained without it, in folds, so that no network "
        "judges an example that it has learned by heart.",
        ("cross-fitted", "cross-fitting"),
    ),
    Term(
        "ECE",
        "Expected calibration error of the top label: the examples are put in 15 bins by confidence, and the gaps of "
        "the bins are averaged without their signs, by the bins' sizes. Noise alone makes it larger than 0: a "
        "calibrated model measures 0.02 to 0.04 on 1,000 examples, and more on fewer.",
        ("calibration error",),
    ),
    Term(
        "ECE (debiased)",
        "The root of the squared calibration error from which what noise adds was taken away (Kumar et al. 2019); "
        "another norm and other bins than the ECE, so the two are not compared.",
        ("ECE deb.", "debiased"),
    ),
    Term(
        "ECE (equal mass)",
        "The ECE with bins of equal numbers of examples in place of equal widths; equal confidences are never parted.",
    ),
    Term(
        "ensemble",
        "Several networks whose probabilities are averaged. Averaging lowers the confidence, so calibrated members "
        "make an under-confident ensemble.",
    ),
    Term("epoch", "One pass of the training over all training examples."),
    Term(
        "fidelity",
        "How well cheap robustness scores agree with the best of several strong attacks on the same examples.",
    ),
    Term(
        "first-order",
        "A robustness score from one linearisation of the network: an estimate, not verified by a point that was "
        "found.",
        ("first order",),
    ),
    Term(
        "FLSD-53",
        "The focal loss (a loss in which well-learnt examples weigh less) with exponent 5 where the true class has a "
        "probability below 0.2, and 3 elsewhere.",
    ),
    Term(
        "FPR95",
        "The share of out-of-distribution inputs that are accepted where 95% of the test examples are; lower is "
        "better.",
    ),
    Term(
        "gain",
        "How strongly the stable controller answers: over a whole run it leaves exp(-gain) of a gap that stays.",
    ),
    Term(
        "gap",
        "Mean confidence minus accuracy, of all examples or of some: positive is over-confident, negative "
        "under-confident.",
        ("signed gap",),
    ),
    Term(
        "input box",
        "The range in which inputs are allowed, for pictures [0, 1]: an adversarial example must lie in it.",
    ),
    Term(
        "interval",
        "Where the true value lies, as far as the data tell: 95% of such intervals hold it. With several seeds it "
        "covers another training run as well as another test set.",
    ),
    Term(
        "label smoothing",
        "Training on labels of which a small mass (ε) is spread evenly over all classes, so that the network is less "
        "sure.",
        ("smoothing", "soften", "softened", "ε"),
    ),
    Term(
        "level",
        "The examples, sorted by their robustness or by another score, are cut into levels of about equal size. "
        "Level 0 holds the lowest scores, the least robust. In an audit equal scores share a level.",
    ),
    Term(
        "lockstep",
        "The networks of an ensemble are trained side by side, an epoch each, and share one smoothing, which their "
        "averaged probabilities steer.",
    ),
    Term(
        "margin",
        "The largest logit minus the second largest (for a given label: its logit minus the largest other one). A "
        "cheap score: small where the network hesitates.",
    ),
    Term(
        "MbLS",
        "Margin-based label smoothing: training with a penalty on distances between logits that exceed a margin.",
    ),
    Term("MCE", "The largest gap, without its sign, of any of the 15 bins of the ECE."),
    Term(
        "NLL",
        "Mean negative logarithm of the probability of the true class, in nats; lower is better. It judges "
        "calibration and accuracy together.",
        ("log-likelihood",),
    ),
    Term(
        "noise ceiling",
        "How well two strong attacks agree with each other: no score can be expected to agree better with either.",
    ),
    Term(
        "noise floor",
        "What a calibrated model would measure on so many examples, by chance alone.",
    ),
    Term(
        "norm ratio",
        "The distance that one way of scoring found, over the reference's: 1 is as good, above 1 is a looser bound.",
    ),
    Term(
        "not distinguishable",
        "The interval of the paired difference holds 0: the data do not tell which is better. That is no proof that "
        "they are equal.",
        ("cannot be told",),
    ),
    Term(
        "out-of-distribution",
        "Inputs of another data set, of none of the classes: a good classifier is not sure of them.",
        ("OOD",),
    ),
    Term("over-confident", "The stated confidence is above the accuracy.", ("too sure",)),
    Term(
        "paired difference",
        "The difference of two methods on the same test examples and the same seeds, so that what they share cancels.",
    ),
    Term(
        "pass",
        "The unit of what a robustness score costs: one forward and one backward evaluation of the network on one "
        "example; each alone counts a half.",
        ("passes",),
    ),
    Term(
        "percentage point", "A difference of two percentages: from 90% to 92% are two percentage points (pp).", ("pp",)
    ),
    Term(
        "projection",
        "An attack that goes to the closest point, from the original input, on the nearest linearised boundary, and "
        "repeats; its distances are verified.",
    ),
    Term(
        "reference model",
        "The plain network, trained by the same recipe, whose scores cut the training examples into levels.",
    ),
    Term(
        "reliability diagram",
        "Accuracy against confidence, bin by bin: a calibrated classifier lies on the diagonal.",
    ),
    Term(
        "resample",
        "The test examples drawn again with replacement: how much a number varies over them says how far it can be "
        "trusted.",
    ),
    Term(
        "rival",
        "The class on the other side of the nearest boundary: what the input is taken for when it is changed just "
        "enough.",
    ),
    Term(
        "seed",
        "The number that a training run's random draws start from; runs with different seeds show what chance does.",
    ),
    Term(
        "severity",
        "How strong a corruption is, from 1 to 5.",
    ),
    Term(
        "shift",
        "Test inputs that differ from the training data: here corrupted in 15 ways at 5 severities. Metrics are "
        "computed of each and then averaged.",
    ),
    Term(
        "stability",
        "How much the probability of the true class varies between runs with different seeds.",
    ),
    Term(
        "temperature",
        "A number T by which all logits are divided before the softmax, chosen on validation data: above 1 it lowers "
        "every confidence, below 1 it raises it. The predicted classes stay as they are.",
        ("temperature scaling", "temperature-scaled"),
    ),
    Term(
        "trend",
        "Does a quantity rise or fall with the level? A permutation test: the p-value is the share of random "
        "reorderings with a slope at least as large.",
    ),
    Term("under-confident", "The stated confidence is below the accuracy.", ("too unsure",)),
    Term(
        "validation split",
        "Labelled examples that are not trained on. They steer the smoothing and fit temperatures; the test split is "
        "only measured on.",
        ("validation data", "validation"),
    ),
    Term(
        "verified",
        "The point that an attack returned was looked at again in float32: it lies in the box and another class "
        "leads by more than rounding. So the true distance is not larger.",
    ),
)


def terms_in(text: str) -> tuple[Term, ...]:
    """Return the words that a text uses, in the order of the glossary.

    >>> [term.name for term in terms_in("The signed gaps of 3 levels")]
    ['gap', 'level']
    """
    return tuple(term for term in GLOSSARY if term.occurs_in(text))


def glossary_markdown() -> str:
    """Return the whole glossary as a Markdown document."""
    lines = [
        "# Glossary",
        "",
        "What the words of the tables and reports mean; each page explains those that it uses.",
        "",
    ]
    lines += [f"- **{term.name}**: {term.text}" for term in GLOSSARY]
    return "\n".join(lines) + "\n"
