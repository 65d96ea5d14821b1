"""The host that `python -m headless` is: MODEL, CLIP and VAE are the core's own objects, and everything runs here.

MODEL is a `VideoModel`, CLIP a `PromptEncoder`, SAMPLER a `BoundSampler`. VAE is an `Autoencoder`, or a public model's
`PublicAutoencoder`, which is used like one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..nodes.host import BUNDLED, PARTS, VIDEO_FORMATS, Loaded, Sampling
from ..nodes.long_noise import check_noise
from ..t2v_core.checkpoints import BUNDLED_PATH, Entry, ModelFile, model_at, read_model
from ..t2v_core.diffusion import (
    SAMPLERS,
    BoundSampler,
    NativeSize,
    NoiseSeeds,
    VideoModel,
    prepare_noise,
    sample_with_free_init,
    sigmas_for,
)
from ..t2v_core.errors import CheckpointError, T2VError
from ..t2v_core.lora import Lora, encoder_with_lora, place_lora, with_lora
from ..t2v_core.models.autoencoder import Autoencoder
from ..t2v_core.models.memory import free_bytes, peak_bytes
from ..t2v_core.models.tiled import decode_tiled
from ..t2v_core.models.unet3d import UNet3D
from ..t2v_core.runs import RunsFolder, sample_kept
from ..t2v_core.text import PromptEncoder
from ..t2v_core.video.reading.inputs import EXTENSIONS, inside, videos_in
from . import public_text, public_vae
from .folders import ModelsFolder
from .progress import Progress

logger = logging.getLogger(__name__)

# On a CPU half precision is slower than single, so it is used only when asked for.
DTYPES = {"auto": torch.float32, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MEANT = {"model": "unet", "clip": "text_encoder", "vae": "autoencoder"}  # what a socket's part is in a file
INPUTS = Path("input")
# How much decoding or encoding may take beside its result. More is slower: what is alive no longer fits the caches.
CODING_BYTES = 2**28
BYTES_PER_PIXEL = 256  # 177 measured, for the bundled autoencoder's decoder in fp32; its encoder takes less

VAE = Autoencoder | public_vae.PublicAutoencoder


class HeadlessHost:
    """Implements `nodes.host.Host`.

    models: the folder of the models beside `bundled` and of LoRAs, as `ModelsFolder` reads it; it need not exist.
    inputs: the folder of the videos that can be loaded; it need not exist.
    output: the folder below which files are written; made with the first of them.
    metadata: whether prompt and workflow go into the files.
    runs: where sampling is kept, so that it can go on after a kill; None keeps nothing.
    """

    def __init__(
        self,
        models: Path,
        output: Path,
        progress: Progress,
        metadata: bool = True,
        inputs: Path = INPUTS,
        runs: RunsFolder | None = None,
    ):
        self._folder = ModelsFolder(models)
        self._output = output
        self._inputs = inputs
        self._progress = progress
        self._metadata = metadata
        self._runs = runs

    def model_names(self) -> list[str]:
        return list(self._models())

    def model_stamp(self, name: str) -> Hashable:
        return self._model(name).stamp()

    def load_model(self, name: str, weight_dtype: str, parts: Collection[str] = PARTS) -> Loaded:
        dtype, entry = DTYPES[weight_dtype], self._model(name)
        file = read_model(entry, dtype, variant=dtype, parts=[MEANT[part] for part in parts])
        return Loaded(
            None if file.unet is None else file.video_model(dtype),
            self._clip(file, entry, dtype) if "clip" in parts else None,
            _vae(file, dtype) if "vae" in parts else None,
            file.description.text(),
        )

    def _clip(self, file: ModelFile, entry: Entry, dtype: torch.dtype) -> PromptEncoder | None:
        """The text encoder of a model that comes with one, else None."""
        if file.prompt_encoder is not None or file.companions.text_encoder is None:
            return file.prompt_encoder
        return public_text.prompt_encoder(file.companions, self._folder.tokenizers(entry), dtype)

    def prompt(self, given: dict | None, node_id: str | None) -> dict | None:
        return given

    def _models(self) -> dict[str, Entry]:
        found = self._folder.models()
        found.pop(BUNDLED, None)
        return {BUNDLED: model_at(BUNDLED_PATH), **found}

    def _model(self, name: str) -> Entry:
        return _listed(self._models(), name, "model", self._folder.path)

    def lora_names(self) -> list[str]:
        return list(self._folder.loras())

    def lora_path(self, name: str) -> Path:
        return _listed(self._folder.loras(), name, "LoRA", self._folder.loras_path)

    def with_lora(
        self, model: VideoModel, clip: PromptEncoder | None, lora: Lora, strength_model: float, strength_clip: float
    ) -> tuple[VideoModel, PromptEncoder | None, str]:
        placement = place_lora(lora, model.denoiser.network, None if clip is None else clip.network)
        if warning := placement.warning():
            logger.warning(warning)
        clip = None if clip is None else encoder_with_lora(clip, placement.text_encoder, strength_clip)
        return with_lora(model, placement.unet, strength_model), clip, placement.summary()

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
            check_noise(noise, model.modifier(NoiseSeeds))
            start, seed = noise.generate_noise(latent), noise.seed
        sampler = BoundSampler(settings.sampler_name)
        sigmas = [
            sigmas_for(
                each.scheduler,
                model.denoiser.noise_schedule,
                each.steps,
                each.denoise,
                discard_penultimate=SAMPLERS[sampler.name].discards_penultimate,
            )
            for each in settings.rounds()
        ]
        report = self.progress(sum(max(len(row) - 1, 0) for row in sigmas), "Sampling")  # no sigmas at denoise 0
        clip = (model, latents, _only_tensor(positive, "positive"), _only_tensor(negative, "negative"))
        given = {"noise": start, "sampler": sampler, "cfg": settings.cfg, "seed": seed}
        given |= {"batch_index": latent.get("batch_index"), **_reporting(report)}
        if settings.free_init is None:
            return self._sample(*clip, sigmas=sigmas[0], **given)
        return sample_with_free_init(*clip, sigmas=sigmas, free_init=settings.free_init, sample=self._sample, **given)

    def _sample(self, *clip: Any, callback: Callable, between: Callable, **given: Any) -> Tensor:
        """The library's `sample`, kept on disk where the clip is long enough for that."""
        return sample_kept(self._runs, *clip, **given, told={"callback": callback, "between": between})

    def sampler(self, bound: BoundSampler) -> BoundSampler:
        return bound

    def patch(self, model: VideoModel, modifier: Any) -> VideoModel:
        return model.patched(modifier)

    def modifier(self, model: VideoModel, kind: type) -> Any | None:
        return model.modifier(kind)

    def sampling_bytes(self, model: VideoModel, shape: Sequence[int]) -> int:
        unet: UNet3D = model.denoiser.network
        weight = next(unet.parameters())
        frames, _, h, w = shape
        return peak_bytes(unet.config, frames, h, w, weight.element_size(), weight.device.type)

    def decode(self, vae: VAE, latents: Tensor, frames_per_batch: int) -> Tensor:
        frames, done, images = len(latents), 0, None
        report = self.progress(frames, "Decoding")
        for batch in _decoded(vae, latents, frames_per_batch):
            if images is None:
                images = torch.empty(frames, *batch.shape[1:])
            images[done : done + len(batch)] = batch
            done += len(batch)
            report(done)
        return images

    def decode_frames(self, vae: VAE, latents: Tensor, frames_per_batch: int, tile_size: int = 0) -> Iterator[Tensor]:
        for batch in _decoded(vae, latents, frames_per_batch, tile_size):
            yield from batch
            del batch  # before the next is made

    def encode_frames(self, vae: VAE, images: Tensor) -> Tensor:
        weights = next(vae.parameters())
        pixels = rearrange(images, "f h w c -> f c h w")
        at_once = _frames_at_once(vae, *pixels.shape[2:])
        return torch.cat(
            [vae.encode((pixels[batch] * 2 - 1).to(weights)).float() for batch in _batches(len(pixels), at_once)]
        )

    def input_videos(self) -> list[str]:
        return videos_in(self._inputs, (*EXTENSIONS, ".png"))  # an animated PNG may be called .png

    def input_path(self, name: str) -> Path:
        return inside(self._inputs, name)

    def free_memory(self) -> int | None:
        return free_bytes(torch.device("cpu"))

    def output_folder(self) -> Path:
        return self._output

    def temp_folder(self) -> Path:
        return self._output / "temp"

    def video_formats_folder(self) -> Path:
        return self._folder.path / VIDEO_FORMATS

    def writes_metadata(self) -> bool:
        return self._metadata

    def progress(self, total: int, label: str) -> Callable[..., None]:
        return self._progress.start(total, label)


