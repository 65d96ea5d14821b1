"""The core's samplers as ComfyUI's: a SAMPLER under the host's guider, and the sigmas it walks down."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import comfy.model_sampling
import comfy.samplers
from comfy.k_diffusion.sampling import BrownianTreeNoiseSampler
from torch import Tensor
from tqdm.auto import tqdm

from ...t2v_core.diffusion import SAMPLERS, BoundSampler, NoiseSchedule, NoiseSource, sigmas_for, step_noise
from ...t2v_core.errors import T2VError
from ...t2v_core.runs import KeptRun
from ..host import Sampling
from . import runs

# Stable Diffusion's DDIM kept a masked area by noise that is not the start's; ComfyUI does so under that name.
INPAINT = {"ddim": {"random": True}}


def sampler(bound: BoundSampler, on_kept: Callable[[KeptRun], None] | None = None) -> comfy.samplers.KSAMPLER:
    """A SAMPLER for any of ComfyUI's nodes, and for `comfy.sample.sample_custom`.

    on_kept: given a run that has ended, if it was one of those that are kept on disk.
    """

    def run(model, x, sigmas, extra_args=None, callback=None, disable=None):
        if len(sigmas) < 2:
            return x
        extra_args = extra_args or {}
        model_sampling = model.inner_model.model_patcher.get_model_object("model_sampling")
        _check(bound, model_sampling)

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return model(x, sigma * x.new_ones(x.shape[0]), **extra_args)

        with tqdm(total=len(sigmas) - 1, disable=disable) as bar:

            def report(step: int, x: Tensor, sigma: Tensor, denoised: Tensor) -> None:
                bar.update(step - bar.n)
                if callback is not None:
                    callback({"i": step, "x": x, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})

            fresh = {"noise": _noise(bound, x, sigmas, extra_args.get("seed"))}
            fresh["unscaled"] = getattr(model_sampling, "unscaled", None)
            kept = runs.opened(bound, model, x, sigmas, extra_args)
            with kept or nullcontext():
                x = bound(denoise, x, sigmas, **fresh, callback=report, keeper=kept)
            bar.update(bar.total - bar.n)
        if kept is not None and on_kept is not None:
            on_kept(kept)
        return x

    return comfy.samplers.KSAMPLER(run, inpaint_options=INPAINT.get(bound.name, {}))


def sigmas(model: Any, settings: Sampling) -> Tensor:
    """The noise levels of a run of this MODEL, as KSampler would have them; empty at denoise 0."""
    if settings.scheduler in comfy.samplers.KSampler.SCHEDULERS:
        # ComfyUI's own reading of steps, scheduler and denoise, with whatever a node has made of the model's sigmas.
        return comfy.samplers.KSampler(
            model,
            steps=settings.steps,
            device=model.load_device,
            sampler=settings.sampler_name,
            scheduler=settings.scheduler,
            denoise=settings.denoise,
            model_options=model.model_options,
        ).sigmas
    model_sampling = model.get_model_object("model_sampling")
    kinds = comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS
    if not all(isinstance(model_sampling, kind) for kind in kinds):
        raise T2VError(
            f"scheduler: {settings.scheduler} counts the timesteps of a diffusion model's noise schedule, and this "
            "model has none; choose another, such as normal or simple"
        )
    noise_schedule = NoiseSchedule(model_sampling.sigmas.cpu(), model_sampling.log_sigmas.cpu())
    discard = SAMPLERS[settings.sampler_name].discards_penultimate
    found = sigmas_for(
        settings.scheduler, noise_schedule, settings.steps, settings.denoise, discard_penultimate=discard
    )
    return found.to(model.load_device)


def _check(bound: BoundSampler, model_sampling: Any) -> None:
    """A flow model's x is (1 - sigma) x0 + sigma noise: the amounts of fresh noise are others there."""
    if bound.adds_noise and isinstance(model_sampling, comfy.model_sampling.CONST):
        raise T2VError(
            f"sampler_name: {bound.name} adds noise in the way of diffusion models, and this is a flow model; choose "
            "one that adds none, such as euler or dpmpp_2m, or ComfyUI's own KSampler"
        )


def _noise(bound: BoundSampler, x: Tensor, sigmas: Tensor, seed: int | None) -> NoiseSource | None:
    """The core's noise, but ComfyUI's own Brownian path: a seed then means the same as in its samplers."""
    if bound.noise != "brownian":
        return step_noise(bound.noise, x, seed or 0)
    return BrownianTreeNoiseSampler(x, sigmas[sigmas > 0].min(), sigmas.max(), seed=seed, cpu=True)
