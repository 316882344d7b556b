"""Networks from elsewhere: timm, torchvision, and the user's own factory.

`timm:NAME` and `torchvision:NAME` call one fixed function of a fixed package, which builds a network it knows by name,
with random weights, from no network and no file.

`package.module:factory` is code. Importing it runs it, so it is imported only when the user writes it: `robcal train`
hands what stands behind `--model` to `admit_model`, which imports the factory and notes it. Building a network only
looks among what was noted. So a checkpoint, a run directory or a file of settings that names a factory can make nothing
be imported: whoever opens it names the factory too, by `--factory` or `admit_model`. What was admitted is added to the
environment variable ROBCAL_FACTORIES (names separated by commas), so processes that robcal starts know what the user
said; a user who sets it admits these factories in every command.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robcal.base.checks import refuse
from robcal.models.dropout import DROPOUT_SUFFIX
from robcal.models.rank_one import MEMBERS_SUFFIX
from robcal.models.small import check_image

#: Packages that a model may be taken from by name.
PACKAGES = ("timm", "torchvision")

#: Networks of torchvision that return more than logits in training unless told not to.
_AUXILIARY = ("googlenet", "inception_v3")

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")

#: Environment variable with the names of factories that the user trusts, separated by commas.
TRUSTED = "ROBCAL_FACTORIES"

#: The user's factories that this process may call, by the text that named them; filled by `admit_model` only.
_admitted: dict[str, Callable[..., Any]] = {}


def is_external(name: str) -> bool:
    """Return whether a model's name has the form `timm:NAME`, `torchvision:NAME` or `package.module:factory`."""
    return ":" in name


def is_factory(name: str) -> bool:
    """Return whether a model's name stands for code of the user's own: "my.networks:build", not "timm:resnet18"."""
    return is_external(name) and name.partition(":")[0] not in PACKAGES


def admit_model(name: str) -> None:
    """Import the factory that the user named; for every other model's name this does nothing.

    Call it with what a person wrote on their command line or in their program, never with text out of a file. The
    working directory is searched too, after everything that is installed.

    Args:
        name: a model's name, for example "package.module:factory".

    Raises:
        InputError: if the module cannot be imported or has no such callable.

    Example:
        >>> admit_model("wrn-28-10")
    """
    name = MEMBERS_SUFFIX.sub("", name).removesuffix(DROPOUT_SUFFIX)
    if not is_factory(name):
        return
    if not _FACTORY.fullmatch(name):
        refuse(f"the model is {name!r}", "a factory is written package.module:factory", "Leave out paths and brackets")
    module_name, _, attribute = name.partition(":")
    found = _imported(name, module_name, attribute)
    if not callable(found):
        refuse(f"the model {name!r} is a {type(found).__name__}", "it must be callable", "Name a function or a class")
    _admitted[name] = found
    if name not in (trusted := _trusted()):
        os.environ[TRUSTED] = ",".join([*trusted, name])


def _imported(name: str, module_name: str, attribute: str) -> Any:
    told, allowed = f"the model {name!r} cannot be imported", "package.module:factory names a callable of a module"
    try:
        with _working_directory_last():
            module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's own code raises
        absent = isinstance(error, ModuleNotFoundError) and module_name.startswith(str(error.name))
        refuse(
            f"{told} ({type(error).__name__}: {error})",
            allowed,
            "Install the package, or run in the folder that holds it"
            if absent
            else f"Correct the code: `import {module_name}` shows where it fails",
        )
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module_name]
            refuse(f"{told}: there is no {attribute}", allowed, f"Name one that it has: {', '.join(own) or 'none yet'}")
        found = getattr(found, part)
    return found


def _trusted() -> list[str]:
    return [name for name in os.environ.get(TRUSTED, "").split(",") if name]


