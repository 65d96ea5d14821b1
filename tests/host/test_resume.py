"""ComfyUI killed while it samples, started again, the same graph queued again: the same bits, from where it stopped."""

from __future__ import annotations

import json
import re
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from comfyui import Server
from prompts import Failed, Graph, Node
from safetensors import safe_open
from safetensors.torch import save_file
from table import core

FRAMES, STEPS, FEW = 12, 40, 6
LAYER = "middle_block.1.transformer_blocks.0.attn2.to_v"


def clip(seed: int = 5, prefix: str = "clip", text: str = "a red circle on white") -> tuple[Graph, dict[str, Node]]:
    """Two samplings, one on the other's result: T2VSampler's, and one of ComfyUI's own nodes with our SAMPLER."""
    graph = Graph()
    loader = graph.add("T2VLoadModel", model_name="bundled", weight_dtype="auto")
    model = graph.add("RescaleCFG", model=loader, multiplier=0.4)  # a patch of another's
    texts = {
        name: graph.add("T2VTextEncode", clip=loader[1], text=each)
        for name, each in (("positive", text), ("negative", "a blue square"))
    }
    latent = graph.add("T2VEmptyLatent", width=64, height=64, num_frames=FRAMES)
    settings = {"model": model, "cfg": 2.0, **texts}
    first = graph.add("T2VSampler", seed=seed, steps=STEPS, sampler_name="dpmpp_2m_sde", scheduler="karras",
                      latent_image=latent, denoise=1.0, guidance_rescale=0.3, **settings)  # fmt: skip
    sigmas = graph.add("BasicScheduler", model=model, scheduler="normal", steps=STEPS, denoise=0.8)
    sampler = graph.add("T2VSamplerSelect", sampler_name="euler_ancestral", eta=0.7)
    second = graph.add("SamplerCustom", add_noise=True, noise_seed=seed, sampler=sampler, sigmas=sigmas,
                       latent_image=first, **settings)  # fmt: skip
    saved = {
        name: graph.add("SaveLatent", samples=samples, filename_prefix=f"{prefix}_{name}")
        for name, samples in (("first", first), ("second", second))
    }
    return graph, saved


def patched(models: Path, strength: float = 0.7) -> tuple[Graph, Node]:
    """One sampling under much of what ComfyUI's nodes and ours put on a MODEL, a CONDITIONING and a LATENT."""
    weight, generator = core().unet.get_submodule(LAYER).weight, torch.Generator().manual_seed(0)
    up, down = (torch.randn(shape, generator=generator) for shape in ((len(weight), 2), (2, weight.shape[1])))
    (models / "loras").mkdir(exist_ok=True)
    names = {f"diffusion_model.{LAYER}.lora_{name}.weight": each for name, each in (("up", up), ("down", down))}
    save_file(names, models / "loras" / "lora.safetensors")
    modifiers = [
        ("NoiseSeeds", {"keys": [[0, 1], [4, 2]]}),
        ("TemporalStrength", {"attention": [0.5 + frame / FRAMES for frame in range(FRAMES)]}),
        ("GuidanceSchedule", {"steps": [1.5, 0.5]}),
        ("StrengthSchedule", {"strengths": [1.0] * (FRAMES - 1) + [0.5]}),
    ]
    graph = Graph()
    loader = graph.add("T2VLoadModel", model_name="bundled", weight_dtype="auto")
    model = graph.add("LoraLoaderModelOnly", model=loader, lora_name="lora.safetensors", strength_model=strength)
    model = graph.add("ProbeModify", model=model, modifiers=json.dumps(modifiers))
    texts = (graph.add("T2VTextEncode", clip=loader[1], text=text) for text in ("a red circle on white", ""))
    hint = graph.add("EmptyImage", width=64, height=64, batch_size=FRAMES, color=0xFF8000)
    control = graph.add("ControlNetApplyAdvanced", **dict(zip(("positive", "negative"), texts, strict=True)),
                        control_net=graph.add("ProbeControlNet", widths="32,48,64,80", blocks_per_level=1,
                                              context_dim=96, seed=3, gain=0.1),
                        image=hint, strength=0.8, start_percent=0.0, end_percent=0.9)  # fmt: skip
    empty = graph.add("T2VEmptyLatent", width=64, height=64, num_frames=FRAMES)
    masked = graph.add("SetLatentNoiseMask", samples=empty, mask=graph.add("SolidMask", value=0.9, width=64, height=64))
    sampled = graph.add("T2VSampler", model=model, positive=control, negative=control[1], latent_image=masked, seed=1,
                        steps=FEW, cfg=2.0, sampler_name="heun", scheduler="normal", denoise=1.0,
                        guidance_rescale=0.2)  # fmt: skip
    return graph, graph.add("SaveLatent", samples=sampled, filename_prefix="patched")


