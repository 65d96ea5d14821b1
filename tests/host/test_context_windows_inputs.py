"""What else a window is given in ComfyUI, and what a run with windows asks of the program.

A UNet whose temporal layers add nothing draws each frame by itself. With it, windows change nothing, so ComfyUI's own
handling of the whole clip says what every window must be given.
"""

from __future__ import annotations

import json

import pytest
import random_files
import torch
from prompts import Failed, Graph, Interrupted, Node
from safetensors.torch import save_file
from table import CHANGED, EQUAL, RANDOM_WIDTHS, Clip, relative_error
from test_context_windows import noisy_pictures, windowed
from test_stock_residuals import adapter_weights

from t2v_core.checkpoints import save_unet
from t2v_core.models.blocks import TemporalConv
from t2v_core.models.transformers import TemporalTransformer
from t2v_core.models.unet3d import UNet3D, UNet3DConfig

APART, FRAMES = "apart.safetensors", 7
NUMBERS = {"length": 3, "overlap": 1}
CONTROL = {"widths": ",".join(map(str, RANDOM_WIDTHS)), "blocks_per_level": 2, "context_dim": 96, "gain": 1.0}
SCHEDULE = {"num_frames": FRAMES, "fps": 8.0, "pre_text": "", "app_text": "", "dialect": "auto", "blend": "linear"}


@pytest.fixture(scope="module")
def apart(comfy) -> str:
    """A UNet of random weights whose frames do not see each other."""
    torch.manual_seed(0)
    unet = UNet3D(UNet3DConfig(widths=RANDOM_WIDTHS, attention=(True, False, False, False), context_dim=96, head_dim=32,
                               input_heads=1))  # fmt: skip
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if ".attn" in name and parameter.ndim > 1:
                parameter *= 2
        for module in unet.modules():
            last = {TemporalConv: "conv4.3", TemporalTransformer: "proj_out"}.get(type(module))
            for parameter in module.get_submodule(last).parameters() if last else ():
                parameter.zero_()
    (comfy.models / "text2video").mkdir(exist_ok=True)
    save_unet(unet, comfy.models / "text2video" / APART, "modelscope", overwrite=True)
    return APART


class LongClip(Clip):
    """Frames that differ, as pictures and as masks, to be given as inputs.

    The coarsest level of the networks must have more than one place: a norm over one number makes noise of rounding.
    """

    def __init__(self, model_name: str):
        super().__init__(model_name, width=128, height=128, frames=FRAMES)
        self.before = self.sample(model=self.load("bundled"), steps=2)
        self.pictures = noisy_pictures(self)
        self.masks = self.add("ImageToMask", image=self.pictures, channel="green")
        text = '"0": "a red circle --neg fog", "6": "a blue square on a navy background"'
        self.prompts = self.add("T2VPromptSchedule", clip=self.clip, text=text, **SCHEDULE)

    def controlled(self, *control_nets: Node) -> dict:
        """ControlNets one behind the other, the first with a picture for each frame, the second with three."""
        positive, negative, pictures = self.positive, self.negative, self.pictures
        for control_net in control_nets:
            applied = self.add("ControlNetApplyAdvanced", positive=positive, negative=negative, image=pictures,
                               control_net=control_net, strength=1.0, start_percent=0.0, end_percent=1.0)  # fmt: skip
            positive, negative = applied[0], applied[1]
            pictures = self.add("ImageFromBatch", image=self.pictures, batch_index=2, length=3)
        return {"positive": positive, "negative": negative}

    def control_net(self, seed: int = 1) -> Node:
        return self.add("ProbeControlNet", seed=seed, **CONTROL)


def prompts(clip: LongClip) -> dict:
    return {"positive": clip.prompts, "negative": clip.prompts[1]}


def masked_prompts(clip: LongClip) -> dict:
    """Two prompts, each where its mask is, another place in each frame; a third in an area and part of the time."""
    inverted = clip.add("InvertMask", mask=clip.masks)
    parts = [
        clip.add("ConditioningSetMask", conditioning=text, mask=mask, strength=1.0, set_cond_area="default")
        for text, mask in ((clip.prompts, clip.masks), (clip.text("a star"), inverted))
    ]
    both = clip.add("ConditioningCombine", conditioning_1=parts[0], conditioning_2=parts[1])
    area = clip.add("ConditioningSetAreaPercentage", conditioning=clip.prompts[1], width=0.5, height=1.0, x=0.5, y=0.0,
                    strength=0.5)  # fmt: skip
    timed = clip.add("ConditioningSetTimestepRange", conditioning=area, start=0.0, end=0.5)
    return {"positive": clip.add("ConditioningCombine", conditioning_1=both, conditioning_2=timed)}


