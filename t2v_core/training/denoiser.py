"""Train the denoiser on cached latents: v prediction at zero terminal SNR, text encoder frozen."""

from __future__ import annotations

import math
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor, nn

from ..diffusion.noise_schedule import NoiseSchedule
from ..errors import T2VError
from ..models.unet3d import UNet3D, UNet3DConfig
from . import text as texts
from .latents import Clips, read_cache
from .loop import Average, Log, load, save, warm_root_linear
from .muon import Muon
from .probes import PROBES, sensitivity
from .workers import process_group

CONFIG = UNet3DConfig(
    widths=(32, 48, 64, 80),
    attention=(False, True, True, False),
    blocks_per_level=1,
    context_dim=96,
    head_dim=16,
    input_heads=2,
    norm_groups=8,
    ff_mult=2,
    text_queries=len(texts.FIELDS),
    scale_shift=True,
    frame_position=True,
    coordinates=True,
    embedding_dim=256,
)
LOGGED, SAVED, PROBED = 50, 250, 500  # steps from one to the next
WARMUP = 100
NOISY = 900.0  # the timestep from which there is next to nothing of a clip to be seen


@dataclass(frozen=True)
class Run:
    """One training run; every field changes the result. `batch` clips a step are shared out evenly to `workers`.

    Workers are processes of one thread each: on a few cores they use them better than threads inside small operations.
    On a GPU there is one.
    """

    steps: int = 6000
    batch: int = 12
    workers: int = 2
    seed: int = 0
    learning_rate: float = 0.02
    """Muon's, for the matrices."""
    adam_learning_rate: float = 2e-3
    """For all the rest: the first and the last layer, gains, offsets."""
    tail: float = 0.3
    """The last share of the run, over which the learning rate falls to 0."""
    tilt: float = 0.75
    """Timesteps are 1000 u^tilt for uniform u: below 1, more of them are noisy, where layout and motion are decided."""
    alone: int = 400
    """Steps at the start on clips of one thing alone, nearly all noise: there the prompt is all there is to go by, and
    what words mean for the picture as a whole is learned in a tenth of the steps that it takes among other clips."""
    outlined: int = 1500
    """The step from which all timesteps are drawn; from `alone` to there, ever less noisy ones too."""
    longer: float = 0.12
    """Share of the steps that are on the longer clips."""
    average: float = 0.998
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.workers < 1 or self.batch % self.workers:
            raise T2VError(f"a batch of {self.batch} clips cannot be shared out evenly to {self.workers} workers")


def velocity_error(network: UNet3D, schedule: NoiseSchedule, x0: Tensor, text: Tensor, timesteps: Tensor,
                   noise: Tensor) -> Tensor:  # fmt: skip
    """Per clip, mean squared error of the predicted velocity (Salimans & Ho 2202.00512)."""
    sigma = schedule.sigmas.to(x0.device)[timesteps].view(-1, 1, 1, 1, 1)
    signal, spread = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
    velocity = network(signal * x0 + spread * noise, timesteps, text)
    return (velocity - (signal * noise - spread * x0)).square().mean((1, 2, 3, 4))


def weights_of(schedule: NoiseSchedule, timesteps: Tensor) -> Tensor:
    """min(1, 6 (1 - alpha_bar)): keeps the nearly clean steps from outweighing the rest (Hang et al. 2303.09556)."""
    squared = schedule.sigmas[timesteps] ** 2
    return (6 * squared / (1 + squared)).clamp(max=1)


def build(text: texts.Trained, seed: int) -> UNet3D:
    """A fresh denoiser with silent residual branches and the frozen pool and answers of the text stage.

    What the blocks are told starts out large. Where a thing is hangs on the product of its way and the frame, and the
    silu behind their sum makes products only of what is not small: with the usual small weights nothing of a direction
    was read after 2400 clips of things moving straight, with these it was read after 1600.
    """
    torch.manual_seed(seed)
    network = UNet3D(CONFIG)
    network.zero_initialise()
    network.text_pool.load_state_dict(text.pool.state_dict())
    network.text_pool.requires_grad_(False)
    network.text_embed = nn.Sequential(text.answers, nn.Linear(text.answers.out_features, CONFIG.time_dim))
    with torch.no_grad():
        for layer, gain in ((network.time_embed[2], 4), (network.text_embed[1], 4), (network.frame_embed, 8)):
            layer.weight.mul_(gain)
    return network


