"""What the tests of ComfyUI's own nodes on our MODEL, CLIP and VAE share: one small prompt, and its clip in the core.

A row of the table is a node. Set so that it does nothing, it must give the plain clip; set otherwise, another clip;
and where a few lines can say what that clip is, it is computed here, by `t2v_core` or by a formula of the papers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from comfyui import Server
from einops import rearrange
from prompts import Graph, Node
from torch import Tensor

from t2v_core.checkpoints import load_bundled, read_model, save_unet
from t2v_core.diffusion import Denoiser, VideoModel, prepare_noise, sigmas_for
from t2v_core.diffusion.sample import noisy
from t2v_core.diffusion.samplers import SAMPLERS
from t2v_core.models.hooks import UNetHooks
from t2v_core.models.unet3d import UNet3D, UNet3DConfig

FRAMES, SIZE, SEED, STEPS, CFG = 4, 64, 7, 4, 2.5
PROMPT, NEGATIVE = "a red circle moving right on a white background", "a blue square"

UNCHANGED = 1e-6
"""Relative error below which a setting did nothing."""
EQUAL = 1e-5
"""Relative error below which ComfyUI and the core computed the same: their attention kernels round differently."""
CHANGED = 1e-3
"""Relative error above which a setting did something."""


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """The L2 norm of the difference, as a share of `theirs`'s."""
    assert ours.shape == theirs.shape
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def check_row(plain: Tensor, off: Tensor, on: Tensor, expected: Tensor | None = None, equal: float = EQUAL) -> None:
    """The three statements about a node: off it changes nothing, on it changes the clip, and to what.

    plain: without the node. expected: what it should be with it on, where that is computed independently.
    """
    assert on.isfinite().all() and plain.std() > 0.1
    errors = {"off": relative_error(off, plain), "on": relative_error(on, plain)}
    if expected is not None:
        errors["value"] = relative_error(on, expected)
    print({name: f"{error:.1e}" for name, error in errors.items()})
    assert errors["off"] <= UNCHANGED, "the node changes the clip even where it should not"
    assert errors["on"] >= CHANGED, "the node does nothing"
    assert errors.get("value", 0.0) <= equal, "the clip is not what was computed"


class Clip(Graph):
    """A prompt that starts from T2VLoadModel and goes on with ComfyUI's nodes.

    model_name: whose UNet is `model`; `clip`, `vae` and the texts are always the bundled model's.
    """

    def __init__(self, model_name: str = "bundled", width: int = SIZE, height: int = SIZE, frames: int = FRAMES):
        super().__init__()
        bundled = self.load("bundled")
        self.model = bundled[0] if model_name == "bundled" else self.load(model_name)[0]
        self.clip, self.vae = bundled[1], bundled[2]
        self.positive, self.negative, self.empty_text = (self.text(text) for text in (PROMPT, NEGATIVE, ""))
        self.empty = self.add("EmptyLatentImage", width=width, height=height, batch_size=frames)

    def load(self, model_name: str) -> Node:
        return self.add("T2VLoadModel", model_name=model_name, weight_dtype="auto")

    def text(self, text: str, clip: Any = None) -> Node:
        return self.add("CLIPTextEncode", clip=clip or self.clip, text=text)

    def sample(self, **changes: Any) -> Node:
        """A KSampler, with other inputs than the plain clip's."""
        plain = {"model": self.model, "positive": self.positive, "negative": self.negative, "latent_image": self.empty}
        plain |= {"seed": SEED, "steps": STEPS, "cfg": CFG, "sampler_name": "euler", "scheduler": "normal"}
        return self.add("KSampler", **{**plain, "denoise": 1.0, **changes})

    def custom(self, guider: Node, sampler: Node | None = None) -> Node:
        """A SamplerCustomAdvanced of the plain clip with another guider and another sampler."""
        return self.add(
            "SamplerCustomAdvanced",
            noise=self.add("RandomNoise", noise_seed=SEED),
            guider=guider,
            sampler=sampler or self.add("KSamplerSelect", sampler_name="euler"),
            sigmas=self.add("BasicScheduler", model=self.model, scheduler="normal", steps=STEPS, denoise=1.0),
            latent_image=self.empty,
        )

    def latents(self, comfy: Server, *nodes: Node) -> list[Tensor]:
        """Runs the graph, and returns the samples that come out of each of the nodes."""
        saved = [self.add("SaveLatent", samples=node, filename_prefix="table") for node in nodes]
        run = comfy.run(self)
        return [run.latent(node) for node in saved]

    def tensors(self, comfy: Server, *nodes: Node | list) -> list[dict[str, Tensor]]:
        """Runs the graph, and returns the tensors that come out of each of the nodes or outputs, whatever they are."""
        saved = [self.add("ProbeTensor", value=node) for node in nodes]
        run = comfy.run(self)
        return [run.tensors(node) for node in saved]


