"""The core's samplers as ComfyUI's: a SAMPLER under the host's guider."""

from __future__ import annotations

from typing import Any

import comfy.model_sampling
import comfy.samplers
from comfy.k_diffusion.sampling import BrownianTreeNoiseSampler
from torch import Tensor
from tqdm.auto import tqdm

from ...t2v_core.diffusion import BoundSampler, NoiseSource, step_noise
from ...t2v_core.errors import T2VError

# Stable Diffusion's DDIM kept a masked area by noise that is not the start's; ComfyUI does so under that name.
INPAINT = {"ddim": {"random": True}}


def sampler(bound: BoundSampler) -> comfy.samplers.KSAMPLER:
    """A SAMPLER for any of ComfyUI's nodes, and for `comfy.sample.sample_custom`."""

    def run(model, x, sigmas, extra_args=None, callback=None, disable=None):
        if len(sigmas) < 2:
            return x
        extra_args = extra_args or {}
        _check(bound, model.inner_model.model_patcher.get_model_object("model_sampling"))

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return model(x, sigma * x.new_ones(x.shape[0]), **extra_args)

        with tqdm(total=len(sigmas) - 1, disable=disable) as bar:

            def report(step: int, x: Tensor, sigma: Tensor, denoised: Tensor) -> None:
                bar.update(step - bar.n)
                if callback is not None:
                    callback({"i": step, "x": x, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})

            x = bound(denoise, x, sigmas, noise=_noise(bound, x, sigmas, extra_args.get("seed")), callback=report)
            bar.update(bar.total - bar.n)
        return x

    return comfy.samplers.KSAMPLER(run, inpaint_options=INPAINT.get(bound.name, {}))


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
