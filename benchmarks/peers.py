"""The attacks of other libraries as `benchmarks/scoring.py` runs them, and what counts and checks them.

Every peer is called in the way its own documentation shows, with two gifts: the parameters are frozen, so that none
spends time on weight gradients, and images come in the memory format that is fastest for the network here.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

Settings = Mapping[str, Any]


class Counted(nn.Module):
    """A model that counts its work: every image that goes forward, and every image whose logits are back-propagated.

    A pass is one forward and one input-backward of one image; each counts half. A backward of K rivals counts K times,
    and so does whatever a library computes for examples that it has finished with.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits of x, counted."""
        self.forwards += len(x)
        logits: Tensor = self.model(x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)

    def reset(self) -> None:
        """Start from zero."""
        self.forwards = self.backwards = 0

    @property
    def passes(self) -> float:
        """Passes since the last reset, summed over images."""
        return (self.forwards + self.backwards) / 2


def verify(model: nn.Module, x: Tensor, points: Tensor, prediction: Tensor) -> Tensor:
    """(N,) float64 l2 norms of the changes, +inf where the point does not change the label.

    Points are put into the box [0, 1] first and then evaluated in float32, so none is lost to a rounding error; points
    that are not finite count as failures.
    """
    whole = torch.isfinite(points).flatten(1).all(1)
    inside = torch.where(whole.view(-1, *[1] * (x.ndim - 1)), points, x).float().clamp(0, 1)
    with torch.no_grad():
        changed = torch.cat([model(part).argmax(1) for part in inside.split(100)]) != prediction
    norms = (inside.double() - x.double()).flatten(1).norm(dim=1)
    return torch.where(changed & whole, norms, torch.inf)


@dataclass(frozen=True)
class Peer:
    """One attack of one library.

    Attributes:
        name: for tables.
        package: its name on the package index.
        attack: (model, x, labels, **settings) → adversarial points.
        default: what its default amounts to, in words.
        passes: what its default takes, about; its limit where it may well reach it.
        small: settings of about `steps` iterations, to be fitted to our budget.
        ladder: further settings, each with the passes that it takes, about.
    """

    name: str
    package: str
    attack: Callable[..., Tensor]
    default: str
    passes: int
    small: Callable[[int], Settings]
    ladder: tuple[tuple[int, Settings], ...] = ()


def _steps(steps: int) -> Settings:
    return {"steps": steps}


def _foolbox(kind: str) -> Callable[..., Tensor]:
    def attack(model: nn.Module, x: Tensor, labels: Tensor, **settings: Any) -> Tensor:
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        points: Tensor = getattr(foolbox.attacks, kind)(**settings).run(wrapped, x, labels)
        return points

    return attack


def _torchattacks_cw(model: nn.Module, x: Tensor, labels: Tensor, **settings: Any) -> Tensor:
    import torchattacks

    points: Tensor = torchattacks.CW(model, **settings)(x, labels)
    return points


def _art_cw(model: nn.Module, x: Tensor, labels: Tensor, **settings: Any) -> Tensor:
    from art.attacks.evasion import CarliniL2Method
    from art.estimators.classification import PyTorchClassifier

    with torch.no_grad():
        num_classes = model(x[:1]).shape[1]
    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), tuple(x.shape[1:]), num_classes, clip_values=(0.0, 1.0), device_type="cpu"
    )
    attack = CarliniL2Method(classifier, verbose=False, **settings)
    return torch.from_numpy(attack.generate(x.numpy(), labels.numpy()))


def _adv_lib(kind: str, **always: Any) -> Callable[..., Tensor]:
    def attack(model: nn.Module, x: Tensor, labels: Tensor, **settings: Any) -> Tensor:
        _stand_in("torchvision", "models")
        _stand_in("visdom", "Visdom")
        import adv_lib.attacks

        points: Tensor = getattr(adv_lib.attacks, kind)(model, x, labels, **always, **settings)
        return points.detach()

    return attack


def _stand_in(name: str, *attributes: str) -> None:
    """An empty module under that name where none is installed: adv-lib imports it at its top, for other attacks."""
    if name in sys.modules or find_spec(name) is not None:
        return
    module = types.ModuleType(name)
    for attribute in attributes:
        setattr(module, attribute, None)
    sys.modules[name] = module


PEERS = (
    Peer(
        "foolbox CW",
        "foolbox",
        _foolbox("L2CarliniWagnerAttack"),
        "9 x 10,000",
        90_000,
        lambda s: {"binary_search_steps": 1, "steps": s, "abort_early": False},
        ((180, {"steps": 20}), (900, {"steps": 100})),
    ),
    Peer(
        "foolbox DeepFool",
        "foolbox",
        _foolbox("L2DeepFoolAttack"),
        "50 steps, 10 classes",
        100,
        lambda s: {"steps": s, "candidates": 3},
        ((50, {"candidates": 4}),),
    ),
    Peer("foolbox DDN", "foolbox", _foolbox("DDNAttack"), "100 steps", 100, _steps, ((20, {"steps": 20}),)),
    Peer("torchattacks CW", "torchattacks", _torchattacks_cw, "1 x 50", 50, _steps, ((200, {"steps": 200}),)),
    Peer(
        "ART CW",
        "adversarial-robustness-toolbox",
        _art_cw,
        "10 x 10, one image at a time",
        2000,
        lambda s: {"batch_size": 1000, "binary_search_steps": 1, "max_iter": s, "max_halving": 1, "max_doubling": 1},
        ((1000, {"batch_size": 1000}),),
    ),
    Peer(
        "adv-lib DDN",
        "adv-lib",
        _adv_lib("ddn"),
        "100 steps, 256 levels",
        100,
        _steps,
        (
            (30, {"steps": 30, "levels": None}),
            (100, {"levels": None}),
            (300, {"steps": 300, "levels": None}),
        ),
    ),
    Peer(
        "adv-lib ALMA",
        "adv-lib",
        _adv_lib("alma"),
        "1,000 steps",
        1000,
        lambda s: {"num_steps": s},
        ((100, {"num_steps": 100}), (300, {"num_steps": 300})),
    ),
    Peer(
        "adv-lib SuperDeepFool",
        "adv-lib",
        _adv_lib("sdf"),
        "100 x 100 steps, 10 searches",
        100,
        lambda s: {"steps": 2, "df_steps": s, "search_iter": 0},
    ),
    Peer("adv-lib FMN", "adv-lib", _adv_lib("fmn", norm=2), "l2, 10 steps", 10, _steps),
)


def versions() -> dict[str, str]:
    """Versions of the peers that are installed."""
    found = {}
    for package in sorted({peer.package for peer in PEERS}):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