def nothing(width: int = SIZE, height: int = SIZE, frames: int = FRAMES) -> Tensor:
    """The latents of an empty clip of this many pixels."""
    return torch.zeros(frames, 4, height // 8, width // 8)


class Core:
    """A model without ComfyUI, with the bundled model's texts. Clips are `[f, 4, h, w]`, as on a LATENT socket.

    A guided denoiser is `(x, sigma) -> denoised`, both `[f, 4, h, w]` in the model's scale.
    """

    def __init__(self, model: VideoModel):
        self.model, self.noise_schedule, self.scale = model, model.denoiser.noise_schedule, model.latent_scale
        self.unet: UNet3D = model.denoiser.network
        self.positive, self.negative, self.empty_text = (text(words) for words in (PROMPT, NEGATIVE, ""))

    @torch.no_grad()
    def denoise(self, x: Tensor, sigma: Tensor, text: Tensor, hooks: UNetHooks | None = None, unet=None) -> Tensor:
        """D(x; sigma, text) of the model, or of another UNet in its place."""
        denoiser = Denoiser(
            partial(unet or self.unet, hooks=hooks), self.noise_schedule, self.model.denoiser.prediction
        )
        return rearrange(denoiser(rearrange(x, "f c h w -> 1 c f h w"), sigma, text), "1 c f h w -> f c h w")

    def guided(self, hooks: UNetHooks | None = None, unet=None, cfg: float = CFG) -> Callable[[Tensor, Tensor], Tensor]:
        """Classifier-free guidance of the two texts: Ho and Salimans (arXiv 2207.12598), eq. 6."""

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            uncond, cond = (self.denoise(x, sigma, text, hooks, unet) for text in (self.negative, self.positive))
            return uncond + cfg * (cond - uncond)

        return denoise

    def sigmas(self, steps: int = STEPS, denoise: float = 1.0, scheduler: str = "normal") -> Tensor:
        return sigmas_for(scheduler, self.noise_schedule, steps, denoise)

    def sample(
        self,
        denoise: Callable[[Tensor, Tensor], Tensor],
        latents: Tensor | None = None,
        sigmas: Tensor | None = None,
        noise: Tensor | None = None,
        sampler: str = "euler",
    ) -> Tensor:
        """The clip that a guided denoiser leads to, from `latents` and the seed's noise, or from nothing."""
        latents = nothing() if latents is None else latents
        noise = prepare_noise(latents.shape, SEED) if noise is None else noise
        sigmas = self.sigmas() if sigmas is None else sigmas
        x = noisy(latents * self.scale, noise, sigmas[0], self.noise_schedule)
        return SAMPLERS[sampler](denoise, x, sigmas) / self.scale


@cache
def bundled():
    """The bundled model's three parts. Tests share them and change nothing in them."""
    return load_bundled()


@cache
def core() -> Core:
    """The bundled model."""
    return Core(bundled().model)


def text(words: str) -> Tensor:
    """What the bundled model reads in a prompt, `[1, tokens, dim]`."""
    return bundled().prompt_encoder.encode(words)[0]


RANDOM_UNET, RANDOM_WIDTHS = "random.safetensors", (32, 64, 128, 128)


def random_core(models: Path) -> Core:
    """A UNet of random weights that reads the bundled model's texts. Its file, in ModelScope's layout, is written into
    a server's models folder as RANDOM_UNET, again if another test has cleared the folder since.

    It has what the bundled one lacks: attention at the full size of the latents, and Stable Diffusion's numbers of
    levels and blocks, with which T2I-adapters must agree.
    """
    file = models / "text2video" / RANDOM_UNET
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        save_unet(_random_unet(), file, "modelscope")
    return _core_of(file)


@cache
def _core_of(file: Path) -> Core:
    return Core(read_model(file).video_model(torch.float32))


@cache
def _random_unet() -> UNet3D:
    torch.manual_seed(0)
    config = UNet3DConfig(
        widths=RANDOM_WIDTHS, attention=(True, False, False, False), context_dim=96, head_dim=32, input_heads=1
    )
    unet = UNet3D(config)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if ".attn" in name and parameter.ndim > 1:
                parameter *= 2  # or attentions would be nearly uniform, and prompts would matter little
    return unet


VIDEOCRAFTER = "videocrafter.safetensors"


@cache
def videocrafter(models: Path) -> Core:
    """A network of VideoCrafter2's kind with random weights that reads the bundled model's texts, and its file."""
    torch.manual_seed(0)
    sizes = {"widths": (32, 64), "attention": (True, False), "blocks_per_level": 1, "head_dim": 32, "input_heads": 1}
    unet = UNet3D(UNet3DConfig(**sizes, context_dim=96, fps_embedding=True))
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if parameter.ndim > 1 and (".attn" in name or name.startswith("fps_embedding")):
                parameter *= 2  # or texts and frame rate would matter little
    folder = models / "text2video"
    folder.mkdir(exist_ok=True)
    return Core(read_model(save_unet(unet, folder / VIDEOCRAFTER, "videocrafter")).video_model(torch.float32))
