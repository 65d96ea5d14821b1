"""The schedule nodes in a real ComfyUI: their lists and rows in its stock nodes, their refusals, and on its page."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch
from comfyui import Server
from page import Browser, Page
from prompts import Graph, Node, Refused
from table import relative_error

from t2v_core.checkpoints import load_bundled
from t2v_core.training.clips.captions import plain_caption
from t2v_core.training.evaluation.changing import AT, switch_list, switched
from t2v_core.training.evaluation.detect import read_frames
from t2v_core.training.evaluation.evaluate import Settings

CLIP = {"num_frames": 4, "fps": 8.0}
READY = "window.app?.vueAppReady && 'T2VScheduleInspect' in window.LiteGraph.registered_node_types"
SHOWN = "app.graph.nodes[0].widgets.find(widget => widget.name === 'shown').value"


def prompts(graph: Graph, clip, text: str, **changes) -> Node:
    words = {**CLIP, "pre_text": "", "app_text": "", "dialect": "auto", "blend": "as written", **changes}
    return graph.add("T2VPromptSchedule", clip=clip, text=text, **words)


def sampled(graph: Graph, model, positive, negative, cfg: float, seed: int = 5) -> Node:
    latent = graph.add("T2VEmptyLatent", width=64, height=64, num_frames=4)
    settings = {"seed": seed, "steps": 2, "cfg": cfg, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    texts = {"positive": positive, "negative": negative}
    samples = graph.add("KSampler", model=model, latent_image=latent, **texts, **settings)
    return graph.add("SaveLatent", samples=samples, filename_prefix="schedule")


def test_the_stock_sampler_takes_rows_lists_and_the_patched_model(comfy: Server):
    graph = Graph()
    loaded = graph.add("T2VLoadModel", model_name="bundled", weight_dtype="auto")
    held = prompts(graph, loaded[1], "a red circle")
    changed = prompts(graph, loaded[1], '{"0": "a red circle", "2": "a blue square"}')
    plain = [graph.add("T2VTextEncode", clip=loaded[1], text=text) for text in ("a red circle", "")]

    def scheduled(**texts) -> Node:
        lists = {}
        for name, text in texts.items():
            values = graph.add("T2VValueSchedule", text=text, dialect="auto", **CLIP)
            lists[name] = values[1 if name == "seeds" else 0]
        return graph.add("T2VScheduleModel", model=loaded, **lists)

    runs = {
        "plain": sampled(graph, loaded[0], plain[0][0], plain[1][0], 3.0),
        "rows": sampled(graph, loaded[0], held[0], held[1], 3.0),
        "changed": sampled(graph, loaded[0], changed[0], changed[1], 3.0),
        "lists": sampled(graph, scheduled(cfg="3", seeds="5", strength="1")[0], held[0], held[1], 7.0, seed=9),
        "curve": sampled(graph, scheduled(cfg="0:(3), 3:(6)")[0], held[0], held[1], 3.0),
    }
    run = comfy.run(graph)
    latents = {name: run.latent(node) for name, node in runs.items()}
    assert latents["plain"].shape[0] == 4 and bool(torch.isfinite(latents["plain"]).all())
    for name in ("rows", "lists"):
        assert relative_error(latents[name], latents["plain"]) <= 1e-4, name  # a text a frame is attended to otherwise
    for name in ("changed", "curve"):
        assert not torch.allclose(latents[name], latents["plain"], atol=1e-2)


def test_the_stock_sampler_switches_where_the_prompt_does(comfy: Server):
    """The fixed pairs of prompts of the bundled model's evaluation, the second from frame 8 on."""
    graph, settings, changes = Graph(), Settings(steps=6), switch_list()
    loaded = graph.add("T2VLoadModel", model_name="bundled", weight_dtype="auto")
    empty = graph.add("EmptyLatentImage", width=96, height=96, batch_size=16)
    given = {"steps": settings.steps, "cfg": settings.cfg, "sampler_name": settings.sampler}
    given |= {"scheduler": settings.scheduler, "denoise": 1.0, "model": loaded, "latent_image": empty}
    saved = []
    for change in changes:
        text = json.dumps({"0": plain_caption(change.before), str(AT): plain_caption(change.after)})
        texts = prompts(graph, loaded[1], text, num_frames=16)
        sampled = graph.add("KSampler", positive=texts[0], negative=texts[1], seed=change.seed, **given)
        saved.append(graph.add("SaveLatent", samples=sampled, filename_prefix="switch"))
    run, autoencoder = comfy.run(graph), load_bundled().autoencoder
    followed = []
    for change, node in zip(changes, saved, strict=True):
        with torch.no_grad():
            frames = (autoencoder.decode(run.latent(node)) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        followed.append(all(switched(read_frames(frames), change).values()))
    print(*(change for change, right in zip(changes, followed, strict=True) if not right), sep="\n")
    assert len(followed) == 20 and sum(followed) >= 16


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("T2VPromptSchedule", '{"0": "a"\n"5": "b"}', "line 2, column 1: expected `,` before the next key"),
        ("T2VValueSchedule", "0:(1)\n5:(2)", "line 2, column 1: expected `,` before the next key"),
    ],
)
def test_a_wrong_schedule_is_refused_once_with_its_caret(comfy: Server, kind, text, says):
    graph = Graph()
    if kind == "T2VPromptSchedule":
        loaded = graph.add("T2VLoadModel", model_name="bundled", weight_dtype="auto")
        node = prompts(graph, loaded[1], text)
    else:
        node = graph.add(kind, text=text, dialect="auto", **CLIP)
    graph.add("PreviewImage", images=node[2])
    with pytest.raises(Refused) as caught:
        comfy.run(graph)
    [error] = caught.value.node_errors[node.id]["errors"]
    first, line, caret, *_ = error["details"].split("\n")
    assert says in first and line.strip() == text.split("\n")[1] and caret == "  ^"


