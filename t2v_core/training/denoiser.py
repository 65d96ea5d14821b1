"""Train the denoiser on cached latents: v prediction at zero terminal SNR, text encoder frozen."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor

from ..diffusion.noise_schedule import NoiseSchedule
from ..errors import T2VError
from ..models.autoencoder import Autoencoder
from ..models.embeddings import TextPool
from ..models.text_encoder import TextEncoder
from ..models.unet3d import UNet3D, UNet3DConfig
from .captions import Caption, free_caption, plain_caption
from .loop import Average, Log, decay_groups, load, save, warm_constant_linear
from .shapes import OPPOSITE, SEEN, Attributes, draw, sample_clip
from .text import NAMES, token_ids
from .text import trained as trained_text

CONFIG = UNet3DConfig(
    widths=(48, 64, 80),
    attention=(False, True, False),
    blocks_per_level=1,
    context_dim=96,
    head_dim=16,
    input_heads=4,
    norm_groups=8,
    ff_mult=2,
    text_queries=len(NAMES),
    scale_shift=True,
    frame_position=True,
    coordinates=True,
)
EMPTY = Caption("", frozenset())


@torch.no_grad()
def cache_latents(network: Autoencoder, scale: float, clips: int, seed: int, out: Path) -> Path:
    """Draw and encode `clips` seen clips; latents fp16 `[clips, 4, 16, 8, 8]`, unit variance, to `latents.pt`."""
    generator = torch.Generator().manual_seed(seed)
    latents, indices = [], []
    for _ in range(clips):
        index = int(torch.randint(len(SEEN), (), generator=generator))
        frames = draw(sample_clip(SEEN[index], generator)) * 2 - 1
        encoded = network.encode(frames.contiguous(memory_format=torch.channels_last)) * scale
        latents.append(encoded.transpose(0, 1).half())
        indices.append(index)
    save({"latents": torch.stack(latents), "indices": torch.tensor(indices)}, out / "latents.pt")
    return out / "latents.pt"


def _reversed(attributes: Attributes) -> Attributes:
    """What a clip shows when it is played backwards."""
    return replace(attributes, motion=OPPOSITE.get(attributes.motion, attributes.motion))


class Batches:
    """Random clips with a caption each: played backwards half of the time, the caption dropped in one of ten."""

    def __init__(self, latents: Tensor, indices: Tensor, encoder: TextEncoder):
        self.latents, self.indices, self.encoder = latents, indices, encoder

    def draw(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents `[size, 4, 16, 8, 8]` and text features `[size, 24, 96]`."""
        chosen = torch.randint(len(self.latents), (size,), generator=generator)
        latents = self.latents[chosen].float()
        captions = []
        for row, index in enumerate(self.indices[chosen].tolist()):
            attributes = SEEN[index]
            backwards, plain, dropped = torch.rand(3, generator=generator).tolist()
            if backwards < 0.5 and not _reversed(attributes).held_out:
                attributes, latents[row] = _reversed(attributes), latents[row].flip(1)
            if dropped < 0.1:
                captions.append(EMPTY)
            elif plain < 0.2:
                captions.append(Caption(plain_caption(attributes), frozenset(NAMES)))
            else:
                captions.append(free_caption(attributes, generator))
        with torch.no_grad():
            return latents, self.encoder(token_ids(captions))[0]


