"""A sampler's steps, one after the other, and the state between two of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from .common import Callback, Denoise, Kept, NoiseSource, Step, StepFunction

Draws = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class State:
    """A run between two steps: all that the rest of it depends on, besides what it was started with.

    steps: how many are done. x: where they have led. kept: what the sampler remembers of them.
    draws: (sigma, sigma_next) of each call of the noise source so far. A source is a function of its seed and of what
        it was asked before, so asking a new one the same again brings it to where the old one was, whatever it holds.

    After the last step kept and draws are empty, for nothing depends on them any more.
    """

    steps: int
    x: Tensor
    kept: Kept = field(default_factory=dict)
    draws: Draws = ()


class Keeper(Protocol):
    """Keeps the states of one run somewhere, as `runs.KeptRun` does on disk."""

    @property
    def state(self) -> State | None:
        """The last state that was kept of this run, on any device; None where it begins."""

    def keep(self, state: State) -> None:
        """Called after every step. What raises here ends the run."""

    def settled(self, name: str, value: Any) -> Any:
        """What was settled under this name when the run began; `value`, a number or the like, if it is beginning."""


def walk(
    function: StepFunction,
    denoise: Denoise,
    x: Tensor,
    first: Step,
    callback: Callback | None = None,
    keeper: Keeper | None = None,
) -> Tensor:
    """Take every step of `first.sigmas`, or those that are left by what the keeper has.

    function: a sampler. x: of any shape, at the first sigma; gives the shape and the device where the keeper has a
    state. first: the first step, with what is the same for all. The rest: see the package.

    A run in two parts gives what it gives in one, bit for bit, if all that it is started with is the same.
    """
    sigmas, state, recorded = first.sigmas, State(0, x), None
    if keeper is not None and (before := keeper.state) is not None:
        state = _at_hand(before, x, sigmas)
        del before
    if keeper is not None and first.noise is not None:
        recorded = _Recorded(first.noise, state.draws, sigmas)
        first = replace(first, noise=recorded)
    steps, x, kept = state.steps, state.x, state.kept
    del state  # its tensors are large, and each step makes others
    for index in range(steps, len(sigmas) - 1):
        x, kept = function(_reported(denoise, callback, index), x, replace(first, index=index), kept)
        if keeper is not None:
            done, last = index + 1, index + 2 == len(sigmas)
            draws = tuple(recorded.draws) if recorded is not None else ()
            keeper.keep(State(done, x) if last else State(done, x, kept, draws))
    return x


def _at_hand(state: State, x: Tensor, sigmas: Tensor) -> State:
    """A kept state's tensors where they were when it was made: numbers beside the sigmas, all else beside x."""
    kept = {name: value.to((x if value.ndim else sigmas).device) for name, value in state.kept.items()}
    return replace(state, x=state.x.to(x.device), kept=kept)


def _reported(denoise: Denoise, callback: Callback | None, index: int) -> Denoise:
    """`denoise` that tells the callback of the step's x and of the first estimate, which is made from it."""
    if callback is None:
        return denoise
    told = False

    def reporting(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal told
        denoised = denoise(x, sigma)
        if not told:
            told = True
            callback(index, x, sigma, denoised)
        return denoised

    return reporting


class _Recorded:
    """A noise source that notes what it was asked for; first of all it is asked `draws` again."""

    def __init__(self, source: NoiseSource, draws: Draws, like: Tensor):
        self.source = source
        self.draws: list[tuple[float, float]] = []
        for pair in draws:
            self(*torch.tensor(pair, dtype=like.dtype, device=like.device))

    def __call__(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        self.draws.append((float(sigma), float(sigma_next)))
        return self.source(sigma, sigma_next)