def folded(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of what `build` makes as a UNet3D has them: answers and the layer behind them as one."""
    weights = dict(weights)
    (first, offset), (second, bias) = (
        [weights.pop(f"text_embed.{place}.{name}") for name in ("weight", "bias")] for place in (0, 1)
    )
    return {**weights, "text_embed.weight": second @ first, "text_embed.bias": second @ offset + bias}


def optimisers(network: UNet3D, run: Run) -> tuple[Muon, torch.optim.AdamW]:
    """Muon for what is a matrix inside the network, Adam for the rest."""
    matrices, rest = [], []
    for name, weight in network.named_parameters():
        if weight.requires_grad:
            edge = name.startswith(("input_blocks.0.0.", "out."))
            (rest if edge or weight.ndim < 2 else matrices).append(weight)
    return Muon(matrices, run.learning_rate), torch.optim.AdamW(
        rest, lr=run.adam_learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True
    )


def _generator(run: Run, step: int, worker: int) -> torch.Generator:
    """Randomness is a function of the step, so a resumed run draws what the uninterrupted one would have."""
    return torch.Generator().manual_seed((run.seed * 1_000_003 + step) * 64 + worker)


def least_timestep(run: Run, step: int) -> float:
    """Clips of this step have at least so much noise."""
    return NOISY * min(1.0, max(0.0, (run.outlined - step) / max(1, run.outlined - run.alone)))


def _gradients(network: UNet3D, schedule: NoiseSchedule, clips: list[Clips], run: Run, step: int,
               worker: int) -> float:  # fmt: skip
    """Leave the gradient of this worker's share of the step on the network; returns its loss."""
    shared = _generator(run, step, 63)  # the same for all workers
    longer = step >= run.alone and len(clips) > 1 and torch.rand((), generator=shared).item() < run.longer
    generator, share = _generator(run, step, worker), run.batch // run.workers
    if longer:
        share = max(1, share * 2 // 3)  # of the same cost
    drawn = clips[longer] if step >= run.alone else clips[0].alone
    x0, text = drawn.draw(share, generator)
    strata = (torch.arange(share) * run.workers + worker + torch.rand(share, generator=generator)) / share / run.workers
    least = least_timestep(run, step)
    timesteps = (least + strata**run.tilt * (len(schedule.sigmas) - least)).long()
    noise = torch.randn(x0.shape, generator=generator)
    error = velocity_error(network, schedule, *(each.to(run.device) for each in (x0, text, timesteps, noise)))
    loss = (error * weights_of(schedule, timesteps).to(run.device)).mean()
    if not math.isfinite(loss.item()):
        raise FloatingPointError(f"the loss is {loss.item()} at step {step}")
    loss.backward()
    return loss.item()


def _averaged_and_clipped(network: UNet3D, workers: int) -> float:
    """Gives every worker the mean of all their gradients, clipped to a norm of 1; returns the norm it had."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.nn.utils.parameters_to_vector(gradients)
    if workers > 1:
        torch.distributed.all_reduce(flat)
        flat /= workers
    norm = flat.norm().item()
    torch.nn.utils.vector_to_parameters(flat.mul_(min(1.0, 1 / (norm + 1e-6))), gradients)
    return norm


class _Worker:
    """One of the processes of a run: the network, its optimisers, and, in the first worker, average and logs."""

    def __init__(self, number: int, out: Path, latents_path: Path, text_path: Path, run: Run):
        text = texts.trained(text_path)
        self.number, self.run, self.path = number, run, out / "denoiser.pt"
        self.clips = read_cache(latents_path, text.encoder)
        self.schedule = NoiseSchedule.scaled_linear(zero_terminal_snr=True)
        self.network = build(text, run.seed).to(run.device)
        self.average = Average(self.network, run.average)
        self.optimisers = optimisers(self.network, run)
        self.rates = [[group["lr"] for group in each.param_groups] for each in self.optimisers]
        self.first = self._restore() if self.path.exists() else 0
        if number == 0:
            self.log = Log(out / "denoiser.csv", run.steps, LOGGED, self.first)
            self.words = Log(out / "words.csv", run.steps, PROBED, self.first)

    def _restore(self) -> int:
        """Takes up the run where the file left it; returns the step to go on from."""
        state = load(self.path)
        self.network.load_state_dict(state["weights"])
        for each, kept in zip(self.optimisers, state["optimisers"], strict=True):
            each.load_state_dict(kept)
        self.average.values, self.average.count = state["average"], state["step"]
        return state["step"]

    def _save(self, step: int) -> None:
        state = {"weights": self.network.state_dict(), "average": self.average.values, "step": step}
        save({**state, "optimisers": [each.state_dict() for each in self.optimisers]}, self.path)

    def step(self, step: int) -> dict[str, float]:
        """Learns from one batch; returns what there is to log."""
        factor = warm_root_linear(step, self.run.steps, WARMUP, self.run.tail)
        for each, starting in zip(self.optimisers, self.rates, strict=True):
            for group, rate in zip(each.param_groups, starting, strict=True):
                group["lr"] = rate * factor
            each.zero_grad(set_to_none=True)
        loss = _gradients(self.network, self.schedule, self.clips, self.run, step, self.number)
        norm = _averaged_and_clipped(self.network, self.run.workers)
        for each in self.optimisers:
            each.step()
        return {"loss": loss, "norm": norm}

    def go(self, last: int) -> None:
        """The steps up to `last`; the first worker keeps and shows what there is of them."""
        parent = torch.multiprocessing.parent_process()
        for step in range(self.first, last):
            if parent is not None and not parent.is_alive():
                return  # it was killed: its workers must not go on without it
            figures = self.step(step)
            if self.number == 0:
                self.average.update(self.network)
                self.log.add(step, **figures)
            if (step + 1) % PROBED == 0:
                self._probe(step + 1)
            if self.number == 0 and ((step + 1) % SAVED == 0 or step + 1 == last):
                self._save(step + 1)  # after the logs: a run that goes on from here has them whole

    def _probe(self, step: int) -> None:
        """Which words the network reads; each worker asks about its share of them."""
        names = list(PROBES)[self.number :: self.run.workers]
        found = sensitivity(velocity_error, self.network, self.schedule, self.clips[0], names)
        values = torch.tensor([found.get(name, 0.0) for name in PROBES])
        if self.run.workers > 1:
            torch.distributed.all_reduce(values)
        if self.number == 0:
            rows = zip(PROBES, values.tolist(), strict=True)
            self.words.row(step, {name: value for name, value in rows if value})


def _work(number: int, out: Path, latents_path: Path, text_path: Path, run: Run, rendezvous: str,
          last: int | None) -> None:  # fmt: skip
    with process_group(number, run.workers, rendezvous) if run.workers > 1 else nullcontext():
        _Worker(number, out, latents_path, text_path, run).go(run.steps if last is None else last)


def train(out: Path, latents_path: Path, text_path: Path, run: Run = Run(),  # noqa: B008 (frozen)
          last: int | None = None) -> Path:  # fmt: skip
    """Train up to step `last` (None: to the end) and write `denoiser.pt` under `out`; one that is there goes on."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (out, latents_path, text_path, run, f"{folder}/rendezvous", last)
        if run.workers == 1:
            _work(0, *arguments)
        else:
            torch.multiprocessing.spawn(_work, arguments, nprocs=run.workers)
    return out / "denoiser.pt"


def trained(path: Path) -> UNet3D:
    """The averaged network of `path`."""
    network = UNet3D(CONFIG)
    network.load_state_dict(folded(load(path)["average"]))
    return network.eval().requires_grad_(False)
