"""UniPC: Zhao et al. (arXiv 2302.04867), multistep, predicting the data x0, at alpha = 1, so lambda = -log sigma.

A step from lambda_0 by h integrates the estimates D as a polynomial in lambda through those at hand, D_m at
lambda_0 + r_m h, with z = -h:

  x_next = e^z x - (e^z - 1) D_0 - B(z) sum_m a_m (D_m - D_0) / r_m
  sum_m r_m^(k - 1) a_m = k! z phi_(k + 1)(z) / B(z),  k = 1, 2, ... as many as there are D_m

The predictor UniP-p knows the p - 1 estimates before D_0; the corrector UniC-p does the step again with the estimate at
its end besides, where r = 1, which costs no call of the network: that estimate is the next step's D_0. Solved, the a_m
take B out of the sum again. It matters where there is one unknown: there the paper sets a_1 = 1/2 (UniP-2 and UniC-1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .common import Denoise, Kept, Step

MAX_ORDER = 3
# lambda is infinite at sigma 0: the last step ends here instead, as it does in ComfyUI.
LAST_SIGMA = 0.001

Estimate = tuple[float, Tensor]  # lambda, D


def uni_pc(denoise: Denoise, x: Tensor, step: Step, kept: Kept) -> tuple[Tensor, Kept]:
    """UniPC of order 3 with B_1(z) = z. It ends at sigma 0.001 where the last sigma is 0."""
    return _uni_pc(denoise, x, step, kept, lambda z: z)


def uni_pc_bh2(denoise: Denoise, x: Tensor, step: Step, kept: Kept) -> tuple[Tensor, Kept]:
    """UniPC of order 3 with B_2(z) = e^z - 1. It ends at sigma 0.001 where the last sigma is 0."""
    return _uni_pc(denoise, x, step, kept, math.expm1)


def _uni_pc(denoise: Denoise, x: Tensor, step: Step, kept: Kept, B: Callable[[float], float]) -> tuple[Tensor, Kept]:
    """Estimate, correct the step before, predict. The first steps know too few estimates for order 3; the last two are
    of orders 2 and 1 because they are the longest in lambda, and after the very last there is no estimate to correct
    it with."""
    lambdas, known = _lambdas(step.sigmas), _estimates(kept)
    here = (lambdas[step.index], denoise(x, step.sigma))
    if known and known[0][0] == here[0]:
        known = known[1:]
    elif known:
        past = known[1 : _order(step, step.index - 1)]  # what the step before used besides its own
        x = _integrate(kept["x"], known[0], [*past, here], here[0], B)
    known = [here, *known[: MAX_ORDER - 1]]
    x_next = _integrate(x, here, known[1 : _order(step, step.index)], lambdas[step.index + 1], B)
    levels = torch.tensor([lambda_m for lambda_m, _ in known], dtype=torch.float64)
    return x_next, {"x": x, "lambda": levels, **{f"D_{m}": D_m for m, (_, D_m) in enumerate(known)}}


def _estimates(kept: Kept) -> list[Estimate]:
    """Those at hand, the newest first, no two at the same lambda."""
    return [(lambda_m, kept[f"D_{m}"]) for m, lambda_m in enumerate(kept["lambda"].tolist())] if kept else []


def _order(step: Step, index: int) -> int:
    return min(MAX_ORDER, len(step.sigmas) - 1 - index)


def _lambdas(sigmas: Tensor) -> list[float]:
    levels = sigmas.tolist()
    end = min([LAST_SIGMA, *levels[-2:-1]])
    return [-math.log(sigma or end) for sigma in levels]


def _integrate(
    x: Tensor, first: Estimate, others: Sequence[Estimate], lambda_next: float, B: Callable[[float], float]
) -> Tensor:
    """x at `lambda_next` from x at `first`'s lambda."""
    lambda_0, D_0 = first
    h = lambda_next - lambda_0
    if h == 0:
        return x
    x = math.exp(-h) * x - math.expm1(-h) * D_0
    r = [(lambda_m - lambda_0) / h for lambda_m, _ in others]
    for (_, D_m), r_m, weight in zip(others, r, _weights(-h, r, B), strict=True):
        x = x - (weight / r_m) * (D_m - D_0)
    return x


def _weights(z: float, r: Sequence[float], B: Callable[[float], float]) -> list[float]:
    """B(z) a_m for each r_m. In double precision: in single, k! z phi_(k + 1)(z) is lost to cancellation."""
    if len(r) < 2:
        return [B(z) / 2] * len(r)
    powers = torch.tensor([[r_m**k for r_m in r] for k in range(len(r))], dtype=torch.float64)
    integrals = [math.factorial(k) * z * _phi(k + 1, z) for k in range(1, len(r) + 1)]
    return torch.linalg.solve(powers, torch.tensor(integrals, dtype=torch.float64)).tolist()


def _phi(k: int, z: float) -> float:
    """phi_k(z) = sum_j z^j / (j + k)!, so that phi_k(z) = (phi_(k-1)(z) - 1 / (k-1)!) / z, phi_0(z) = e^z."""
    if abs(z) < 1:
        return sum(z**j / math.factorial(j + k) for j in range(20))
    return math.exp(z) if k == 0 else (_phi(k - 1, z) - 1 / math.factorial(k - 1)) / z
