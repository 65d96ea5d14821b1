"""The name of a run: the same for what is the same, another for what decides other bits."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from array import array
from collections import deque
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from toy_models import NETWORK, SCHEDULE, SmallNetwork

from t2v_core.diffusion import Compiled, Denoiser, GuidanceRescale, NativeSize, NoiseSeeds, VideoModel
from t2v_core.models.compiled import CompiledParts
from t2v_core.runs import digest, key_of

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Settings:
    cfg: float
    name: str = "a"


class Patch:
    def __init__(self, strength, weight):
        self.strength, self.weight, self.lock, self.id = strength, weight, threading.Lock(), uuid.uuid4()

    def __call__(self, x):
        return x * self.strength


def patched(strength):
    def apply(x):
        return x * strength

    return apply


class Slotted:
    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a


def changed_network() -> torch.nn.Module:
    network = SmallNetwork()
    with torch.no_grad():
        network.conv.bias[2] += 1e-7
    return network


# Pairs of what is made anew each time and equal, and of what is not.
MAKERS = {
    "numbers": (lambda: [1, 2.5, True, None, "a", b"b"], lambda: [1, 2.5, 1, None, "a", b"b"]),
    "types of numbers": (lambda: 1, lambda: 1.0),
    "text and bytes": (lambda: "a", lambda: b"a"),
    "minus nought": (lambda: 0.0, lambda: -0.0),
    "where a row ends": (lambda: [["a", "b"], ["c"]], lambda: [["a"], ["b", "c"]]),
    "tensor": (lambda: torch.arange(6.0).reshape(2, 3), lambda: torch.arange(6.0).reshape(3, 2)),
    "one bit": (lambda: torch.ones(3), lambda: torch.tensor([1.0, 1.0, 1.0 + 2**-23])),
    "tensor type": (lambda: torch.zeros(2), lambda: torch.zeros(2, dtype=torch.int32)),
    "strides": (lambda: torch.arange(6.0).reshape(2, 3).T, lambda: torch.arange(6.0).reshape(3, 2)),
    "half": (lambda: torch.ones(2).bfloat16(), lambda: torch.ones(2).half()),
    "array": (lambda: np.arange(3), lambda: np.arange(3)[::-1]),
    "dataclass": (lambda: Settings(2.0), lambda: Settings(2.0, "b")),
    "closure": (lambda: patched(0.5), lambda: patched(0.6)),
    "lambda": (lambda: lambda x: x + 1, lambda: lambda x: x + 2),
    "partial": (lambda: partial(patched, 1), lambda: partial(patched, 2)),
    "object": (lambda: Patch(1.0, torch.ones(2)), lambda: Patch(1.0, torch.zeros(2))),
    "method": (lambda: Patch(1.0, None).__call__, lambda: Patch(2.0, None).__call__),
    "slots": (lambda: Slotted(1), lambda: Slotted(2)),
    "mapping": (lambda: {"a": 1, "b": 2}, lambda: {"a": 2, "b": 1}),
    "set": (lambda: {"a", "b", "c"}, lambda: {"a", "b"}),
    "path": (lambda: Path("a/b"), lambda: Path("a/c")),
    "class": (lambda: Patch, lambda: Settings),
    "network": (SmallNetwork, changed_network),
    "seeds": (lambda: NoiseSeeds(((0, 1),)), lambda: NoiseSeeds(((0, 2),))),
}


@pytest.mark.parametrize("what", MAKERS)
def test_the_same_made_anew_has_the_same_name_and_another_another(what):
    make, other = MAKERS[what]
    assert digest(make()) == digest(make())
    assert digest(make()) != digest(other())


def test_names_are_the_same_in_another_process():
    code = "from test_runs_digest import MAKERS, digest; print(*[digest(make()) for make, _ in MAKERS.values()])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    # The functions and classes of this file are another module's there if this one was imported under another name.
    assert done.stdout.split() == [digest(make()) for make, _ in MAKERS.values()]


def test_rings_shared_parts_and_depth_end():
    ring: list = [1]
    ring.append(ring)
    same: list = [1]
    same.append(same)
    assert digest(ring) == digest(same) != digest([1, [1]])
    shared = torch.ones(3)
    assert digest([shared, shared]) == digest([shared, shared.clone()])
    deep: list = []
    for _ in range(5000):
        deep = [deep, deep]
    assert digest(deep) == digest([deep[0], deep[1]])


def test_what_cannot_be_looked_into_counts_by_its_type(monkeypatch):
    class Shy:
        def __init__(self, secret):
            self.secret = secret

        @property
        def __dict__(self):
            raise RuntimeError("no")

    assert digest([Shy(1)]) == digest([Shy(2)]) != digest([threading.Lock()])
    monkeypatch.setattr(sys.modules[digest.__module__], "MOST", 3)
    assert digest([[1], [2], [3], [4], [5]]) == digest([[1], [2], [3], [7], [8]])
    assert digest([[1], [2], [3], [4], [5]]) != digest([[1], [2], [7], [4], [5]])


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(2, 2).to_sparse(),
        lambda: torch.ones(2, 2, device="meta"),
        lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
    ],
    ids=["sparse", "meta", "quantized"],
)
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_what_has_a_tensor_that_cannot_be_read_has_no_name(make):
    """Of two models of one shape neither may go on with the other's run."""
    tensor = make()
    assert digest(tensor) is None and digest([1, {"weight": tensor}]) is None and digest([1]) is not None
    assert key_of({"weight": tensor}, device=CPU) is None


