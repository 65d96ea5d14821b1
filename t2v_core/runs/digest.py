"""A name for everything that decides a run's bits: two runs of one name are one run.

What is found in a value is told apart as far as Python can see: numbers by value, tensors by their bits, networks by
their weights and layers, functions by their code and what they hold, other objects by what is in them. What cannot be
looked into counts by its type alone. Only a tensor that cannot be read leaves all without a name, for two models are
never to be taken for one. Where in memory something lies, and in which order a dictionary was filled, does not count.
"""

from __future__ import annotations

import dataclasses
import hashlib
import types
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout, slice, range)
DEEPEST, MOST = 60, 100_000
"""How deep things may lie in each other, and how many are looked into; what is beyond counts by its type alone."""
_AT_ONCE = 2**24  # bytes of a tensor
_BUILT_IN = (types.BuiltinFunctionType, types.MethodWrapperType, types.WrapperDescriptorType)


def digest(value: Any, known: Mapping[type, Callable[[Any], Any]] | None = None) -> str | None:
    """64 hexadecimal digits that are the same for what is the same; None where a tensor in it cannot be read, as a
    sparse one or one on no device.

    known: for objects of a type (or of one made from it) a function that gives what counts of them.
    """
    work = _Digest(known or {})
    found = work.of(value)
    return found if work.readable else None


class _Digest:
    """`digest`'s work on one value, in which things may hold each other in a ring."""

    def __init__(self, known: Mapping[type, Callable[[Any], Any]]):
        self.readable = True
        self._known = known
        self._around: dict[int, int] = {}  # ids of what holds the value at hand, by how deep they lie
        self._done: dict[int, tuple[Any, str]] = {}  # with what was digested, for an id is its own only while it lives

    def of(self, value: Any) -> str:
        if isinstance(value, _PLAIN):
            return _hash(type(value).__name__, repr(value))
        if isinstance(value, uuid.UUID):
            return _hash("UUID")  # drawn anew each time, to tell apart what else is the same
        if isinstance(value, (Tensor, np.ndarray, np.generic)):
            return self._of_numbers(value)
        if id(value) in self._done:
            return self._done[id(value)][1]
        if id(value) in self._around:
            return _hash("ring", str(self._around[id(value)]))
        if len(self._around) == DEEPEST or len(self._done) >= MOST:
            return _hash("unseen", _name(type(value)))
        self._around[id(value)] = len(self._around)
        try:
            found = self._inside(value)
        except Exception:  # an object of anybody's, which may not like to be looked at
            found = _hash("unreadable", _name(type(value)))
        del self._around[id(value)]
        self._done[id(value)] = value, found
        return found

    def _inside(self, value: Any) -> str:
        for kind, what_counts in self._known.items():
            if isinstance(value, kind):
                return self._named(value, what_counts(value))
        if isinstance(value, Mapping):
            pairs = sorted(_hash(self.of(key), self.of(each)) for key, each in list(value.items()))
            return _hash("mapping", *pairs)
        if isinstance(value, (list, tuple)):
            return _hash("row", *map(self.of, value))
        if isinstance(value, (set, frozenset)):
            return _hash("set", *sorted(map(self.of, value)))
        if isinstance(value, Enum):
            return _hash("enum", _name(type(value)), value.name)
        if isinstance(value, PurePath):
            return _hash("path", str(value))
        if isinstance(value, type):
            return _hash("class", _name(value))
        if isinstance(value, types.ModuleType):
            return _hash("module", value.__name__)
        if isinstance(value, nn.Module):
            return self._named(value, _of_network(value))
        return self._callable(value) or self._named(value, _attributes(value))

    def _callable(self, value: Any) -> str | None:
        """A function's digest; None for other objects."""
        if isinstance(value, partial):
            return _hash("partial", self.of((value.func, value.args, value.keywords)))
        if isinstance(value, types.MethodType):
            return _hash("method", self.of(value.__func__), self.of(value.__self__))
        if isinstance(value, types.FunctionType):
            cells = [_content(cell) for cell in value.__closure__ or ()]
            return _hash(_name(value), self.of((value.__code__, value.__defaults__, value.__kwdefaults__, cells)))
        if isinstance(value, types.CodeType):
            return _hash("code", value.co_code.hex(), self.of((value.co_names, value.co_consts)))
        return _hash("built in", _name(value)) if isinstance(value, _BUILT_IN) else None

    def _named(self, value: Any, content: Any) -> str:
        return _hash("object", _name(type(value)), self.of(content))

    def _of_numbers(self, value: Tensor | np.ndarray | np.generic) -> str:
        """By type, shape and bits, and what else a tensor of another type has, such as a scale."""
        if value.dtype == object:
            return self.of(value.tolist())
        hashed = hashlib.sha256(f"{_name(type(value))} {value.dtype} {list(value.shape)} ".encode())
        try:
            for part in _parts(value):
                hashed.update(_bytes(part))
        except Exception:  # which one is up to whoever wrote that kind of tensor
            self.readable = False
        plain = not isinstance(value, Tensor) or type(value) in (Tensor, nn.Parameter)
        return hashed.hexdigest() if plain else _hash(hashed.hexdigest(), self.of(vars(value)))


def _attributes(value: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(value, "__dict__", {})
    return found or {"reduced": _reduced(value)}


def _reduced(value: Any) -> Any:
    """What pickle would keep of an object that shows nothing, such as a deque; TypeError for what it refuses."""
    parts = value.__reduce_ex__(2)
    return [list(part) if isinstance(part, Iterator) else part for part in parts] if isinstance(parts, tuple) else parts


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _of_network(network: nn.Module) -> tuple:
    """Weights and buffers, also those that no file holds; the layers with their settings; what else it was told."""
    numbers = {name: each for name, each in vars(network).items() if isinstance(each, _PLAIN)}
    loose = {
        f"{place}.{name}": each
        for place, part in network.named_modules()
        for name, each in vars(part).items()
        if isinstance(each, Tensor)
    }
    weights = {**dict(network.named_buffers()), **network.state_dict(), **loose}
    return weights, repr(network), getattr(network, "config", None), numbers


def _parts(value: Tensor | np.ndarray | np.generic) -> Iterable[Tensor | np.ndarray | np.generic]:
    """Some rows at a time: what lies on another device, or is one row for all, is copied to be read."""
    if not isinstance(value, Tensor) or value.ndim == 0 or not len(value):
        return [value]
    return value.split(max(1, _AT_ONCE * len(value) // max(1, value.numel() * value.element_size())))


def _bytes(value: Tensor | np.ndarray | np.generic) -> memoryview | bytes:
    if isinstance(value, Tensor):
        if value.is_quantized:
            raise TypeError("its scale is not in its bytes")
        value = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(np.ascontiguousarray(value)).cast("B") if value.size else b""


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def _hash(*texts: str) -> str:
    hashed = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        hashed.update(len(data).to_bytes(8, "little"))
        hashed.update(data)
    return hashed.hexdigest()
