"""Every workflow for people on ComfyUI's own page, in a real browser: it opens, it runs, its video plays."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from comfyui import PACK, PACKS, Server
from page import Browser, Message, Page
from shipped import FOR_PEOPLE, for_people, for_programs

ROOT = PACKS[PACK]
SAVERS = {"T2VSaveVideo", "T2VDecodeAndSave", "SaveVideo"}
SHORT = ("text_to_video", "prompt_travel")
each_for_people = pytest.mark.parametrize(
    "file",
    # In CI one as it comes and one with schedules; test_server.py runs the twin of each.
    [pytest.param(file, marks=() if file.stem in SHORT else pytest.mark.long) for file in FOR_PEOPLE],
    ids=lambda file: file.stem,
)

READY = "window.app?.vueAppReady && 'T2VSampler' in window.LiteGraph.registered_node_types"
UNKNOWN_TYPES = "app.graph.nodes.map(node => node.type).filter(type => !(type in LiteGraph.registered_node_types))"
# Numbers of our nodes that the page shows with fewer decimals than they have, as 1.25 where it shows 1.3.
CUT_SHORT = """app.graph.nodes.filter(node => node.type.startsWith('T2V')).flatMap(node => node.widgets ?? [])
    .filter(widget => widget.type === 'number' && !widget.computedDisabled)
    .filter(widget => Number(widget._displayValue) !== widget.value)
    .map(widget => `${widget.name} ${widget.value} is shown as ${widget._displayValue}`)"""
# Dialogs, and the notes that drop down in a corner: a missing node, a failed run, a refused prompt each show one.
OBJECTIONS = """[...document.querySelectorAll('.p-dialog, .p-toast-message-error, .p-toast-message-warn')]
    .map(element => element.innerText)"""
FIT = "app.extensionManager.command.execute('Comfy.Canvas.FitView').then(() => new Promise(r => setTimeout(r, 1000)))"
# Of each node that shows a video, its type and the state of the video.
VIDEOS = """Object.fromEntries(app.graph.nodes.flatMap(node => {
    const video = node.widgets?.map(widget => widget.element?.querySelector?.('video')).find(Boolean)
    return video && video.readyState >= 2
        ? [[node.type, {duration: video.duration, error: video.error?.message ?? null, width: video.videoWidth}]] : []
}))"""
# The video of a node, the page's newest for it, and what it is doing, for whoever reads why a test failed.
VIDEO = """app.graph.nodes.find(node => node.type === '{type}').widgets
    .map(widget => widget.element?.querySelector?.('video')).find(Boolean)"""
STATE = """(video => ({page: document.visibilityState, paused: video.paused, ready: video.readyState,
    network: video.networkState, at: video.currentTime, source: video.currentSrc}))"""
# Plays a video and tells whether it moves.
MOVES = """(video => {
    video.loop = true
    video.play().catch(() => {})
    return video.played.length > 0 && video.played.end(0) > 0
})"""
# Goes to the last moment of a video and tells, there, whether it has a picture (readyState >= 2).
ENDS = """(video => new Promise(tell => {
    video.pause()
    video.addEventListener('seeked', () => tell(video.readyState >= 2), {once: true})
    video.currentTime = video.duration - 0.01
}))"""
WIDGETS = "app.graph.nodes.map(node => [node.id, node.type, node.widgets?.map(widget => widget.value) ?? []])"


@pytest.fixture
def page(comfy: Server, browser: Browser) -> Iterator[Page]:
    """ComfyUI's page, with nothing in the way, and with a console cleared of what ComfyUI itself says as it opens."""
    if comfy.installation.is_package:
        pytest.skip("the page of this ComfyUI waits for scripts of other hosts")
    comfy.post("/settings/Comfy.TutorialCompleted", True)  # or it opens with the template browser
    opened = browser.open(comfy.url)
    opened.wait_for(READY)
    assert [message for message in opened.console if names_us(message)] == []
    opened.console.clear()
    yield opened
    opened.close()


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Where screenshots go: the folder in T2V_SCREENSHOTS, if somebody wants to look at them."""
    return Path(os.environ.get("T2V_SCREENSHOTS", tmp_path))


def load(page: Page, workflow: dict) -> None:
    """Opens a workflow, all of it in sight: the page makes a node's video when it draws the node."""
    page.evaluate(f"app.loadGraphData({json.dumps(workflow)}).then(() => null)")
    page.evaluate(FIT)


