"""Train the image autoencoder: crops round the shape twice, whole frames once, in turn."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.autoencoder import Autoencoder
from .loop import Average, Log, decay_groups, load, save, warm_constant_linear
from .shapes import COMBINATIONS, draw, sample_clip

CROP = 32


def draw_pool(clips: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Frames uint8 `[clips, 16, 3, 64, 64]`, foreground bool `[clips, 16, 64, 64]`, centres (y, x) `[clips, 16, 2]`."""
    generator = torch.Generator().manual_seed(seed)
    frames, foreground, centres = [], [], []
    for _ in range(clips):
        attributes = COMBINATIONS[int(torch.randint(len(COMBINATIONS), (), generator=generator))]
        clip = sample_clip(attributes, generator)
        pixels = draw(clip)
        background = torch.tensor(clip.background_rgb)[:, None, None]
        foreground.append((pixels - background).abs().amax(1) > 0.03)
        frames.append((pixels * 255).round().byte())
        centres.append(torch.tensor([clip.y, clip.x]).T)
    return torch.stack(frames), torch.stack(foreground), torch.stack(centres)


def _batch(pool: tuple[Tensor, Tensor, Tensor], crops: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images in -1..1 and their foreground masks: 48 crops of 32x32 round the shape, or 16 whole frames."""
    frames, foreground, centres = pool
    count = 48 if crops else 16
    clip = torch.randint(frames.shape[0], (count,), generator=generator)
    frame = torch.randint(frames.shape[1], (count,), generator=generator)
    images, masks = frames[clip, frame], foreground[clip, frame]
    if crops:
        size = images.shape[-1]
        shift = torch.randint(-6, 7, (count, 2), generator=generator)
        # Multiples of 8 keep the crop on the latent grid that a whole frame would have.
        corner = ((centres[clip, frame] * size - CROP / 2 + shift) / 8).round().long().clamp(0, (size - CROP) // 8) * 8
        rows = [(slice(int(y), int(y) + CROP), slice(int(x), int(x) + CROP)) for y, x in corner]
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
    latents = torch.cat([network.encode(part.float() / 127.5 - 1) for part in frames.split(256)])
    return latents.mean((0, 2, 3)), latents.std((0, 2, 3))


@torch.no_grad()
def preview_factors(network: Autoencoder, scale: float, clips: int = 60) -> tuple[tuple[float, ...], ...]:
    """The linear map from latents times `scale` to colours in -1..1 that fits drawn frames, an eighth of their size,
    best (least squares): a row of red, green and blue for each channel, then an offset."""
    frames = draw_pool(clips, 4243)[0].flatten(0, 1).float() / 127.5 - 1
    latents = torch.cat([network.encode(part) * scale for part in frames.split(256)])
    colours = F.avg_pool2d(frames, network.config.downscale).movedim(1, -1).reshape(-1, 3)
    inputs = latents.movedim(1, -1).reshape(len(colours), -1)
    solution = torch.linalg.lstsq(F.pad(inputs, (0, 1), value=1.0).double(), colours.double()).solution
    return tuple(tuple(round(value, 4) for value in row) for row in solution.tolist())


def train(out: Path, steps: int = 3600, clips: int = 1600, seed: int = 0, learning_rate: float = 1.2e-3,
          noise: float = 0.05) -> Path:  # fmt: skip
    """Train and write `autoencoder.pt` (averaged weights, latent statistics not yet folded) under `out`."""
    torch.manual_seed(seed)
    pool = draw_pool(clips, seed + 1)
    generator = torch.Generator().manual_seed(seed + 2)
    network = Autoencoder().to(memory_format=torch.channels_last)
    average = Average(network, 0.995)
    optimiser = torch.optim.AdamW(decay_groups(network.parameters(), 1e-4), lr=learning_rate, betas=(0.9, 0.99))
    log = Log(out / "autoencoder.csv", steps, 50)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * warm_constant_linear(step, steps, 50, 0.3)
        images, mask = _batch(pool, step % 3 != 2, generator)
        side = images.shape[-1] // network.config.downscale
        jitter = noise * torch.randn(len(images), 4, side, side, generator=generator)
        loss, squared = loss_of(network, images.contiguous(memory_format=torch.channels_last), mask, jitter, 1e-4)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        average.update(network)
        log.add(step, loss=loss.item(), psnr=10 * math.log10(4 / squared.item()))
        if (step + 1) % 300 == 0 or step + 1 == steps:
            save({"weights": average.values, "step": step + 1}, out / "autoencoder.pt")
    return out / "autoencoder.pt"


def trained(path: Path, scale: float, clips: int = 200) -> Autoencoder:
    """The network of `path` with its latent statistics folded in (standard deviation 1/`scale`, mean 0 per channel)."""
    network = Autoencoder()
    network.load_state_dict(load(path)["weights"])
    network.eval().requires_grad_(False)
    network.fold_statistics(*statistics(network, draw_pool(clips, 4242)[0].flatten(0, 1)), scale)
    return network
