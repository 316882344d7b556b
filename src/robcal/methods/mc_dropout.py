"""Monte-Carlo dropout (Gal & Ghahramani 2016): plain training of a network with dropout, which stays on to predict.

What predicts is the mean over draws of dropped units (`robcal.training.sampling.dropout_networks`); a network without
dropout is given it before every weight layer but the first (`robcal.models.dropout`), as in the paper.
"""

from __future__ import annotations

from robcal.methods.method import Method


def mc_dropout() -> Method:
    """Cross-entropy with hard labels; the network brings the dropout."""
    return Method(name="mc-dropout", title="MC dropout")
