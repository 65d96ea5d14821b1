"""Denoising a clip."""

from __future__ import annotations

import logging

from ..t2v_core.diffusion import SAMPLERS, SCHEDULERS, BoundSampler, ContextWindows, GuidanceRescale, NetworkScale
from ..t2v_core.diffusion.samplers import OWN_ETA
from ..t2v_core.errors import T2VError
from . import host
from .sockets import check_conditioning, check_free_init, latents_of

logger = logging.getLogger(__name__)

BEARABLE = 2  # times the frames that a model was made for: up to there clips keep what the prompt says


class T2VSampler:
    """KSampler's inputs, in KSampler's order, and what a clip needs besides."""

    TITLE = "T2V Sampler"
    DESCRIPTION = "Denoises the latent into a clip that follows the positive prompt and avoids the negative one."
    CATEGORY = "T2V/sampling"
    RETURN_TYPES = ("LATENT",)
    RETURN_NAMES = ("latent",)
    OUTPUT_TOOLTIPS = ("The denoised clip.",)
    FUNCTION = "sample"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model that denoises."}),
                "seed": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 2**64 - 1,
                        "control_after_generate": True,
                        "tooltip": "The noise the clip starts from. The same seed and settings give the same clip.",
                    },
                ),
                "steps": (
                    "INT",
                    {
                        "default": 25,
                        "min": 1,
                        "max": 10000,
                        "tooltip": "Number of denoising steps. More take longer; beyond 25 little changes.",
                    },
                ),
                "cfg": (
                    "FLOAT",
                    {
                        "default": 2.0,
                        "min": 0.0,
                        "max": 100.0,
                        "step": 0.05,  # with KSampler's 0.1 the page shows 1.25 as 1.3
                        "round": 0.01,
                        "tooltip": "How strongly the prompt is followed. 1 ignores the negative prompt and is twice as "
                        "fast. 'bundled' likes 1.25 to 2, ModelScope's models 7 to 12.",
                    },
                ),
                "sampler_name": (
                    list(SAMPLERS),
                    {"default": "euler", "tooltip": "The algorithm that walks from noise to the clip."},
                ),
                "scheduler": (
                    list(SCHEDULERS),
                    {
                        "default": "normal",
                        "tooltip": "How the noise levels are spread over the steps. 'ddim_original' with sampler ddim "
                        "is ModelScope's own sampling, with euler_ancestral VideoCrafter2's.",
                    },
                ),
                "positive": ("CONDITIONING", {"tooltip": "What the clip should show."}),
                "negative": ("CONDITIONING", {"tooltip": "What the clip should not show; not used when cfg is 1."}),
                "latent_image": (
                    "LATENT",
                    {"tooltip": "The clip to start from: an empty one, or frames to be changed (see denoise)."},
                ),
                "denoise": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.01,
                        "tooltip": "How much of latent_image is replaced: 1 all of it, 0 nothing.",
                    },
                ),
                "guidance_rescale": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.01,
                        "tooltip": "Takes back the contrast that a high cfg adds: 0 not at all, 0.7 is usual, 1 fully.",
                    },
                ),
            },
            "optional": {
                "noise": ("NOISE", {"tooltip": "Noise to start from instead of the seed's."}),
                "free_init": (
                    "T2V_FREE_INIT",
                    {"tooltip": "Rounds of sampling, from T2V FreeInit: for an empty latent_image and denoise 1."},
                ),
            },
        }

    def sample(
        self,
        model,
        seed,
        steps,
        cfg,
        sampler_name,
        scheduler,
        positive,
        negative,
        latent_image,
        denoise,
        guidance_rescale,
        noise=None,
        free_init=None,
    ):
        frames = latents_of(latent_image, "latent_image").shape[0]
        check_conditioning(positive, frames, "positive")
        check_conditioning(negative, frames, "negative")
        check_free_init(free_init, denoise)
        running = host.current()
        _warn_of_length(running, model, frames)
        if guidance_rescale > 0:
            model = running.patch(model, GuidanceRescale(guidance_rescale))
        if scheduler in SCHEDULERS and SCHEDULERS[scheduler].network_scale:
            model = running.patch(model, NetworkScale())
        settings = host.Sampling(seed, steps, cfg, sampler_name, scheduler, denoise, free_init)
        samples = running.sample(model, positive, negative, latent_image, settings, noise)
        return ({**latent_image, "samples": samples},)


def _warn_of_length(running: host.Host, model: object, frames: int) -> None:
    """Says it where a clip is denoised whole that is much longer than what the model was made for."""
    try:
        made_for = running.native_size(model).num_frames
    except T2VError:  # a model of another loader, of which that is not known
        return
    if frames > BEARABLE * made_for and running.modifier(model, ContextWindows) is None:
        logger.warning(
            "latent_image has %d frames and the model was made for %d; T2V Context Windows, between model and sampler, "
            "denoises a long clip in windows of so many",
            frames,
            made_for,
        )


class T2VSamplerSelect:
    """One of our samplers for ComfyUI's SamplerCustom nodes."""

    TITLE = "T2V Sampler Select"
    DESCRIPTION = "One of this pack's samplers as a SAMPLER, for SamplerCustom and SamplerCustomAdvanced."
    CATEGORY = "T2V/sampling"
    RETURN_TYPES = ("SAMPLER",)
    RETURN_NAMES = ("sampler",)
    OUTPUT_TOOLTIPS = ("The sampler, for SamplerCustom and SamplerCustomAdvanced.",)
    FUNCTION = "select"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "sampler_name": (
                    list(SAMPLERS),
                    {"default": "euler", "tooltip": "The algorithm that walks from noise to the clip."},
                ),
                "eta": (
                    "FLOAT",
                    {
                        "default": OWN_ETA,
                        "min": OWN_ETA,
                        "max": 100.0,
                        "step": 0.01,
                        "tooltip": "How much fresh noise a stochastic sampler adds at each step: 0 none, 1 the usual "
                        "amount, -1 the sampler's own. euler_ancestral, ddim, dpmpp_2m_sde and dpmpp_sde use it.",
                    },
                ),
            }
        }

    def select(self, sampler_name, eta):
        return (host.current().sampler(BoundSampler(sampler_name, eta)),)
