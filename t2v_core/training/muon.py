"""Muon: momentum whose update for a matrix is made orthogonal (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

A step that moves all directions of a weight matrix by the same amount learns more from a clip than Adam's on this
network: after 400 steps of 8 clips its loss was that of Adam after about 600.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic of the post, which lifts every singular value to about 1
_ROUNDS = 5


def orthogonalise(matrices: Tensor) -> Tensor:
    """About U V^T of each of `matrices` = U S V^T, `[n, rows, columns]`, by five rounds of Newton and Schulz.

    The rounds are polynomials in the Gram matrix, so they are worked out on the small square ones, and the matrices are
    multiplied once, at the end.
    """
    upright = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if upright else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = _COEFFICIENTS
    gram = x @ x.mT
    identity = torch.eye(gram.shape[1], device=gram.device, dtype=gram.dtype)
    product = identity
    for round in range(_ROUNDS):
        factor = a * identity + b * gram + c * gram @ gram
        product = factor @ product
        if round + 1 < _ROUNDS:
            gram = factor @ gram @ factor
    x = product @ x
    return x.mT if upright else x


class Muon(torch.optim.Optimizer):
    """For weights of two dimensions or more; the dimensions after the first are one.

    learning_rate: of a square matrix; a matrix with more rows than columns takes sqrt(rows / columns) times as much.
    """

    def __init__(self, weights: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(weights, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """Moves every weight that has a gradient. Weights of one shape are worked out together."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(state["momentum"], group["momentum"]).flatten(1)  # Nesterov's
                by_shape[tuple(update.shape)].append((weight, update))
            for (rows, columns), members in by_shape.items():
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                updates = orthogonalise(torch.stack([update for _, update in members]))
                for (weight, _), update in zip(members, updates, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.add_(update.view_as(weight), alpha=-rate)
