"""Muon: momentum whose update for a matrix is made orthogonal (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

A step that moves all directions of a weight matrix by the same amount learns more from a clip than Adam's on this
network: after 400 steps of 8 clips its loss was that of Adam after about 600.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import torch
import torch.distributed
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


def orthogonalise_all(matrices: list[Tensor]) -> list[Tensor]:
    """`orthogonalise` for matrices of any sizes, those of one shape together.

    The processes of a run have the same matrices: each works out its share, and all get all.
    """
    shared = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if shared else (0, 1)
    whole = matrices[0].new_zeros(sum(matrix.numel() for matrix in matrices))
    found = [
        part.view_as(matrix)
        for part, matrix in zip(whole.split([matrix.numel() for matrix in matrices]), matrices, strict=True)
    ]
    places = sorted(range(len(matrices)), key=lambda place: matrices[place].shape)[rank::world]
    for _, alike in groupby(places, key=lambda place: matrices[place].shape):
        members = list(alike)
        for place, matrix in zip(members, orthogonalise(torch.stack([matrices[i] for i in members])), strict=True):
            found[place].copy_(matrix)
    if world > 1:
        torch.distributed.all_reduce(whole)
    return found


class Muon(torch.optim.Optimizer):
    """For weights of two dimensions or more; the dimensions after the first are one.

    learning_rate: of a square matrix; a matrix with more rows than columns takes sqrt(rows / columns) times as much.
    """

    def __init__(self, weights: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(weights, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """Moves every weight that has a gradient. Processes of one run must have the same gradients."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            updates = orthogonalise_all([self._update(weight, group["momentum"]) for weight in weights])
            for weight, update in zip(weights, updates, strict=True):
                rows, columns = update.shape
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update.view_as(weight), alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)

    def _update(self, weight: Tensor, momentum: float) -> Tensor:
        """What the weight's gradient and its momentum come to, Nesterov's way, as a matrix."""
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].lerp_(weight.grad, 1 - momentum)
        return weight.grad.lerp(state["momentum"], momentum).flatten(1)
