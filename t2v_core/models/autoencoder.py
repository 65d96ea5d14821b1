"""The bundled model's image autoencoder: 8x smaller on each side, 4 latent channels, no normalisation layers.

Latents leave `encode` in the convention of Stable Diffusion's VAE, so every node that knows an 8x, 4-channel latent
works on them: multiplied by 0.18215 they have about unit variance. The per-channel statistics that make it so are
folded into the two 1x1 convolutions `quant` and `post_quant` when the weights are packed; 1x1, because a shift folded
into a padded convolution would be wrong along the frame's border.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import T2VError


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of `Autoencoder`."""

    widths: tuple[int, ...] = (32, 64, 96)
    """Channels of the decoder's levels, from the finest to the coarsest, that of the latents."""
    deep_blocks: int = 2
    """Residual blocks at the coarsest level."""
    latent_channels: int = 4
    patch: int = 2
    """Side of the squares of pixels that are one place of the finest level."""
    encoder_widths: tuple[int, ...] = ()
    """Channels of the encoder's levels, as many as of the decoder's; empty: the same. Encoding is the easier part."""

    def __post_init__(self) -> None:
        if self.encoder_widths and len(self.encoder_widths) != len(self.widths):
            raise T2VError(
                f"Autoencoder: {len(self.widths)} widths need as many encoder widths, got {len(self.encoder_widths)}"
            )

    @property
    def downscale(self) -> int:
        """Pixels of image per latent, along each side."""
        return self.patch * 2 ** (len(self.widths) - 1)


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(x)))): without normalisation, so that a flat background stays exactly flat."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a convolution (no checkerboard: Odena et al. 2016)."""

    def __init__(self, width_in: int, width_out: int):
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Autoencoder(nn.Module):
    """Frames to latents and back.

    `encode`: images `[n, 3, H, W]` in -1..1, sides divisible by 8 -> latents `[n, 4, H/8, W/8]`.
    `decode`: latents `[n, 4, h, w]` -> images `[n, 3, 8h, 8w]`, about -1..1 (not clamped).
    """

    def __init__(self, config: AutoencoderConfig = AutoencoderConfig()):  # noqa: B008 (frozen)
        super().__init__()
        self.config = config
        widths, latent, pixels = config.encoder_widths or config.widths, config.latent_channels, 3 * config.patch**2
        encoder: list[nn.Module] = [nn.PixelUnshuffle(config.patch), nn.Conv2d(pixels, widths[0], 3, padding=1)]
        encoder += [ResidualBlock(widths[0])]
        for finer, coarser in zip(widths, widths[1:], strict=False):
            encoder += [nn.Conv2d(finer, coarser, 3, stride=2, padding=1), ResidualBlock(coarser)]
        encoder += [ResidualBlock(widths[-1]) for _ in range(config.deep_blocks - 1)]
        encoder += [nn.SiLU(), nn.Conv2d(widths[-1], latent, 3, padding=1)]
        widths = config.widths
        decoder: list[nn.Module] = [nn.Conv2d(latent, widths[-1], 3, padding=1)]
        decoder += [ResidualBlock(widths[-1]) for _ in range(config.deep_blocks)]
        for coarser, finer in zip(widths[::-1], widths[-2::-1], strict=False):
            decoder += [Upsample(coarser, finer), ResidualBlock(finer)]
        decoder += [nn.SiLU(), nn.Conv2d(widths[0], pixels, 3, padding=1), nn.PixelShuffle(config.patch)]
        self.encoder = nn.Sequential(*encoder)
        self.quant = nn.Conv2d(latent, latent, 1)
        self.post_quant = nn.Conv2d(latent, latent, 1)
        self.decoder = nn.Sequential(*decoder)

    def encode(self, images: Tensor) -> Tensor:
        """Latents of `images`; see the class for shapes. Raises `T2VError` when a side is not divisible by 8."""
        step = self.config.downscale
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % step or images.shape[3] % step:
            raise T2VError(f"encode: images are [n, 3, H, W], H and W divisible by {step}, got {list(images.shape)}")
        return self.quant(self.encoder(images))

    def decode(self, latents: Tensor) -> Tensor:
        """Images of `latents`; see the class for shapes. Raises `T2VError` on a wrong channel count."""
        if latents.ndim != 4 or latents.shape[1] != self.config.latent_channels:
            raise T2VError(
                f"decode: latents are [n, {self.config.latent_channels}, h, w], got {list(latents.shape)}: "
                "they come from another model family"
            )
        return self.decoder(self.post_quant(latents))

    @torch.no_grad()
    def fold_statistics(self, mean: Tensor, std: Tensor, scale: float) -> None:
        """Make latents have mean 0 and standard deviation 1/`scale` per channel, given today's `mean` and `std` `[4]`.

        Reconstructions do not change: what `quant` now does, `post_quant` undoes.
        """
        gain = 1.0 / (std * scale)
        self.quant.weight.mul_(gain[:, None, None, None])
        self.quant.bias.sub_(mean).mul_(gain)
        self.post_quant.bias.add_(self.post_quant.weight[:, :, 0, 0] @ mean)
        self.post_quant.weight.div_(gain[None, :, None, None])
