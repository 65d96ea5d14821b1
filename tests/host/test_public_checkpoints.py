"""Models in every form in which people have one, through T2VLoadModel in a real ComfyUI: MODEL, CLIP and VAE."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import random_files
import torch
from core.references import as_videocrafter, diffusers_unet, modelscope_unet
from prompts import Failed, Graph, Node
from safetensors.torch import load_file

PROMPT = "a (red:1.3) circle moving left to right"
SAMPLING = {"seed": 3, "steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0}
SMALL = {"multipliers": (1, 2), "attention": (True, False), "blocks_per_level": 1}
OPEN_CLIP, HUGGING_FACE = (Path(path).name for path in (random_files.TEXT_OPEN_CLIP, random_files.TEXT_DIFFUSERS))


def relative_error(value: torch.Tensor, reference: torch.Tensor) -> float:
    return float((value.double() - reference.double()).norm() / reference.double().norm())


@pytest.fixture(scope="module")
def models(comfy, comfy_paths, part):
    """One network in every layout below models/text2video, with one text tower and one autoencoder.

    model name: what stands in the node of its files, its UNet apart.
    """
    random_files.write_stock_files(comfy_paths.python, comfy_paths.root, comfy.models)
    tower = torch.load(comfy.models / random_files.TEXT_OPEN_CLIP, weights_only=True)
    autoencoder = torch.load(comfy.models / random_files.VAE, weights_only=True)
    root, unet = comfy.models / "text2video", modelscope_unet(**SMALL)
    before = set(root.glob("*"))  # other tests' files, which stay

    def place(name: str, *sources: Path) -> None:
        for target, source in zip((root / each for each in name.split("|")), sources, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, target)

    text_encoders = [comfy.models / random_files.TEXT_OPEN_CLIP, comfy.models / random_files.TEXT_DIFFUSERS]
    for folder in ("ms", "1111/zs2_576w"):
        place(f"{folder}/open_clip_pytorch_model.bin", text_encoders[0])
        torch.save(unet.state_dict(), root / folder / "text2video_pytorch_model.pth")
    published = {"state_dict": {f"first_stage_model.{key}": tensor for key, tensor in autoencoder.items()}}
    for folder in ("ms", "1111"):
        torch.save(published, root / folder / "VQGAN_autoencoder.pth")

    checkpoints = part("t2v_core.checkpoints")
    bare = root / "bare.pth"
    torch.save(unet.state_dict(), bare)
    converted = checkpoints.save_unet(checkpoints.load_unet(bare), root / "converted.safetensors", "diffusers")
    theirs = diffusers_unet((64, 128), (True, False), context_dim=1024, head_dim=64, norm_groups=32)
    theirs.load_state_dict(load_file(converted), strict=True)
    converted.unlink()
    theirs.save_pretrained(root / "zero" / "unet", max_shard_size="5MB")
    place("zero/text_encoder/pytorch_model.bin", text_encoders[1])
    (root / "zero" / "vae").mkdir()
    torch.save(as_diffusers(autoencoder), root / "zero" / "vae" / "diffusion_pytorch_model.bin")
    (root / "zero" / "model_index.json").write_text("{}")

    whole = {
        f"model.diffusion_model.{k}": v
        for k, v in as_videocrafter(modelscope_unet(**SMALL, fps=True).state_dict()).items()
    }
    whole |= {f"first_stage_model.{key}": tensor for key, tensor in autoencoder.items()}
    whole |= {f"cond_stage_model.model.{key}": tensor for key, tensor in tower.items()}
    torch.save({"state_dict": whole}, root / "model.ckpt")
    yield root
    comfy.free()
    for made in set(root.glob("*")) - before:
        shutil.rmtree(made) if made.is_dir() else made.unlink()


def as_diffusers(autoencoder: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Stable Diffusion's autoencoder under diffusers' names, checked against its own class."""
    from diffusers import AutoencoderKL

    renamed = {}
    for key, tensor in autoencoder.items():
        side, *rest = key.split(".")
        if rest[0] in ("down", "up"):
            block = int(rest[1]) if rest[0] == "down" else 3 - int(rest[1])
            kind = {"block": "resnets", "downsample": "downsamplers.0", "upsample": "upsamplers.0"}[rest[2]]
            key = ".".join([side, f"{rest[0]}_blocks", str(block), kind, *rest[3:]])
        for theirs, ours in {
            "mid.block_1": "mid_block.resnets.0",
            "mid.block_2": "mid_block.resnets.1",
            "mid.attn_1.norm": "mid_block.attentions.0.group_norm",
            "mid.attn_1.q": "mid_block.attentions.0.to_q",
            "mid.attn_1.k": "mid_block.attentions.0.to_k",
            "mid.attn_1.v": "mid_block.attentions.0.to_v",
            "mid.attn_1.proj_out": "mid_block.attentions.0.to_out.0",
            "nin_shortcut": "conv_shortcut",
            "norm_out": "conv_norm_out",
        }.items():
            key = key.replace(theirs, ours)
        renamed[key] = tensor[:, :, 0, 0] if ".attentions." in key and tensor.ndim == 4 else tensor
    with torch.device("meta"):
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        network = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, **blocks)
    assert {k: v.shape for k, v in network.state_dict().items()} == {k: v.shape for k, v in renamed.items()}
    return renamed


