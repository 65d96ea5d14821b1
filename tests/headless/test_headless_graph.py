"""Reading workflow files that strangers wrote."""

import json

import pytest


@pytest.fixture
def read(part, tmp_path):
    """Reads a file of this content (bytes, text, or an object to be written as JSON)."""

    def read(content):
        path = tmp_path / "workflow.json"
        if not isinstance(content, (bytes, str)):
            content = json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return part("headless.graph").read_graph(path, {"T2VDecode": "T2V Decode"})

    return read


def refusal(read, part, content) -> str:
    with pytest.raises(part("t2v_core.errors").GraphError) as caught:
        read(content)
    return str(caught.value)


def test_nodes_titles_and_inputs_are_read(read):
    graph = read({"5": {"class_type": "T2VDecode", "inputs": {"samples": ["4", 0]}, "_meta": {"title": "Out"}}})
    assert graph.problems == [] and graph.extra_pnginfo is None
    node = graph.nodes["5"]
    assert (node.class_type, node.inputs, node.title) == ("T2VDecode", {"samples": ["4", 0]}, "Out")


def test_a_node_without_a_title_has_its_display_name(read):
    assert read({"5": {"class_type": "T2VDecode", "inputs": {}}}).nodes["5"].title == "T2V Decode"


def test_the_body_of_a_post_to_comfyui_brings_its_workflow_along(read):
    node = {"class_type": "T2VDecode", "inputs": {}}
    graph = read(
        {"prompt": {"5": node}, "extra_data": {"extra_pnginfo": {"workflow": {"nodes": []}}}, "client_id": "x"}
    )
    assert list(graph.nodes) == ["5"] and graph.extra_pnginfo == {"workflow": {"nodes": []}}


def test_a_node_may_be_called_prompt(read):
    assert list(read({"prompt": {"class_type": "T2VDecode", "inputs": {}}}).nodes) == ["prompt"]


def test_a_byte_order_mark_is_no_obstacle(read):
    assert list(read(b'\xef\xbb\xbf{"5": {"class_type": "T2VDecode", "inputs": {}}}').nodes) == ["5"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"nodes": [], "links": [], "version": 0.4}, "UI format"),
        ([], "not []"),
        ("null", "not null"),
        ('{"5": {', "line 1, column 8: not JSON"),
        ('{"5":\n\n nope}', "line 3, column 2: not JSON"),
        ("", "line 1, column 1: not JSON"),
        (b"\x00\x01\xff\xfe", "not"),
        (b"\xff\xfe{}", "byte 0 is not UTF-8"),
        ("[" * 100_000, "nested more than 100 levels"),
        ('{"5":' * 100_000, "nested more than 100 levels"),
        ("[" * 500 + "]" * 500, "nested more than 100 levels"),
        ('{"5": {"class_type": "T2VDecode", "inputs": {"a": ' + "[" * 101 + "]" * 101 + "}}}", "nested more than 100"),
        ('{"5": ' + "9" * 5000 + "}", "not JSON"),
        (b" " * (16 * 2**20 + 1), "larger than 16 MiB"),
    ],
)
def test_a_file_that_holds_no_graph_is_refused_in_one_line(read, part, content, says):
    message = refusal(read, part, content)
    assert says in message and "workflow.json: " in message
    assert "\n" not in message and len(message) < 400


def test_a_missing_file_and_a_folder_are_refused(part, tmp_path):
    for path, says in ((tmp_path / "none.json", "No such file"), (tmp_path, "directory")):
        with pytest.raises(part("t2v_core.errors").GraphError, match=says):
            part("headless.graph").read_graph(path, {})


