"""Every shipped workflow is a test: the file for people and the file for programs say the same, and both are good."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from shipped import FOR_PEOPLE, FOR_PROGRAMS, PAGE_ONLY, ROOT, for_people, for_programs, read, stand_ins

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN"}
SEEDS = {"seed", "noise_seed"}  # the page gives these a second widget whether or not the node asks for it
AFTER_GENERATE = {"fixed", "increment", "decrement", "randomize"}
OPTIONAL_SHAPE = 7  # how the page draws, and saves, the socket of an optional input
ONLY_SHOWN = {"PreviewImage"}  # for eyes on the page; the twin for programs is without
TITLE_BAR = 30  # pixels above a node's `pos`


def is_ours(class_type: str) -> bool:
    return class_type.startswith("T2V")


def needs_comfyui(file: Path) -> bool:
    """Whether nodes of ComfyUI's own are in it: then only ComfyUI can tell their inputs, and tests/host looks."""
    twin = file if file.parent.name == "api" else file.parent / "api" / file.name
    return not all(is_ours(node["class_type"]) for node in read(twin).values())


def each(files: list[Path]):
    return pytest.mark.parametrize("file", files, ids=lambda file: file.stem)


each_for_people = each(FOR_PEOPLE)
each_of_ours_for_people = each([file for file in FOR_PEOPLE if not needs_comfyui(file)])
each_of_ours_for_programs = each([file for file in FOR_PROGRAMS if not needs_comfyui(file)])
each_of_comfyui_for_programs = each([file for file in FOR_PROGRAMS if needs_comfyui(file)])


def is_widget(kind: str | list, options: dict) -> bool:
    return (isinstance(kind, list) or kind in WIDGETS) and not options.get("forceInput")


def inputs_of(node_class: type) -> dict[str, tuple]:
    """Name to (type, options), in the order in which the page makes widgets and sockets of them."""
    declared = node_class.INPUT_TYPES()
    entries = {**declared["required"], **declared.get("optional", {})}
    return {name: (kind, options[0] if options else {}) for name, (kind, *options) in entries.items()}


def nodes_of(workflow: dict) -> list[dict]:
    """The nodes that the page sends."""
    return [node for node in workflow["nodes"] if node["type"] not in PAGE_ONLY]


def as_api(workflow: dict, classes: dict[str, type]) -> dict:
    """The graph that ComfyUI's page would send for this workflow."""
    sources = {link: [str(source), slot] for link, source, slot, *_ in workflow["links"]}
    graph = {}
    for node in nodes_of(workflow):
        if node["type"] in ONLY_SHOWN:
            continue
        values = list(node["widgets_values"])
        inputs = {}
        for name, (kind, options) in inputs_of(classes[node["type"]]).items():
            if not is_widget(kind, options):
                continue
            inputs[name] = values.pop(0)
            if options.get("control_after_generate") or name in SEEDS:
                assert values.pop(0) in AFTER_GENERATE
        assert not values, f"node {node['id']}: more widgets_values than widgets"
        inputs |= {socket["name"]: sources[socket["link"]] for socket in node["inputs"] if socket["link"] is not None}
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs, "_meta": {"title": node["title"]}}
    return graph


@each_for_people
def test_a_workflow_for_people_has_a_twin_for_programs_and_a_picture(file):
    assert (file.parent / "api" / file.name).is_file()
    with Image.open(file.with_suffix(".jpg")) as picture:
        assert picture.format == "JPEG"


@each_of_ours_for_people
def test_both_files_hold_the_same_graph(pack, file):
    assert as_api(read(file), pack.NODE_CLASS_MAPPINGS) == read(file.parent / "api" / file.name)
    assert as_api(for_people(file), pack.NODE_CLASS_MAPPINGS) == for_programs(file.parent / "api" / file.name)


@each_for_people
def test_seeds_stay_as_they_are(file):
    """A shipped workflow makes the same video each time it is queued, as its twin does."""
    twin = read(file.parent / "api" / file.name)
    for node in nodes_of(read(file)):
        if node["type"] not in ONLY_SHOWN and SEEDS & twin[str(node["id"])]["inputs"].keys():
            assert "fixed" in node["widgets_values"]


@each_for_people
def test_sockets_are_those_the_nodes_declare(pack, file):
    for node in filter(lambda node: is_ours(node["type"]), read(file)["nodes"]):
        node_class = pack.NODE_CLASS_MAPPINGS[node["type"]]
        optional = node_class.INPUT_TYPES().get("optional", {})
        sockets = [
            (name, kind, OPTIONAL_SHAPE if name in optional else None)
            for name, (kind, options) in inputs_of(node_class).items()
            if not is_widget(kind, options)
        ]
        given_by_link = [
            (s["name"], s["type"], None) for s in node["inputs"] if "widget" in s and s["widget"]["name"] == s["name"]
        ]
        assert [(s["name"], s["type"], s.get("shape")) for s in node["inputs"]] == sockets + given_by_link
        outputs = list(zip(node_class.RETURN_NAMES, node_class.RETURN_TYPES, strict=True))
        assert [(out["name"], out["type"]) for out in node["outputs"]] == outputs
        assert [out["slot_index"] for out in node["outputs"]] == list(range(len(outputs)))


