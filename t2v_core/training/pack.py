"""Join the trained parts into the one file that is shipped."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ..checkpoints import save_bundled
from ..diffusion import NativeSize
from . import autoencoder, denoiser, text
from .clips.captions import vocabulary
from .clips.scenes import FRAMES, SIZE

LATENT_SCALE = 0.18215  # Stable Diffusion's, so that ComfyUI's own latent format fits
NATIVE = NativeSize(width=SIZE, height=SIZE, num_frames=FRAMES, fps=8.0)


def pack(run: Path, target: Path) -> Path:
    """Write `target` from the checkpoints `autoencoder.pt`, `text.pt` and `denoiser.pt` in `run`; replaces it."""
    images = autoencoder.trained(run / "autoencoder.pt", LATENT_SCALE)
    settings = {
        "vocabulary": vocabulary(),
        "prompt_length": text.LENGTH,
        "prediction": "v",
        "zero_terminal_snr": True,
        "latent_scale": LATENT_SCALE,
        "native": asdict(NATIVE),
        "latent_rgb": autoencoder.preview_factors(images, LATENT_SCALE),
    }
    return save_bundled(
        target,
        denoiser.trained(run / "denoiser.pt"),
        text.trained(run / "text.pt").encoder,
        images,
        settings,
        overwrite=True,
    )
