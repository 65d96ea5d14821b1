"""What every sampler is given: a step, and what it has kept from the steps before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
NoiseSource = Callable[[Tensor, Tensor], Tensor]
Unscaled = Callable[[Tensor], Tensor]
Callback = Callable[[int, Tensor, Tensor, Tensor], None]

Kept = dict[str, Tensor]
"""A sampler's memory from one step to the next, besides x: tensors by names of its own. Numbers are tensors too, so
that all of it can be written to a file and read again bit for bit."""


@dataclass(frozen=True)
class Step:
    """One step of a run: from sigma to sigma_next.

    sigmas: the whole run's, `[n + 1]`; index: which of its steps this is, 0 .. n - 1.
    noise, eta, unscaled: see the package; for the samplers that use them.
    """

    sigmas: Tensor
    index: int
    noise: NoiseSource | None = None
    eta: float = 0.0
    unscaled: Unscaled | None = None

    @property
    def sigma(self) -> Tensor:
        """The noise level of x, above 0."""
        return self.sigmas[self.index]

    @property
    def sigma_next(self) -> Tensor:
        """The noise level that x shall have."""
        return self.sigmas[self.index + 1]


StepFunction = Callable[[Denoise, Tensor, Step, Kept], tuple[Tensor, Kept]]