def masked_latent(clip: LongClip) -> dict:
    return {"latent_image": clip.add("SetLatentNoiseMask", samples=clip.before, mask=clip.masks)}


def control_nets(clip: LongClip) -> dict:
    return clip.controlled(clip.control_net(), clip.control_net(2))


def sliding_control_nets(clip: LongClip) -> dict:
    """One that is told of windows, behind one that is not, and the other way round."""
    sliding = clip.add("ProbeSliding", control_net=clip.control_net())
    behind = clip.controlled(clip.control_net(2), sliding)["positive"]
    return {"positive": behind, "negative": clip.controlled(sliding, clip.control_net(3))["negative"]}


def adapter(clip: LongClip) -> dict:
    return clip.controlled(clip.add("ControlNetLoader", control_net_name="windows.safetensors"))


INPUTS = (prompts, masked_prompts, masked_latent, control_nets, sliding_control_nets, adapter)


@pytest.mark.parametrize("given", INPUTS, ids=lambda each: each.__name__)
def test_every_window_is_given_what_its_frames_are_given_in_the_whole_clip(comfy, apart, given):
    (comfy.models / "controlnet").mkdir(exist_ok=True)
    save_file(adapter_weights(1), comfy.models / "controlnet" / "windows.safetensors")
    clip = LongClip(apart)
    inputs = given(clip)
    plain = {"latent_image": clip.before} if "latent_image" in inputs else {}
    inputs["steps"] = plain["steps"] = 2
    (windows,) = clip.latents(comfy, clip.sample(**inputs, model=windowed(clip, clip.model, **NUMBERS)))
    whole, without = clip.latents(comfy, clip.sample(**inputs), clip.sample(**plain))  # by objects that saw windows
    assert relative_error(whole, without) >= CHANGED
    assert relative_error(windows, whole) <= EQUAL


def test_after_a_run_that_failed_a_control_net_does_not_keep_the_hints_of_the_whole_clip(comfy, apart):
    """ComfyUI forgets them at the end of a run that ends well."""
    clip = LongClip(apart)
    inputs = clip.controlled(clip.control_net(5)) | {"steps": 1}
    failing = clip.sample(**inputs, model=clip.add("ProbeOOM", model=clip.model))
    with pytest.raises(Failed, match="Tried to allocate"):
        clip.latents(comfy, failing)
    again = LongClip(apart)  # whose nodes are in ComfyUI's cache
    inputs = again.controlled(again.control_net(5)) | {"steps": 1}
    (windows,) = again.latents(comfy, again.sample(**inputs, model=windowed(again, again.model, **NUMBERS)))
    (whole,) = again.latents(comfy, again.sample(**inputs))
    assert relative_error(windows, whole) <= EQUAL


# --- what a run asks of the program ---


def told(comfy, name: str) -> list[dict]:
    """What a ProbeWindows noted."""
    return [json.loads(line) for line in (comfy.output / "probe" / f"{name}.jsonl").read_text().splitlines()]


def test_memory_is_asked_for_one_window_and_calls_hold_several(comfy):
    clip = Clip(width=32, height=32, frames=FRAMES)
    model = clip.add("ProbeWindows", model=windowed(clip, clip.model, **NUMBERS), name="windows_calls")
    clip.latents(comfy, clip.sample(model=model, steps=1))
    prepared, call = told(comfy, "windows_calls")
    assert prepared == {"prepared": [3, 4, 4, 4]}
    windows = [frame for start in (0, 2, 4) for frame in range(start, start + 3)]
    assert call["x"] == [2 * len(windows), 4, 4, 4] and sorted(call["cond_or_uncond"]) == [0, 1]
    assert call["t2v_frames"] == call["num_video_frames"] == 3
    assert call["ad_params"] == {"sub_idxs": windows, "full_length": FRAMES, "context_length": 3}


def test_progress_within_a_step_never_goes_back(comfy):
    clip, steps = Clip(width=16, height=16, frames=200), 2
    model = windowed(clip, clip.model, length=8, overlap=0, plan="batched")
    sampled = clip.sample(model=model, steps=steps, sampler_name="heun")
    clip.add("SaveLatent", samples=sampled, filename_prefix="progress")
    values = [each["value"] / each["max"] for each in comfy.run(clip).data("progress") if each["node"] == sampled.id]
    assert values == sorted(values) and values[-1] == 1.0
    assert len(set(values)) > 2 * steps