def _vae(file: ModelFile, dtype: torch.dtype) -> VAE | None:
    """The autoencoder of a model that comes with one, else None."""
    if file.autoencoder is not None or file.companions.autoencoder is None:
        return file.autoencoder
    return public_vae.autoencoder(file.companions, dtype)


def _listed(found: dict[str, Any], name: str, kind: str, folder: Path) -> Any:
    """What is found of a name: one that is not in the list is never made into a path. Raises CheckpointError."""
    if name not in found:
        raise CheckpointError(f"there is no {kind} {name!r} in {folder}; there are {', '.join(found) or 'none'}")
    return found[name]


def _frames_at_once(vae: VAE, height: int, width: int) -> int:
    """How many frames of this size the autoencoder may work on together."""
    bytes_per_pixel = vae.bytes_per_pixel if isinstance(vae, public_vae.PublicAutoencoder) else BYTES_PER_PIXEL
    return max(1, CODING_BYTES // (height * width * bytes_per_pixel))


def _decoded(vae: VAE, latents: Tensor, frames_per_batch: int, tile_size: int = 0) -> Iterator[Tensor]:
    """The frames of latents `[f, c, h, w]`, a batch at a time: float32 `[n, H, W, 3]` in 0..1."""
    weights, scale = next(vae.parameters()), vae.config.downscale
    tile = tile_size // scale or max(latents.shape[2:])
    at_once = frames_per_batch or _frames_at_once(vae, *(scale * min(side, tile) for side in latents.shape[2:]))
    for batch in _batches(len(latents), at_once):
        images = decode_tiled(vae.decode, latents[batch].to(weights), tile)
        yield rearrange(images, "f c h w -> f h w c").add(1).div(2).clamp(0, 1)
        del images


def _batches(frames: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, frames, size)]


def _reporting(report: Callable[..., None]) -> dict[str, Callable]:
    """What `sample` calls, so that the steps that are done are shown and, between them, the windows."""
    steps = 0

    def stepped(step: int, *_: Any) -> None:
        nonlocal report, steps
        if steps == 0 < step:  # it goes on where it was cut off
            report = partial(report, found=step)
        steps = step + 1
        report(steps)

    return {"callback": stepped, "between": lambda done, total: report(steps, f"window {done} of {total}")}


def _only_tensor(conditioning: list, name: str) -> Tensor:
    """The tensor of a CONDITIONING of one entry with nothing but a pooled output beside it."""
    unknown = {key for _, options in conditioning for key in options} - {"pooled_output"}
    if len(conditioning) != 1 or unknown:
        raise T2VError(
            f"{name}: conditioning of several entries, or with {', '.join(sorted(unknown)) or 'areas'}, "
            "works only in ComfyUI"
        )
    return conditioning[0][0]
