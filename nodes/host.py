"""What a host decides for the nodes, and nothing more.

The nodes run in two programs: ComfyUI, and `python -m headless`. Whatever differs between the two (where
models and outputs lie, what travels on the MODEL, CLIP and VAE sockets, who runs the sampler) is a method of `Host`;
whatever is the same is in the nodes or in `t2v_core`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..t2v_core.errors import T2VError

if TYPE_CHECKING:
    from torch import Tensor

    from ..t2v_core.diffusion import BoundSampler, FreeInit, NativeSize
    from ..t2v_core.lora import Lora

BUNDLED = "bundled"
NO_LORA = "none"
VIDEO_FORMATS = "video_formats"
"""The folder, beside the models, of the user's own video formats."""
WEIGHT_DTYPES = ("auto", "fp32", "fp16", "bf16")
PARTS = ("model", "clip", "vae")


@dataclass(frozen=True)
class Loaded:
    """A model's parts as they go on the sockets, and what it was recognised as, for a person.

    A part is None where it was not asked for, and where the host has none of this model.
    """

    model: Any
    clip: Any
    vae: Any
    text: str


@dataclass(frozen=True)
class Sampling:
    """The numbers of one sampling run, with the meaning ComfyUI's KSampler gives them.

    With `free_init` the clip is sampled in its rounds, each a run of its own.
    """

    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    denoise: float
    free_init: FreeInit | None = None

    def rounds(self) -> list[Sampling]:
        """The numbers of each round, one without FreeInit: they differ in their steps."""
        if self.free_init is None:
            return [self]
        return [replace(self, steps=steps) for steps in self.free_init.steps(self.steps)]


class Host(Protocol):
    """The program the nodes run in. `model`, `clip` and `vae` are whatever this same host put on those sockets."""

    def model_names(self) -> list[str]:
        """The models that can be loaded, `bundled` first. Never raises: a folder that is not there holds no models."""

    def model_stamp(self, name: str) -> Hashable:
        """A value that changes when one of the named model's files does."""

    def load_model(self, name: str, weight_dtype: str, parts: Collection[str] = PARTS) -> Loaded:
        """Those of PARTS that are asked for; the others' weights are not read.

        weight_dtype is one of WEIGHT_DTYPES; auto is the host's choice. Raises CheckpointError.
        """

    def prompt(self, given: dict | None, node_id: str | None) -> dict | None:
        """The prompt in the API format that a node is part of, and None where that cannot be told.

        given: what the node's hidden input PROMPT holds. The answer is the same in IS_CHANGED and in a run, so a node
        may let its result depend on it.
        """

    def lora_names(self) -> list[str]:
        """The LoRA files that can be loaded. Never raises: a folder that is not there holds none."""

    def lora_path(self, name: str) -> Path:
        """The file of one of `lora_names`; CheckpointError for another name."""

    def with_lora(
        self, model: Any, clip: Any, lora: Lora, strength_model: float, strength_clip: float
    ) -> tuple[Any, Any, str]:
        """(MODEL, CLIP, what to say of it): copies with the LoRA; those that were given are left as they were.

        clip may be None. Raises CheckpointError where the LoRA is another model's.
        """

    def native_size(self, model: Any) -> NativeSize:
        """The width, height, number of frames and frames per second the model was made for."""

    def encode(self, clip: Any, text: str) -> list:
        """Text to CONDITIONING, `[[cond [1, tokens, dim], {"pooled_output": [1, dim]}]]`."""

    def sample(
        self, model: Any, positive: list, negative: list, latent: dict, settings: Sampling, noise: Any | None
    ) -> Tensor:
        """Denoises latent["samples"] `[f, c, h, w]` and returns the same shape, where the host keeps results.

        noise is a NOISE socket's object, or None for the noise that settings.seed gives.
        """

    def sampler(self, bound: BoundSampler) -> Any:
        """What travels on the SAMPLER socket for one of the core's samplers."""

    def patch(self, model: Any, modifier: Any) -> Any:
        """A copy of the model that samples with the modifier applied; the model itself is left as it was."""

    def modifier(self, model: Any, kind: type) -> Any | None:
        """The modifier of this kind that `patch` put on the model, or None."""

    def sampling_bytes(self, model: Any, shape: Sequence[int]) -> int:
        """What one call of the model takes beside its weights, for latents of the shape `[f, c, h, w]`."""

    def decode(self, vae: Any, latents: Tensor, frames_per_batch: int) -> Tensor:
        """Latents `[f, c, h, w]` to an IMAGE `[f, H, W, 3]`, float32 in 0..1, where the host keeps results.

        frames_per_batch is how many frames are decoded at once; 0 lets the host choose by the memory there is.
        """

    def decode_frames(self, vae: Any, latents: Tensor, frames_per_batch: int, tile_size: int = 0) -> Iterator[Tensor]:
        """The frames of `decode`, each `[H, W, 3]`, one after the other: decoded a few at a time and then forgotten.

        tile_size is the side in pixels, a multiple of 8, of the overlapping tiles that a frame is decoded in, which
        takes less memory; 0 decodes whole frames.
        """

    def encode_frames(self, vae: Any, images: Tensor) -> Tensor:
        """An IMAGE `[f, H, W, 3]`, sides divisible by 8, to latents `[f, c, H / 8, W / 8]`, unscaled, where the host
        keeps results. It may work on fewer frames at once than it is given."""

    def input_videos(self) -> list[str]:
        """The names of the video files that can be loaded. Never raises: a folder that is not there holds none."""

    def input_path(self, name: str) -> Path:
        """The file of one of `input_videos`, or of another name in the input folder; VideoError for what is not there
        and for what lies elsewhere."""

    def free_memory(self) -> int | None:
        """How many bytes an IMAGE may take now, where the host keeps results; None where that cannot be told."""

    def output_folder(self) -> Path:
        """The one folder below which nodes may write what is to be kept."""

    def temp_folder(self) -> Path:
        """The folder below which nodes write what is only to be looked at."""

    def video_formats_folder(self) -> Path:
        """The folder of the user's own video formats; it need not exist."""

    def writes_metadata(self) -> bool:
        """Whether the prompt and the workflow may be written into files."""

    def progress(self, total: int, label: str) -> Callable[[int], None]:
        """Starts a progress display of `total` units and returns the function to call with the number done so far.

        A host that was asked to cancel raises its own exception out of that function.
        """