@each_for_people
def test_links_are_the_same_wherever_the_file_states_them(file):
    workflow = read(file)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert len(nodes) == len(workflow["nodes"])
    seen_by_inputs = [
        [socket["link"], node["id"], slot]
        for node in workflow["nodes"]
        for slot, socket in enumerate(node["inputs"])
        if socket["link"] is not None
    ]
    taken = {socket["link"]: socket["type"].split(",") for node in workflow["nodes"] for socket in node["inputs"]}
    seen_by_outputs = [
        [link, node["id"], slot, socket["type"]]
        for node in workflow["nodes"]
        for slot, socket in enumerate(node["outputs"])
        for link in socket["links"]
    ]
    links = workflow["links"]
    assert sorted(seen_by_inputs) == sorted([link, *target] for link, _, _, *target, _ in links)
    assert all(kind in taken[link] for link, *_, kind in links)
    assert sorted(seen_by_outputs) == sorted([link, *source, kind] for link, *source, _, _, kind in links)
    assert workflow["last_node_id"] == max(nodes)
    assert workflow["last_link_id"] == max(link[0] for link in links)
    assert all(nodes[source]["order"] < nodes[target]["order"] for _, source, _, target, *_ in links)
    assert sorted(node["order"] for node in nodes.values()) == list(range(len(nodes)))


@each_for_people
def test_nodes_say_which_pack_they_are_from(pack, file):
    """ComfyUI-Manager offers to install the pack that `cnr_id` names when a node of the workflow is missing."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for node in nodes_of(read(file)):
        expected = {"Node name for S&R": node["type"]}
        if is_ours(node["type"]):
            assert node["type"] in pack.NODE_CLASS_MAPPINGS
            assert node["properties"] == {**expected, "cnr_id": project["name"], "ver": project["version"]}
        else:
            assert node["properties"] == {**expected, "cnr_id": "comfy-core"}


@each_for_people
def test_the_page_is_tidy(file):
    """No node covers another, and every link runs from left to right."""
    workflow = read(file)
    boxes = {
        node["id"]: (x, y - TITLE_BAR, x + node["size"][0], y + node["size"][1])
        for node in workflow["nodes"]
        for x, y in [node["pos"]]
    }
    covering = [
        (a, b)
        for a, b in combinations(boxes, 2)
        if boxes[a][0] < boxes[b][2] and boxes[b][0] < boxes[a][2]
        and boxes[a][1] < boxes[b][3] and boxes[b][1] < boxes[a][3]
    ]  # fmt: skip
    assert covering == []
    backwards = [link for link, source, _, target, *_ in workflow["links"] if boxes[source][2] >= boxes[target][0]]
    assert backwards == []


@each_of_ours_for_programs
def test_validate_finds_nothing_to_say(headless, file):
    ran = headless("validate", file, *stand_ins(file))
    assert (ran.returncode, ran.stderr) == (0, "")


@each_of_comfyui_for_programs
def test_without_comfyui_a_workflow_with_its_nodes_is_refused_by_their_names(headless, file, tmp_path):
    ran = headless("run", file, "--out", tmp_path / "out")
    foreign = {node["class_type"] for node in read(file).values() if not is_ours(node["class_type"])}
    assert ran.returncode == 2 and not (tmp_path / "out").exists()
    assert all(name in ran.stderr for name in foreign)


@pytest.fixture
def make(headless, tmp_path):
    """make(FILE, "NODE.INPUT=value", ...) runs a workflow into a folder of its own and returns the video it names."""

    def run(file: Path, *settings: str) -> Path:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        changes = [argument for setting in settings for argument in ("--set", setting)]
        ran = headless("run", file, "--out", out, "--quiet", *stand_ins(file), *changes)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert [path.as_posix() for path in out.rglob("*") if path.is_file()] == ran.stdout.splitlines()
        return Path(ran.stdout.strip())

    return run


def watch(video: Path) -> tuple[dict, np.ndarray]:
    """What ffmpeg says of a video, and its frames `[f, h, w, 3]` in 0..1."""
    reader = imageio_ffmpeg.read_frames(video)
    said = next(reader)
    width, height = said["size"]
    frames = np.frombuffer(b"".join(reader), np.uint8).reshape(-1, height, width, 3) / 255
    return {"codec": said["codec"], "frames": len(frames), "fps": said["fps"], "size": said["size"]}, frames


def other_seeds(file: Path) -> list[str]:
    """Settings that give every node of the file the seed after its own."""
    seeds = {node_id: node["inputs"]["seed"] for node_id, node in read(file).items() if "seed" in node["inputs"]}
    return [f"{node_id}.seed={seed + 1}" for node_id, seed in seeds.items()]


@each_of_ours_for_programs
def test_it_makes_its_video(make, file):
    said, frames = watch(make(file))
    rates = {node["inputs"]["fps"] for node in read(file).values() if "fps" in node["inputs"]}
    assert (said["codec"], {said["fps"]}) == ("h264", rates)
    assert frames.std(axis=(1, 2)).max() > 0.05  # not one flat colour


def test_another_seed_makes_another_video(make):
    file = ROOT / "workflows/api/text_to_video.json"
    frames, other = watch(make(file))[1], watch(make(file, *other_seeds(file)))[1]
    # The pictures, for the file holds the seed as text too. More than compression could do.
    assert np.abs(other - frames).max() > 0.2


def test_the_prompt_says_what_is_drawn(make):
    """`--set Prompt.text=...`, as `make demo PROMPT="..."` gives it: the shipped prompt has a white background."""
    file = ROOT / "workflows/api/text_to_video.json"
    assert "white background" in read(file)["2"]["inputs"]["text"]
    said, frames = watch(make(file, "Prompt.text=a blue square moving up on a black background"))
    assert said == {"codec": "h264", "frames": 16, "fps": 8.0, "size": (96, 96)}
    corners = frames[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.max() < 0.3
    red, green, blue = np.moveaxis(frames, -1, 0)
    assert ((blue - np.maximum(red, green)).max(axis=(1, 2)) > 0.3).all()  # something blue in every frame
