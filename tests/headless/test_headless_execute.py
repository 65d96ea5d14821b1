"""Running graphs in this process, with a model of random weights."""

import gc
import json
import weakref

import imageio_ffmpeg
import pytest
import torch


@pytest.fixture
def load(part, pack, tmp_path, host):
    """Reads a workflow given as an object, made quick: the tiny model, 2 steps, 3 frames."""

    def load(workflow):
        workflow["1"]["inputs"]["model_name"] = "tiny.safetensors"
        workflow["5"]["inputs"]["steps"], workflow["4"]["inputs"]["num_frames"] = 2, 3
        path = tmp_path / "workflow.json"
        path.write_text(json.dumps(workflow))
        graph = part("headless.graph").read_graph(path, pack.NODE_DISPLAY_NAME_MAPPINGS)
        assert part("headless.validate").check(graph, pack.NODE_CLASS_MAPPINGS).problems == []
        return graph

    return load


@pytest.fixture
def run(part, pack, load):
    return lambda workflow: list(part("headless.execute").execute(load(workflow), pack.NODE_CLASS_MAPPINGS))


def test_a_prompt_becomes_a_video(run, workflow, tmp_path):
    [(node_id, ui)] = run(workflow)
    assert node_id == "7" and ui["images"][0]["filename"] == "text_to_video_00001_.mp4"
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "out/text_to_video_00001_.mp4"))[0] == 3


def test_the_same_seed_gives_the_same_bytes_and_another_prompt_does_not(run, workflow, tmp_path, host, monkeypatch):
    monkeypatch.setattr(host, "writes_metadata", lambda: False)
    for text in ("a red circle", "a red circle", "a blue square"):
        workflow["2"]["inputs"]["text"] = text
        run(workflow)
    first, second, third = (path.read_bytes() for path in sorted((tmp_path / "out").iterdir()))
    assert first == second != third


def test_each_node_runs_once_and_only_if_an_output_needs_it(run, part, workflow, monkeypatch):
    ran = []
    for name in ("T2VTextEncode", "T2VEmptyLatent", "T2VDecode"):
        node = getattr(part("nodes"), name)
        inner = getattr(node, node.FUNCTION)
        monkeypatch.setattr(node, node.FUNCTION, lambda *a, _f=inner, _n=name, **k: ran.append(_n) or _f(*a, **k))
    workflow["8"] = {"class_type": "T2VSaveVideo", "inputs": {**workflow["7"]["inputs"], "filename_prefix": "again"}}
    workflow["9"] = {"class_type": "T2VTextEncode", "inputs": {"clip": ["1", 1], "text": "not needed"}}
    assert [node_id for node_id, _ in run(workflow)] == ["7", "8"]
    assert sorted(ran) == ["T2VDecode", "T2VEmptyLatent", "T2VTextEncode", "T2VTextEncode"]


def test_results_are_let_go_after_their_last_reader(run, part, workflow, monkeypatch):
    node, alive = part("nodes").T2VDecode, []
    inner = node.decode
    latents = []

    def decode(self, samples, vae, frames_per_batch):
        latents.append(weakref.ref(samples["samples"]))
        return inner(self, samples, vae, frames_per_batch)

    def save(self, images, **rest):
        gc.collect()
        alive.append(latents[0]() is not None)
        return {"ui": {}}

    monkeypatch.setattr(node, "decode", decode)
    monkeypatch.setattr(part("nodes").T2VSaveVideo, "save", save)
    run(workflow)
    assert alive == [False]


def test_the_graph_as_run_travels_in_the_file(run, workflow, tmp_path, part, monkeypatch):
    seen = {}
    monkeypatch.setattr(part("nodes").T2VSaveVideo, "save", lambda self, **given: seen.update(given) or {"ui": {}})
    workflow["5"]["inputs"]["cfg"] = "3.5"
    run(workflow)
    assert seen["prompt"]["5"]["inputs"]["steps"] == 2 and seen["prompt"]["2"] == workflow["2"]
    assert seen["extra_pnginfo"] is None and seen["fps"] == 8.0


def fail_with(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("first\nsecond"), "unexpected ValueError: first (--debug shows where)"),
        (KeyError("x"), "unexpected KeyError: 'x'"),
        (ValueError(), "unexpected ValueError:"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] can't allocate memory: you tried"), "not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "not enough memory"),
    ],
)
def test_whatever_goes_wrong_in_a_node_is_one_line_naming_it(run, part, workflow, monkeypatch, error, says):
    monkeypatch.setattr(part("nodes").T2VDecode, "decode", fail_with(error))
    with pytest.raises(part("t2v_core.errors").T2VError) as caught:
        run(workflow)
    message = str(caught.value)
    assert message.startswith('node 6 "Decode" (T2VDecode): ') and says in message and "\n" not in message
    assert caught.value.__cause__ is error


def test_an_error_of_ours_keeps_its_words(run, part, workflow):
    workflow["4"]["inputs"]["model"] = ["1", 0]
    workflow["5"]["inputs"]["positive"] = ["3", 0]
    workflow["3"]["inputs"]["text"] = "(red:nan)"
    with pytest.raises(part("t2v_core.errors").T2VError, match=r'node 3 "Neg.*" \(T2VTextEncode\): prompt: weight nan'):
        run(workflow)


def test_ctrl_c_is_not_an_error_of_the_node(run, part, workflow, monkeypatch):
    monkeypatch.setattr(part("nodes").T2VDecode, "decode", fail_with(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run(workflow)


def test_a_long_chain_of_nodes_runs(part, pack, tmp_path, host, workflow):
    """More links in a row than Python's stack is deep."""
    last = "4"
    for n in range(3000):
        workflow[f"s{n}"] = {
            "class_type": "T2VSampler",
            "inputs": {**workflow["5"]["inputs"], "latent_image": [last, 0]},
        }
        last = f"s{n}"
    workflow["6"]["inputs"]["samples"] = [last, 0]
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(workflow))
    graph = part("headless.graph").read_graph(path, {})
    assert part("headless.validate").check(graph, pack.NODE_CLASS_MAPPINGS).problems == []
    order, _ = part("headless.graph").sort(
        graph, ["7"], {"T2VSampler": ["latent_image"], "T2VDecode": ["samples"], "T2VSaveVideo": ["images"]}
    )
    assert len(order) == 3000 + 3
