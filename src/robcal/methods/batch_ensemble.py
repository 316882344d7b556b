"""BatchEnsemble (Wen, Tran, Ba 2020): an ensemble of rank-one members over the weights of one network.

The method changes the network alone (`robcal.models.rank_one`); what it is trained by is the loss of plain training, or
of the method that it is composed with. The members share every batch, as the paper has it, so a member sees 1/M of the
examples in an epoch; the paper trains its networks half as long again.
"""

from __future__ import annotations

from torch import nn

from robcal.base.checks import refuse
from robcal.data.dataset import Dataset
from robcal.methods.method import Method
from robcal.models.rank_one import MEMBERS_SUFFIX, check_members, has_members


def batch_ensemble(
    size: int = 4,  # number of members, from 2; the paper's is 4
) -> Method:
    """Train an ensemble of rank-one members over the weights of one network."""
    check_members(size)

    def check(network: nn.Module, dataset: Dataset) -> None:
        if not has_members(network):
            refuse(
                "the network has no rank-one members",
                "batch-ensemble trains networks that have them",
                f"Put them in: robcal.models.rank_one.with_members(network, {size})",
            )

    return Method(
        name="batch-ensemble",
        title="BatchEnsemble",
        network=lambda model: f"{MEMBERS_SUFFIX.sub('', model)}+members-{size}",
        check=check,
    )