def load(graph: Graph, name: str) -> Node:
    return graph.add("T2VLoadModel", model_name=name, weight_dtype="auto")


def seen(graph: Graph, model: Node | None, clip, vae) -> list[Node]:
    """Nodes that show a prompt's encoding, a picture decoded from nothing, and, of a model, what it samples."""
    text = graph.add("CLIPTextEncode", clip=clip, text=PROMPT)
    empty = graph.add("EmptyLatentImage", width=32, height=16, batch_size=2)
    shown = [text, graph.add("VAEDecode", samples=empty, vae=vae)]
    if model:
        links = {"model": model, "positive": text, "negative": text, "latent_image": empty}
        shown.append(graph.add("T2VSampler", guidance_rescale=0.0, **links, **SAMPLING))
    return [graph.add("ProbeTensor", value=node) for node in shown]


def stock(graph: Graph) -> tuple[Node, Node]:
    """ComfyUI's own loaders of the same text tower and the same autoencoder."""
    clip = graph.add("CLIPLoader", clip_name=OPEN_CLIP, type="stable_diffusion")
    return clip, graph.add("VAELoader", vae_name=Path(random_files.VAE).name)


FORMS = {
    "ms": "modelscope",
    "1111/zs2_576w": "modelscope",
    "zero": "diffusers",
    "model.ckpt": "videocrafter",
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_three_parts(comfy, models, name):
    graph = Graph()
    ours, bare, theirs = load(graph, name), load(graph, "bare.pth"), stock(graph)
    samples = name != "model.ckpt"  # which is another network
    nodes = seen(graph, ours if samples else None, ours[1], ours[2]), seen(graph, bare if samples else None, *theirs)
    run = comfy.run(graph)
    for mine, other in zip(*nodes, strict=True):
        for key, tensor in run.tensors(other).items():
            if "pooled" in key:  # of the last layer, which not every file has and no text-to-video model reads
                continue
            assert tensor.isfinite().all() and tensor.std() > 0.01
            error = relative_error(run.tensors(mine)[key], tensor)
            print(name, graph[mine.id]["inputs"]["value"], key, f"{error:.1e}")
            assert error <= 1e-5, key
    [text] = run.outputs[ours.id]["text"]
    assert f"{FORMS[name]} layout, fp32" in text and "none found" not in text
    assert ("zeroscope v2 576w, going by its name" in text) == ("576w" in name)
    if samples:
        assert "none found: connect CLIPLoader" in run.outputs[bare.id]["text"][0]


LORA, STRENGTH, FRAMES = "mixed.pt", 0.8, 2
CONTROL_NET = {"widths": "64,128", "blocks_per_level": 1, "context_dim": 1024, "seed": 1}


@pytest.fixture(scope="module")
def lora(comfy, models, part) -> Path:
    """A LoRA for the models' UNet, every layer of it, and for one layer of their text encoder."""
    path, generator = comfy.models / "loras" / LORA, torch.Generator().manual_seed(0)
    random_files.write_lora(part("t2v_core.checkpoints").read_model(models / "bare.pth").unet.state_dict, path)
    file, key = torch.load(path, weights_only=True), "lora_te_text_model_encoder_layers_3_mlp_fc1"
    file[f"{key}.lora_up.weight"] = random_files.STD * torch.randn(4096, 2, generator=generator)
    file[f"{key}.lora_down.weight"] = torch.randn(2, 1024, generator=generator)
    torch.save(file, path)
    return path


def test_our_lora_node_does_what_comfyui_s_does(comfy, models, lora):
    """To the MODEL and the CLIP of a diffusers folder; at strength 0 nothing."""
    graph = Graph()
    loaded = load(graph, "zero")
    empty = graph.add("EmptyLatentImage", width=32, height=16, batch_size=FRAMES)

    def shown(model, clip) -> list[Node]:
        text = graph.add("CLIPTextEncode", clip=clip, text=PROMPT)
        links = {"model": model, "positive": text, "negative": text, "latent_image": empty}
        return [graph.add("ProbeTensor", value=each) for each in (text, graph.add("KSampler", **links, **SAMPLING))]

    def through(node: str, strength: float) -> list[Node]:
        given = {"model": loaded, "clip": loaded[1], "lora_name": LORA}
        added = graph.add(node, strength_model=strength, strength_clip=strength, **given)
        return shown(added, added[1])

    rows = [shown(loaded, loaded[1]), through("T2VLoadLora", 0.0)]
    rows += [through(node, STRENGTH) for node in ("T2VLoadLora", "LoraLoader")]
    run = comfy.run(graph)
    for what, key, *nodes in zip(("text", "clip"), ("0.0", "samples"), *rows, strict=True):
        plain, off, on, theirs = (run.tensors(node)[key] for node in nodes)
        errors = [relative_error(*pair) for pair in ((off, plain), (on, theirs), (on, plain))]
        print(what, dict(zip(("off", "on", "changed"), (f"{error:.1e}" for error in errors), strict=True)))
        assert torch.equal(off, plain) and errors[1] <= 1e-5 and errors[2] > 1e-2


def test_each_form_beside_stock_clip_lora_and_control_net(comfy, models, lora, part):
    """The MODEL of each form with CLIPLoader's text, LoraLoader's LoRA, a ControlNet and KSampler around it."""
    graph = Graph()
    clip, _ = stock(graph)
    texts = [graph.add("CLIPTextEncode", clip=clip, text=text) for text in (PROMPT, "blurry")]
    empty = graph.add("EmptyLatentImage", width=32, height=16, batch_size=FRAMES)
    image = graph.add("EmptyImage", width=32, height=16, batch_size=FRAMES, color=0x8040FF)
    span = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "image": image}
    controlled = [
        graph.add("ControlNetApplyAdvanced", positive=texts[0], negative=texts[1], control_net=net, **span)
        for net in [graph.add("ProbeControlNet", gain=gain, **CONTROL_NET) for gain in (0.0, 1.0)]
    ]

    def sampled(model: Node, positive, negative) -> Node:
        links = {"model": model, "positive": positive, "negative": negative, "latent_image": empty}
        return graph.add("SaveLatent", samples=graph.add("KSampler", **links, **SAMPLING), filename_prefix="mixed")

    def rows(name: str) -> list[Node]:
        """Plain; with the LoRA at 0 and at STRENGTH; and with a ControlNet that adds nothing, and one that does."""
        plain, given = load(graph, name), {"clip": clip, "lora_name": LORA, "strength_clip": 0.0}
        off, on = (graph.add("LoraLoader", model=plain, strength_model=each, **given) for each in (0.0, STRENGTH))
        controls = [sampled(on, applied, applied[1]) for applied in controlled]
        return [*(sampled(each, *texts) for each in (plain, off, on)), *controls]

    names = ["bare.pth", *FORMS]
    nodes = {name: rows(name) for name in names}
    shown = [graph.add("ProbeTensor", value=text) for text in texts]
    run = comfy.run(graph)
    conds = [run.tensors(node)["0.0"] for node in shown]
    results = {name: [run.latent(node) for node in nodes[name]] for name in names}
    for name, (plain, off, on, no_control, control) in results.items():
        errors = {
            "LoRA at 0": relative_error(off, plain),
            "LoRA": relative_error(on, with_lora_in_core(part, models / name, lora, conds)),
            "ControlNet at 0": relative_error(no_control, on),
        }
        if FORMS.get(name) != "videocrafter":  # which is another network
            errors["all"] = relative_error(control, results["bare.pth"][4])
        print(name, {what: f"{error:.1e}" for what, error in errors.items()})
        assert max(errors.values()) <= 1e-5, name
        assert min(relative_error(on, plain), relative_error(control, on)) > 1e-2, name


