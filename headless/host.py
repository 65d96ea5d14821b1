"""The host that `python -m headless` is: MODEL, CLIP and VAE are the core's own objects, and everything runs here.

MODEL is a `VideoModel`, CLIP a `PromptEncoder`, VAE an `Autoencoder`, SAMPLER a `BoundSampler`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..nodes.host import BUNDLED, Sampling
from ..t2v_core.diffusion import (
    BoundSampler,
    NativeSize,
    VideoModel,
    prepare_noise,
    sample,
    sigmas_for,
)
from ..t2v_core.errors import CheckpointError, T2VError
from ..t2v_core.models.autoencoder import Autoencoder
from ..t2v_core.text import PromptEncoder
from .progress import Progress

# On a CPU half precision is slower than single, so it is used only when asked for.
DTYPES = {"auto": torch.float32, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
DECODE_BYTES = 2**30
DECODE_BYTES_PER_PIXEL = 512


class HeadlessHost:
    """Implements `nodes.host.Host`.

    models: the folder whose files and folders are the models beside `bundled`; it need not exist.
    output: the folder below which files are written; made with the first of them.
    metadata: whether prompt and workflow go into the files.
    """

    def __init__(self, models: Path, output: Path, progress: Progress, metadata: bool = True):
        self._models = models
        self._output = output
        self._progress = progress
        self._metadata = metadata

    def model_names(self) -> list[str]:
        return [BUNDLED]

    def model_stamp(self, name: str) -> Hashable:
        return name

    def load_model(self, name: str, weight_dtype: str) -> tuple[VideoModel, PromptEncoder | None, Autoencoder | None]:
        raise CheckpointError(name)

    def native_size(self, model: VideoModel) -> NativeSize:
        return model.native

    def encode(self, clip: PromptEncoder, text: str) -> list:
        cond, pooled = clip.encode(text)
        return [[cond, {"pooled_output": pooled}]]

    def sample(
        self, model: VideoModel, positive: list, negative: list, latent: dict, settings: Sampling, noise: Any | None
    ) -> Tensor:
        if "noise_mask" in latent:
            raise T2VError("latent_image: it has a noise mask, which works only in ComfyUI")
        latents = latent["samples"]
        sigmas = sigmas_for(settings.scheduler, model.denoiser.noise_schedule, settings.steps, settings.denoise)
        report = self.progress(len(sigmas) - 1, "Sampling")
        return sample(
            model,
            latents,
            _only_tensor(positive, "positive"),
            _only_tensor(negative, "negative"),
            noise=noise.generate_noise(latent)
            if noise
            else prepare_noise(latents.shape, settings.seed, latent.get("batch_index")),
            sampler=settings.sampler_name,
            sigmas=sigmas,
            cfg=settings.cfg,
            seed=noise.seed if noise else settings.seed,
            callback=lambda step, *_: report(step + 1),
        )

    def sampler(self, bound: BoundSampler) -> BoundSampler:
        return bound

    def patch(self, model: VideoModel, modifier: Any) -> VideoModel:
        return model.patched(modifier)

    def decode(self, vae: Autoencoder, latents: Tensor, frames_per_batch: int) -> Tensor:
        frames, _, h, w = latents.shape
        height, width = h * vae.config.downscale, w * vae.config.downscale
        batch = frames_per_batch or max(1, DECODE_BYTES // (height * width * DECODE_BYTES_PER_PIXEL))
        weights = next(vae.parameters())
        images = torch.empty(frames, height, width, 3)
        report = self.progress(frames, "Decoding")
        for start in range(0, frames, batch):
            decoded = vae.decode(latents[start : start + batch].to(weights))
            images[start : start + batch] = rearrange(decoded.float(), "f c h w -> f h w c").add(1).div(2).clamp(0, 1)
            report(min(start + batch, frames))
        return images

    def output_folder(self) -> Path:
        return self._output

    def writes_metadata(self) -> bool:
        return self._metadata

    def progress(self, total: int, label: str) -> Callable[[int], None]:
        return self._progress.start(total, label)


def _only_tensor(conditioning: list, name: str) -> Tensor:
    """The tensor of a CONDITIONING of one entry with nothing but a pooled output beside it."""
    unknown = {key for _, options in conditioning for key in options} - {"pooled_output"}
    if len(conditioning) != 1 or unknown:
        raise T2VError(
            f"{name}: conditioning of several entries, or with {', '.join(sorted(unknown)) or 'areas'}, "
            "works only in ComfyUI"
        )
    return conditioning[0][0]