def external_model(name: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Build a network from elsewhere, in train mode, and try it on two black inputs."""
    package, _, known = name.partition(":")
    if package in PACKAGES:
        network = _from_package(package, known, input_shape, num_classes)
    elif name in _admitted or name in _trusted():
        if name not in _admitted:
            admit_model(name)
        with _working_directory_last():
            network = _call(_admitted[name], input_shape, num_classes)
    else:
        refuse(
            f"the model {name!r} is code that has not been named in this command",
            "no file makes robcal import code: only what you write yourself is imported",
            f"If you trust it, name it too: --factory {name} (in a program: robcal.models.admit_model({name!r}))",
        )
    return _tried(network, name, input_shape, num_classes)


def _from_package(package: str, known: str, input_shape: tuple[int, ...], num_classes: int) -> Any:
    """Build a network of timm or torchvision by its name, with random weights."""
    check_image(input_shape, f"models of {package}")
    if not _PLAIN_NAME.fullmatch(known):  # timm reads "hf-hub:…" and "local-dir:…" as places to load from
        refuse(
            f"the model is {package + ':' + known!r}",
            f"a plain name in {package} follows the colon, and no place to load from",
            f"Write for example {package}:resnet18",
        )
    if package == "torchvision" and input_shape[0] != 3:
        refuse(f"images have {input_shape[0]} channel(s)", "models of torchvision take 3", "Use a timm: model")
    try:
        module = importlib.import_module("timm" if package == "timm" else "torchvision.models")
    except ImportError as error:
        refuse(
            f"--model {package}:{known} needs {package}, which cannot be imported ({error})",
            f"{package} is not among robcal's requirements",
            f"Install {package}, or choose a model of robcal's own",
        )
    try:
        if package == "timm":
            return module.create_model(known, pretrained=False, num_classes=num_classes, in_chans=input_shape[0])
        options = {"aux_logits": False} if known in _AUXILIARY else {}
        return module.get_model(known, weights=None, num_classes=num_classes, **options)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        refuse(
            f"{package} cannot build {known!r} for {num_classes} classes ({error})",
            f"it must be a classifier that {package} knows by this name",
            f"List its names with {package}.{'list_models()' if package == 'timm' else 'models.list_models()'}",
        )


def _call(factory: Callable[..., Any], input_shape: tuple[int, ...], num_classes: int) -> Any:
    """Call the user's factory with what its signature names; where it has no `num_classes`, both go by position."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some callables written in C have none
        return factory(num_classes=num_classes)
    if {"input_shape", "num_classes"} <= parameters.keys():
        return factory(input_shape=input_shape, num_classes=num_classes)
    if "num_classes" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return factory(num_classes=num_classes)
    return factory(input_shape, num_classes)


def _tried(network: Any, name: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return `network` if it is a module that takes such inputs and gives (B, Z) logits."""
    if not isinstance(network, nn.Module):
        refuse(f"{name} made a {type(network).__name__}", "it must make a torch.nn.Module", "Return the network itself")
    check_logits(
        network.eval(),
        name,
        input_shape,
        num_classes,
        sizes=(2,),
        inputs_fix="Choose a model that does: mlp takes any; for pictures of a folder, --image-size sets their side",
        logits_fix="Return the logits alone, and give its last layer num_classes outputs",
    )
    return network.train()


def check_logits(
    network: nn.Module,
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    sizes: Sequence[int],
    inputs_fix: str,
    logits_fix: str,
) -> None:
    """Refuse a network in eval mode that does not turn batches of black inputs, of these sizes, into (B, Z) logits."""
    for size in sizes:
        try:
            with torch.no_grad():
                logits = network(torch.zeros(size, *input_shape))
        except Exception as error:  # whatever its own code, or the operators of a program, raise
            refuse(
                f"{name} does not take {size} inputs of shape {input_shape} ({_last_line(error)})",
                "a model takes batches of any size of the data's inputs",
                inputs_fix,
            )
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        if shape != (size, num_classes):
            refuse(
                f"{name} turns {size} inputs into {shape}",
                f"it must give logits of shape ({size}, {num_classes}), one row an input and one column a class",
                logits_fix,
            )


def _last_line(error: Exception) -> str:
    """Return the last line of an error, which says what was wrong; the others say where."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]


@contextmanager
def _working_directory_last() -> Iterator[None]:
    """Put the working directory at the end of Python's search path, where it hides nothing that is installed."""
    place = str(Path.cwd())
    sys.path.append(place)
    try:
        yield
    finally:
        # the imported code may have changed the path: take away the entry that was added, the last of its kind
        for position in reversed(range(len(sys.path))):
            if sys.path[position] == place:
                del sys.path[position]
                break
