"""Does the model draw what the prompt says? Fixed prompts, fixed seeds, answers read by `detect`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ...checkpoints import Bundled, load_bundled
from ...diffusion import prepare_noise, sample, sigmas_for
from ...errors import T2VError
from ..clips.scenes import Scene, draw, sample_clip
from ..workers import worker_pool
from .detect import read
from .measures import Steadiness, steadiness
from .prompts import Prompt
from .sheets import film_strip

TOLD = 15.0  # seconds from one line of progress to the next

Job, Done = TypeVar("Job"), TypeVar("Done")


@dataclass(frozen=True)
class Settings:
    """How clips are sampled; the defaults are those of the shipped workflow.

    seed_shift: added to the seed of each clip of a fixed list, for other noise to the same prompts.
    """

    steps: int = 12
    cfg: float = 1.25
    sampler: str = "dpmpp_2m"
    scheduler: str = "normal"
    seed_shift: int = 0


@dataclass(frozen=True)
class Result:
    """What became of a prompt.

    right: of all that the prompt says, by the names of `Reading.matches`. seen: what was read.
    steady: None where another number of things was seen than asked for; drawn: the same of a clip as training draws it.
    strip: what `film_strip` made of its frames.
    """

    prompt: Prompt
    right: dict[str, bool]
    seen: Scene
    steady: Steadiness | None
    drawn: Steadiness | None
    strip: bytes

    @property
    def all_right(self) -> bool:
        return all(self.right.values())


def generate(bundled: Bundled, text: str, seed: int, settings: Settings, frames: int | None = None) -> Tensor:
    """One clip of the model's own size, `[f, h, w, 3]` in 0..1; `frames` None: of its own length, too."""
    return _clip(bundled, bundled.prompt_encoder.encode(text)[0], frames, seed, settings)


def generate_changing(bundled: Bundled, before: str, after: str, weights: Sequence[float], seed: int,
                      settings: Settings) -> Tensor:  # fmt: skip
    """One clip `[f, h, w, 3]` in 0..1 whose prompt changes: `weights` holds the share of `after` in each frame's text.

    Raises T2VError where one prompt takes more chunks than the other.
    """
    first, last = (bundled.prompt_encoder.encode(text)[0] for text in (before, after))
    if first.shape != last.shape:
        raise T2VError(
            f"the prompts are {first.shape[1]} and {last.shape[1]} tokens long; to mix them, make them alike"
        )
    share = torch.tensor(weights, dtype=first.dtype)[:, None, None]
    return _clip(bundled, torch.lerp(first, last, share), len(weights), seed, settings)


@torch.no_grad()
def _clip(bundled: Bundled, cond: Tensor, frames: int | None, seed: int, settings: Settings) -> Tensor:
    model, native = bundled.model, bundled.model.native
    step = bundled.autoencoder.config.downscale
    shape = (frames or native.num_frames, 4, native.height // step, native.width // step)
    uncond = bundled.prompt_encoder.encode("")[0]
    sigmas = sigmas_for(settings.scheduler, model.denoiser.noise_schedule, settings.steps)
    noise = prepare_noise(shape, seed)
    latents = sample(model, torch.zeros(shape), cond, uncond, noise=noise, sampler=settings.sampler, sigmas=sigmas,
                     cfg=settings.cfg, seed=seed)  # fmt: skip
    return (bundled.autoencoder.decode(latents) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)


def evaluate(path: Path, prompts: Sequence[Prompt], settings: Settings = Settings(),  # noqa: B008 (frozen)
             workers: int = 2) -> Iterator[Result]:  # fmt: skip
    """Generate and read a clip for each prompt with the model in `path`; results in the prompts' order.

    They do not depend on `workers`, processes of one thread each. Progress goes to stderr.
    Raises CheckpointError where there is no model in `path`.
    """
    return in_order(path, partial(_result, settings=settings), shifted(prompts, settings), workers)


def shifted(jobs: Sequence[Job], settings: Settings) -> list[Job]:
    """The jobs, dataclasses with a `seed`, with the settings' shift added to it."""
    return [replace(job, seed=job.seed + settings.seed_shift) for job in jobs]


def _result(bundled: Bundled, prompt: Prompt, settings: Settings) -> Result:
    frames = generate(bundled, prompt.text, prompt.seed, settings, prompt.frames)
    reading = read(frames)
    right = {name: value for name, value in reading.matches(prompt.scene).items() if name in prompt.judged}
    clip = sample_clip(prompt.scene, torch.Generator().manual_seed(prompt.seed), prompt.frames)
    drawn = draw(clip, frames.shape[1]).permute(0, 2, 3, 1)
    return Result(
        prompt, right, reading.scene, steadiness(frames, reading, prompt), steadiness(drawn, read(drawn), prompt),
        film_strip(frames),
    )  # fmt: skip


@lru_cache(maxsize=1)
def _model(path: Path) -> Bundled:
    """Read once by each process."""
    return load_bundled(path=path)


def _with_model(path: Path, work: Callable[[Bundled, Job], Done], job: Job) -> Done:
    return work(_model(path), job)


def in_order(path: Path, work: Callable[[Bundled, Job], Done], jobs: Sequence[Job], workers: int) -> Iterator[Done]:
    """`work(model, job)` for each job, in the jobs' order, by processes of one thread each; progress on stderr.

    work: a function of a module, or a `partial` of one. The file is read once by each process.
    Raises T2VError for less than one worker, and what `work` raises.
    """
    started = told = time.monotonic()
    with worker_pool(workers) as pool:
        for done, result in enumerate(pool.map(partial(_with_model, path, work), jobs), start=1):
            now = time.monotonic()
            if now - told >= TOLD or done == len(jobs):
                elapsed, told = now - started, now
                left = elapsed / done * (len(jobs) - done)
                print(f"{done}/{len(jobs)} clips  {elapsed:.0f}s, {left:.0f}s left", file=sys.stderr, flush=True)
            yield result
