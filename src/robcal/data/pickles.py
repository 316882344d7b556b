"""Reading arrays out of a pickle without letting it run anything.

A pickle is a program. The official Python archive of CIFAR-10 is one all the same, so it is read by an unpickler that
knows six names, the ones numpy 1 and 2 write for a plain array, and refuses every other. Even these are not numpy's own
callables but stand-ins that only note what they are given; arrays are made afterwards, by `numpy.frombuffer`, from a
checked dtype, a checked shape and bytes of the right length.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from robcal.base.checks import InputError, refuse

#: dtypes an array in a pickle may have: whole numbers, floats and booleans. Never objects, never structures.
PLAIN_DTYPES = ("b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")
#: Most things that a pickle may hold, written out; an official batch has 20,000 (names and labels).
MOST_ITEMS = 300_000
#: Most bytes of arrays; the largest official batch has 153,600,000.
MOST_BYTES = 2**30


class _StandIn:
    """Base of the stand-ins; its `__setstate__` keeps a pickle from writing attributes."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it sets the state of an object that has none")


class _Dtype(_StandIn):
    """Stands for `numpy.dtype`: a plain dtype with its byte order."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        text = code.decode("ascii") if isinstance(code, bytes) else str(code)
        if text not in PLAIN_DTYPES:
            raise pickle.UnpicklingError(f"it holds an array of dtype {text[:20]!r}")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order not in ("|", "<", ">", "=") or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("it holds an array of a structured dtype")
        self.dtype = np.dtype(order + self.dtype.str[1:])


class _Array(_StandIn):
    """Stands for `numpy.ndarray` and what `_reconstruct` returns; becomes an array when its state is set."""

    __slots__ = ("array",)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("it holds an array that is not of plain numbers")
        if math.prod(shape) * dtype.dtype.itemsize != len(raw) or any(size < 0 for size in shape):
            raise pickle.UnpicklingError(f"it holds an array of shape {shape} in {len(raw)} bytes")
        self.array = np.frombuffer(raw, dtype.dtype).reshape(shape, order="F" if fortran else "C")


class _Reconstruct(_StandIn):
    """Stands for `numpy.core.multiarray._reconstruct`."""

    __slots__ = ()

    def __new__(cls, kind: Any, shape: Any, code: Any) -> Any:
        if kind is not _Array:
            raise pickle.UnpicklingError("it rebuilds something that is no array")
        return _Array()


class _Scalar(_StandIn):
    """Stands for `numpy.core.multiarray.scalar`."""

    __slots__ = ()

    def __new__(cls, dtype: Any, raw: Any) -> Any:
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes) or len(raw) != dtype.dtype.itemsize:
            raise pickle.UnpicklingError("it holds a scalar that is not a plain number")
        return np.frombuffer(raw, dtype.dtype)[0]


class _Encode(_StandIn):
    """Stands for `_codecs.encode`, by which Python 3 writes bytes in the old protocols: latin-1 only."""

    __slots__ = ()

    def __new__(cls, text: Any, encoding: Any = None) -> Any:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"it decodes {encoding!r}")
        return text.encode("latin-1")


STAND_INS: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Encode,
    **{
        (module, name): stand_in
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name, stand_in in (("_reconstruct", _Reconstruct), ("scalar", _Scalar))
    },
}


class _ArrayUnpickler(pickle.Unpickler):
    """Resolves the names of `STAND_INS` and no other; never imports anything."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Return the stand-in for a name, or raise for every other name."""
        stand_in = STAND_INS.get((module_name, global_name))
        if stand_in is None:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")
        return stand_in


def load_arrays(data: bytes, *, source: str) -> Any:
    """Return the plain containers, numbers, strings and numeric arrays in a pickle; nothing in it is executed."""
    try:
        _check_memo(data)
        return _Finisher().finish(_ArrayUnpickler(io.BytesIO(data), encoding="bytes").load())
    except InputError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        refuse(
            f"{source} is no pickle of plain arrays ({error})",
            "it may hold numbers, strings, containers and numeric arrays, and nothing in it is ever executed",
            "Fetch the file again from its official source",
        )


def _check_memo(data: bytes) -> None:
    """Refuse a pickle that numbers more objects than it can hold: the unpickler would make room for all of them."""
    for opcode, argument, _ in pickletools.genops(data):
        if "PUT" in opcode.name and not 0 <= int(argument or 0) <= len(data):
            raise pickle.UnpicklingError(f"it numbers an object {argument}")


class _Finisher:
    """Replaces every stand-in in a value by its array; counts what the value holds, written out.

    A pickle of a few bytes can name one list many times, and lists of it many times again: to go through it never ends.
    """

    def __init__(self) -> None:
        self._items, self._bytes = 0, 0

    def finish(self, value: Any) -> Any:
        """Return `value` with its arrays, or raise at more than `MOST_ITEMS` or `MOST_BYTES`, or another stand-in."""
        self._items += 1
        if self._items > MOST_ITEMS or self._bytes > MOST_BYTES:
            raise pickle.UnpicklingError(f"it holds more than {MOST_ITEMS:,} things or {MOST_BYTES:,} bytes of arrays")
        if isinstance(value, _Array):
            array: npt.NDArray[Any] = value.array
            self._bytes += array.nbytes
            return array
        if isinstance(value, dict):
            return {self.finish(key): self.finish(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.finish(item) for item in value)
        if isinstance(value, (_StandIn, type)):
            raise pickle.UnpicklingError("it holds a name of numpy that is no array")
        return value
