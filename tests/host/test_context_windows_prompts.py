"""A prompt that changes within a window, through ComfyUI's own nodes: it is drawn from its frame on (by detectors)."""

from __future__ import annotations

import pytest
from prompts import Graph

from t2v_core.training.evaluation.detect import read_frames

BEFORE, AFTER = "a red circle on a white background", "a blue square on a black background"
LOOKS = (("red", False), ("blue", True))  # the thing's colour, and whether the ground is black
WINDOWS = {"length": 0, "overlap": 4, "stride": 1, "plan": "static", "fuse": "pyramid", "where": "latents"}
SAMPLING = {"seed": 7, "cfg": 2.0, "scheduler": "normal", "denoise": 1.0}


def looks(comfy, sampler: str, steps: int, frames: int, at: int, seen: tuple[int, int]) -> list[tuple[str, bool]]:
    """What KSampler's clip shows in frames seen[0] .. seen[1] - 1, by our windows' node, as in LOOKS."""
    graph = Graph()
    model = graph.add("T2VLoadModel", model_name="bundled", weight_dtype="auto")
    windows = graph.add("T2VContextWindows", model=model, **WINDOWS)
    words = {"fps": 8.0, "pre_text": "", "app_text": "", "dialect": "auto", "blend": "hold"}
    text = graph.add("T2VPromptSchedule", clip=model[1], text=f'"0": "{BEFORE}", "{at}": "{AFTER}"', num_frames=frames,
                     **words)  # fmt: skip
    empty = graph.add("EmptyLatentImage", width=96, height=96, batch_size=frames)
    sampled = graph.add("KSampler", model=windows, positive=text, negative=text[1], latent_image=empty, steps=steps,
                        sampler_name=sampler, **SAMPLING)  # fmt: skip
    images = graph.add("ProbeTensor", value=graph.add("VAEDecode", samples=sampled, vae=model[2]))
    shown = comfy.run(graph, seconds=3000).tensors(images)["value"]
    assert len(shown) == frames
    return [(frame.colour, frame.background == "black") for frame in read_frames(shown[slice(*seen)])]


@pytest.mark.parametrize(("sampler", "steps"), [("dpm_2", 6), ("dpmpp_2s_ancestral", 5)])
def test_a_prompt_that_changes_within_a_window_changes_at_its_frame(comfy, sampler, steps):
    """All frames but the one before the change and the one after it, which may show either."""
    seen = looks(comfy, sampler, steps, 40, 21, (0, 40))
    assert seen[:20] == [LOOKS[0]] * 20 and seen[22:] == [LOOKS[1]] * 18, seen


@pytest.mark.long
@pytest.mark.parametrize(("sampler", "steps"), [("dpm_2", 10), ("dpmpp_2s_ancestral", 6), ("euler", 10)])
def test_the_prompt_of_1000_frames_changes_at_frame_500(comfy, sampler, steps):
    seen = looks(comfy, sampler, steps, 1000, 500, (480, 520))
    assert seen[:19] == [LOOKS[0]] * 19 and seen[21:] == [LOOKS[1]] * 19, seen