class Scaled(torch.Tensor):
    """A tensor that means something else by what it has besides its numbers."""


def scaled(scale: float) -> Scaled:
    made = torch.ones(3).as_subclass(Scaled)
    made.scale = scale
    return made


class Loose(nn.Module):
    """A network with numbers that are in no file of it."""

    def __init__(self, buffer: float, attribute: float, eps: float = 1e-5, activation: nn.Module | None = None):
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(3, eps=eps), activation or nn.ReLU())
        with torch.no_grad():
            self.register_buffer("unsaved", torch.tensor([buffer]), persistent=False)
        self.inner.attribute = torch.tensor([attribute])


@pytest.mark.parametrize(
    ("make", "one", "other"),
    [
        (np.float32, 1, 2),
        (np.int64, 1, 2),
        (np.bool_, True, False),
        (Decimal, "1.5", "1.25"),
        (deque, [1, 2], [2, 1]),
        (bytearray, b"a", b"b"),
        (lambda values: array("d", values), [1.0], [2.0]),
        (np.random.RandomState, 1, 2),
        (scaled, 0.1, 0.2),
        (lambda value: Loose(value, 1.0), 1.0, 2.0),
        (lambda value: Loose(1.0, value), 1.0, 2.0),
        (lambda value: Loose(1.0, 1.0, eps=value), 1e-5, 1e-6),
        (lambda kind: Loose(1.0, 1.0, activation=kind()), nn.ReLU, nn.GELU),
    ],
)
def test_what_shows_no_attributes_counts_too(make, one, other):
    assert digest(make(one)) == digest(make(one)) != digest(make(other))


def test_long_tensors_are_read_in_parts_and_count_to_the_last_number(monkeypatch):
    numbers = torch.arange(1000.0)
    whole = digest(numbers)
    monkeypatch.setattr(sys.modules[digest.__module__], "_AT_ONCE", 64)
    assert digest(numbers) == whole and digest(torch.cat([numbers[:-1], torch.ones(1)])) != whole
    assert digest(torch.ones(1, 3).expand(500, 3)) == digest(torch.ones(500, 3)) != digest(torch.ones(3, 500))


def test_an_array_of_objects_counts_by_what_is_in_it():
    assert digest(np.array([{1}, "a"], dtype=object)) == digest(np.array([{1}, "a"], dtype=object))
    assert digest(np.array([{1}, "a"], dtype=object)) != digest(np.array([{2}, "a"], dtype=object))


@given(st.dictionaries(st.text(max_size=5), st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)))
def test_the_order_in_which_a_mapping_was_filled_does_not_count(entries):
    assert digest(entries) == digest(dict(reversed(entries.items())))


def test_a_host_says_what_counts_of_its_objects():
    first, second = SimpleNamespace(weight=1, loaded=3), SimpleNamespace(weight=1, loaded=4)
    assert digest(first) != digest(second)
    known = {SimpleNamespace: lambda each: each.weight}
    assert digest([first], known) == digest([second], known)


def test_what_a_model_is_and_where_it_runs_count():
    denoiser = Denoiser(NETWORK, SCHEDULE, "eps")
    model = VideoModel(denoiser, 0.18215, NativeSize(40, 48, 16, 8.0))
    rescaled = model.patched(GuidanceRescale(0.5))
    assert digest(model) == digest(replace(model)) != digest(rescaled) != digest(model.patched(GuidanceRescale(0.6)))
    compiled = Compiled(CompiledParts("eager"))
    before = key_of(compiled, device=CPU)
    compiled.parts._forms[NETWORK.conv] = len  # compiled since
    assert key_of(compiled, device=CPU) == before != key_of(Compiled(CompiledParts("inductor")), device=CPU)
    assert key_of(1, device=CPU) != key_of(1, device=torch.device("meta"))
