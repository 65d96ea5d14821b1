"""Modifiers with numbers for each frame, in ComfyUI: as without it, beside what other nodes patch, on other models."""

from __future__ import annotations

import json

import pytest
import random_files
import torch
from prompts import Failed, Graph, Node
from table import CFG, CHANGED, EQUAL, FRAMES, SEED, STEPS, UNCHANGED, Clip, core, nothing, relative_error
from torch import Tensor

from t2v_core import diffusion
from t2v_core.diffusion import prepare_noise, sample

Modifiers = list[tuple[str, dict]]

SCALES = [1.0, 2.5, 4.0, 6.0]
GUIDANCE = ("GuidanceSchedule", {"frames": SCALES, "steps": [0.5, 1.5, 1.0]})
RESCALE = ("GuidanceRescale", {"multiplier": 0.7})
SEEDS = ("NoiseSeeds", {"keys": [[0, 3], [2, 2**63 + 9]]})
TEMPORAL = ("TemporalStrength", {"attention": [1.0, 0.0, 0.5, 1.5], "convolution": [0.0, 1.0, 1.2, 0.7]})
STRENGTH = ("StrengthSchedule", {"strengths": [0.0, 0.4, 0.8, 1.0]})
CASES: dict[str, Modifiers] = {
    "guidance by frame and step": [GUIDANCE],
    "guidance by step": [("GuidanceSchedule", {"steps": [2.0, 0.5]})],
    "rescaled guidance": [GUIDANCE, RESCALE],
    "seeds": [SEEDS],
    "temporal": [TEMPORAL],
    "strength": [STRENGTH],
    "all": [GUIDANCE, RESCALE, SEEDS, TEMPORAL, STRENGTH],
}


def modified(graph: Graph, model: Node | list, *modifiers: tuple[str, dict]) -> Node:
    return graph.add("ProbeModify", model=model, modifiers=json.dumps(modifiers))


def in_core(*modifiers: tuple[str, dict], latents: Tensor | None = None, **changes) -> Tensor:
    """The plain clip of `table` with modifiers, without ComfyUI."""
    model = core().model
    for kind, numbers in modifiers:
        model = model.patched(getattr(diffusion, kind)(**numbers))
    latents = nothing() if latents is None else latents
    given = {"cond": core().positive, "uncond": core().negative, "noise": prepare_noise(latents.shape, SEED)}
    given |= {"sampler": "euler", "sigmas": core().sigmas(), "cfg": CFG, "seed": SEED}
    return sample(model, latents, **{**given, **changes})


@pytest.mark.parametrize("case", CASES)
def test_every_sampler_node_gives_what_headless_gives(comfy, case):
    clip, modifiers = Clip(), CASES[case]
    before = clip.sample()
    start = before if STRENGTH in modifiers else clip.empty
    model = modified(clip, clip.model, *modifiers)
    given = {"model": model, "positive": clip.positive, "negative": clip.negative, "latent_image": start}
    sampler = clip.add("T2VSamplerSelect", sampler_name="euler", eta=-1.0)
    sigmas = clip.add("BasicScheduler", model=model, scheduler="normal", steps=STEPS, denoise=1.0)
    ways = {
        "KSampler": clip.sample(model=model, latent_image=start),
        "T2VSampler": clip.add("T2VSampler", **given, seed=SEED, steps=STEPS, cfg=CFG, sampler_name="euler",
                               scheduler="normal", denoise=1.0, guidance_rescale=0.0),
        "SamplerCustom": clip.add("SamplerCustom", **given, add_noise=True, noise_seed=SEED, cfg=CFG, sampler=sampler,
                                  sigmas=sigmas),
        "plain": clip.sample(latent_image=start),
    }  # fmt: skip
    first, *latents = clip.latents(comfy, before, *ways.values())
    *latents, plain = latents
    first = first if STRENGTH in modifiers else nothing()
    expected = in_core(*modifiers, latents=first)
    assert relative_error(plain, in_core(latents=first)) <= EQUAL  # the MODEL it was made from is as it was
    assert relative_error(expected, plain) >= CHANGED
    errors = {way: relative_error(each, expected) for way, each in zip(ways, latents, strict=False)}
    print(case, {way: f"{error:.1e}" for way, error in errors.items()})
    assert max(errors.values()) <= EQUAL
    if STRENGTH in modifiers:
        assert all(torch.equal(each[0], first[0]) for each in latents)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "ddim", "euler_ancestral"])
def test_strength_with_other_samplers(comfy, sampler):
    """DDIM is the one whose masked areas ComfyUI keeps by other noise than they start from."""
    clip = Clip()
    before = clip.sample()
    model = modified(clip, clip.model, STRENGTH)
    first, once = clip.latents(comfy, before, clip.sample(model=model, latent_image=before, sampler_name=sampler))
    assert torch.equal(once[0], first[0]) and once.isfinite().all()
    if sampler != "euler_ancestral":  # whose noise ComfyUI draws in another way
        assert relative_error(once, in_core(STRENGTH, latents=first, sampler=sampler)) <= EQUAL