def velocity_error(network: UNet3D, schedule: NoiseSchedule, x0: Tensor, text: Tensor, timesteps: Tensor,
                   noise: Tensor) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Per clip, mean squared error of the predicted velocity (Salimans & Ho 2202.00512) and its weight.

    The weight, min(1, 6 (1 - alpha_bar)), keeps the nearly clean steps from outweighing the rest (Hang et al.
    2303.09556).
    """
    sigma = schedule.sigmas[timesteps].view(-1, 1, 1, 1, 1)
    signal, spread = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
    velocity = network(signal * x0 + spread * noise, timesteps, text)
    error = (velocity - (signal * noise - spread * x0)).square().mean((1, 2, 3, 4))
    return error, (6 * spread.flatten() ** 2).clamp(max=1)


@torch.no_grad()
def sensitivity(network: UNet3D, schedule: NoiseSchedule, latents: Tensor, indices: Tensor,
                encoder: TextEncoder) -> dict[str, float]:  # fmt: skip
    """How much worse the denoiser does when the caption lies: error ratio, wrong over right, per attribute.

    Direction at timestep 900 (it is decided early), shape and colour at 600, on fixed clips and noise. About 1 means
    that the word is not read. Far cheaper than generating, and it shows a broken text path within minutes.
    """
    generator = torch.Generator().manual_seed(99)
    chosen = [i for i in range(len(indices)) if SEEN[int(indices[i])].motion in ("right", "left", "up", "down")][:24]
    x0, attributes = latents[chosen].float(), [SEEN[int(indices[i])] for i in chosen]
    noise = torch.randn(x0.shape, generator=generator)

    def error(timestep: int, described: list[Attributes]) -> float:
        text = encoder(token_ids([Caption(plain_caption(a), frozenset(NAMES)) for a in described]))[0]
        timesteps = torch.full((len(x0),), timestep)
        return velocity_error(network, schedule, x0, text, timesteps, noise)[0].mean().item()

    shapes = {"circle": "square", "square": "circle", "triangle": "star", "star": "triangle"}
    wrong_shape = [replace(a, shape=shapes[a.shape]) for a in attributes]
    wrong_colour = [replace(a, colour="green" if a.colour != "green" else "red") for a in attributes]
    return {
        "direction": error(900, [_reversed(a) for a in attributes]) / error(900, attributes),
        "shape": error(600, wrong_shape) / error(600, attributes),
        "colour": error(600, wrong_colour) / error(600, attributes),
    }


def build(pool: TextPool, seed: int) -> UNet3D:
    """A fresh denoiser with silent residual branches and the frozen pool of the text stage."""
    torch.manual_seed(seed)
    network = UNet3D(CONFIG)
    network.zero_initialise()
    network.text_pool.load_state_dict(pool.state_dict())
    network.text_pool.requires_grad_(False)
    return network


@dataclass(frozen=True)
class Run:
    """One training run; every field changes the result. `batch` clips a step are shared out evenly to `workers`.

    Workers are processes of one thread each: on a few cores they use them better than threads inside small operations.
    """

    steps: int = 7600
    batch: int = 12
    workers: int = 2
    seed: int = 0
    learning_rate: float = 1e-3
    hold: float = 0.4

    def __post_init__(self) -> None:
        if self.workers < 1 or self.batch % self.workers:
            raise T2VError(f"a batch of {self.batch} clips cannot be shared out evenly to {self.workers} workers")


def _generator(run: Run, step: int, worker: int) -> torch.Generator:
    """Randomness is a function of the step, so a resumed run draws what the uninterrupted one would have."""
    return torch.Generator().manual_seed((run.seed * 1_000_003 + step) * 64 + worker)


def _gradients(network: UNet3D, schedule: NoiseSchedule, batches: Batches, run: Run, step: int, worker: int) -> float:
    """Leave this step's gradient, averaged over the workers, on the network; returns this worker's own loss."""
    generator, share = _generator(run, step, worker), run.batch // run.workers
    x0, text = batches.draw(share, generator)
    strata = torch.arange(share) * run.workers + worker + torch.rand(share, generator=generator)
    timesteps = (strata / run.batch * len(schedule.sigmas)).long()
    noise = torch.randn(x0.shape, generator=generator)
    error, weight = velocity_error(network, schedule, x0, text, timesteps, noise)
    loss = (error * weight).mean()
    if not math.isfinite(loss.item()):
        raise FloatingPointError(f"the loss is {loss.item()} at step {step}")
    loss.backward()
    if run.workers > 1:
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = torch.nn.utils.parameters_to_vector(gradients)
        torch.distributed.all_reduce(flat)
        torch.nn.utils.vector_to_parameters(flat / run.workers, gradients)
    return loss.item()


def _work(worker: int, out: Path, latents_path: Path, text_path: Path, run: Run, rendezvous: str,
          last: int | None = None) -> None:  # fmt: skip
    """One worker's run up to step `last` (None: to its end); worker 0 also logs, averages and saves."""
    if run.workers > 1:
        torch.set_num_threads(1)
        torch.distributed.init_process_group("gloo", f"file://{rendezvous}", rank=worker, world_size=run.workers)
    encoder, pool = trained_text(text_path)
    data, path = load(latents_path), out / "denoiser.pt"
    batches = Batches(data["latents"], data["indices"], encoder)
    schedule = NoiseSchedule.scaled_linear(zero_terminal_snr=True)
    network = build(pool, run.seed)
    average = Average(network, 0.998)
    optimiser = torch.optim.AdamW(
        decay_groups(network.parameters(), 0.01), lr=run.learning_rate, betas=(0.9, 0.99), fused=True
    )
    first = 0
    if path.exists():
        state = load(path)
        network.load_state_dict(state["weights"])
        optimiser.load_state_dict(state["optimiser"])
        average.values, average.count, first = state["average"], state["step"], state["step"]
    log = Log(out / f"denoiser-{first}.csv", run.steps, 50, first) if worker == 0 else None
    last = run.steps if last is None else last
    for step in range(first, last):
        for group in optimiser.param_groups:
            group["lr"] = run.learning_rate * warm_constant_linear(step, run.steps, 100, run.hold)
        optimiser.zero_grad(set_to_none=True)
        loss = _gradients(network, schedule, batches, run, step, worker)
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        if log is None:
            continue
        average.update(network)
        log.add(step, loss=loss, norm=norm.item())
        if (step + 1) % 250 == 0 or step + 1 == last:
            state = {"weights": network.state_dict(), "average": average.values, "optimiser": optimiser.state_dict()}
            save({**state, "step": step + 1}, path)
        if (step + 1) % 500 == 0:
            figures = sensitivity(network, schedule, data["latents"], data["indices"], encoder)
            print("wrong over right:", {name: round(value, 3) for name, value in figures.items()}, flush=True)


def train(out: Path, latents_path: Path, text_path: Path, run: Run = Run()) -> Path:  # noqa: B008 (frozen)
    """Train and write `denoiser.pt` under `out`; goes on from the file if it is there."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (out, latents_path, text_path, run, f"{folder}/rendezvous")
        if run.workers == 1:
            _work(0, *arguments)
        else:
            torch.multiprocessing.spawn(_work, arguments, nprocs=run.workers)
    return out / "denoiser.pt"


def trained(path: Path) -> UNet3D:
    """The averaged network of `path`."""
    network = UNet3D(CONFIG)
    network.load_state_dict(load(path)["average"])
    return network.eval().requires_grad_(False)