def with_lora_in_core(part, path: Path, file: Path, conds: list[torch.Tensor]) -> torch.Tensor:
    """The clip that the library makes of a model with the LoRA, without ComfyUI."""
    diffusion, loras = part("t2v_core.diffusion"), part("t2v_core.lora")
    model = part("t2v_core.checkpoints").read_model(path).video_model(torch.float32)
    placement = loras.place_lora(loras.read_lora(file), model.denoiser.network, None)
    model, latents = loras.with_lora(model, placement.unet, STRENGTH), torch.zeros(FRAMES, 4, 2, 4)
    sigmas = diffusion.sigmas_for(SAMPLING["scheduler"], model.denoiser.noise_schedule, SAMPLING["steps"])
    settings = {"sampler": SAMPLING["sampler_name"], "sigmas": sigmas, "cfg": SAMPLING["cfg"], "seed": SAMPLING["seed"]}
    return diffusion.sample(
        model, latents, *conds, noise=diffusion.prepare_noise(latents.shape, SAMPLING["seed"]), **settings
    )


def test_headless_makes_the_same_clip_of_the_same_folder(comfy, comfy_paths, models, part):
    """Two stages, from text to pictures: ComfyUI's networks there, transformers' and diffusers' here."""
    shutil.copytree(comfy_paths.root / "comfy" / "sd1_tokenizer", models / "zero" / "tokenizer")
    graph = Graph()
    loader = load(graph, "zero")
    words = "Waves!!, a sailing-boat's (sails:0.8) and  " + "lightning " * 90  # more than a chunk
    texts = [graph.add("T2VTextEncode", clip=loader[1], text=text) for text in (PROMPT + words, r"\(blurry\)")]
    given = {"model": loader, "positive": texts[0], "negative": texts[1], "guidance_rescale": 0.0, **SAMPLING}
    empty = graph.add("T2VEmptyLatent", width=32, height=16, num_frames=3)
    first = graph.add("T2VSampler", latent_image=empty, **given)
    images = graph.add("T2VDecode", samples=first, vae=loader[2], frames_per_batch=0)
    larger = {"width": 64, "height": 32, "upscale_method": "bicubic", "frames_per_batch": 0}
    encoded = graph.add("T2VEncode", images=images, vae=loader[2], **larger)
    second = graph.add("T2VSampler", latent_image=encoded, **{**given, "denoise": 0.7, "seed": 4})
    clip = graph.add("T2VDecode", samples=second, vae=loader[2], frames_per_batch=0)
    expected = headless(part, graph, comfy.models)
    probes = {node.id: graph.add("ProbeTensor", value=node) for node in (texts[0], first, images, encoded, clip)}
    run = comfy.run(graph)
    for node_id, probe in probes.items():
        (value,) = expected[node_id]
        value = value["samples"] if isinstance(value, dict) else value[0][0] if isinstance(value, list) else value
        seen = next(tensor for key, tensor in run.tensors(probe).items() if "pooled" not in key)
        assert seen.shape == value.shape and value.std() > 0.01
        error = relative_error(value, seen)
        print(graph[node_id]["class_type"], f"{error:.1e}")
        assert error <= 1e-4, graph[node_id]["class_type"]