def test_constants_change_nothing_and_the_last_of_a_kind_holds(comfy):
    clip = Clip()
    plain = clip.sample()
    same = [
        ("GuidanceSchedule", {"frames": [CFG] * FRAMES}),
        ("StrengthSchedule", {"strengths": [1.0] * FRAMES}),
        ("NoiseSeeds", {"keys": [[0, SEED]]}),
        ("TemporalStrength", {"attention": [1.0] * FRAMES, "convolution": [1.0] * FRAMES}),
    ]
    others = [GUIDANCE, STRENGTH, SEEDS, TEMPORAL]
    constant = clip.sample(model=modified(clip, clip.model, *same))
    replaced = clip.sample(model=modified(clip, modified(clip, clip.model, *others), *same))
    plain, constant, replaced = clip.latents(comfy, plain, constant, replaced)
    assert relative_error(constant, plain) <= UNCHANGED
    assert torch.equal(replaced, constant)


def test_two_advanced_samplers_equal_one(comfy):
    """The second adds no noise, so seeds leave it alone, and goes on in the curve over the steps where the first ended;
    kept frames must all be free by then."""
    clip = Clip()
    before = clip.sample()
    free = ("StrengthSchedule", {"strengths": [0.5, 0.7, 0.8, 1.0]})
    model = modified(clip, clip.model, GUIDANCE, SEEDS, TEMPORAL, free)
    shared = {"model": model, "noise_seed": SEED, "steps": 6, "cfg": CFG, "sampler_name": "euler"}
    shared |= {"scheduler": "normal", "positive": clip.positive, "negative": clip.negative}

    def advanced(latent, start, end, noise, leftover):
        return clip.add("KSamplerAdvanced", **shared, latent_image=latent, start_at_step=start, end_at_step=end,
                        add_noise=noise, return_with_leftover_noise=leftover)  # fmt: skip

    half = advanced(before, 0, 3, "enable", "enable")
    rows = [before, half, advanced(half, 3, 6, "disable", "disable"), advanced(before, 0, 6, "enable", "disable")]
    first, halfway, two, one = clip.latents(comfy, *rows)
    assert relative_error(two, one) <= EQUAL and relative_error(halfway, one) > CHANGED
    expected = in_core(GUIDANCE, SEEDS, TEMPORAL, free, latents=first, sigmas=core().sigmas(6))
    assert relative_error(one, expected) <= EQUAL

    shared["model"] = modified(clip, clip.model, STRENGTH)
    clip.add("SaveLatent", samples=advanced(half, 3, 6, "disable", "disable"), filename_prefix="kept")
    with pytest.raises(Failed, match=r"keeps frame 0 \(strength 0\).*adds no noise"):
        comfy.run(clip)


# --- beside what other nodes do ---


def guided_by(function, scales=SCALES):
    """A guided denoiser from `(x, sigma, cond, uncond, scale)`, whose scale is `[f, 1, 1, 1]`."""

    def denoise(x, sigma):
        uncond, cond = (core().denoise(x, sigma, text) for text in (core().negative, core().positive))
        return function(x, sigma, cond, uncond, torch.tensor(scales)[:, None, None, None])

    return denoise


def test_rescale_cfg_before_and_after(comfy):
    """Another node's guidance gets each frame's scale: here Lin et al. (arXiv 2305.08891), section 3.4."""
    clip, schedule, multiplier = Clip(), ("GuidanceSchedule", {"frames": SCALES}), 0.7
    before = clip.add("RescaleCFG", model=clip.model, multiplier=multiplier)
    after = clip.add("RescaleCFG", model=modified(clip, clip.model, schedule), multiplier=multiplier)
    rows = [clip.sample(model=model, denoise=0.6) for model in (modified(clip, before, schedule), after)]

    def rescaled(x, sigma, cond, uncond, scale):
        root = (sigma**2 + 1).sqrt()
        cond, uncond = ((x / root**2 - each) * root / sigma for each in (cond, uncond))
        guided = uncond + scale * (cond - uncond)
        spread = cond.std(dim=(1, 2, 3), keepdim=True) / guided.std(dim=(1, 2, 3), keepdim=True)
        return x / root**2 - (multiplier * spread + 1 - multiplier) * guided * sigma / root

    expected = core().sample(guided_by(rescaled), sigmas=core().sigmas(denoise=0.6))
    for latents in clip.latents(comfy, *rows):
        assert relative_error(latents, expected) <= EQUAL