_host: Host | None = None


def use(host: Host | None) -> None:
    """Makes `host` the one the nodes ask from now on; None leaves them without one."""
    global _host
    _host = host


def current() -> Host:
    """The host in use: the one that was set, else ComfyUI where this is its process. Raises T2VError elsewhere."""
    if _host is None:
        if not _inside_comfyui():
            raise T2VError("no host runs this node; run the workflow with `python -m headless run FILE`")
        from .comfyui.host import ComfyHost

        use(ComfyHost())
    return _host


def _inside_comfyui() -> bool:
    """ComfyUI imports its folder_paths before any node; elsewhere nothing of it is imported for a node's sake."""
    return "folder_paths" in sys.modules and "comfy" in sys.modules


def model_names() -> list[str]:
    """What T2VLoadModel lists. Needs no host, because a node's inputs must be readable anywhere."""
    if _host is None and _inside_comfyui():
        from .comfyui import files  # alone: a list is asked for long before a model is

        return files.model_names()
    return [BUNDLED] if _host is None else _host.model_names()


def lora_names() -> list[str]:
    """What T2VLoadLora lists: `NO_LORA`, then the files. Needs no host either."""
    if _host is None and _inside_comfyui():
        from .comfyui import lora_files

        return [NO_LORA, *lora_files.lora_names()]
    return [NO_LORA, *(() if _host is None else _host.lora_names())]


def video_formats_folder() -> Path | None:
    """Where the user's own video formats lie; None where there is no host. Needs no host, as `model_names`."""
    if _host is None and _inside_comfyui():
        from .comfyui import files

        return files.video_formats_folder()
    return None if _host is None else _host.video_formats_folder()


def input_videos() -> list[str]:
    """What T2VLoadVideo lists. Needs no host either."""
    if _host is None and _inside_comfyui():
        from .comfyui import inputs

        return inputs.videos()
    return [] if _host is None else _host.input_videos()