def headless(part, graph: Graph, folder: Path) -> dict[str, tuple]:
    """What each node of a graph gives without ComfyUI, with ComfyUI's own folder of models."""
    hosts, results = part("nodes.host"), {}
    progress = part("headless.progress").Progress(None, "none")
    hosts.use(part("headless.host").HeadlessHost(folder, folder / "out", progress))
    try:
        for node_id, node in graph.items():
            maker = part("nodes").NODE_CLASS_MAPPINGS[node["class_type"]]
            links = {name: value for name, value in node["inputs"].items() if isinstance(value, list)}
            linked = {name: results[source][slot] for name, (source, slot) in links.items()}
            outcome = getattr(maker(), maker.FUNCTION)(**{**node["inputs"], **linked})
            results[node_id] = outcome["result"] if isinstance(outcome, dict) else outcome
    finally:
        hosts.use(None)
    return results


def test_the_page_shows_in_the_node_what_was_recognised(comfy, browser):
    if comfy.installation.is_package:
        pytest.skip("the page of this ComfyUI waits for scripts of other hosts")
    comfy.post("/settings/Comfy.TutorialCompleted", True)
    page = browser.open(comfy.url)
    try:
        page.wait_for("window.app?.vueAppReady && 'T2VLoadModel' in window.LiteGraph.registered_node_types")
        page.evaluate("app.clean(); app.graph.clear()")
        page.evaluate(
            "const load = LiteGraph.createNode('T2VLoadModel'), lora = LiteGraph.createNode('T2VLoadLora');"
            "const empty = LiteGraph.createNode('T2VEmptyLatent'), show = LiteGraph.createNode('SaveLatent');"
            "for (const node of [load, lora, empty, show]) app.graph.add(node);"
            "load.connect(0, lora, 'model'); lora.connect(0, empty, 'model'); empty.connect(0, show, 0); null"
        )
        widgets = "app.graph.nodes[0].widgets.map(widget => widget.name)"
        assert page.evaluate(widgets) == ["model_name", "weight_dtype"]
        page.evaluate("app.graph.nodes[0].widgets[0].value = 'bundled'; app.queuePrompt(0).then(() => null)")
        page.wait_for(f"{widgets}.length == 3", seconds=60)
        shown = page.evaluate("app.graph.nodes[0].widgets[2].value")
        assert shown.startswith("model: this pack's own kind\n") and "made for: 96 x 96, 16 frames" in shown
        assert page.evaluate("app.graph.serialize().nodes[0].widgets_values") == ["bundled", "auto"]
        page.wait_for("app.graph.nodes[1].widgets.length == 4")
        assert page.evaluate("app.graph.nodes[1].widgets[3].value") == "no LoRA"
        assert page.evaluate("app.graph.serialize().nodes[1].widgets_values") == ["none", 1, 1]
        sent = page.evaluate("app.graphToPrompt().then(sent => sent.output)")
        loaders = [node["inputs"] for node in sent.values() if node["class_type"] == "T2VLoadModel"]
        assert loaders == [{"model_name": "bundled", "weight_dtype": "auto"}]
    finally:
        page.close()


