"""Checking a graph against INPUT_TYPES: everything wrong, at once, with node and input."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture
def findings(part, pack, tmp_path, host):
    """What the check finds in a workflow given as an object."""

    def findings(workflow):
        path = tmp_path / "workflow.json"
        path.write_text(json.dumps(workflow))
        graph = part("headless.graph").read_graph(path, pack.NODE_DISPLAY_NAME_MAPPINGS)
        return part("headless.validate").check(graph, pack.NODE_CLASS_MAPPINGS)

    return findings


def test_the_shipped_workflow_has_no_faults(findings, workflow):
    found = findings(workflow)
    assert (found.problems, found.warnings) == ([], [])


def change(workflow, node_id, name, value):
    workflow[node_id]["inputs"][name] = value


@pytest.mark.parametrize(
    ("node_id", "name", "value", "says"),
    [
        ("5", "steps", 0, "0 is smaller than 1"),
        ("5", "steps", 10**6, "bigger than 10000"),
        ("5", "steps", "many", '"many" is not a whole number'),
        ("5", "steps", 2.5, "2.5 is not a whole number"),
        ("5", "steps", True, "true is not a whole number"),
        ("5", "steps", None, "null is not a whole number"),
        ("5", "seed", -1, "-1 is smaller than 0"),
        ("5", "seed", 2**64, "bigger than 18446744073709551615"),
        ("5", "cfg", "2,5", '"2,5" is not a finite number'),
        ("5", "cfg", "nan", '"nan" is not a finite number'),
        ("5", "cfg", 10**400, "is not a finite number"),
        ("5", "cfg", {}, "{} is not a finite number"),
        ("5", "sampler_name", "eulr", '"eulr" is not in the list: euler'),
        ("5", "sampler_name", 3, "3 is not in the list"),
        ("5", "model", "bundled", '"bundled" is a value; this input takes a link'),
        ("5", "positive", ["5"], '["5"] is not a link'),
        ("5", "positive", [2, 0], "[2, 0] is not a link"),
        ("5", "positive", ["2", "0"], '["2", "0"] is not a link'),
        ("5", "positive", ["2", True], '["2", true] is not a link'),
        ("5", "positive", ["99", 0], 'linked to node "99", which is not in the file'),
        ("5", "positive", ["2", 1], 'output 1 of node 2 "Prompt", which has 1, counted from 0'),
        ("5", "positive", ["2", -1], "linked to output -1"),
        ("5", "positive", ["1", 0], 'takes CONDITIONING, but output 0 of node 1 "Load model" is MODEL'),
        ("5", "seed", ["1", 0], 'takes INT, but output 0 of node 1 "Load model" is MODEL'),
        ("5", "sampler_name", ["1", 0], "takes COMBO"),
        ("2", "text", None, "null is not text"),
        ("2", "text", {"a": 1}, "is not text"),
        ("1", "model_name", "../../etc/passwd", "--models DIR names the folder they are in"),
        ("4", "num_frames", -1, "-1 is smaller than 0"),
        ("7", "fps", 0, "0.0 is smaller than 0.01"),
    ],
)
def test_one_fault_is_one_line_with_node_and_input(findings, workflow, node_id, name, value, says):
    change(workflow, node_id, name, value)
    [problem] = findings(workflow).problems
    title = workflow[node_id]["_meta"]["title"]
    assert problem.startswith(f'node {node_id} "{title}", input {name}: ') and says in problem


def test_numbers_written_as_text_are_read_as_comfyui_reads_them(findings, workflow):
    change(workflow, "5", "steps", "12")
    change(workflow, "5", "cfg", "2.5")
    change(workflow, "5", "seed", 3.0)
    change(workflow, "2", "text", 7)
    assert findings(workflow).problems == []


def test_a_missing_required_input_is_a_fault_and_a_missing_optional_one_is_not(findings, workflow):
    del workflow["5"]["inputs"]["cfg"]
    [problem] = findings(workflow).problems
    assert problem.startswith('node 5 "Sampler", input cfg: required')


def test_an_input_nobody_knows_is_a_warning(findings, workflow):
    change(workflow, "5", "stepz", 3)
    found = findings(workflow)
    assert found.problems == [] and "no such input; ignored" in found.warnings[0]


def test_a_node_s_own_check_is_asked_before_the_run(findings, workflow):
    change(workflow, "4", "width", 65)
    assert findings(workflow).problems == ['node 4 "Empty latent": width: 65 is not a multiple of 8']


def test_an_output_node_has_no_outputs_to_link_to(findings, workflow):
    workflow["8"] = {"class_type": "T2VSaveVideo", "inputs": {**workflow["7"]["inputs"], "images": ["7", 0]}}
    [problem] = findings(workflow).problems
    assert 'linked to output 0 of node 7 "Save video", which has none' in problem


def test_strangers_are_named_all_in_one_line_with_their_ids(findings, workflow):
    workflow["5"]["class_type"] = "KSampler"
    workflow["6"]["class_type"] = "VAEDecode"
    workflow["2"]["class_type"] = "T2VTextEncod"
    [problem] = findings(workflow).problems
    for part in ('KSampler (node 5 "Sampler")', 'VAEDecode (node 6 "Decode")', "outside ComfyUI only those run"):
        assert part in problem
    assert "T2VTextEncod may be meant as T2VTextEncode" in problem


def test_a_cycle_is_named_with_its_path(findings, workflow):
    workflow["8"] = {"class_type": "T2VSampler", "inputs": {**workflow["5"]["inputs"], "latent_image": ["5", 0]}}
    change(workflow, "5", "latent_image", ["8", 0])
    [problem] = findings(workflow).problems
    assert "cycle: 5 <- 8 <- 5" in problem


def test_without_an_output_node_there_is_nothing_to_make(findings, workflow):
    del workflow["7"]
    [problem] = findings(workflow).problems
    assert "no output node, such as T2VSaveVideo" in problem


def test_nodes_that_no_output_needs_may_be_incomplete(findings, workflow):
    workflow["8"] = {"class_type": "T2VDecode", "inputs": {"vae": ["99", 0]}}
    assert findings(workflow).problems == []


def test_everything_is_reported_at_once(findings, workflow):
    change(workflow, "5", "steps", 0)
    change(workflow, "5", "cfg", "x")
    change(workflow, "2", "clip", ["99", 0])
    change(workflow, "4", "height", -8)
    workflow["9"] = 5
    workflow["10"] = {"class_type": "KSampler", "inputs": {}}
    places = [problem.split(":")[0] for problem in findings(workflow).problems]
    assert places == [
        "node 9",
        "KSampler (node 10)",
        'node 2 "Prompt", input clip',
        'node 4 "Empty latent", input height',
        'node 5 "Sampler", input steps',
        'node 5 "Sampler", input cfg',
    ]


def test_a_link_to_a_faulty_node_is_not_reported_again(findings, workflow):
    workflow["2"] = "nonsense"
    assert len(findings(workflow).problems) == 1


def test_a_long_value_is_cut(findings, workflow):
    change(workflow, "5", "sampler_name", "x" * 100_000)
    [problem] = findings(workflow).problems
    assert len(problem) < 400


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
LINKS = st.tuples(st.sampled_from(["1", "2", "5", "7", "9"]), st.integers(-1, 3)).map(list)
NODES = st.fixed_dictionaries(
    {
        "class_type": st.sampled_from(["T2VLoadModel", "T2VTextEncode", "T2VSampler", "T2VSaveVideo", "KSampler"])
        | VALUES,
        "inputs": st.dictionaries(st.sampled_from(["model", "clip", "text", "cfg", "images", "x"]), LINKS | VALUES)
        | VALUES,
    },
    optional={"_meta": VALUES | st.fixed_dictionaries({"title": VALUES})},
)
FILES = st.dictionaries(st.sampled_from(["1", "2", "5", "7", "9", "prompt", "nodes"]), NODES | VALUES) | VALUES


@settings(max_examples=200, deadline=None)
@given(FILES)
def test_no_file_brings_the_check_down(part, pack, tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    try:
        graph = part("headless.graph").read_graph(path, pack.NODE_DISPLAY_NAME_MAPPINGS)
    except part("t2v_core.errors").GraphError as error:
        lines = [str(error)]
    else:
        found = part("headless.validate").check(graph, pack.NODE_CLASS_MAPPINGS)
        lines = found.problems + found.warnings
        assert found.problems  # nothing drawn here is a whole workflow
    assert all(line.isprintable() for line in lines)
