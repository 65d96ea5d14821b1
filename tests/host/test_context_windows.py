"""A long clip in windows, in ComfyUI: by every sampler node what headless gives, and every input in its own frames."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from prompts import Graph, Node
from table import CFG, CHANGED, EQUAL, SEED, STEPS, Clip, core, nothing, relative_error
from torch import Tensor

from t2v_core.diffusion import prepare_noise, sample, sigmas_for
from t2v_core.models.hooks import TemporalScale
from t2v_core.windows import ContextWindows

FRAMES, SIZE = 40, 32
NUMBERS = {"length": 16, "overlap": 4}
PLANS = [
    {},
    {"plan": "looped", "fuse": "flat"},
    pytest.param({"plan": "shifted", "fuse": "overlap-linear"}, marks=pytest.mark.long),
    pytest.param({"plan": "uniform", "stride": 2}, marks=pytest.mark.long),
]


def windowed(graph: Graph, model: Node | list, *modifiers: tuple[str, dict], **numbers) -> Node:
    """A MODEL with other modifiers and with windows."""
    given = [*modifiers, ("ContextWindows", {**NUMBERS, **numbers})]
    return graph.add("ProbeModify", model=model, modifiers=json.dumps(given))


def long_clip() -> Clip:
    return Clip(width=SIZE, height=SIZE, frames=FRAMES)


def looped_over(hooks: Callable | None = None, scales: Tensor | float = CFG, **numbers):
    """A guided denoiser that calls the network once for each window and text, and averages by the plan's weights."""
    modifier, model = ContextWindows(**{**NUMBERS, **numbers}), core()

    def fused(x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        left = float(model.noise_schedule.timestep(sigma)) / (len(model.noise_schedule) - 1)
        windows, total = modifier.at(len(x), left), torch.zeros_like(x)
        for rows, weights in zip(windows.frames, windows.weights, strict=True):
            rows = list(rows)
            out = model.denoise(x[rows], sigma, text, hooks and hooks(rows))
            total[rows] += weights[:, None, None, None] * out
        return total

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        uncond, cond = (fused(x, sigma, text) for text in (model.negative, model.positive))
        return uncond + scales * (cond - uncond)

    return denoise


def noisy_pictures(clip: Clip) -> Node:
    """An IMAGE whose frames differ."""
    given = {"model": clip.model, "positive": clip.positive, "negative": clip.negative, "latent_image": clip.empty}
    given |= {"noise_seed": SEED, "steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal"}
    noisy = clip.add("KSamplerAdvanced", **given, add_noise="enable", start_at_step=0, end_at_step=1,
                     return_with_leftover_noise="enable")  # fmt: skip
    return clip.add("VAEDecode", samples=noisy, vae=clip.vae)


def empty() -> Tensor:
    return nothing(SIZE, SIZE, FRAMES)


# --- samplers ---


@pytest.mark.parametrize("numbers", PLANS, ids=lambda numbers: numbers.get("plan", "static"))
def test_every_sampler_node_gives_what_headless_and_a_plain_loop_give(comfy, numbers):
    clip = long_clip()
    model = windowed(clip, clip.model, **numbers)
    given = {"model": model, "positive": clip.positive, "negative": clip.negative, "latent_image": clip.empty}
    guider = clip.add("CFGGuider", model=model, positive=clip.positive, negative=clip.negative, cfg=CFG)
    ways = {
        "KSampler": clip.sample(model=model),
        "T2VSampler": clip.add("T2VSampler", **given, seed=SEED, steps=STEPS, cfg=CFG, sampler_name="euler",
                               scheduler="normal", denoise=1.0, guidance_rescale=0.0),
        "SamplerCustomAdvanced": clip.custom(guider),
    }  # fmt: skip
    plain, *latents = clip.latents(comfy, clip.sample(), *ways.values())
    expected = core().sample(looped_over(**numbers), empty())
    headless = core().model.patched(ContextWindows(**{**NUMBERS, **numbers}))
    latents.append(
        sample(headless, empty(), core().positive, core().negative, noise=prepare_noise(empty().shape, SEED),
               sampler="euler", sigmas=core().sigmas(), cfg=CFG, seed=SEED)
    )  # fmt: skip
    errors = {way: relative_error(each, expected) for way, each in zip((*ways, "headless"), latents, strict=True)}
    assert max(errors.values()) <= EQUAL, errors
    assert relative_error(plain, core().sample(core().guided(), empty())) <= EQUAL  # the MODEL it was made from
    assert relative_error(expected, plain) >= CHANGED


def dpm_2(denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """Karras et al. (arXiv 2206.00364), algorithm 2, with the middle in log sigma and without churn."""
    for sigma, after in zip(sigmas, sigmas[1:], strict=False):
        slope = (x - denoise(x, sigma)) / sigma
        if after > 0:
            middle = sigma.log().lerp(after.log(), 0.5).exp()
            halfway = x + slope * (middle - sigma)
            slope = (halfway - denoise(halfway, middle)) / middle
        x = x + slope * (after - sigma)
    return x


def dpmpp_2s(denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """Lu et al. (arXiv 2211.01095), algorithm 1, with the middle in log sigma."""
    for sigma, after in zip(sigmas, sigmas[1:], strict=False):
        middle = sigma.log().lerp(after.log(), 0.5).exp()
        if after > 0:
            halfway = middle / sigma * x + (1 - middle / sigma) * denoise(x, sigma)
            x = after / sigma * x + (1 - after / sigma) * denoise(halfway, middle)
        else:
            x = denoise(x, sigma)
    return x


@pytest.mark.parametrize("sampler", [dpm_2, dpmpp_2s], ids=lambda each: each.__name__)
def test_samplers_that_call_the_model_twice_a_step(comfy, monkeypatch, sampler):
    """A plan that shifts is one at the call in the middle, too."""
    clip, discard = long_clip(), sampler is dpm_2
    model = windowed(clip, clip.model, plan="shifted")
    if discard:
        sampled = clip.sample(model=model, sampler_name="dpm_2", denoise=0.6)
    else:
        guider = clip.add("CFGGuider", model=model, positive=clip.positive, negative=clip.negative, cfg=CFG)
        sampled = clip.custom(guider, clip.add("SamplerDPMPP_2S_Ancestral", eta=0.0, s_noise=1.0))
    (latents,) = clip.latents(comfy, sampled)
    sigmas = sigmas_for("normal", core().noise_schedule, STEPS, 0.6 if discard else 1.0, discard_penultimate=discard)
    monkeypatch.setitem(core().sample.__globals__["SAMPLERS"], "twice", sampler)
    expected = core().sample(looped_over(plan="shifted"), empty(), sigmas, sampler="twice")
    assert relative_error(latents, expected) <= EQUAL


def test_a_clip_of_one_window_is_the_plain_clip(comfy):
    clip = long_clip()
    rows = [clip.sample(), clip.sample(model=windowed(clip, clip.model, length=FRAMES))]
    rows.append(clip.sample(model=windowed(clip, windowed(clip, clip.model, length=8), length=FRAMES)))  # replaced
    plain, one, replaced = clip.latents(comfy, *rows)
    assert torch.equal(one, plain) and torch.equal(replaced, plain)


def test_numbers_for_each_frame(comfy):
    """Guidance, strength and seeds are the whole clip's; the temporal strength of each frame goes with it."""
    clip = long_clip()
    ramp = [frame / (FRAMES - 1) for frame in range(FRAMES)]
    temporal = ("TemporalStrength", {"attention": ramp, "convolution": ramp[::-1]})
    guidance = ("GuidanceSchedule", {"frames": [1 + 4 * value for value in ramp]})
    seeds = ("NoiseSeeds", {"keys": [[0, SEED], [20, SEED]]})
    strength = ("StrengthSchedule", {"strengths": [0.0, *[1.0] * (FRAMES - 1)]})
    rows = [clip.sample(model=windowed(clip, clip.model, *modifiers))
            for modifiers in ([temporal, guidance, seeds], [temporal], [strength])]  # fmt: skip
    many, one, kept = clip.latents(comfy, *rows)

    def hooks(rows):
        return TemporalScale([ramp[row] for row in rows], [ramp[FRAMES - 1 - row] for row in rows])

    scales = torch.tensor(guidance[1]["frames"])[:, None, None, None]
    assert relative_error(one, core().sample(looped_over(hooks), empty())) <= EQUAL
    assert relative_error(many, core().sample(looped_over(hooks, scales), empty())) <= EQUAL
    assert not kept[0].any() and kept[1:].any()


def test_a_mask_for_each_frame(comfy):
    """What a mask keeps of a latent comes back; the rest is a loop's that is shown the kept with sigma's noise."""
    clip = long_clip()
    before = clip.sample(steps=2)
    mask = clip.add("ImageToMask", image=noisy_pictures(clip), channel="green")
    masked = clip.add("SetLatentNoiseMask", samples=before, mask=mask)
    rows = [before, clip.sample(model=windowed(clip, clip.model), latent_image=masked)]
    latents = [clip.add("ProbeTensor", value=row) for row in (*rows, mask)]
    run = comfy.run(clip)
    first, after = (run.tensors(node)["samples"] for node in latents[:2])
    mask = run.tensors(latents[2])["value"]
    assert mask.shape == (FRAMES, SIZE, SIZE) and mask.std(dim=0).min() > 0.1
    free = torch.nn.functional.interpolate(mask[:, None], first.shape[2:], mode="bilinear")
    start, noise, denoise = first * core().scale, prepare_noise(first.shape, SEED), looped_over()

    def kept(x, sigma):
        shown = x * free + (start + noise * sigma) * (1 - free)
        return denoise(shown, sigma) * free + start * (1 - free)

    assert relative_error(after, core().sample(kept, first)) <= EQUAL
