"""ComfyUI's own text encoding, samplers, guiders and conditioning nodes on our MODEL and CLIP (see `table`)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from prompts import Failed, Graph, Node
from table import (
    CFG,
    CHANGED,
    EQUAL,
    FRAMES,
    NEGATIVE,
    PROMPT,
    SEED,
    SIZE,
    STEPS,
    UNCHANGED,
    Clip,
    bundled,
    check_row,
    core,
    nothing,
    relative_error,
    text,
)

OTHER = "a yellow star moving up on a black background"


def test_clip_text_encode(comfy):
    clip = Clip()
    words = ("a red circle", "a (red:1.0) circle", "a (red:1.3) circle (moving [left])")
    encoded = clip.tensors(comfy, *(clip.text(each) for each in words))
    check_row(*(each["0.0"] for each in encoded), text(words[2]), equal=UNCHANGED)
    expected = bundled().prompt_encoder.encode(words[2])[1]
    assert relative_error(encoded[2]["0.1.pooled_output"], expected) <= UNCHANGED


def test_ksampler(comfy):
    clip = Clip()
    plain = clip.sample()
    unchanged = clip.sample(latent_image=plain, denoise=0.0)
    again = clip.sample(latent_image=plain, denoise=0.5, cfg=1.5, sampler_name="dpmpp_2m", scheduler="karras")
    plain, unchanged, again = clip.latents(comfy, plain, unchanged, again)
    assert relative_error(plain, core().sample(core().guided())) <= EQUAL
    sigmas = core().sigmas(denoise=0.5, scheduler="karras")
    check_row(plain, unchanged, again, core().sample(core().guided(cfg=1.5), plain, sigmas, sampler="dpmpp_2m"))


def test_ksampler_advanced_in_two_stages(comfy):
    clip = Clip()

    def second(first, positive):
        return advanced(positive, first, add_noise="disable", start_at_step=2, return_with_leftover_noise="disable")

    def advanced(positive, latent, **stage):
        plain = {"model": clip.model, "negative": clip.negative, "noise_seed": SEED, "steps": STEPS, "cfg": CFG}
        plain |= {"sampler_name": "euler", "scheduler": "normal", "start_at_step": 0, "end_at_step": 10000}
        return clip.add("KSamplerAdvanced", positive=positive, latent_image=latent, **{**plain, **stage})

    first = advanced(clip.positive, clip.empty, add_noise="enable", end_at_step=2, return_with_leftover_noise="enable")
    stages = [second(first, words) for words in (clip.positive, clip.text(OTHER))]
    border, other = core().sigmas()[2], text(OTHER)

    def changing(x, sigma):
        uncond = core().denoise(x, sigma, core().negative)
        return uncond + CFG * (core().denoise(x, sigma, core().positive if sigma > border else other) - uncond)

    check_row(*clip.latents(comfy, clip.sample(), *stages), core().sample(changing))


@pytest.mark.parametrize("node", ["KSamplerSelect", "T2VSamplerSelect"])
def test_sampler_custom_advanced_with_a_sampler_of(comfy, node):
    clip = Clip()
    guider = clip.add("CFGGuider", model=clip.model, positive=clip.positive, negative=clip.negative, cfg=CFG)
    eta = {"eta": -1.0} if node == "T2VSamplerSelect" else {}
    rows = [clip.custom(guider, clip.add(node, sampler_name=name, **eta)) for name in ("euler", "dpmpp_2m")]
    check_row(*clip.latents(comfy, clip.sample(), *rows), core().sample(core().guided(), sampler="dpmpp_2m"))


def test_ancestral_sampler_of_ours_without_fresh_noise_is_eulers(comfy):
    clip = Clip()
    guider = clip.add("CFGGuider", model=clip.model, positive=clip.positive, negative=clip.negative, cfg=CFG)
    rows = [
        clip.custom(guider, clip.add("T2VSamplerSelect", sampler_name="euler_ancestral", eta=eta)) for eta in (0.0, 1.0)
    ]
    plain, without, fresh = clip.latents(comfy, clip.sample(), *rows)
    assert relative_error(without, plain) <= EQUAL  # its arithmetic is another
    assert relative_error(fresh, plain) >= CHANGED


@pytest.mark.parametrize("node", ["PerpNegGuider", "PerpNeg"])
def test_perp_neg(comfy, node):
    """Of the negative text counts what is perpendicular to the positive: Armandpour et al. (arXiv 2304.04968)."""
    clip, strength = Clip(), 1.5
    # A MODEL's own guidance is computed on x - denoised, whose last digits are lost where noise dwarfs the clip.
    denoise = {"PerpNegGuider": 1.0, "PerpNeg": 0.6}[node]
    texts = {"positive": clip.positive, "negative": clip.negative}

    def with_strength(neg_scale):
        if node == "PerpNeg":
            model = clip.add(node, model=clip.model, empty_conditioning=clip.empty_text, neg_scale=neg_scale)
            return clip.sample(model=model, denoise=denoise)
        guider = clip.add(
            node, model=clip.model, empty_conditioning=clip.empty_text, cfg=CFG, neg_scale=neg_scale, **texts
        )
        return clip.custom(guider)

    def perpendicular(x, sigma):
        texts = (core().positive, core().negative, core().empty_text)
        positive, negative, nothing = (core().denoise(x, sigma, each) for each in texts)
        towards, away = positive - nothing, negative - nothing
        away = away - (away * towards).sum() / towards.square().sum() * towards
        return nothing + CFG * (towards - strength * away)

    plain = clip.sample(negative=clip.empty_text, denoise=denoise)
    rows = clip.latents(comfy, plain, with_strength(0.0), with_strength(strength))
    check_row(*rows, core().sample(perpendicular, sigmas=core().sigmas(denoise=denoise)))


def test_conditioning_set_timestep_range(comfy):
    clip = Clip()

    def within(words, start, end):
        return clip.add("ConditioningSetTimestepRange", conditioning=words, start=start, end=end)

    halves = within(clip.positive, 0.0, 0.5), within(clip.text(OTHER), 0.5, 1.0)
    both = clip.add("ConditioningCombine", conditioning_1=halves[0], conditioning_2=halves[1])
    rows = [clip.sample(positive=words) for words in (within(clip.positive, 0.0, 1.0), both)]
    border, other = core().noise_schedule.percent_to_sigma(0.5), text(OTHER)

    def switching(x, sigma):
        uncond = core().denoise(x, sigma, core().negative)
        return uncond + CFG * (core().denoise(x, sigma, core().positive if sigma > border else other) - uncond)

    check_row(*clip.latents(comfy, clip.sample(), *rows), core().sample(switching))


def test_conditioning_set_area(comfy):
    """A text for the right half: there, the mean of what the two texts say, the other fading in over its margin."""
    width = 2 * SIZE
    clip = Clip(width=width)

    def area(words, width, x):
        return clip.add("ConditioningSetArea", conditioning=words, width=width, height=SIZE, x=x, y=0, strength=1.0)

    right = area(clip.text(OTHER), SIZE, SIZE)
    both = clip.add("ConditioningCombine", conditioning_1=clip.positive, conditioning_2=right)
    rows = [clip.sample(positive=words) for words in (area(clip.positive, width, 0), both)]
    half, other = SIZE // 8, text(OTHER)
    weight = torch.ones(half)
    weight[0] = 0.5  # of a margin a quarter of the area wide: 1/2, 2/2

    def shared(x, sigma, everywhere, right):
        denoised, there = core().denoise(x, sigma, everywhere), core().denoise(x[..., half:], sigma, right)
        denoised[..., half:] = (denoised[..., half:] + weight * there) / (1 + weight)
        return denoised

    def guided(x, sigma):
        uncond = shared(x, sigma, core().negative, core().negative)  # is given the same areas
        return uncond + CFG * (shared(x, sigma, core().positive, other) - uncond)

    check_row(*clip.latents(comfy, clip.sample(), *rows), core().sample(guided, nothing(width)))


def test_texts_are_the_cores():
    """What every row rests on: the two texts say different things to the model."""
    assert PROMPT != NEGATIVE
    x = 3 * torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor(3.0)
    assert relative_error(*(core().denoise(x, sigma, words) for words in (core().positive, core().negative))) >= 0.01


def custom(
    comfy, sampler: str, eta: float, model: Callable[[Graph, Node], Node], cut: int | None = None
) -> torch.Tensor:
    """A clip of SamplerCustomAdvanced with our SAMPLER, perhaps by the sigmas after `cut` alone."""
    graph = Graph()
    loader = graph.add("T2VLoadModel", model_name="bundled", weight_dtype="auto")
    text = graph.add("CLIPTextEncode", clip=loader[1], text="a red circle")
    sigmas = graph.add("BasicScheduler", model=loader, scheduler="normal", steps=3, denoise=1.0)
    if cut is not None:
        sigmas = graph.add("SplitSigmas", sigmas=sigmas, step=cut)[1]
    sampled = graph.add(
        "SamplerCustomAdvanced",
        noise=graph.add("DisableNoise") if cut else graph.add("RandomNoise", noise_seed=1),
        guider=graph.add("BasicGuider", model=model(graph, loader), conditioning=text),
        sampler=graph.add("T2VSamplerSelect", sampler_name=sampler, eta=eta),
        sigmas=sigmas,
        latent_image=graph.add("EmptyLatentImage", width=64, height=64, batch_size=2),
    )
    saved = graph.add("SaveLatent", samples=sampled, filename_prefix="custom")
    return comfy.run(graph).latent(saved)


@pytest.mark.parametrize(
    ("sampler", "eta"), [("euler_ancestral", -1.0), ("lcm", -1.0), ("dpmpp_2m_sde", -1.0), ("ddim", 0.5)]
)
def test_a_sampler_that_adds_noise_refuses_a_flow_model(comfy, sampler, eta):
    def as_flow(graph, model):
        return graph.add("ModelSamplingSD3", model=model, shift=3.0)

    with pytest.raises(Failed, match=f"{sampler} adds noise in the way of diffusion models"):
        custom(comfy, sampler, eta, as_flow)
    assert custom(comfy, "ddim", 0.0, as_flow).isfinite().all()


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m_sde", "dpmpp_sde", "uni_pc"])
def test_after_the_last_step_there_is_nothing_to_do(comfy, sampler):
    assert custom(comfy, sampler, -1.0, lambda graph, model: model, cut=3).count_nonzero() == 0