def test_guidance_made_for_one_number(comfy):
    """VideoLinearCFGGuidance goes evenly from its own scale at the first frame to the sampler's at the last."""
    clip, least = Clip(), 1.5
    model = modified(clip, clip.model, ("GuidanceSchedule", {"frames": SCALES}))
    model = clip.add("VideoLinearCFGGuidance", model=model, min_cfg=least)
    (latents,) = clip.latents(comfy, clip.sample(model=model, denoise=0.6))
    scales = [least + (scale - least) * frame / (FRAMES - 1) for frame, scale in enumerate(SCALES)]
    linear = guided_by(lambda x, sigma, cond, uncond, scale: uncond + scale * (cond - uncond), scales)
    assert relative_error(latents, core().sample(linear, sigmas=core().sigmas(denoise=0.6))) <= EQUAL


def test_the_negative_text_is_computed_only_where_needed(comfy):
    def calls(name, scales, cfg):
        clip = Clip()
        model = modified(clip, clip.model, ("GuidanceSchedule", {"frames": scales}))
        tapped = clip.add("ProbeTap", model=model, name=name)
        (latents,) = clip.latents(comfy, clip.sample(model=tapped, cfg=cfg))
        lines = (comfy.output / "probe" / f"{name}.jsonl").read_text().splitlines()
        assert relative_error(latents, in_core(("GuidanceSchedule", {"frames": scales}))) <= EQUAL
        return [sorted(json.loads(line)["cond_or_uncond"]) for line in lines]

    assert calls("ones", [1.0] * FRAMES, 7.0) == [[0]] * STEPS
    assert calls("one other", [1.0] * (FRAMES - 1) + [3.0], 1.0) == [[0, 1]] * STEPS


def test_strength_within_a_mask_and_another_nodes_thresholds(comfy):
    clip = Clip()
    before = clip.sample()
    whole = clip.add("SolidMask", value=0.5, width=64, height=64)
    masked = clip.add("SetLatentNoiseMask", samples=before, mask=whole)
    model = modified(clip, clip.model, STRENGTH)
    thresholds = clip.add("DifferentialDiffusion", model=model, strength=1.0)
    first, latents = clip.latents(comfy, before, clip.sample(model=thresholds, latent_image=masked))
    least = [min(strength, 0.5) for strength in STRENGTH[1]["strengths"]]
    assert relative_error(latents, in_core(("StrengthSchedule", {"strengths": least}), latents=first)) <= EQUAL


def test_seeds_in_a_latent_cut_out_of_a_longer_one(comfy):
    clip = Clip()
    cut = clip.add("LatentFromBatch", samples=clip.sample(), batch_index=1, length=3)
    model = modified(clip, clip.model, SEEDS)
    again = [clip.sample(model=each, latent_image=cut, denoise=0.5) for each in (model, clip.model)]
    cut, again, plain = clip.latents(comfy, cut, *again)
    given = {"latents": cut, "sigmas": core().sigmas(denoise=0.5), "batch_index": [1, 2, 3]}
    assert relative_error(again, in_core(SEEDS, **given)) <= EQUAL
    assert relative_error(plain, in_core(**given, noise=prepare_noise(cut.shape, SEED, [1, 2, 3]))) <= EQUAL


# --- what is refused, and other models ---


@pytest.mark.parametrize("modifier", [GUIDANCE, STRENGTH, TEMPORAL, ("NoiseSeeds", {**SEEDS[1], "frames": 4})],
                         ids=lambda each: each[0])  # fmt: skip
def test_another_number_of_frames_is_refused(comfy, modifier):
    clip = Clip(frames=2)
    clip.add("SaveLatent", samples=clip.sample(model=modified(clip, clip.model, modifier)), filename_prefix="refused")
    with pytest.raises(Failed, match="for 4 frames and the (latent|clip) has 2"):
        comfy.run(clip)


def test_an_unknown_modifier_is_refused(comfy):
    clip = Clip()
    unknown = modified(clip, clip.model, ("NativeSize", {"width": 1, "height": 1, "num_frames": 1, "fps": 1}))
    clip.add("SaveLatent", samples=clip.sample(model=unknown), filename_prefix="refused")
    with pytest.raises(Failed, match="unknown model modifier NativeSize.*GuidanceSchedule.*TemporalStrength"):
        comfy.run(clip)


@pytest.fixture(scope="module")
def stock_files(comfy, comfy_paths):
    random_files.write_stock_files(comfy_paths.python, comfy_paths.root, comfy.models)
    yield
    comfy.free()  # an SD1.5 weighs gigabytes


