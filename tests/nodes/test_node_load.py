"""T2VLoadModel: it says what it loaded, and loads only what something is connected to."""

import pytest


def prompt(*links):
    """A prompt in which a T2VLoadModel, node 4, has these links to other nodes."""
    nodes = {"4": {"class_type": "T2VLoadModel", "inputs": {"model_name": "tiny.safetensors", "weight_dtype": "auto"}}}
    for number, link in enumerate(links):
        nodes[f"1{number}"] = {"class_type": "Other", "inputs": {"text": "4", "value": link, "list": [4, 0, 0]}}
    return nodes


ALL = (0, 1, 2)


@pytest.mark.parametrize(
    ("links", "outputs"),
    [
        ([["4", 0], ["4", 2]], (0, 2)),
        ([["4", 1], ["4", 1], ["5", 0]], (1,)),
        ([["4", 0], ["4", 1], ["4", 2]], ALL),
        ([["5", 0]], ()),
    ],
)
def test_the_outputs_that_are_linked(part, links, outputs):
    assert part("nodes.load").linked_outputs(prompt(*links), "4") == outputs


@pytest.mark.parametrize(("given", "node_id"), [(None, "4"), ({}, "4"), (prompt(["4", 0]), "9.0.1"), (prompt(), None)])
def test_where_it_cannot_be_told_all_are_taken_as_linked(part, given, node_id):
    assert part("nodes.load").linked_outputs(given, node_id) == ALL


@pytest.mark.parametrize("linked", [(0,), (1,), (2,), (0, 2), ALL])
def test_only_what_is_linked_is_loaded(part, host, linked):
    node, given = part("nodes").T2VLoadModel(), prompt(*(["4", output] for output in linked))
    answer = node.load("tiny.safetensors", "auto", given, "4")
    assert tuple(index for index, value in enumerate(answer["result"]) if value is not None) == linked
    [text] = answer["ui"]["text"]
    assert text.startswith("model: this pack's own kind\n") and "text encoder: in the same file" in text


def test_a_link_that_comes_later_is_a_change(part, host, models):
    """Else a host would go on with what was loaded before, which lacks a part."""
    changed = part("nodes").T2VLoadModel.IS_CHANGED
    before = changed("tiny.safetensors", "auto", prompt(["4", 0]), "4")
    assert changed("tiny.safetensors", "auto", prompt(["4", 0], ["4", 0]), "4") == before
    assert changed("tiny.safetensors", "auto", prompt(["4", 0], ["4", 1]), "4") != before
    hash(before)


def test_a_workflow_that_needs_no_text_encoder_does_without(part, host, workflow, monkeypatch):
    """Headless hands the hidden inputs over."""
    execute, graph = part("headless.execute").execute, part("headless.graph")
    seen = []
    inner = type(host).load_model
    monkeypatch.setattr(type(host), "load_model", lambda self, *args: seen.append(args) or inner(self, *args))
    load = {"class_type": "T2VLoadModel", "inputs": {"model_name": "tiny.safetensors", "weight_dtype": "auto"}}
    latent = {"class_type": "T2VEmptyLatent", "inputs": {"width": 8, "height": 8, "num_frames": 1}}
    decode = {"class_type": "T2VDecode", "inputs": {"samples": ["2", 0], "vae": ["1", 2], "frames_per_batch": 0}}
    save = {"class_type": "T2VSaveVideo", "inputs": {**workflow["7"]["inputs"], "images": ["3", 0]}}
    nodes = {"1": load, "2": latent, "3": decode, "4": save}
    running = graph.Graph({name: graph.Node(each["class_type"], each["inputs"], "") for name, each in nodes.items()})
    classes = part("nodes").NODE_CLASS_MAPPINGS
    assert [node_id for node_id, _ in execute(running, classes)] == ["4"]
    assert seen == [("tiny.safetensors", "auto", ["vae"])]
