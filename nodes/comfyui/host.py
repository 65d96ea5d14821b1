"""The host that ComfyUI is: MODEL, CLIP, VAE, SAMPLER and NOISE are its own objects, and it owns the memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import folder_paths
import latent_preview
import torch
from comfy.cli_args import args
from torch import Tensor

from ...t2v_core.checkpoints import read_model
from ...t2v_core.diffusion import BoundSampler, NativeSize
from ...t2v_core.errors import T2VError
from ..host import Sampling
from . import clip as clips
from . import compat, files, modifiers, sampling
from . import model as models
from .vae import ComfyVAE

DTYPES = {"auto": None, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
DECODED_AT_ONCE = 16  # at most, however much memory there is: between two batches decoding can be cancelled


class ComfyHost:
    """Implements `nodes.host.Host`."""

    def model_names(self) -> list[str]:
        return files.model_names()

    def model_stamp(self, name: str) -> Hashable:
        status = files.model_path(name).stat()
        return status.st_mtime_ns, status.st_size

    def load_model(self, name: str, weight_dtype: str) -> tuple[Any, Any, Any]:
        file = read_model(files.model_path(name))
        return (
            models.build(file, DTYPES[weight_dtype]),
            None if file.prompt_encoder is None else clips.build(file.prompt_encoder),
            None if file.autoencoder is None else ComfyVAE(file.autoencoder),
        )

    def native_size(self, model: Any) -> NativeSize:
        native = getattr(model.model, "native", None)
        if not isinstance(native, NativeSize):
            raise T2VError(
                "num_frames: the connected model was made for no number of frames, for it is not of T2V Load Model; "
                "give a number above 0"
            )
        return native

    def encode(self, clip: Any, text: str) -> list:
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    def sample(
        self, model: Any, positive: list, negative: list, latent: dict, settings: Sampling, noise: Any | None
    ) -> Tensor:
        latents, seed = compat.fix_empty_latent(model, latent), settings.seed
        if noise is None:
            start = comfy.sample.prepare_noise(latents, seed, latent.get("batch_index"))
        else:
            start, seed = noise.generate_noise({**latent, "samples": latents}), noise.seed
        # ComfyUI's own reading of steps, scheduler and denoise, with whatever a node has made of the model's sigmas.
        sigmas = comfy.samplers.KSampler(
            model,
            steps=settings.steps,
            device=model.load_device,
            sampler=settings.sampler_name,
            scheduler=settings.scheduler,
            denoise=settings.denoise,
            model_options=model.model_options,
        ).sigmas
        return comfy.sample.sample_custom(
            model,
            start,
            settings.cfg,
            sampling.sampler(BoundSampler(settings.sampler_name)),
            sigmas,
            positive,
            negative,
            latents,
            noise_mask=latent.get("noise_mask"),
            callback=latent_preview.prepare_callback(model, max(len(sigmas) - 1, 0)),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seed,
        )

    def sampler(self, bound: BoundSampler) -> Any:
        return sampling.sampler(bound)

    def patch(self, model: Any, modifier: Any) -> Any:
        return modifiers.patch(model, modifier)

    def decode(self, vae: Any, latents: Tensor, frames_per_batch: int) -> Tensor:
        frames, images = len(latents), None
        batch = min(frames_per_batch or DECODED_AT_ONCE, frames)
        report = self.progress(frames, "Decoding")
        for start in range(0, frames, batch):
            decoded = vae.decode(latents[start : start + batch])
            if images is None:
                images = decoded.new_empty(frames, *decoded.shape[1:])
            images[start : start + batch] = decoded
            report(min(start + batch, frames))
        return images

    def output_folder(self) -> Path:
        return Path(folder_paths.get_output_directory())

    def writes_metadata(self) -> bool:
        return not args.disable_metadata

    def progress(self, total: int, label: str) -> Callable[[int], None]:
        bar = comfy.utils.ProgressBar(total)

        def report(done: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(done, total)

        return report