NODE = '{"class_type": "T2VSampler", "inputs": {%s}, "_meta": {"title": "Sampler"}}'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{}", "has no nodes"),
        ('{"5": 7}', "node 5: 7 is not a node"),
        ('{"5": {"inputs": {}}}', "node 5: has no class_type"),
        ('{"5": {"class_type": 3, "inputs": {}}}', "node 5: has no class_type"),
        ('{"5": {"class_type": "T2VSampler"}}', "node 5: has no inputs"),
        ('{"5": {"class_type": "T2VSampler", "inputs": []}}', "node 5: has no inputs"),
        ('{"5": {"class_type": "T2VSampler", "inputs": {}, "_meta": 1}}', "node 5: _meta is not"),
        ('{"5": {"class_type": "T2VSampler", "inputs": {}, "_meta": {"title": 1}}}', "node 5: _meta is not"),
        ('{"5": ' + NODE % '"cfg": NaN' + "}", 'node 5 "Sampler", input cfg: NaN is not a finite number'),
        ('{"5": ' + NODE % '"cfg": -Infinity' + "}", 'node 5 "Sampler", input cfg: -Infinity is not a finite'),
        ('{"5": ' + NODE % '"cfg": 1e999' + "}", 'node 5 "Sampler", input cfg: Infinity is not a finite'),
        ('{"5": ' + NODE % '"cfg": 1, "cfg": 2' + "}", 'node 5 "Sampler": the key "cfg" is given twice'),
        ('{"5": {"class_type": "A", "inputs": {"a": {"b": [NaN]}}}}', "node 5, input a: NaN"),
        ('{"5": ' + NODE % "" + ', "5": ' + NODE % "" + "}", 'the workflow: the key "5" is given twice'),
        ('{"prompt": {}, "extra_data": {"extra_pnginfo": {"workflow": {"x": NaN}}}}', "extra_data.workflow.x: NaN"),
    ],
)
def test_faults_inside_a_graph_are_kept_with_their_place(read, content, says):
    assert any(says in problem for problem in read(content).problems)


def test_all_faults_are_kept(read):
    graph = read('{"1": 1, "2": {}, "3": ' + NODE % '"cfg": NaN, "seed": NaN' + "}")
    assert len(graph.problems) == 4 and graph.faulty == {"1", "2", "3"}


def test_hostile_titles_and_ids_stay_on_one_harmless_line(read):
    graph = read({"5\n\x1b[2J": {"class_type": "A", "inputs": {}, "_meta": {"title": "x\x07\r\nerror: fake \ud800"}}})
    place = graph.place("5\n\x1b[2J", "\u202egnp")
    assert place == 'node 5\\n\\x1b[2J "x\\x07\\r\\nerror: fake \\ud800", input \\u202egnp'


def test_order_puts_sources_first_and_each_node_once(part, read):
    def node(*sources):
        return {"class_type": "A", "inputs": {f"i{n}": [source, 0] for n, source in enumerate(sources)}}

    graph = read({"out": node("b", "a"), "a": node("root"), "b": node("a", "root"), "root": node(), "alone": node()})
    order, cycles = part("headless.graph").sort(graph, ["out"], {"A": ["i0", "i1"]})
    assert order == ["root", "a", "b", "out"] and cycles == []


def test_cycles_are_found_with_their_path_and_without_recursion(part, read):
    ring = {str(n): {"class_type": "A", "inputs": {"i": [str((n + 1) % 20_000), 0]}} for n in range(20_000)}
    sort = part("headless.graph").sort
    _, [cycle] = sort(read(ring), ["0"], {"A": ["i"]})
    assert len(cycle) == 20_001 and cycle[0] == cycle[-1] == "0"
    _, [itself] = sort(read({"1": {"class_type": "A", "inputs": {"i": ["1", 0]}}}), ["1"], {"A": ["i"]})
    assert itself == ["1", "1"]


def test_a_file_full_of_cycles_is_told_in_a_few_lines(part, tmp_path):
    """Each node of the ring also links to the first: a cycle a node, each as long as the ring so far."""
    count = 5000
    nodes = {
        str(i): {"class_type": "T2VSaveVideo", "inputs": {"images": [str((i + 1) % count), 0], "audio": ["0", 0]}}
        for i in range(count)
    }
    file = tmp_path / "ring.json"
    file.write_text(json.dumps(nodes))
    graph_module = part("headless.graph")
    graph = graph_module.read_graph(file, {})
    _, cycles = graph_module.sort(graph, ["0"], {"T2VSaveVideo": ("images", "audio")})
    assert 1 <= len(cycles) <= 10
