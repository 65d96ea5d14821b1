"""The core's modifiers as patches of a MODEL, obeyed by every sampler node of ComfyUI.

They do their work where a run passes, in wrappers, and not in the slots that hold one function each: so they find what
other nodes put there, whether before them or after, and go on with it. All but `TemporalStrength`, `FrameRate` and
`Compiled` work on any model whose latents are a frame batch `[f, c, h, w]`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP, get_wrappers_with_key
from einops import rearrange
from torch import Tensor

from ...t2v_core.diffusion import (
    Compiled,
    ContextWindows,
    FrameRate,
    GuidanceRescale,
    GuidanceSchedule,
    NetworkScale,
    NoiseSeeds,
    StrengthSchedule,
    TemporalStrength,
    rescale_guidance,
)
from ...t2v_core.diffusion.guidance import by_frame
from ...t2v_core.diffusion.model import NO_FPS_INPUT
from ...t2v_core.diffusion.modifiers import PerFrame, is_one
from ...t2v_core.errors import T2VError
from .attention_windows import WindowedAttentions
from .model_sampling import noise_left
from .noise import draw, frame_numbers
from .unet import COMPILED, FPS, ComfyUNet3D
from .unet_hooks import TEMPORAL
from .windows import WindowedCalls

POST_CFG, CFG, CALC = "sampler_post_cfg_function", "sampler_cfg_function", "sampler_calc_cond_batch_function"
BOTH_TEXTS = "disable_cfg1_optimization"


def patch(model: Any, modifier: Any) -> Any:
    """A clone of the MODEL with the modifier in place of an earlier one of its kind."""
    apply = MODIFIERS.get(type(modifier))
    if apply is None:
        known = ", ".join(kind.__name__ for kind in MODIFIERS)
        raise T2VError(f"unknown model modifier {modifier!r}; the known ones are {known}")
    model = model.clone()
    apply(model, modifier)
    model.set_attachments(_key(type(modifier)), modifier)
    return model


def patched_with(model: Any, kind: type) -> Any | None:
    """The modifier of this kind that a MODEL has, or None."""
    return model.get_attachment(_key(kind))


def without_seeds(model: Any) -> Any:
    """A clone of the MODEL that starts from the noise it is given, `NoiseSeeds` or not."""
    model = model.clone()
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, _key(NoiseSeeds))
    model.remove_attachments(_key(NoiseSeeds))
    return model


def check(modifier: PerFrame, latents: Tensor) -> None:
    """Raises T2VError unless the modifier fits these latents, `[f, c, h, w]`."""
    if latents.ndim != 4:
        raise T2VError(
            f"{modifier.what} is for clips that are frame batches, [frames, channels, h, w]; this model's latent is "
            f"{list(latents.shape)}"
        )
    modifier.check(len(latents))


class RescaledGuidance:
    """`GuidanceRescale` as a function that ComfyUI calls after guidance, whatever guided."""

    def __init__(self, modifier: GuidanceRescale):
        self.modifier = modifier

    def __call__(self, args: dict) -> Tensor:
        x, sigma, denoised, cond = (args[name] for name in ("input", "sigma", "denoised", "cond_denoised"))
        clips = (rearrange(frames, "f c h w -> 1 c f h w") for frames in (x, denoised, cond))
        x, denoised, cond = clips
        out = rescale_guidance(x, sigma[:1], denoised, cond, self.modifier.multiplier)
        return rearrange(out, "1 c f h w -> f c h w")


class ScheduledGuidance:
    """`GuidanceSchedule` around one prediction under guidance."""

    def __init__(self, modifier: GuidanceSchedule):
        self.modifier = modifier

    def __call__(self, executor: Any, x: Tensor, sigma: Tensor, model_options: dict, *args, **kwargs) -> Tensor:
        check(self.modifier, x)
        left = noise_left(executor.class_obj.model_patcher.get_model_object("model_sampling"), sigma)
        options = {**model_options}
        if self.modifier.frames is None:
            unneeded, any_needed = False, self.modifier.multiplier(left) != 1.0
        else:
            unneeded = is_one(self.modifier.scales(1.0, left))
            any_needed = not unneeded
        if any_needed:
            options[BOTH_TEXTS] = True
        elif unneeded and _nothing_needs_both(options):
            options[CALC] = _positive_alone
        if CFG in options:
            options[CFG] = self._chained(options[CFG], left)
        else:
            options[POST_CFG] = [self._guided(left), *options.get(POST_CFG, [])]
        return executor(x, sigma, options, *args, **kwargs)

    def _guided(self, left: float) -> Callable[[dict], Tensor]:
        """Guidance itself, called first of all after ComfyUI's own, whose result it replaces."""

        def guided(args: dict) -> Tensor:
            scales = self.modifier.scales(args["cond_scale"], left)
            cond, uncond = args["cond_denoised"], args["uncond_denoised"]
            if is_one(scales):
                return cond
            return uncond + (cond - uncond) * by_frame(scales, "f 1 1 1", cond)

        return guided

    def _chained(self, function: Callable[[dict], Tensor], left: float) -> Callable[[dict], Tensor]:
        """Another node's guidance with the scale of each frame, by a tensor where it takes one."""

        def guided(args: dict) -> Tensor:
            scales, x = self.modifier.scales(args["cond_scale"], left), args["input"]
            if isinstance(scales, float):
                return function({**args, "cond_scale": scales})
            try:
                out = function({**args, "cond_scale": by_frame(scales, "f 1 1 1", x)})
                if out.shape == x.shape:
                    return out
            except (TypeError, ValueError, RuntimeError):
                pass  # made for one number: compute the clip for each, and take the frames that have it
            out = torch.empty_like(x)
            for scale in dict.fromkeys(scales):
                rows = [frame for frame, its in enumerate(scales) if its == scale]
                out[rows] = function({**args, "cond_scale": scale})[rows]
            return out

        return guided


