"""The host that ComfyUI is: MODEL, CLIP, VAE, SAMPLER and NOISE are its own objects, and it owns the memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.utils
import folder_paths
import latent_preview
import torch
from comfy.cli_args import args
from torch import Tensor

from ...t2v_core.checkpoints import ModelFile, read_model
from ...t2v_core.diffusion import BoundSampler, NativeSize, NoiseSeeds
from ...t2v_core.errors import T2VError
from ...t2v_core.lora import Lora
from ..host import PARTS, Loaded, Sampling
from ..long_noise import check_noise
from . import clip as clips
from . import compat, decoding, files, free_init, inputs, lora_files, modifiers, public, running, sampling
from . import lora as loras
from . import model as models
from .vae import ComfyVAE

DTYPES = {"auto": None, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MEANT = {"model": "unet", "clip": "text_encoder", "vae": "autoencoder"}  # what a socket's part is in a file


class ComfyHost:
    """Implements `nodes.host.Host`."""

    def model_names(self) -> list[str]:
        return files.model_names()

    def model_stamp(self, name: str) -> Hashable:
        return files.model(name).stamp()

    def load_model(self, name: str, weight_dtype: str, parts: Collection[str] = PARTS) -> Loaded:
        dtype = DTYPES[weight_dtype]
        file = read_model(files.model(name), variant=dtype, parts=[MEANT[part] for part in parts])
        return Loaded(
            None if file.unet is None else models.build(file, dtype),
            _clip(file) if "clip" in parts else None,
            _vae(file) if "vae" in parts else None,
            file.description.text(),
        )

    def prompt(self, given: dict | None, node_id: str | None) -> dict | None:
        return running.prompt_with(node_id)

    def lora_names(self) -> list[str]:
        return lora_files.lora_names()

    def lora_path(self, name: str) -> Path:
        return lora_files.lora_path(name)

    def with_lora(
        self, model: Any, clip: Any, lora: Lora, strength_model: float, strength_clip: float
    ) -> tuple[Any, Any, str]:
        return loras.with_lora(model, clip, lora, strength_model, strength_clip)

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
            check_noise(noise, modifiers.patched_with(model, NoiseSeeds))
            start, seed = noise.generate_noise({**latent, "samples": latents}), noise.seed
        sigmas = [sampling.sigmas(model, each) for each in settings.rounds()]
        steps = [max(len(row) - 1, 0) for row in sigmas]
        show = latent_preview.prepare_callback(model, sum(steps))

        def run(model: Any, number: int, noise: Tensor, seed: int) -> Tensor:
            before, kept = sum(steps[:number]), []
            samples = comfy.sample.sample_custom(
                model,
                noise,
                settings.cfg,
                sampling.sampler(BoundSampler(settings.sampler_name), kept.append),
                sigmas[number],
                positive,
                negative,
                latents,
                noise_mask=latent.get("noise_mask"),
                callback=lambda step, x0, x, _: show(before + step, x0, x, sum(steps)),
                disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
                seed=seed,
            )
            return kept[-1].deliver(samples) if kept else samples

        if settings.free_init is None:
            return run(model, 0, start, seed)
        return free_init.sample(settings.free_init, model, latents, start, seed, latent.get("batch_index"), run)

    def sampler(self, bound: BoundSampler) -> Any:
        return sampling.sampler(bound)

    def patch(self, model: Any, modifier: Any) -> Any:
        return modifiers.patch(model, modifier)

    def modifier(self, model: Any, kind: type) -> Any | None:
        return modifiers.patched_with(model, kind)

    def sampling_bytes(self, model: Any, shape: Sequence[int]) -> int:
        return int(model.model.memory_required(list(shape)))

    def decode(self, vae: Any, latents: Tensor, frames_per_batch: int) -> Tensor:
        frames, done, images = len(latents), 0, None
        report = self.progress(frames, "Decoding")
        for batch in decoding.batches(vae, latents, frames_per_batch):
            if images is None:
                images = batch.new_empty(frames, *batch.shape[1:])
            images[done : done + len(batch)] = batch
            done += len(batch)
            report(done)
        return images

    def decode_frames(self, vae: Any, latents: Tensor, frames_per_batch: int, tile_size: int = 0) -> Iterator[Tensor]:
        for batch in decoding.batches(vae, latents, frames_per_batch, tile_size):
            yield from batch
            del batch  # before the next is made

    def encode_frames(self, vae: Any, images: Tensor) -> Tensor:
        return vae.encode(images)

    def input_videos(self) -> list[str]:
        return inputs.videos()

    def input_path(self, name: str) -> Path:
        return inputs.video(name)

    def free_memory(self) -> int | None:
        return comfy.model_management.get_free_memory(torch.device("cpu"))

    def output_folder(self) -> Path:
        return Path(folder_paths.get_output_directory())

    def temp_folder(self) -> Path:
        return Path(folder_paths.get_temp_directory())

    def video_formats_folder(self) -> Path:
        return files.video_formats_folder()

    def writes_metadata(self) -> bool:
        return not args.disable_metadata

    def progress(self, total: int, label: str) -> Callable[[int], None]:
        bar = comfy.utils.ProgressBar(total)

        def report(done: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(done, total)

        return report


def _clip(file: ModelFile) -> Any:
    """The CLIP of a model that comes with a text encoder, else None."""
    if file.prompt_encoder is not None:
        return clips.build(file.prompt_encoder)
    weights = file.companions.read_text_encoder()
    return None if weights is None else public.text_encoder(weights)


def _vae(file: ModelFile) -> Any:
    """The VAE of a model that comes with an autoencoder, else None."""
    if file.autoencoder is not None:
        return ComfyVAE(file.autoencoder)
    weights = file.companions.read_autoencoder()
    return None if weights is None else public.autoencoder(weights)