def kept_steps(output: Path) -> dict[str, int]:
    """How many steps of each run lie on the disk."""
    found = {}
    for state in output.glob("t2v_runs/*/state.safetensors"):
        with safe_open(state, "pt") as file:
            found[state.parent.name] = int(file.metadata()["steps"])
    return found


def has_begun(output: Path, sampling: int) -> bool:
    steps = kept_steps(output).values()
    return len(steps) == sampling and any(FEW < done < STEPS for done in steps)


def wait_for(what, seconds: float = 120):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)
    return found


def test_a_killed_comfyui_goes_on_where_it_was(comfy, comfy_paths, tmp_path, monkeypatch):
    graph, saved = clip()
    plain = comfy.run(graph)  # the shared server: too short a clip to be kept there
    expected = {name: plain.latent(node) for name, node in saved.items()}
    assert not [name for name in kept_steps(comfy.output) if name.startswith(f"{FRAMES}-frames")]
    monkeypatch.setenv("T2V_RUNS_FROM", str(FRAMES))
    goes_on = {}
    for killed_in in (1, 2):  # the sampling, counted from 1
        with Server(comfy_paths, tmp_path) as server:
            server.log_file.write_text("")
            if killed_in == 1:
                others, saved_other = patched(server.models)
                expected_other = server.run(others).latent(saved_other)
                assert list(kept_steps(server.output).values()) == [FEW]
            server.queue(graph)
            wait_for(partial(has_begun, server.output, 1 + killed_in))
            server.kill()
            if killed_in == 2:
                assert f"after step {goes_on[1]} of {STEPS}" in server.log()
            [goes_on[killed_in]] = [steps for steps in kept_steps(server.output).values() if FEW < steps < STEPS]
    with Server(comfy_paths, tmp_path, "--cache-none") as server:  # each prompt runs all of its nodes
        server.log_file.write_text("")
        run = server.run(graph)
        for name, node in saved.items():
            assert torch.equal(run.latent(node), expected[name]), name
        assert "ended before" in server.log() and f"after step {goes_on[2]} of {STEPS}" in server.log()
        counted = [each["value"] for each in run.data("progress") if each["max"] == STEPS]
        assert counted[0] == goes_on[2] + 1
        assert sorted(kept_steps(server.output).values()) == [FEW, STEPS, STEPS]
        damaged_run_is_refused(server, graph)
        before = server.log().count("ended before")
        assert torch.equal(
            server.run(others).latent(saved_other), expected_other
        )  # seen to be the same in a new process
        assert server.log().count("ended before") == before + 1
        stronger, saved_stronger = patched(server.models, 0.71)
        assert not torch.equal(server.run(stronger).latent(saved_stronger), expected_other)
        other, other_saved = clip(text="a green circle on white")
        assert not torch.equal(server.run(other).latent(other_saved["first"]), expected["first"])
        assert len(kept_steps(server.output)) == 6  # a run of its own each


def damaged_run_is_refused(server: Server, graph: Graph) -> None:
    found = [each.with_name("state.safetensors") for each in server.output.glob("t2v_runs/*/latents.safetensors")]
    [state] = [each for each in found if kept_steps(server.output)[each.parent.name] == STEPS]  # T2VSampler's
    whole = state.read_bytes()
    state.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Failed) as failed:
        server.run(graph)
    assert re.search(r"state\.safetensors is cut short or damaged.*remove it", failed.value.message)
    assert state.read_bytes() == whole[: len(whole) // 2]
    state.write_bytes(whole)
