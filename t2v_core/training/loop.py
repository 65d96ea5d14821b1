"""What the three trainers share: learning-rate shape, weight averaging, a log line, and files written whole."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn


def warm_constant_linear(step: int, steps: int, warmup: int, hold: float) -> float:
    """Learning-rate factor: linear to 1 over `warmup` steps, flat until `hold` of the run, then linear to 0."""
    if step < warmup:
        return (step + 1) / warmup
    start = hold * steps
    return 1.0 if step < start else max(0.0, (steps - step) / (steps - start))


def warm_root_linear(step: int, steps: int, warmup: int, tail: float) -> float:
    """Learning-rate factor: linear to 1 over `warmup` steps, then as the root of 1 over the time, and over the last
    `tail` of the run linear from there to 0. What small differences teach is drowned by large steps; the root leaves
    them early and never gets stuck (Zhai et al. 2106.04560, section 3.5)."""
    factor = min((step + 1) / warmup, (warmup / max(step, warmup)) ** 0.5)
    return factor * min(1.0, (steps - step) / (tail * steps))


class Average:
    """Exponential moving average of a network's parameters, `decay` a step, less at first."""

    def __init__(self, network: nn.Module, decay: float):
        self.decay, self.count = decay, 0
        self.values = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Fold in the network's present weights."""
        self.count += 1
        weight = 1 - min(self.decay, (1 + self.count) / (10 + self.count))
        for name, value in network.state_dict().items():
            self.values[name].lerp_(value, weight) if value.is_floating_point() else self.values[name].copy_(value)


def save(state: dict, path: Path) -> None:
    """Write a training checkpoint under its final name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    os.replace(partial, path)


def load(path: Path, mapped: bool = False) -> dict:
    """Read a checkpoint made by `save`; tensors and plain values only, nothing that could run code.

    mapped: tensors stay in the file, and processes that read it share the memory.
    """
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


class Log:
    """Progress with ETA on the terminal and the same figures as rows of a CSV file.

    A run that goes on from step `first` keeps the rows up to there, and adds to them.
    """

    def __init__(self, path: Path, steps: int, every: int, first: int = 0):
        path.parent.mkdir(parents=True, exist_ok=True)
        kept: list[list[str]] = []
        if first and path.exists():
            with path.open(newline="") as file:
                rows = list(csv.reader(file))
            kept = [row for number, row in enumerate(rows) if number == 0 or int(row[0]) <= first]
        self.file = path.open("w", newline="")
        self.writer = csv.writer(self.file)
        self.writer.writerows(kept)
        self.steps, self.every, self.first, self.start = steps, every, first, time.monotonic()
        self.spent = float(kept[-1][1]) if len(kept) > 1 else 0.0
        self.sums: dict[str, float] = {}
        self.header: list[str] | None = kept[0][2:] if kept else None
        self.count = 0

    def add(self, step: int, **figures: float) -> None:
        """Collect one step's figures; every `every` steps write their means."""
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self.count += 1
        if (step + 1) % self.every == 0:
            self.row(step + 1, {name: total / self.count for name, total in self.sums.items()})
            self.sums, self.count = {}, 0

    def row(self, step: int, figures: dict[str, float]) -> None:
        """Write one line now."""
        elapsed = time.monotonic() - self.start
        if self.header is None:
            self.header = list(figures)
            self.writer.writerow(["step", "seconds", *self.header])
        self.writer.writerow([step, f"{self.spent + elapsed:.1f}", *(f"{figures[name]:.5g}" for name in self.header)])
        self.file.flush()
        left = elapsed / max(step - self.first, 1) * (self.steps - step)
        text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        print(f"{step}/{self.steps}  {elapsed:.0f}s, {left:.0f}s left  {text}", flush=True)


def decay_groups(parameters: Iterable[Tensor], weight_decay: float) -> list[dict]:
    """Weights decay; biases and norm gains (one-dimensional) do not."""
    parameters = [p for p in parameters if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
