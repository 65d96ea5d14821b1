"""--set NODE.INPUT=value."""

import json

import pytest


@pytest.fixture
def apply(part, pack, tmp_path, workflow, host):
    """Applies settings to the shipped workflow; returns (graph, problems)."""

    def apply(*settings):
        path = tmp_path / "workflow.json"
        path.write_text(json.dumps(workflow))
        graph = part("headless.graph").read_graph(path, pack.NODE_DISPLAY_NAME_MAPPINGS)
        return graph, part("headless.overrides").apply(graph, list(settings), pack.NODE_CLASS_MAPPINGS)

    return apply


def test_values_take_the_type_the_input_declares(apply):
    graph, problems = apply(
        "5.steps=12",
        "Sampler.cfg=3",
        "Prompt.text=7",
        "5.sampler_name=heun",
        "Save video.fps=23.976",
        "5.seed=18446744073709551615",
    )
    assert problems == []
    sampler = graph.nodes["5"].inputs
    assert sampler["steps"] == 12 and type(sampler["steps"]) is int
    assert sampler["cfg"] == 3.0 and type(sampler["cfg"]) is float
    assert graph.nodes["2"].inputs["text"] == "7"
    assert sampler["sampler_name"] == "heun" and sampler["seed"] == 2**64 - 1
    assert graph.nodes["7"].inputs["fps"] == 23.976


def test_text_is_taken_as_it_is(apply):
    for text in ("", " a = b.c ", "(red:1.3) \\(circle\\)", "日本 🎬", 'a "quoted"\nprompt', "x" * 100_000):
        graph, problems = apply(f"Prompt.text={text}")
        assert problems == [] and graph.nodes["2"].inputs["text"] == text


def test_titles_may_hold_dots_and_an_id_comes_before_a_title(apply, workflow):
    workflow["2"]["_meta"]["title"] = "Prompt v1.2 (final)"
    workflow["3"]["_meta"]["title"] = "2"
    graph, problems = apply("Prompt v1.2 (final).text=one", "2.text=two")
    assert problems == [] and graph.nodes["2"].inputs["text"] == "two" and graph.nodes["3"].inputs["text"] == ""


def test_an_optional_input_that_the_file_leaves_out_can_be_set(apply, workflow):
    del workflow["7"]["inputs"]["quality"]
    graph, problems = apply("7.quality=low")
    assert problems == [] and graph.nodes["7"].inputs["quality"] == "low"


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("nonsense", "the form is NODE.INPUT=value"),
        ("steps=3", "the form is NODE.INPUT=value"),
        ("=", "the form is"),
        ("Sampling.steps=3", 'no node has the id or title "Sampling"; there are 1 "Load model"'),
        ("5.stepz=3", 'node 5 "Sampler" has no input stepz; it has model, seed, steps'),
        ("5.model=bundled", 'node 5 "Sampler", input model is linked'),
        ("5.noise=3", '"3" is a value; this input takes a link'),
        ("5.steps=3.5", '"3.5" is not a whole number'),
        ("5.steps=", '"" is not a whole number'),
        ("5.steps=0", "0 is smaller than 1"),
        ("5.cfg=nan", '"nan" is not a finite number'),
        ("5.cfg=1e999", "is not a finite number"),
        ("5.sampler_name=Euler", '"Euler" is not in the list'),
        ("5.seed=" + "9" * 5000, "is not a whole number"),
    ],
)
def test_what_cannot_be_set_says_why(apply, setting, says):
    _, [problem] = apply(setting)
    assert problem.startswith("--set ") and says in problem and len(problem) < 500


def test_an_ambiguous_title_asks_for_an_id(apply, workflow):
    workflow["3"]["_meta"]["title"] = "Prompt"
    _, [problem] = apply("Prompt.text=x")
    assert '2 nodes are called "Prompt"; use an id: 2, 3' in problem


def test_every_setting_is_tried(apply):
    graph, problems = apply("5.steps=x", "5.cfg=1.5", "9.a=b")
    assert len(problems) == 2 and graph.nodes["5"].inputs["cfg"] == 1.5