def test_previews_are_images_and_texts_can_be_shown(comfy: Server):
    graph = Graph()
    values = graph.add("T2VValueSchedule", text="0:(1), 3:(t)", dialect="auto", **CLIP)
    pictures = graph.add("PreviewImage", images=values[2])
    info = graph.add("PreviewAny", source=values[3])
    listed = graph.add("PreviewAny", source=values[0])
    inspected = graph.add("T2VScheduleInspect", text="0:(1), 3:(t)", kind="auto", dialect="auto", **CLIP)
    run = comfy.run(graph)
    assert run.fetch(pictures).startswith(b"\x89PNG")
    assert "dialect: deforum" in run.outputs[info.id]["text"][0]
    assert json.loads(run.outputs[listed.id]["text"][0]) == pytest.approx([1, 5 / 3, 7 / 3, 3])
    assert run.outputs[inspected.id]["text"][0].split("\n")[-1].split() == ["3", "0.375", "*", "3", "3"]


@pytest.fixture
def page(comfy: Server, browser: Browser) -> Iterator[Page]:
    if comfy.installation.is_package:
        pytest.skip("the page of this ComfyUI waits for scripts of other hosts")
    comfy.post("/settings/Comfy.TutorialCompleted", True)
    opened = browser.open(comfy.url)
    opened.wait_for(READY)
    yield opened
    opened.close()


def test_the_page_shows_the_table_in_the_node_and_keeps_it_out_of_the_workflow(page: Page):
    page.evaluate("app.clean(); app.graph.clear()")
    page.evaluate("app.graph.add(LiteGraph.createNode('T2VScheduleInspect')), null")
    assert page.evaluate(SHOWN) == ""
    sent = page.evaluate("app.graphToPrompt().then(sent => sent.output)")
    inputs = {"text", "kind", "num_frames", "fps", "dialect"}
    assert [set(node["inputs"]) for node in sent.values()] == [inputs]
    assert sent[next(iter(sent))]["inputs"]["text"].startswith('{"0"')  # its braces are no dynamic prompt
    page.evaluate("app.queuePrompt(0).then(() => null)")
    page.wait_for(f"{SHOWN}.includes('seconds')", seconds=60)
    assert "P2" in page.evaluate(SHOWN).split("\n")[-1]
    saved = page.evaluate("app.graph.serialize().nodes[0].widgets_values")
    assert saved == ['{"0": "a red circle", "8": "a blue circle"}', "auto", 16, 8, "auto"]
