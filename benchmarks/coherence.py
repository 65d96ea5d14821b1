"""Is the edge of a window to be seen? Long clips of the bundled model, every plan, fuse and place, read by detectors.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/coherence.py [--frames 256 --steps 12 --clips 4 --workers 2]
    python benchmarks/coherence.py --only attention/static      # what a row's name begins with

For each row: how much neighbouring frames differ where a window begins or ends, as a multiple of how much they differ
elsewhere, both the 95th percentile over all clips; 1 is an edge that is none. Behind it, between which numbers that is
in 19 of 20 cases if as many pairs of frames are taken for edges by chance. What differs: colour (of the thing, red,
green and blue), place (of its centre), size (its radius), by the evaluation's detectors, and pixels (mean over all of a
frame). A clip's changes are in units of their mean, so that clips count alike; a plan that shifts has the edges that it
has at the last step. `seen` is the share of frames that show the colour and the shape asked for. Fuses that come to the
same weights share a row.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from t2v_core.checkpoints import BUNDLED_PATH  # noqa: E402
from t2v_core.diffusion import ContextWindows, NoiseSchedule, sigmas_for  # noqa: E402
from t2v_core.diffusion.modifiers import noise_left  # noqa: E402
from t2v_core.training.evaluation.detect import read_frames  # noqa: E402
from t2v_core.training.evaluation.evaluate import Settings, generate, in_order  # noqa: E402
from t2v_core.windows import FUSES, PLACES, PLANS  # noqa: E402

if TYPE_CHECKING:
    from t2v_core.checkpoints import Bundled

# Colour, shape, and what is asked for with them.
PROMPTS = (
    ("red", "circle", "moving right on a white background"),
    ("yellow", "star", "moving down on a black background"),
    ("green", "triangle", "moving up on a navy background"),
    ("blue", "square", "moving left on a gray background"),
)
MEASURES = ("colour", "place", "size", "pixels")
DRAWS = 400


@dataclass(frozen=True)
class Job:
    """A clip: its windows, its prompt and seed, and how it is sampled."""

    windows: ContextWindows
    clip: int
    frames: int
    settings: Settings


@dataclass(frozen=True)
class Read:
    """Changes from each frame to the next, `[pairs]` by measure; which pairs lie across an edge; frames as asked."""

    changes: dict[str, Tensor]
    edges: Tensor
    seen: float


def noise_levels(settings: Settings, schedule: NoiseSchedule) -> list[float]:
    """The noise that is left at each step."""
    return [noise_left(schedule, sigma) for sigma in sigmas_for(settings.scheduler, schedule, settings.steps)[:-1]]


def edges(job: Job, schedule: NoiseSchedule) -> Tensor:
    """Which of the pairs of neighbours, the last one of a loop being its last and its first frame, lie across one."""
    found = torch.zeros(job.frames, dtype=torch.bool)
    for window in job.windows.at(job.frames, noise_levels(job.settings, schedule)[-1]).frames:
        found[window[0] - 1] = found[window[-1]] = True
    return found if PLANS[job.windows.plan].loops else found[:-1]


def read(bundled: Bundled, job: Job) -> Read:
    """Makes a clip and reads it."""
    colour, shape, rest = PROMPTS[job.clip % len(PROMPTS)]
    model = replace(bundled, model=bundled.model.patched(job.windows))
    frames = generate(model, f"a {colour} {shape} {rest}", 100 + job.clip, job.settings, job.frames)
    seen = read_frames(frames)
    values = {
        "colour": torch.tensor([frame.rgb for frame in seen]),
        "place": torch.tensor([(frame.x, frame.y) for frame in seen]),
        "size": torch.tensor([[frame.radius] for frame in seen]),
    }
    found = edges(job, bundled.model.denoiser.noise_schedule)
    changes = {name: (each.roll(-1, 0) - each).norm(dim=1)[: len(found)] for name, each in values.items()}
    changes["pixels"] = (frames.roll(-1, 0) - frames).abs().mean((1, 2, 3))[: len(found)]
    right = sum(frame.colour == colour and frame.shape == shape for frame in seen) / len(seen)
    return Read(changes, found, right)


def ratio(change: Tensor, edge: Tensor) -> float:
    """The 95th percentile of changes at edges over that of the others."""
    return float(change[edge].quantile(0.95) / change[~edge].quantile(0.95).clamp(min=1e-9))


def summary(reads: list[Read]) -> str:
    """A row's figures."""
    edge, figures = torch.cat([each.edges for each in reads]), []
    generator = torch.Generator().manual_seed(0)
    for name in MEASURES:
        change = torch.cat([each.changes[name] / each.changes[name].mean().clamp(min=1e-9) for each in reads])
        chance = torch.tensor([
            ratio(change, edge[torch.randperm(len(edge), generator=generator)]) for _ in range(DRAWS)
        ])  # fmt: skip
        low, high = chance.quantile(torch.tensor([0.025, 0.975])).tolist()
        figures.append(f"{ratio(change, edge):.2f} ({low:.2f} to {high:.2f})")
    mean = sum(float(each.changes["pixels"].mean()) for each in reads) / len(reads)
    return " | ".join([*figures, f"{100 * mean:.2f}", f"{sum(each.seen for each in reads) / len(reads):.2f}"])


def rows(arguments: argparse.Namespace, settings: Settings) -> dict[str, ContextWindows]:
    """The windows of each row, by its name."""
    levels = noise_levels(settings, NoiseSchedule.scaled_linear(zero_terminal_snr=True))
    found: dict[tuple, tuple[list[str], ContextWindows]] = {}
    for where, plan, fuse in product(reversed(PLACES), PLANS, FUSES):
        stride = 2 if plan == "uniform" else 1  # or it were static
        windows = ContextWindows(16, arguments.overlap, stride, plan, fuse, where)
        if not f"{where}/{plan}/{fuse}".startswith(arguments.only):
            continue
        plans = [windows.at(arguments.frames, left) for left in levels]
        alike = where, plan, *(tuple(each.weights.mul(1e4).round().flatten().tolist()) for each in plans)
        found.setdefault(alike, ([], windows))[0].append(fuse)
    return {f"{windows.where}/{windows.plan}/{', '.join(fuses)}": windows for fuses, windows in found.values()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, default in (("frames", 256), ("steps", 12), ("clips", 4), ("overlap", 4), ("workers", 2)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    settings = Settings(steps=arguments.steps)
    names = rows(arguments, settings)
    jobs = [Job(windows, clip, arguments.frames, settings)
            for windows in names.values() for clip in range(arguments.clips)]  # fmt: skip
    print(
        "| windows | " + " | ".join(MEASURES) + " | mean pixel change, % | seen |\n|---" + "|---" * 6 + "|", flush=True
    )
    reads = in_order(BUNDLED_PATH, read, jobs, arguments.workers)
    for name in names:
        print(f"| {name} | {summary(list(islice(reads, arguments.clips)))} |", flush=True)


if __name__ == "__main__":
    main()