def test_inside_comfyuis_own_context_windows_a_window_is_left_whole(comfy):
    """ComfyUI 0.3.64 windows frame batches only where there is a frame more than steps."""
    clip, steps = Clip(width=32, height=32, frames=8), 7
    native = {"context_length": 4, "context_overlap": 1, "context_schedule": "standard_static", "context_stride": 1}
    native |= {"closed_loop": False, "fuse_method": "pyramid", "dim": 0}
    inputs = comfy.get_json("/object_info/ContextWindowsManual")["ContextWindowsManual"]["input"]["required"]
    asked = {name: options["default"] for name, (_, options) in inputs.items() if "default" in options}
    native = {**asked, **native}  # later ones ask for more
    outer = clip.add("ContextWindowsManual", model=clip.model, **native)
    both = clip.add("ContextWindowsManual", model=windowed(clip, clip.model, length=2, overlap=0), **native)
    rows = [clip.sample(model=model, steps=steps) for model in (outer, both, clip.model)]
    alone, nested, plain = clip.latents(comfy, *rows)
    assert torch.equal(nested, alone) and relative_error(alone, plain) >= CHANGED


def test_a_latent_that_is_no_frame_batch_is_refused(comfy):
    clip = Clip()
    latent = clip.add("EmptyHunyuanLatentVideo", width=64, height=64, length=9, batch_size=1)
    clip.add("SaveLatent", samples=clip.sample(model=windowed(clip, clip.model), latent_image=latent),
             filename_prefix="refused")  # fmt: skip
    with pytest.raises(Failed, match="context windows are for clips that are frame batches"):
        comfy.run(clip)


# --- another kind of model ---


def image_model(clip: LongClip, name: str) -> Node:
    """ComfyUI's own network, whose frames do not see each other, with windows; what it is called with is noted."""
    return clip.add("ProbeWindows", model=windowed(clip, clip.model, **NUMBERS), name=name)


def test_windows_change_nothing_for_a_model_of_pictures(comfy):
    """And each window is a call of its own: the network would take two for one."""
    clip = LongClip("bundled")
    clip.model = clip.add("ProbeImageModel", context_dim=96)
    given = prompts(clip) | {"steps": 2}
    whole, cut = clip.latents(comfy, clip.sample(**given), clip.sample(**given, model=image_model(clip, "pictures")))
    assert relative_error(cut, whole) <= EQUAL and relative_error(whole[0], whole[-1]) >= CHANGED
    assert [call["x"][0] for call in told(comfy, "pictures")[1:]] == 2 * 3 * [2 * 3]


def test_an_interrupt_ends_a_step_between_two_windows(comfy):
    """ComfyUI's network itself does not ask."""
    clip = LongClip("bundled")
    clip.model = clip.add("ProbeImageModel", context_dim=96)
    slow = clip.add("ProbeSlow", model=image_model(clip, "windows_interrupted"), seconds=0.2)  # nine times a call
    sampler = clip.sample(model=slow, steps=1)
    clip.add("SaveLatent", samples=sampler, filename_prefix="image")
    job = comfy.queue(clip)
    job.wait_for("progress", lambda data: data["node"] == sampler.id)  # after the first window
    comfy.interrupt()
    with pytest.raises(Interrupted) as interrupted:
        job.result()
    assert interrupted.value.node_id == sampler.id
    assert 1 + 1 <= len(told(comfy, "windows_interrupted")) <= 1 + 2  # of three: the interrupt may catch the second


@pytest.mark.long
@pytest.mark.usefixtures("stock_files")
def test_a_stable_diffusion_checkpoint(comfy):
    graph, frames = Graph(), 5
    loader = graph.add("CheckpointLoaderSimple", ckpt_name="sd15.ckpt")
    text = graph.add("T2VPromptSchedule", clip=loader[1], text='"0": "a cat --neg fog", "4": "a dog"',
                     **{**SCHEDULE, "num_frames": frames})  # fmt: skip
    latent = graph.add("EmptyLatentImage", width=32, height=32, batch_size=frames)
    given = {"seed": 3, "steps": 1, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    given |= {"positive": text, "negative": text[1], "latent_image": latent}
    models = loader[0], windowed(graph, loader[0], length=2, overlap=0)
    nodes = [graph.add("KSampler", model=model, **given) for model in models]
    saved = [graph.add("SaveLatent", samples=node, filename_prefix="image") for node in nodes]
    run = comfy.run(graph)
    whole, cut = (run.latent(node) for node in saved)
    assert relative_error(cut, whole) <= EQUAL and relative_error(whole[0], whole[4]) >= CHANGED


@pytest.fixture(scope="module")
def stock_files(comfy, comfy_paths):
    random_files.write_stock_files(comfy_paths.python, comfy_paths.root, comfy.models)
    yield
    comfy.free()  # an SD1.5 weighs gigabytes
