"""The nodes that write videos, in a real ComfyUI: its own AUDIO and VIDEO, its flags, its page, and a real player."""

from __future__ import annotations

import io
import json
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import imageio_ffmpeg
import pytest
import torch
from comfyui import PACK, PACKS, Server
from page import SOFTWARE_GPU, Browser, Page, find_chromium
from PIL import Image
from prompts import Graph, Interrupted, Node
from test_page import OBJECTIONS, READY, WIDGETS, load

WRITE = {"fps": 12.0, "format": "h264-mp4", "quality": "high"}
FRAMES = 12
# The corners of RGB, greys, and skin from light to dark (Macbeth's two, and two beside them), as sRGB.
PATCHES = [
    *((255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 255, 255), (255, 0, 255), (255, 255, 0)),
    *((0, 0, 0), (64, 64, 64), (128, 128, 128), (192, 192, 192), (255, 255, 255), (18, 18, 18)),
    *((115, 82, 68), (194, 150, 130), (241, 194, 125), (90, 56, 37)),
]
SIDE = 32


def frames(graph: Graph, color: int = 0x4080C0) -> Node:
    return graph.add("EmptyImage", width=48, height=32, batch_size=FRAMES, color=color)


def tone(graph: Graph) -> Node:
    return graph.add("ProbeAudio", seconds=1.5, sample_rate=48000)


def latents(graph: Graph, loader: Node) -> Node:
    """A clip that is not the same everywhere: noise, sampled for one step."""
    empty = graph.add("T2VEmptyLatent", width=128, height=96, num_frames=5)
    text = graph.add("T2VTextEncode", clip=loader[1], text="a red circle on white")
    return graph.add(
        "T2VSampler",
        model=loader,
        positive=text,
        negative=text,
        latent_image=empty,
        **{"seed": 3, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal"},
        **{"denoise": 1.0, "guidance_rescale": 0.0},
    )


def stored(comfy: Server, item: dict[str, str]) -> Path:
    """Where a file that a node showed lies."""
    return {"output": comfy.output, "temp": comfy.base / "temp"}[item["type"]] / item["subfolder"] / item["filename"]


def streams(path: Path) -> dict[str, dict[str, Any]]:
    """What ffprobe says of the video and the audio stream, every frame counted."""
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-of", "json", path]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["streams"]
    return {stream["codec_type"]: stream for stream in found}


def pixels(path: Path, width: int, height: int) -> torch.Tensor:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).reshape(-1, height, width, 3).float()


def test_audio_of_comfyui_is_in_every_format_that_holds_sound(comfy):
    graph = Graph()
    audio, images = tone(graph), frames(graph)
    codecs = {"h264-mp4": "aac", "vp9-webm": "opus", "prores-422hq-mov": "pcm_s24le", "ffv1-mkv": "flac"}
    nodes = {
        format: graph.add(
            "T2VSaveVideo", images=images, audio=audio, filename_prefix=f"sound/{format}", **{**WRITE, "format": format}
        )
        for format in codecs
    }
    run = comfy.run(graph)
    for format, node in nodes.items():
        (item,) = run.files(node)
        found = streams(stored(comfy, item))
        assert (found["video"]["nb_read_frames"], found["video"]["r_frame_rate"]) == (str(FRAMES), "12/1"), format
        assert (found["audio"]["codec_name"], found["audio"]["channels"]) == (codecs[format], 2), format
        assert run.outputs[node.id].get("animated") == ([True] if format in ("h264-mp4", "vp9-webm") else None), format


def test_a_video_of_comfyui_brings_its_own_rate_and_sound(comfy):
    graph = Graph()
    audio = tone(graph)
    video = graph.add("CreateVideo", images=frames(graph), fps=24.0, audio=audio)
    saved = graph.add("T2VSaveVideo", images=video, filename_prefix="video", **WRITE)
    silent = graph.add("CreateVideo", images=frames(graph), fps=30.0)
    mute = graph.add("T2VSaveVideo", images=silent, filename_prefix="video", **WRITE)
    run = comfy.run(graph)
    found = streams(stored(comfy, run.files(saved)[0]))
    assert Fraction(found["video"]["r_frame_rate"]) == 24 and found["audio"]["codec_name"] == "aac"
    found = streams(stored(comfy, run.files(mute)[0]))
    assert Fraction(found["video"]["r_frame_rate"]) == 30 and "audio" not in found


def test_decode_and_save_writes_what_the_two_nodes_would(comfy):
    graph = Graph()
    loader = graph.add("T2VLoadModel", model_name="bundled", weight_dtype="auto")
    clip = latents(graph, loader)
    decoded = graph.add("T2VDecode", samples=clip, vae=loader[2], frames_per_batch=2)
    widgets = {**WRITE, "format": "ffv1-16bit-mkv"}
    both = graph.add("T2VSaveVideo", images=decoded, filename_prefix="both", **widgets)
    one = {"samples": clip, "vae": loader[2], "filename_prefix": "one", **widgets, "frames_per_batch": 2}
    direct = graph.add("T2VDecodeAndSave", **one, tile_size=0)
    tiled = graph.add("T2VDecodeAndSave", **one, tile_size=64)
    run = comfy.run(graph)
    files = [stored(comfy, run.files(node)[0]) for node in (both, direct, tiled)]
    assert files[0].read_bytes() == files[1].read_bytes()
    whole, parts = pixels(files[1], 128, 96), pixels(files[2], 128, 96)
    assert whole.shape == parts.shape == (5, 96, 128, 3)
    error = float((whole - parts).square().mean().sqrt())
    assert 0 < error < 255 / 10 ** (30 / 20)