def test_one_entry_for_each_model(comfy, models):
    listed = comfy.get_json("/object_info/T2VLoadModel")["T2VLoadModel"]["input"]
    own = {"1111", "bare.pth", "model.ckpt", "ms", "zero"}  # other tests' models lie beside them
    names = [name for name in listed["required"]["model_name"][0] if name.split("/")[0] in own]
    assert names == ["1111/zs2_576w", "bare.pth", "model.ckpt", "ms", "zero"]
    assert list(listed) == ["required", "hidden"] and list(listed["required"]) == ["model_name", "weight_dtype"]


def test_a_part_is_loaded_when_something_is_connected_to_it(comfy, models):
    """Whatever is beside the UNet is not opened before."""
    folder = models / "lazy"
    folder.mkdir()
    os.link(models / "bare.pth", folder / "text2video_pytorch_model.pth")
    (folder / "VQGAN_autoencoder.pth").write_text("no weights")
    graph = Graph()
    loader = load(graph, "lazy")
    empty = graph.add("T2VEmptyLatent", width=16, height=16, num_frames=0, model=loader)
    shown = graph.add("ProbeTensor", value=empty)
    assert comfy.run(graph).tensors(shown)["samples"].shape[0] == 16
    cached = [node for data in comfy.run(graph).data("execution_cached") for node in data["nodes"]]
    assert loader.id in cached
    graph.add("ProbeTensor", value=graph.add("VAEDecode", samples=empty, vae=loader[2]))
    with pytest.raises(Failed, match="VQGAN_autoencoder.pth: this is a text file, not weights") as failed:
        comfy.run(graph)
    assert failed.value.node_id == loader.id
    shutil.copyfile(models / "ms" / "VQGAN_autoencoder.pth", folder / "VQGAN_autoencoder.pth")
    comfy.run(graph)  # the file beside has changed, and the model is read again


def test_an_autoencoder_of_another_kind_is_refused(comfy, models):
    folder = models / "other"
    folder.mkdir()
    os.link(models / "bare.pth", folder / "text2video_pytorch_model.pth")
    weights = torch.load(comfy.models / random_files.VAE, weights_only=True)
    weights["encoder.extra.weight"] = torch.zeros(1)
    torch.save(weights, folder / "VQGAN_autoencoder.pth")
    graph = Graph()
    empty = graph.add("EmptyLatentImage", width=16, height=16, batch_size=1)
    graph.add("ProbeTensor", value=graph.add("VAEDecode", samples=empty, vae=load(graph, "other")[2]))
    with pytest.raises(Failed, match="VQGAN_autoencoder.pth: this autoencoder has 249 weights, .* 248; connect VAELo"):
        comfy.run(graph)
