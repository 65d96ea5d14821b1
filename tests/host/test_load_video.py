"""Loading videos in a real ComfyUI: uploaded as its page uploads them, listed, shown, and read."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from clips import H264, LOSSLESS, make, number, numbered
from comfyui import Server
from page import Browser
from PIL import Image
from prompts import Graph, Refused

ALL = {"start_frame": 0, "num_frames": 0, "stride": 1, "width": 0, "height": 0, "fps": 0.0}
READY = "window.app?.vueAppReady && 'T2VLoadVideo' in window.LiteGraph.registered_node_types"
NODE = """(() => {
    const node = LiteGraph.createNode('T2VLoadVideo')
    app.graph.add(node)
    return node.widgets.map(widget => [widget.name, widget.type, widget.value, widget.options?.values ?? null])
})()"""


@pytest.fixture(scope="module")
def clip(comfy: Server, tmp_path_factory) -> str:
    """Twenty numbered frames with sound, in the input folder."""
    sound = ("-f", "lavfi", "-i", "sine=r=8000:d=0.8")
    place = tmp_path_factory.mktemp("clip") / "numbered.mkv"
    file = make(place, numbered(20), *LOSSLESS, "-c:a", "pcm_s16le", fps=25, inputs=sound)
    return comfy.upload_image(file.name, file.read_bytes())


def test_frames_sound_and_latents(comfy: Server, clip, tmp_path):
    graph = Graph()
    part = {**ALL, "start_frame": 3, "num_frames": 5, "stride": 2}
    video = graph.add("T2VLoadVideo", video=clip, **part)
    vae = graph.add("T2VLoadModel", model_name="bundled", weight_dtype="auto")[2]
    encoded = graph.add("T2VEncode", images=video[0], vae=vae, width=0, height=0, upscale_method="area",
                        frames_per_batch=0)  # fmt: skip
    streamed = graph.add("T2VLoadVideoLatent", video=f"{clip} [input]", vae=vae, **part)
    images = graph.add("SaveImage", images=video[0], filename_prefix="loaded")
    saved = [graph.add("SaveLatent", samples=node, filename_prefix="loaded") for node in (encoded[0], streamed[0])]
    again = graph.add("T2VSaveVideo", images=video[0], fps=video[2], filename_prefix="loaded", format="h264-mp4",
                      quality="high", audio=video[1])  # fmt: skip
    info = graph.add("PreviewAny", source=video[3])
    run = comfy.run(graph)
    shown = [number(picture(comfy.view(file))) for file in run.files(images)]
    assert shown == [3, 5, 7, 9, 11]
    assert torch.equal(run.latent(saved[0]), run.latent(saved[1])) and run.latent(saved[0]).shape == (5, 4, 6, 8)
    (tmp_path / "again.mp4").write_bytes(run.fetch(again))
    with av.open(str(tmp_path / "again.mp4")) as container:
        assert container.streams.video[0].average_rate == 12.5 and container.streams.audio[0].sample_rate == 8000
    assert "read: 5 frames of 64 x 48 at 12.5 a second" in json.dumps(run.outputs[info.id])


def picture(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(content)))


def test_a_file_that_changes_is_read_again(comfy: Server, tmp_path):
    def shown(frames) -> int:
        comfy.upload_image("changing.mp4", make(tmp_path / f"{len(frames)}.mp4", frames, *H264).read_bytes())
        graph = Graph()
        video = graph.add("T2VLoadVideo", video="changing.mp4", **ALL)
        saved = graph.add("SaveImage", images=video[0], filename_prefix="changing")
        return len(comfy.run(graph).files(saved))

    assert (shown(numbered(3)), shown(numbered(4))) == (3, 4)


@pytest.mark.parametrize(
    "name", ["../output/x.mp4", "../../../../etc/passwd", "/etc/passwd", "no.mp4", "../input/../models [output]", ""]
)
def test_names_that_lead_out_of_the_folder_are_refused_before_the_run(comfy: Server, name):
    graph = Graph()
    video = graph.add("T2VLoadVideo", video=name, **ALL)
    graph.add("SaveImage", images=video[0], filename_prefix="evil")
    with pytest.raises(Refused) as caught:
        comfy.run(graph)
    (error,) = caught.value.node_errors[video.id]["errors"]
    assert "video" in error["details"]


def test_the_page_lists_the_file_and_has_a_button_to_upload_another(comfy: Server, browser: Browser, clip, tmp_path):
    if comfy.installation.is_package:
        pytest.skip("the page of this ComfyUI waits for scripts of other hosts")
    comfy.post("/settings/Comfy.TutorialCompleted", True)
    page = browser.open(comfy.url)
    page.wait_for(READY)
    widgets = {name: (kind, value, values) for name, kind, value, values in page.evaluate(NODE)}
    assert clip in widgets["video"][2]
    assert widgets["upload"][0] == "button"  # ComfyUI's own, which `video_upload` asks for
    names = list(widgets)
    inputs = [name for name in ("video", *ALL) if name in names]
    assert inputs == ["video", *ALL]
    page.screenshot(Path(tmp_path) / "load_video.png")
    page.close()