def watch(page: Page, type: str) -> None:
    """Plays the video of a node until it moves, then shows its end: a busy machine may play too slowly to wait for. One
    that has not moved within half a minute is loaded once more, as a person would: the browser now and then leaves a
    file half fetched."""
    video = VIDEO.replace("{type}", type)
    try:
        page.wait_for(f"{MOVES}({video})", seconds=30)
    except TimeoutError:
        print("the video does not move:", page.evaluate(f"{STATE}({video})"))
        page.evaluate(f"{video}.load()")
        page.wait_for(f"{MOVES}({video})", seconds=90)
    assert page.evaluate(f"{ENDS}({video})")


def names_us(message: Message) -> bool:
    return f"/extensions/{PACK}/" in message.url or "T2V" in message.text


def complaints(page: Page) -> list[Message]:
    """What the console has against this pack, uncaught exceptions whosever included. Prints the rest."""
    serious = [message for message in page.console if message.level in ("error", "exception", "warning", "assert")]
    found = [message for message in serious if names_us(message) or message.level == "exception"]
    print(*(f"{each.level}: {each.text} {each.url}" for each in serious if each not in found), sep="\n")
    return found


def sent(page: Page) -> dict:
    """What the page would queue, less what it adds for itself and what only shows a picture on it."""
    graph = page.evaluate("app.graphToPrompt().then(sent => sent.output)")
    graph = {key: node for key, node in graph.items() if node["class_type"] != "PreviewImage"}
    for node in graph.values():
        node["inputs"].pop("video-preview", None)
    return graph


@each_for_people
@pytest.mark.usefixtures("first_video")
def test_a_workflow_opens_runs_and_its_video_plays(page, pictures, file):
    workflow = for_people(file)
    load(page, workflow)
    assert page.evaluate("app.graph.nodes.length") == len(workflow["nodes"])
    assert page.evaluate(UNKNOWN_TYPES) == []
    assert page.evaluate(CUT_SHORT) == []
    assert page.evaluate(OBJECTIONS) == []
    assert sent(page) == for_programs(file.parent / "api" / file.name)

    page.evaluate("app.queuePrompt(0).then(() => null)")
    (saver,) = {node["type"] for node in workflow["nodes"]} & SAVERS
    page.wait_for(f"'{saver}' in {VIDEOS} || {OBJECTIONS}.length", seconds=180)
    assert page.evaluate(OBJECTIONS) == []
    video = page.evaluate(VIDEOS)[saver]
    assert (video["error"], video["duration"] > 0, video["width"] > 0) == (None, True, True)
    watch(page, saver)
    page.screenshot(pictures / f"{file.stem}.png")
    assert complaints(page) == []


def test_a_video_dropped_on_the_page_brings_its_workflow_back(comfy, page, workflow):
    people = json.loads((ROOT / "workflows" / "text_to_video.json").read_text(encoding="utf-8"))
    run = comfy.run(workflow, people)
    (video,) = (item for node in run.outputs for item in run.files(node))
    load(page, people)
    expected = page.evaluate(WIDGETS)
    page.evaluate("app.clean(); app.graph.clear()")
    assert page.evaluate(WIDGETS) == []
    page.evaluate(
        f"fetch('/view?' + new URLSearchParams({json.dumps(video)})).then(response => response.blob())"
        ".then(blob => app.handleFile(new File([blob], 'video.mp4', {type: 'video/mp4'}))).then(() => null)"
    )
    page.wait_for("app.graph.nodes.length")
    assert page.evaluate(WIDGETS) == expected


def test_a_node_that_comfyui_lacks_would_be_noticed(page, pictures):
    workflow = json.loads((ROOT / "workflows" / "text_to_video.json").read_text(encoding="utf-8"))
    workflow["nodes"][0]["type"] = "T2VNoSuchNode"
    load(page, workflow)
    assert page.evaluate(UNKNOWN_TYPES) == ["T2VNoSuchNode"]
    (dialog,) = page.wait_for(f"(found => found.length && found)({OBJECTIONS})")
    assert "T2VNoSuchNode" in dialog
    page.screenshot(pictures / "missing_node.png")


def test_what_a_script_of_the_pack_throws_would_be_noticed(page):
    page.evaluate("console.error('T2V: not so'), setTimeout(() => { throw new Error('T2V broke') })")
    page.wait_for("new Promise(resolve => setTimeout(() => resolve(true), 200))")
    found = [(message.level, message.text.splitlines()[0]) for message in complaints(page)]
    assert found == [("error", "T2V: not so"), ("exception", "Error: T2V broke")]