def test_decoding_and_saving_can_be_interrupted_and_leaves_no_file(comfy):
    graph = Graph()
    loader = graph.add("T2VLoadModel", model_name="bundled", weight_dtype="auto")
    empty = graph.add("T2VEmptyLatent", width=64, height=64, num_frames=64)
    vae = graph.add("ProbeSlowVAE", vae=loader[2], seconds=0.3)
    widgets = {**WRITE, "filename_prefix": "stopped/short", "frames_per_batch": 1, "tile_size": 0}
    node = graph.add("T2VDecodeAndSave", samples=empty, vae=vae, **widgets)
    job = comfy.queue(graph)
    job.wait_for("progress", lambda data: data["node"] == node.id)
    comfy.interrupt()
    with pytest.raises(Interrupted):
        job.result()
    seen = [data["value"] for kind, data in job.messages if kind == "progress" and data["node"] == node.id]
    assert 0 < max(seen) < 64
    assert not (comfy.output / "stopped").exists()
    assert list(comfy.output.glob(".t2v-*")) == []


def test_a_preview_lies_in_comfyui_s_temporary_folder(comfy):
    graph = Graph()
    node = graph.add("T2VPreviewVideo", images=frames(graph, 0x806040), fps=12.0)
    run = comfy.run(graph)
    (item,) = run.files(node)
    assert (item["type"], run.outputs[node.id]["animated"]) == ("temp", [True])
    assert comfy.view(item) == stored(comfy, item).read_bytes()
    assert streams(stored(comfy, item))["video"]["nb_read_frames"] == str(FRAMES)


SECRET = "swordfish"
WITH_METADATA = ["h264-mp4", "prores-422hq-mov", "vp9-webm", "ffv1-mkv", "webp", "apng", "png"]


def with_secret(graph: Graph) -> list[Node]:
    """Writers of every kind of file that holds a workflow, and a node whose text goes into the prompt with them."""
    loader = graph.add("T2VLoadModel", model_name="bundled", weight_dtype="auto")
    text = graph.add("T2VTextEncode", clip=loader[1], text=SECRET)
    graph.add("ProbeTensor", value=text)
    images = frames(graph, 0x20C040)
    inputs = {"images": images, "filename_prefix": "secret"}
    writers = [graph.add("T2VSaveVideo", **inputs, **{**WRITE, "format": format}) for format in WITH_METADATA]
    return [*writers, graph.add("T2VPreviewVideo", images=images, fps=12.0)]


def holds(content: bytes) -> bool:
    """Whether the prompt is in a file, be it in a compressed chunk of a picture."""
    if SECRET.encode() in content:
        return True
    if content.startswith(b"\x89PNG"):
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return any(SECRET in str(value) for value in image.info.values())
    return False


def test_the_workflow_is_in_the_files_unless_comfyui_was_told_not_to(comfy, comfy_paths, tmp_path):
    workflow = {"nodes": [], "extra": {"note": SECRET}}
    graph = Graph()
    writers = with_secret(graph)
    run = comfy.run(graph, workflow)
    assert [holds(comfy.view(run.files(node)[0])) for node in writers] == [True] * len(writers)
    with Server(comfy_paths, tmp_path / "quiet", "--disable-metadata") as quiet:
        run = quiet.run(graph, workflow)
        assert [holds(quiet.view(run.files(node)[0])) for node in writers] == [False] * len(writers)


def opened(comfy: Server, browser: Browser) -> Page:
    """ComfyUI's page with nothing in the way."""
    if comfy.installation.is_package:
        pytest.skip("the page of this ComfyUI waits for scripts of other hosts")
    comfy.post("/settings/Comfy.TutorialCompleted", True)
    page = browser.open(comfy.url)
    page.wait_for(READY)
    return page


def dropped(page: Page, file: Path) -> bool:
    """Drops a file on the middle of the page as a file manager does, and tells whether it brought nodes.

    The page opens with the workflow that it showed last, maybe another test's, and with a dialog if that lacks a node.
    """
    page.evaluate("document.querySelectorAll('.p-dialog-close-button').forEach(button => button.click())")
    page.wait_for(f"{OBJECTIONS}.length == 0")
    place = page.evaluate("({x: Math.round(innerWidth / 2), y: Math.round(innerHeight / 2)})")
    data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
    for event in ("dragEnter", "dragOver", "drop"):
        page.command("Input.dispatchDragEvent", type=event, data=data, **place)
        page.evaluate("new Promise(seen => setTimeout(seen))")  # a drop is lost before the page said that it takes one
    try:
        return page.wait_for("app.graph.nodes.length > 1", seconds=30)
    except TimeoutError:
        return False


