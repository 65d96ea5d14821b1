"""The pack in a running ComfyUI: how it loads, what it offers, that its workflows run. Then the harness itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from comfyui import HERE, PACK, PACKS, NotInstalled, Server, find
from PIL import Image
from prompts import Failed, Graph, Interrupted, Node, Refused
from shipped import FOR_PROGRAMS, for_programs

ROOT = PACKS[PACK]
# ComfyUI logs without levels, so a warning is known by its words.
TROUBLE = re.compile(r"warn|error|exception|traceback|failed|missing|unexpected|deprecat|not loaded", re.IGNORECASE)


def test_the_pack_loads_without_a_word(comfy):
    lines = [line for line in comfy.startup_log.splitlines() if PACK in line or "t2v_core" in line]
    # "(IMPORT FAILED)" would stand inside. The fork says nothing of a pack that loads.
    assert [line for line in lines if not re.fullmatch(rf" *[\d.]+ seconds: .*/custom_nodes/{PACK}", line)] == []
    assert len(lines) == (not comfy.installation.is_package)


@pytest.fixture(scope="session")
def offered(comfy) -> dict[str, dict]:
    """What /object_info says of the nodes that ComfyUI has from this pack."""
    nodes = comfy.get_json("/object_info")
    return {name: info for name, info in nodes.items() if info["category"].startswith("T2V/")}


def test_every_node_of_the_pack_is_offered(offered, pack):
    names = {name: info["display_name"] for name, info in offered.items()}
    assert names == pack.NODE_DISPLAY_NAME_MAPPINGS
    assert len(names) >= 7


def test_every_node_input_and_output_says_what_it_is(offered):
    for name, info in offered.items():
        assert info["description"], name
        for socket, (_, *options) in {**info["input"]["required"], **info["input"].get("optional", {})}.items():
            assert options and options[0]["tooltip"], f"{name}.{socket}"
        tooltips = info.get("output_tooltips", ())
        assert len(tooltips) == len(info["output_name"]) and all(tooltips), name


def test_every_node_has_its_help_page(comfy, offered):
    for name in offered:
        served = comfy.get(f"/extensions/{PACK}/docs/{name}.md")
        assert served == (ROOT / "web" / "docs" / f"{name}.md").read_bytes()


def test_the_template_browser_gets_every_workflow_and_its_picture(comfy):
    files = sorted(ROOT.glob("workflows/*.json"))
    listed = comfy.get_json("/api/workflow_templates")[PACK]
    assert sorted(listed) == [file.stem for file in files]
    if comfy.installation.is_package:
        pytest.skip("this ComfyUI lists the workflows of packs and serves none")
    for file in [*files, *(file.with_suffix(".jpg") for file in files)]:
        assert comfy.get(f"/api/workflow_templates/{PACK}/{file.name}") == file.read_bytes()


@pytest.mark.usefixtures("first_video")
@pytest.mark.parametrize("file", FOR_PROGRAMS, ids=lambda file: file.stem)
def test_a_shipped_workflow_runs_without_a_word_and_makes_its_video(comfy, tmp_path, file):
    graph, said_before = for_programs(file), len(comfy.log())
    run = comfy.run(graph)
    assert [line for line in comfy.log()[said_before:].splitlines() if TROUBLE.search(line)] == []
    videos = [item for node in run.outputs for item in run.files(node) if item["filename"].endswith(".mp4")]
    assert videos
    for item in videos:
        video = tmp_path / item["filename"]
        video.write_bytes(comfy.view(item))
        reader = imageio_ffmpeg.read_frames(video)
        width, height = next(reader)["size"]
        frames = np.frombuffer(b"".join(reader), np.uint8).reshape(-1, height, width, 3)
        assert len(frames) > 1
        assert frames.std(axis=(1, 2)).max() > 10  # not one flat colour


# --- the harness ---


def test_tensors_come_back_exactly(comfy):
    """Made in three ways, and known without ComfyUI: a colour, noise, and a picture of ours that was uploaded."""
    picture = np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8)
    file = BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    graph = Graph()
    colour = graph.add("ProbeTensor", value=graph.add("EmptyImage", width=16, height=8, batch_size=2, color=0x4080FF))
    latent = graph.add("EmptyLatentImage", width=64, height=32, batch_size=3)
    noise = graph.add("ProbeTensor", value=graph.add("ProbeNoise", seed=5, scale=0.5), latent=latent)
    image = graph.add("ProbeTensor", value=graph.add("LoadImage", image=comfy.upload_image("t2v.png", file.getvalue())))
    empty = graph.add("SaveLatent", samples=latent, filename_prefix="harness/empty")
    run = comfy.run(graph)
    expected = torch.tensor([0x40, 0x80, 0xFF]) / 255
    assert torch.equal(run.tensors(colour)["value"], expected.expand(2, 8, 16, 3))
    expected = 0.5 * torch.randn(3, 4, 4, 8, generator=torch.Generator().manual_seed(5))
    assert torch.equal(run.tensors(noise)["value"], expected)
    assert torch.equal(run.tensors(image)["value"], torch.from_numpy(picture)[None] / 255)
    assert torch.equal(run.latent(empty), torch.zeros(3, 4, 4, 8))


def sampling(**probes: dict) -> tuple[Graph, Node, Node]:
    """Three steps of stock KSampler on the bundled model, patched by probes: the graph, its KSampler, SaveLatent."""
    graph = Graph()
    model = graph.add("T2VLoadModel", model_name="bundled", weight_dtype="auto")
    patched = model
    for probe, inputs in probes.items():
        patched = graph.add(probe, model=patched, **inputs)
    text = graph.add("CLIPTextEncode", clip=model[1], text="a red circle")
    sampler = graph.add(
        "KSampler",
        model=patched,
        positive=text,
        negative=text,
        latent_image=graph.add("EmptyLatentImage", width=64, height=64, batch_size=2),
        seed=1,
        steps=3,
        cfg=2.0,
        sampler_name="euler",
        scheduler="normal",
        denoise=1.0,
    )
    return graph, sampler, graph.add("SaveLatent", samples=sampler, filename_prefix="harness/sampled")


def test_a_run_tells_its_steps_and_shows_previews(comfy):
    graph, sampler, _ = sampling(ProbeTap={"name": "steps"})
    run = comfy.run(graph)
    steps = [(data["node"], data["value"], data["max"]) for data in run.data("progress")]
    assert steps == [(sampler.id, step, 3) for step in (1, 2, 3)]
    assert [Image.open(BytesIO(preview)).format for preview in run.previews] == ["JPEG"] * 3
    tapped = comfy.view({"filename": "steps.jsonl", "subfolder": "probe", "type": "output"})
    calls = [json.loads(line) for line in tapped.splitlines()]
    assert len(calls) == 3
    assert (calls[0]["x"], calls[0]["cond_or_uncond"], calls[0]["timesteps"]) == ([4, 4, 8, 8], [1, 0], [999] * 4)


def test_a_controlnet_without_gain_changes_nothing_and_one_with_it_does(comfy):
    latents = []
    for gain in (None, 0.0, 1.0):
        graph, sampler, saved = sampling()
        if gain is not None:
            sizes = {"widths": "32,48,64,80", "blocks_per_level": 1, "context_dim": 96}  # the bundled model's
            graph[sampler.id]["inputs"]["positive"] = graph.add(
                "ControlNetApply",
                conditioning=graph[sampler.id]["inputs"]["positive"],
                control_net=graph.add("ProbeControlNet", seed=0, gain=gain, **sizes),
                image=graph.add("EmptyImage", width=64, height=64, batch_size=2, color=0x4080FF),
                strength=1.0,
            )[0]
        latents.append(comfy.run(graph).latent(saved))
    assert torch.equal(latents[0], latents[1])
    assert (latents[2] - latents[0]).abs().max() > 0.1


def test_an_interrupted_run_says_where_and_the_queue_goes_on(comfy):
    graph, sampler, _ = sampling(ProbeSlow={"seconds": 0.2})
    next_graph, _, saved = sampling()
    slow, waiting = comfy.queue(graph), comfy.queue(next_graph)
    slow.wait_for("executing", lambda data: data["node"] == sampler.id)
    assert comfy.queued() == [slow.prompt_id, waiting.prompt_id]
    comfy.interrupt()
    with pytest.raises(Interrupted) as interrupted:
        slow.result()
    assert interrupted.value.node_id == sampler.id
    assert waiting.result().latent(saved).shape == (2, 4, 8, 8)
    assert comfy.queued() == []


def test_a_prompt_that_waits_can_be_dropped(comfy):
    slow, waiting = comfy.queue(sampling(ProbeSlow={"seconds": 0.1})[0]), comfy.queue(sampling()[0])
    comfy.drop(waiting.prompt_id)
    assert waiting.prompt_id not in comfy.queued()
    assert slow.result().prompt_id == slow.prompt_id
    with pytest.raises(TimeoutError):
        waiting.result(seconds=1)


def test_freed_results_are_made_again(comfy):
    graph, _, _ = sampling()
    comfy.run(graph)
    (cached,) = comfy.run(graph).data("execution_cached")
    assert set(cached["nodes"]) == set(graph)
    for _ in range(10):  # the server frees when it is next idle, and a prompt that comes sooner goes first
        comfy.free()
        time.sleep(0.5)
        (cached,) = comfy.run(graph).data("execution_cached")
        if not cached["nodes"]:
            break
    assert cached["nodes"] == []


def test_a_node_that_raises_and_a_prompt_that_is_refused_are_told_apart(comfy):
    graph, sampler, _ = sampling(ProbeOOM={})
    with pytest.raises(Failed, match="Tried to allocate") as failed:
        comfy.run(graph)
    assert (failed.value.node_id, failed.value.node_type) == (sampler.id, "KSampler")
    graph[sampler.id]["inputs"]["steps"] = -1
    with pytest.raises(Refused) as refused:
        comfy.run(graph)
    (error,) = refused.value.node_errors[sampler.id]["errors"]
    assert (error["type"], error["extra_info"]["input_name"]) == ("value_smaller_than_min", "steps")


def test_extra_model_paths_are_read(comfy_paths, tmp_path):
    (tmp_path / "elsewhere" / "nets").mkdir(parents=True)
    (tmp_path / "elsewhere" / "nets" / "far.safetensors").touch()
    section = {"base_path": str(tmp_path / "elsewhere"), "vae": "nets"}
    with Server(comfy_paths, tmp_path / "base", packs={}, extra_model_paths={"other": section}) as server:
        assert "far.safetensors" in server.get_json("/models/vae")
    assert server.process.poll() is not None


def test_a_server_that_does_not_come_up_says_why(comfy_paths, tmp_path):
    if comfy_paths.is_package:
        pytest.skip("this ComfyUI ignores options that it does not know")
    with pytest.raises(RuntimeError, match="unrecognized arguments: --no-such-option"):
        Server(comfy_paths, tmp_path, "--no-such-option")


def test_a_server_ends_when_its_standard_input_does(tmp_path):
    script = tmp_path / "server.py"
    script.write_text("import sys, time\nprint(sys.argv, __name__, sys.path[0], flush=True)\ntime.sleep(600)\n")
    command = [sys.executable, HERE / "launch.py", script, "--port", "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == f"{[str(script), '--port', '1']} __main__ {tmp_path}\n"
            process.stdin.close()
            assert process.wait(30) != 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([], "no ComfyUI in COMFYUI_PATH"),
        (["main.py"], "no Python for .*: set COMFYUI_PYTHON"),
        (["main.py", "venv/bin/python"], "python lacks torch, aiohttp, einops, imageio_ffmpeg"),
    ],
)
def test_where_comfyui_cannot_run_the_reason_is_said(monkeypatch, tmp_path, files, reason):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "ComfyUI"))
    monkeypatch.delenv("COMFYUI_PYTHON", raising=False)
    for name in files:
        file = tmp_path / "ComfyUI" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')  # a Python with nothing installed
        Path(file).chmod(0o755)
    with pytest.raises(NotInstalled, match=reason):
        find()
