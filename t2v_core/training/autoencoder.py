"""Train the image autoencoder: crops round the shapes twice, whole frames once, in turn."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.autoencoder import Autoencoder, AutoencoderConfig
from .clips.mixture import choose, random_scene
from .clips.scenes import SIZE, Clip, draw, sample_clip
from .loop import Average, Log, decay_groups, load, save, warm_constant_linear

CONFIG = AutoencoderConfig(widths=(64, 96), deep_blocks=2, patch=4, encoder_widths=(32, 64))


@dataclass(frozen=True)
class Run:
    """One training run. frames: how many are drawn, once, and used again and again."""

    steps: int = 5000
    frames: int = 9000
    seed: int = 0
    learning_rate: float = 1.2e-3
    noise: float = 0.08
    """Added to the latents, so that the decoder forgives a denoiser's errors."""
    crops: int = 48
    crop: int = 48
    """Their side, a multiple of 8."""
    wholes: int = 14


def _one_frame(clip: Clip, index: int) -> Clip:
    layers = (
        replace(each, x=each.x[index : index + 1], y=each.y[index : index + 1], radius=each.radius[index : index + 1])
        for each in clip.layers
    )
    return replace(clip, layers=tuple(layers), view=clip.view and clip.view[index : index + 1])


@dataclass(frozen=True)
class Pool:
    """Drawn frames, uint8 `[n, 3, SIZE, SIZE]`; where the things are, `[n, SIZE, SIZE]`; one's centre, `[n, 2]`."""

    frames: Tensor
    foreground: Tensor
    centres: Tensor


def draw_pool(frames: int, seed: int) -> Pool:
    """Frames of scenes of all kinds, held out or not: the autoencoder reads no captions."""
    generator = torch.Generator().manual_seed(seed)
    pixels, foreground, centres = [], [], []
    for _ in range(frames):
        clip = sample_clip(random_scene(generator, held_out=bool(torch.rand((), generator=generator) < 0.3)), generator)
        clip = _one_frame(clip, int(torch.randint(len(clip.layers[0].x), (), generator=generator)))
        empty = replace(clip, layers=(replace(clip.layers[0], x=(-9.0,), radius=(0.01,)),))
        image, ground = draw(clip)[0], draw(empty)[0]
        foreground.append((image - ground).abs().amax(0) > 0.03)
        pixels.append((image * 255).round().byte())
        layer = choose(clip.layers, generator)
        centres.append(torch.tensor([layer.y[0], layer.x[0]]))
    return Pool(torch.stack(pixels), torch.stack(foreground), torch.stack(centres))


def _batch(pool: Pool, run: Run, crops: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images in -1..1 and their foreground masks: crops round a thing, or whole frames."""
    count, side = (run.crops, run.crop) if crops else (run.wholes, SIZE)
    chosen = torch.randint(len(pool.frames), (count,), generator=generator)
    images, masks = pool.frames[chosen], pool.foreground[chosen]
    if crops:
        shift = torch.randint(-side // 5, side // 5 + 1, (count, 2), generator=generator)
        # Multiples of 8 keep the crop on the latent grid that a whole frame would have.
        corner = ((pool.centres[chosen] * SIZE - side / 2 + shift) / 8).round().long().clamp(0, (SIZE - side) // 8) * 8
        rows = [(slice(int(y), int(y) + side), slice(int(x), int(x) + side)) for y, x in corner]
        images = torch.stack([image[:, r, c] for image, (r, c) in zip(images, rows, strict=True)])
        masks = torch.stack([mask[r, c] for mask, (r, c) in zip(masks, rows, strict=True)])
    return images.float() / 127.5 - 1, masks[:, None]


def loss_of(network: Autoencoder, images: Tensor, mask: Tensor, noise: Tensor,
            latent_penalty: float) -> tuple[Tensor, Tensor]:  # fmt: skip
    """L1 + 2 MSE with the shape weighted 4x, plus a pull of the latents to zero that the fixed noise pushes against."""
    latents = network.encode(images)
    error = network.decode(latents + noise) - images
    weight = 1 + 3 * mask.float()
    reconstruction = (weight * (error.abs() + 2 * error.square())).mean()
    return reconstruction + latent_penalty * latents.square().mean(), error.square().mean()


@torch.no_grad()
def statistics(network: Autoencoder, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the latents per channel, `[4]` each, over `frames` uint8 `[n, 3, H, W]`."""
    latents = torch.cat([network.encode(part.float() / 127.5 - 1) for part in frames.split(64)])
    return latents.mean((0, 2, 3)), latents.std((0, 2, 3))


@torch.no_grad()
def preview_factors(network: Autoencoder, scale: float, frames: int = 600) -> tuple[tuple[float, ...], ...]:
    """The linear map from latents times `scale` to colours in -1..1 that fits drawn frames, an eighth of their size,
    best (least squares): a row of red, green and blue for each channel, then an offset."""
    drawn = draw_pool(frames, 4243).frames.float() / 127.5 - 1
    latents = torch.cat([network.encode(part) * scale for part in drawn.split(64)])
    colours = F.avg_pool2d(drawn, network.config.downscale).movedim(1, -1).reshape(-1, 3)
    inputs = latents.movedim(1, -1).reshape(len(colours), -1)
    solution = torch.linalg.lstsq(F.pad(inputs, (0, 1), value=1.0).double(), colours.double()).solution
    return tuple(tuple(round(value, 4) for value in row) for row in solution.tolist())


def train(out: Path, run: Run = Run()) -> Path:  # noqa: B008 (frozen)
    """Train and write `autoencoder.pt` (averaged weights, latent statistics not yet folded) under `out`."""
    torch.manual_seed(run.seed)
    pool = draw_pool(run.frames, run.seed + 1)
    generator = torch.Generator().manual_seed(run.seed + 2)
    network = Autoencoder(CONFIG).to(memory_format=torch.channels_last)
    average = Average(network, 0.995)
    optimiser = torch.optim.AdamW(decay_groups(network.parameters(), 1e-4), lr=run.learning_rate, betas=(0.9, 0.99))
    log = Log(out / "autoencoder.csv", run.steps, 50)
    for step in range(run.steps):
        for group in optimiser.param_groups:
            group["lr"] = run.learning_rate * warm_constant_linear(step, run.steps, 50, 0.3)
        images, mask = _batch(pool, run, step % 3 != 2, generator)
        side = images.shape[-1] // network.config.downscale
        jitter = run.noise * torch.randn(len(images), CONFIG.latent_channels, side, side, generator=generator)
        loss, squared = loss_of(network, images.contiguous(memory_format=torch.channels_last), mask, jitter, 1e-4)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        average.update(network)
        log.add(step, loss=loss.item(), psnr=10 * math.log10(4 / squared.item()))
        if (step + 1) % 300 == 0 or step + 1 == run.steps:
            save({"weights": average.values, "step": step + 1}, out / "autoencoder.pt")
    return out / "autoencoder.pt"


def trained(path: Path, scale: float, frames: int = 1200) -> Autoencoder:
    """The network of `path` with its latent statistics folded in (standard deviation 1/`scale`, mean 0 per channel)."""
    network = Autoencoder(CONFIG)
    network.load_state_dict(load(path)["weights"])
    network.eval().requires_grad_(False)
    network.fold_statistics(*statistics(network, draw_pool(frames, 4242).frames), scale)
    return network