def test_each_file_dropped_on_the_page_brings_the_workflow_back(comfy, browser):
    page = opened(comfy, browser)
    people = json.loads((PACKS[PACK] / "workflows" / "text_to_video.json").read_text(encoding="utf-8"))
    graph = Graph()
    images, audio = frames(graph, 0x907010), tone(graph)
    nodes = {}
    for format in ("h264-mp4", "prores-422hq-mov", "vp9-webm", "webp", "apng", "png"):
        heard = {"audio": audio} if format in ("h264-mp4", "prores-422hq-mov", "vp9-webm") else {}
        inputs = {"images": images, **heard, "filename_prefix": "dropped/file", **WRITE, "format": format}
        nodes[format] = graph.add("T2VSaveVideo", **inputs)
    run = comfy.run(graph, people)
    load(page, people)
    expected = page.evaluate(WIDGETS)
    assert expected
    for format, node in nodes.items():
        page.evaluate("app.clean(); app.graph.clear()")
        assert page.evaluate(WIDGETS) == []
        file = stored(comfy, run.files(node)[0])
        if not dropped(page, file):
            pytest.fail(f"{file.name} ({format}) brought nothing back; the page shows {page.evaluate(OBJECTIONS)}")
        assert page.evaluate(WIDGETS) == expected, format
    page.close()


# Draws what an address leads to on a canvas and tells the mean colour of the middle of each patch.
DRAWN = """(async () => {{
    const video = {video}, shown = document.createElement(video ? 'video' : 'img')
    shown.muted = true
    const ready = new Promise((resolve, reject) => {{
        shown.addEventListener(video ? 'loadeddata' : 'load', resolve)
        shown.addEventListener('error', () => reject(new Error(shown.error?.message ?? 'no picture')))
    }})
    shown.src = {url}
    await ready
    if (video) {{
        const there = new Promise(resolve => shown.addEventListener('seeked', resolve))
        shown.currentTime = 0.3
        await there
    }}
    const canvas = document.createElement('canvas')
    canvas.width = {count} * {side}
    canvas.height = {side}
    const context = canvas.getContext('2d')
    const deadline = performance.now() + 5000  // a frame that was sought may come a little after the event
    do {{
        context.drawImage(shown, 0, 0)
        await new Promise(resolve => setTimeout(resolve, 50))
    }} while (context.getImageData(1, 1, 1, 1).data[0] == 0 && performance.now() < deadline)
    return [...Array({count}).keys()].map(index => {{
        const {{data}} = context.getImageData(index * {side} + {side} / 4, {side} / 4, {side} / 2, {side} / 2)
        return [0, 1, 2].map(c => data.filter((_, i) => i % 4 == c).reduce((a, b) => a + b, 0) / (data.length / 4))
    }})
}})()"""


@pytest.fixture
def exact_browser(tmp_path):
    """Chromium as it is where there is a GPU."""
    if (program := find_chromium()) is None:
        pytest.skip("no Chromium to play videos in")
    with Browser(program, tmp_path, SOFTWARE_GPU) as running:
        yield running


def test_flat_colours_are_the_same_in_a_player(comfy, exact_browser):
    picture = Image.new("RGB", (len(PATCHES) * SIDE, SIDE))
    for index, colour in enumerate(PATCHES):
        picture.paste(colour, (index * SIDE, 0, (index + 1) * SIDE, SIDE))
    content = io.BytesIO()
    picture.save(content, "PNG")
    graph = Graph()
    image = graph.add("LoadImage", image=comfy.upload_image("patches.png", content.getvalue()))
    images = graph.add("RepeatImageBatch", image=image, amount=FRAMES)
    nodes = {}
    for format in ("h264-mp4", "vp9-webm", "av1-webm", "webp", "apng", "gif"):
        inputs = {"images": images, "filename_prefix": "patches", **WRITE, "format": format}
        nodes[format] = graph.add("T2VSaveVideo", **inputs)
    nodes["preview"] = graph.add("T2VPreviewVideo", images=images, fps=12.0)
    run, far = comfy.run(graph), {}
    page = exact_browser.open(comfy.url)
    for format, node in nodes.items():
        (item,) = run.files(node)
        names = {name: item[name] for name in ("filename", "subfolder", "type")}
        url = f"/view?{urlencode(names)}"
        video = json.dumps(item["filename"].endswith((".mp4", ".webm")))
        drawn = page.evaluate(DRAWN.format(video=video, url=json.dumps(url), count=len(PATCHES), side=SIDE))
        off = (torch.tensor(drawn) - torch.tensor(PATCHES)).abs()
        # Some Chromiums convert AV1 without the GPU, where libyuv's blue is up to 13 off in any video. The planes of
        # our file are right: another reader reads them in tests/core.
        far[format] = float((off[:, :2] if format == "av1-webm" else off).max())
    print(far)
    assert max(far.values()) <= 2, far
