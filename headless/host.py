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
from ..t2v_core.checkpoints import BUNDLED_PATH, read_model
from ..t2v_core.diffusion import (
    SAMPLERS,
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
MODEL_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
DECODE_BYTES = 2**30  # how much decoding may take beside its result
DECODE_BYTES_PER_PIXEL = 256  # 177 measured, for the bundled autoencoder in fp32


class HeadlessHost:
    """Implements `nodes.host.Host`.

    models: the folder whose weight files are the models beside `bundled`; it need not exist.
    output: the folder below which files are written; made with the first of them.
    metadata: whether prompt and workflow go into the files.
    """

    def __init__(self, models: Path, output: Path, progress: Progress, metadata: bool = True):
        self._models = models
        self._output = output
        self._progress = progress
        self._metadata = metadata

    def model_names(self) -> list[str]:
        try:
            files = [
                path for path in self._models.iterdir() if path.suffix.lower() in MODEL_SUFFIXES and path.is_file()
            ]
        except OSError:
            files = []
        return [BUNDLED, *sorted(path.name for path in files)]

    def model_stamp(self, name: str) -> Hashable:
        status = self._model_path(name).stat()
        return status.st_mtime_ns, status.st_size

    def load_model(self, name: str, weight_dtype: str) -> tuple[VideoModel, PromptEncoder | None, Autoencoder | None]:
        dtype = DTYPES[weight_dtype]
        file = read_model(self._model_path(name), dtype)
        return file.video_model(dtype), file.prompt_encoder, file.autoencoder

    def _model_path(self, name: str) -> Path:
        """The file of one of `model_names`: a name that is not in that list is never made into a path."""
        known = self.model_names()
        if name not in known:
            raise CheckpointError(f"there is no model {name!r} in {self._models}; there are {', '.join(known)}")
        return BUNDLED_PATH if name == BUNDLED else self._models / name

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
        latents, seed = latent["samples"], settings.seed
        if noise is None:
            start = prepare_noise(latents.shape, seed, latent.get("batch_index"))
        else:
            start, seed = noise.generate_noise(latent), noise.seed
        sampler = BoundSampler(settings.sampler_name)
        sigmas = sigmas_for(
            settings.scheduler,
            model.denoiser.noise_schedule,
            settings.steps,
            settings.denoise,
            discard_penultimate=SAMPLERS[sampler.name].discards_penultimate,
        )
        report = self.progress(max(len(sigmas) - 1, 0), "Sampling")  # no sigmas at denoise 0
        return sample(
            model,
            latents,
            _only_tensor(positive, "positive"),
            _only_tensor(negative, "negative"),
            noise=start,
            sampler=sampler,
            sigmas=sigmas,
            cfg=settings.cfg,
            seed=seed,
            batch_index=latent.get("batch_index"),
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