@pytest.mark.usefixtures("stock_files")
def test_an_image_model(comfy):
    """Its frames do not see each other: each is that of a plain run with its own numbers."""
    graph = Graph()
    loader = graph.add("CheckpointLoaderSimple", ckpt_name="sd15.ckpt")
    positive, negative = (graph.add("CLIPTextEncode", clip=loader[1], text=text) for text in ("a cat", "a dog"))
    bundled = graph.add("T2VLoadModel", model_name="bundled", weight_dtype="auto")
    given = {"seed": 3, "steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    given |= {"positive": positive, "negative": negative}
    empty = graph.add("EmptyLatentImage", width=32, height=32, batch_size=3)
    text = graph.add("T2VTextEncode", clip=bundled[1], text="a red circle")
    bundled_given = {**given, "model": bundled, "positive": text, "negative": text, "latent_image": empty}
    original = graph.add("KSampler", **bundled_given)

    def sampled(*modifiers, **changes):
        model = modified(graph, loader[0], *modifiers)
        return graph.add("KSampler", **{**given, "model": model, "latent_image": original, **changes})

    mixed = sampled(
        ("GuidanceSchedule", {"frames": [2.0, 4.0, 4.0]}),
        ("NoiseSeeds", {"keys": [[0, 9], [1, 3]]}),
        ("StrengthSchedule", {"strengths": [1.0, 1.0, 0.0]}),
    )
    rows = [original, sampled(), sampled(cfg=2.0, seed=9), mixed]
    saved = [graph.add("SaveLatent", samples=row, filename_prefix="image") for row in rows]
    run = comfy.run(graph)
    start, plain, other, mixed = (run.latent(node) for node in saved)
    for frame, expected in enumerate((other, plain, start)):
        assert relative_error(mixed[frame], expected[frame]) <= EQUAL, frame
    assert torch.equal(mixed[2], start[2])
    assert relative_error(other[0], plain[0]) > CHANGED and relative_error(start[2], plain[2]) > CHANGED

    temporal = sampled(("TemporalStrength", {"attention": [0.0, 1.0, 1.0]}))
    graph.add("SaveLatent", samples=temporal, filename_prefix="image")
    with pytest.raises(Failed, match="temporal strength needs a text-to-video model, as T2V Load Model gives"):
        comfy.run(graph)


@pytest.mark.usefixtures("stock_files")
def test_an_image_model_is_not_compiled(comfy):
    graph = Graph()
    loader = graph.add("CheckpointLoaderSimple", ckpt_name="sd15.ckpt")
    graph.add("ProbeTensor", value=graph.add("T2VCompile", model=loader))
    with pytest.raises(Failed, match="text-to-video model, as T2V Load Model gives.*TorchCompileModel"):
        comfy.run(graph)


@pytest.mark.usefixtures("stock_files")
def test_an_image_model_has_no_attention_over_time_to_window(comfy):
    graph = Graph()
    loader = graph.add("CheckpointLoaderSimple", ckpt_name="sd15.ckpt")
    graph.add("ProbeTensor", value=modified(graph, loader, ("ContextWindows", {"where": "attention"})))
    with pytest.raises(Failed, match="where: windows of the attention reach into a text-to-video model.*to latents"):
        comfy.run(graph)


@pytest.mark.long
@pytest.mark.usefixtures("stock_files")
def test_rows_for_each_frame_on_an_image_model(comfy):
    """A frame at a key is that of the key's own prompt; one halfway is that of ComfyUI's average of the two."""
    graph = Graph()
    loader = graph.add("CheckpointLoaderSimple", ckpt_name="sd15.ckpt")
    words = {"num_frames": 3, "fps": 8.0, "pre_text": "", "app_text": "", "dialect": "auto", "blend": "linear"}
    scheduled = graph.add("T2VPromptSchedule", clip=loader[1], text='"0": "a cat --neg fog", "2": "a dog"', **words)
    cat, dog, fog, nothing = (
        graph.add("CLIPTextEncode", clip=loader[1], text=text) for text in ("a cat", "a dog", "fog", "")
    )
    average = {"conditioning_to_strength": 0.5}
    animals, mist = (
        graph.add("ConditioningAverage", conditioning_to=to, conditioning_from=other, **average)
        for to, other in ((cat, dog), (fog, nothing))
    )
    empty = graph.add("EmptyLatentImage", width=32, height=32, batch_size=3)
    given = {"seed": 3, "steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    given |= {"model": loader, "latent_image": empty}
    rows = [(scheduled[0], scheduled[1]), (cat, fog), (animals, mist), (dog, nothing)]
    saved = []
    for positive, negative in rows:
        samples = graph.add("KSampler", positive=positive, negative=negative, **given)
        saved.append(graph.add("SaveLatent", samples=samples, filename_prefix="rows"))
    run = comfy.run(graph)
    mixed, *plain = (run.latent(node) for node in saved)
    for frame, expected in enumerate(plain):
        assert relative_error(mixed[frame], expected[frame]) <= EQUAL, frame
        assert relative_error(mixed[frame], plain[frame - 1][frame]) > CHANGED, frame