def _nothing_needs_both(options: dict) -> bool:
    """Whether no other node looks at what the negative text predicts."""
    after = [f for f in options.get(POST_CFG, []) if not isinstance(f, RescaledGuidance)]
    others = (BOTH_TEXTS, CFG, CALC, "sampler_pre_cfg_function")
    return not after and not any(options.get(key) for key in others)


def _positive_alone(args: dict) -> list[Tensor]:
    """What ComfyUI does at cfg 1."""
    options = {key: value for key, value in args["model_options"].items() if key != CALC}
    conds = [args["conds"][0], None]
    return comfy.samplers.calc_cond_batch(args["model"], conds, args["input"], args["sigma"], options)


class KeptFrames:
    """`StrengthSchedule`: around a whole run, and as the mask of each of its predictions."""

    def __init__(self, modifier: StrengthSchedule):
        self.modifier = modifier

    def run(
        self, executor: Any, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, *args, **kwargs
    ) -> Tensor:
        """Around `CFGGuider.outer_sample`: latents as they are on a socket."""
        check(self.modifier, noise)
        model_sampling = executor.class_obj.model_patcher.get_model_object("model_sampling")
        self.modifier.check_start(noise_left(model_sampling, sigmas[0]), noise)
        if getattr(sampler, "inpaint_options", {}).get("random"):
            # DDIM would keep frames by other noise than they start from, and they would jump when they are let go.
            sampler = copy.copy(sampler)
            sampler.inpaint_options = {**sampler.inpaint_options, "random": False}
        out = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        whole = sigmas[-1] == 0 or _has(executor.class_obj.model_options, WrappersMP.SAMPLER_SAMPLE, NetworkScale)
        return self.modifier.restore(out, latent_image) if whole else out

    def sample(
        self, executor: Any, guider: Any, sigmas: Tensor, extra_args: dict, callback: Any, noise: Tensor,
        latent_image: Tensor, denoise_mask: Tensor | None, *args, **kwargs,
    ) -> Tensor:  # fmt: skip
        """Around `Sampler.sample`: without a mask, ComfyUI would not ask for one."""
        key = "denoise_mask_function"
        model_options = extra_args["model_options"]
        options = {**model_options, key: self._mask(model_options.get(key))}
        mask = torch.ones_like(noise) if denoise_mask is None else denoise_mask
        extra_args = {**extra_args, "model_options": options}
        return executor(guider, sigmas, extra_args, callback, noise, latent_image, mask, *args, **kwargs)

    def _mask(self, function: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
        """Which frames are free, within the area that a mask and another node's function (or None) leave free."""

        def masked(sigma: Tensor, denoise_mask: Tensor, extra_options: dict) -> Tensor:
            model_sampling = extra_options["model"].model_patcher.get_model_object("model_sampling")
            free = self.modifier.free(noise_left(model_sampling, sigma))
            if function is not None:
                denoise_mask = function(sigma, denoise_mask, extra_options=extra_options)
            return denoise_mask * by_frame(free, "f 1 1 1", denoise_mask)

        return masked


class SeededNoise:
    """`NoiseSeeds` around a whole run."""

    def __init__(self, modifier: NoiseSeeds):
        self.modifier = modifier

    def __call__(self, executor: Any, noise: Tensor, *args, **kwargs) -> Tensor:
        check(self.modifier, noise)
        if bool(noise.any()):  # else a node asked for a run without noise
            seed = kwargs.get("seed", args[6] if len(args) > 6 else None)
            numbers = None if seed is None else frame_numbers(noise, seed)
            noise = self.modifier.noise(lambda its: draw(noise.cpu(), its, numbers), len(noise)).to(noise)
        return executor(noise, *args, **kwargs)


def in_network_scale(
    executor: Any, guider: Any, sigmas: Tensor, extra_args: dict, callback: Any, noise: Tensor,
    latent_image: Tensor, denoise_mask: Tensor | None, *args, **kwargs,
) -> Tensor:  # fmt: skip
    """`NetworkScale` around `Sampler.sample`: latents in the model's scale."""
    model_sampling = guider.model_patcher.get_model_object("model_sampling")
    first, last = (_x_scale(model_sampling, sigma) for sigma in (sigmas[0], sigmas[-1]))
    below_the_largest = 0 < float(sigmas[0]) < float(model_sampling.sigma_max) * (1 - 1e-5)
    if below_the_largest and not bool(latent_image.any()):
        noise = noise * (first / float(sigmas[0]))
    x = executor(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *args, **kwargs) / last
    if denoise_mask is None or sigmas[-1] == 0:
        return x
    return x * denoise_mask + latent_image * (1 - denoise_mask)  # what a mask keeps would keep sigma's noise, too


def _x_scale(model_sampling: Any, sigma: Tensor) -> float:
    """`NoiseSchedule.x_scale` of any diffusion model."""
    return 1 / float(model_sampling.calculate_input(sigma.reshape(1), sigma.new_ones(1, 1, 1, 1)))


def _rescale(model: Any, modifier: GuidanceRescale) -> None:
    others = [f for f in model.model_options.get(POST_CFG, []) if not isinstance(f, RescaledGuidance)]
    model.model_options[POST_CFG] = others
    model.set_model_sampler_post_cfg_function(RescaledGuidance(modifier))


def _guidance(model: Any, modifier: GuidanceSchedule) -> None:
    _wrap(model, WrappersMP.PREDICT_NOISE, modifier, ScheduledGuidance(modifier))


def _strength(model: Any, modifier: StrengthSchedule) -> None:
    kept = KeptFrames(modifier)
    _wrap(model, WrappersMP.OUTER_SAMPLE, modifier, kept.run)
    _wrap(model, WrappersMP.SAMPLER_SAMPLE, modifier, kept.sample)


def _seeds(model: Any, modifier: NoiseSeeds) -> None:
    _wrap(model, WrappersMP.OUTER_SAMPLE, modifier, SeededNoise(modifier))


def _temporal(model: Any, modifier: TemporalStrength) -> None:
    if not isinstance(model.get_model_object("diffusion_model"), ComfyUNet3D):
        raise T2VError(
            "model: the temporal strength needs a text-to-video model, as T2V Load Model gives; the connected model "
            "makes pictures or another kind of video, and has no layers of this kind"
        )
    model.model_options["transformer_options"][TEMPORAL] = modifier


def _network_scale(model: Any, modifier: NetworkScale) -> None:
    _wrap(model, WrappersMP.SAMPLER_SAMPLE, modifier, in_network_scale)


def _frame_rate(model: Any, modifier: FrameRate) -> None:
    unet = model.get_model_object("diffusion_model")
    if not isinstance(unet, ComfyUNet3D) or not unet.config.fps_embedding:
        raise T2VError(NO_FPS_INPUT)
    model.model_options["transformer_options"][FPS] = modifier.fps


def _compiled(model: Any, modifier: Compiled) -> None:
    if not isinstance(model.get_model_object("diffusion_model"), ComfyUNet3D):
        raise T2VError(
            "model: T2V Compile is for a text-to-video model, as T2V Load Model gives; for the connected one use "
            "ComfyUI's TorchCompileModel"
        )
    model.model_options["transformer_options"][COMPILED] = modifier.parts


def _windows(model: Any, modifier: ContextWindows) -> None:
    if modifier.where == "attention":
        inside = WindowedAttentions(modifier, model)
        wrappers = {WrappersMP.SAMPLER_SAMPLE: inside.sample, WrappersMP.APPLY_MODEL: inside.apply}
    else:
        calls = WindowedCalls(modifier)
        wrappers = {WrappersMP.PREPARE_SAMPLING: calls.prepare, WrappersMP.SAMPLER_SAMPLE: calls.sample}
        wrappers[WrappersMP.CALC_COND_BATCH] = calls.predict
    for kind in (WrappersMP.PREPARE_SAMPLING, WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL):
        model.remove_wrappers_with_key(kind, _key(ContextWindows))  # of windows in the other place
    for kind, wrapper in wrappers.items():
        _wrap(model, kind, modifier, wrapper)


def _wrap(model: Any, kind: str, modifier: Any, wrapper: Callable[..., Tensor]) -> None:
    key = _key(type(modifier))
    model.remove_wrappers_with_key(kind, key)
    model.add_wrapper_with_key(kind, key, wrapper)


def _has(model_options: dict, kind: str, modifier: type) -> bool:
    """Whether a wrapper of a modifier's kind was put there by `_wrap`."""
    return bool(get_wrappers_with_key(kind, _key(modifier), model_options, is_model_options=True))


def _key(kind: type) -> str:
    return f"t2v_{kind.__name__}"


MODIFIERS: dict[type, Callable[[Any, Any], None]] = {
    GuidanceRescale: _rescale,
    GuidanceSchedule: _guidance,
    StrengthSchedule: _strength,
    NoiseSeeds: _seeds,
    TemporalStrength: _temporal,
    NetworkScale: _network_scale,
    FrameRate: _frame_rate,
    Compiled: _compiled,
    ContextWindows: _windows,
}
