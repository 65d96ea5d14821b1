"""Our nodes with other people's parts: model files in their real layouts, stock loaders and latents, model folders."""

from __future__ import annotations

import io
import os
import re
import shutil
from types import SimpleNamespace

import imageio_ffmpeg
import pytest
import random_files
import torch
from comfyui import PACK, PACKS, Server
from prompts import Failed, Graph, Node, Refused

UNET = "tiny/modelscope.safetensors"  # a model's name has its folder before it
PROMPT, NEGATIVE = "a (red:1.3) circle moving left to right", "blurry"
SAMPLING = {"seed": 3, "steps": 3, "cfg": 4.0, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0}


def relative_error(value: torch.Tensor, reference: torch.Tensor) -> float:
    return float((value.double() - reference.double()).norm() / reference.double().norm())


@pytest.fixture(scope="module")
def stock_files(comfy, comfy_paths):
    """The files of `random_files` below the server's models folder."""
    random_files.write_stock_files(comfy_paths.python, comfy_paths.root, comfy.models)
    yield
    comfy.free()  # an SD1.5 weighs gigabytes


@pytest.fixture(scope="module")
def write_unet(part):
    """write_unet(path, context_dim=, seed=) writes a UNet as ModelScope's files are."""
    modules = part("t2v_core.models.unet3d"), part("t2v_core.checkpoints")
    return lambda path, **options: random_files.write_unet(*modules, path, **options)


@pytest.fixture(scope="module")
def unet_file(comfy, write_unet):
    path = comfy.models / "diffusion_models" / UNET
    write_unet(path)
    return path


@pytest.fixture
def headless_sample(part, tmp_path):
    """headless_sample(file, conds, shape) samples without ComfyUI: positive and negative tensors to latents."""

    def run(file, positive, negative, shape):
        progress = part("headless.progress").Progress(io.StringIO(), "none")
        host = part("headless.host").HeadlessHost(file.parent, tmp_path, progress)
        loaded = host.load_model(file.name, "auto")
        assert loaded.clip is None and loaded.vae is None
        conds = ([[cond, {}]] for cond in (positive, negative))
        settings = part("nodes.host").Sampling(**SAMPLING)
        return host.sample(loaded.model, *conds, {"samples": torch.zeros(shape)}, settings, None)

    return run


def t2v_sampler(graph: Graph, model, positive, negative, latent) -> Node:
    links = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
    return graph.add("T2VSampler", guidance_rescale=0.0, **links, **SAMPLING)


def k_sampler(graph: Graph, model, positive, negative, latent) -> Node:
    links = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
    return graph.add("KSampler", **links, **SAMPLING)


def both_ways(graph: Graph, model, clip, vae, latent) -> SimpleNamespace:
    """Prompts to a video by our nodes and by ComfyUI's, each step from the same inputs; nodes that show the results."""
    texts = [
        [graph.add(node, clip=clip, text=text) for text in (PROMPT, NEGATIVE)]
        for node in ("T2VTextEncode", "CLIPTextEncode")
    ]
    samples = [sampler(graph, model, *texts[0], latent) for sampler in (t2v_sampler, k_sampler)]
    images = [
        graph.add("T2VDecode", samples=samples[0], vae=vae, frames_per_batch=1),
        graph.add("VAEDecode", samples=samples[0], vae=vae),
    ]
    video = graph.add(
        "T2VSaveVideo", images=images[0], fps=8.0, filename_prefix="foreign", format="h264-mp4", quality="high"
    )
    return SimpleNamespace(
        texts=[[graph.add("ProbeTensor", value=text) for text in pair] for pair in texts],
        samples=[graph.add("SaveLatent", samples=each, filename_prefix="foreign") for each in samples],
        images=[graph.add("ProbeTensor", value=each) for each in images],
        video=video,
    )


def check_both_ways(run, seen: SimpleNamespace, text_shape: list[int], latent_shape: list[int], tmp_path) -> tuple:
    """What our nodes made is what ComfyUI's made, and it is no nothing; returns the conds and our latents."""
    (positive, negative), stock = ([run.tensors(node)["0.0"] for node in pair] for pair in seen.texts)
    assert list(positive.shape) == text_shape and positive.std() > 0.1
    assert torch.equal(positive, stock[0]) and torch.equal(negative, stock[1])
    assert relative_error(negative, positive) > 0.1

    ours, theirs = (run.latent(node) for node in seen.samples)
    assert list(ours.shape) == latent_shape and ours.isfinite().all() and ours.std() > 0.1
    assert relative_error(ours, theirs) <= 1e-5

    ours_decoded, theirs_decoded = (run.tensors(node)["value"] for node in seen.images)
    frames, _, h, w = latent_shape
    assert list(ours_decoded.shape) == [frames, 8 * h, 8 * w, 3]
    assert 0 <= ours_decoded.min() and ours_decoded.max() <= 1 and ours_decoded.std() > 0.05
    assert (ours_decoded - theirs_decoded).abs().max() <= 1e-5

    video = tmp_path / "video.mp4"
    video.write_bytes(run.fetch(seen.video))
    reader = imageio_ffmpeg.read_frames(video)
    assert next(reader)["size"] == (8 * w, 8 * h)
    assert len(list(reader)) == frames
    return positive, negative, ours


@pytest.mark.usefixtures("stock_files")
def test_a_modelscope_unet_with_stock_text_tower_and_vae(comfy, unet_file, headless_sample, tmp_path):
    graph = Graph()
    model = graph.add("T2VLoadModel", model_name=UNET, weight_dtype="auto")
    clip = graph.add("CLIPLoader", clip_name="vit_h_diffusers.bin", type="stable_diffusion")
    vae = graph.add("VAELoader", vae_name="sd1_vae.pt")
    latent = graph.add("T2VEmptyLatent", width=24, height=32, num_frames=3)
    seen = both_ways(graph, model, clip, vae, latent)
    # The same numbers in the other layout that this text tower is published in.
    clip = graph.add("CLIPLoader", clip_name="vit_h_open_clip.bin", type="stable_diffusion")
    other = graph.add("ProbeTensor", value=graph.add("T2VTextEncode", clip=clip, text=PROMPT))

    said_before = len(comfy.log())
    run = comfy.run(graph)
    (missing,) = re.findall("missing.*", comfy.log()[said_before:], re.IGNORECASE)
    assert set(re.findall(r"layers\.\d+", missing)) == {"layers.23"}  # the one these files are published without
    positive, negative, latents = check_both_ways(run, seen, [1, 77, 1024], [3, 4, 4, 3], tmp_path)
    assert torch.equal(run.tensors(other)["0.0"], positive)
    expected = headless_sample(unet_file, positive, negative, latents.shape)
    assert relative_error(latents, expected) <= 1e-5


@pytest.mark.long
@pytest.mark.usefixtures("stock_files")
def test_our_nodes_run_a_stable_diffusion_checkpoint(comfy, tmp_path):
    graph = Graph()
    loader = graph.add("CheckpointLoaderSimple", ckpt_name="sd15.ckpt")
    latent = graph.add("T2VEmptyLatent", width=24, height=32, num_frames=2)
    seen = both_ways(graph, loader[0], loader[1], loader[2], latent)
    said_before = len(comfy.log())
    run = comfy.run(graph)
    assert not re.findall("missing.*", comfy.log()[said_before:], re.IGNORECASE)
    check_both_ways(run, seen, [1, 77, 768], [2, 4, 4, 3], tmp_path)

    empty = graph.add("T2VEmptyLatent", width=24, height=32, num_frames=0, model=loader[0])
    graph.add("ProbeTensor", value=empty)
    with pytest.raises(Failed, match="made for no number of frames.* not of T2V Load Model; give a number above 0"):
        comfy.run(graph)


def test_the_models_own_number_of_frames(comfy, unet_file):
    graph = Graph()
    model = graph.add("T2VLoadModel", model_name=UNET, weight_dtype="auto")
    empty = graph.add("ProbeTensor", value=graph.add("T2VEmptyLatent", width=32, height=16, num_frames=0, model=model))
    assert comfy.run(graph).tensors(empty)["samples"].shape == (16, 4, 2, 4)


# --- what does not fit is said in plain words ---


def bundled(graph: Graph) -> Node:
    return graph.add("T2VLoadModel", model_name="bundled", weight_dtype="auto")


def text_of_another_model(graph: Graph, sampler) -> None:
    model = graph.add("T2VLoadModel", model_name=UNET, weight_dtype="auto")
    text = graph.add("CLIPTextEncode", clip=bundled(graph)[1], text=PROMPT)
    empty = graph.add("EmptyLatentImage", width=32, height=32, batch_size=2)
    graph.add("ProbeTensor", value=sampler(graph, model, text, text, empty))


def a_latent_of_video_models(graph: Graph, sampler) -> None:
    model = bundled(graph)
    text = graph.add("T2VTextEncode", clip=model[1], text=PROMPT)
    latent = graph.add("EmptyHunyuanLatentVideo", width=64, height=64, length=9, batch_size=1)
    graph.add("ProbeTensor", value=sampler(graph, model, text, text, latent))


def no_text_encoder(graph: Graph, sampler) -> None:
    model = graph.add("T2VLoadModel", model_name=UNET, weight_dtype="auto")
    graph.add("ProbeTensor", value=graph.add("T2VTextEncode", clip=model[1], text=PROMPT))


def no_autoencoder(graph: Graph, sampler) -> None:
    model = graph.add("T2VLoadModel", model_name=UNET, weight_dtype="auto")
    empty = graph.add("T2VEmptyLatent", width=32, height=32, num_frames=2)
    graph.add("ProbeTensor", value=graph.add("T2VDecode", samples=empty, vae=model[2], frames_per_batch=0))


def a_file_of_another_kind(graph: Graph, sampler) -> None:
    model = graph.add("T2VLoadModel", model_name="vae.pt", weight_dtype="auto")
    empty = graph.add("T2VEmptyLatent", width=32, height=32, num_frames=0, model=model)
    graph.add("ProbeTensor", value=empty)


@pytest.fixture
def vae_among_models(comfy):
    file = comfy.models / "diffusion_models" / "vae.pt"
    file.parent.mkdir(exist_ok=True)
    torch.save({"decoder.conv_in.weight": torch.zeros(1), "encoder.conv_in.weight": torch.zeros(1)}, file)
    yield
    file.unlink()


@pytest.mark.usefixtures("unet_file", "vae_among_models")
@pytest.mark.parametrize(
    ("mistake", "sampler", "node_type", "message"),
    [
        (text_of_another_model, k_sampler, "KSampler", r"\[1, 32, 96\].* width 1024: encode .* the CLIP that belongs"),
        (text_of_another_model, t2v_sampler, "T2VSampler", r"\[1, 32, 96\].* width 1024: encode .* the CLIP that"),
        (
            a_latent_of_video_models,
            k_sampler,
            "KSampler",
            r"the latent is \[1, 4, 3, 8, 8\]; this model takes one clip",
        ),
        (
            a_latent_of_video_models,
            t2v_sampler,
            "T2VSampler",
            r"latent_image: the latent has 5 dimensions.*frame batch",
        ),
        (
            no_text_encoder,
            None,
            "T2VTextEncode",
            "clip: .* holds no text encoder that can be used here; connect that of",
        ),
        (no_autoencoder, None, "T2VDecode", "vae: .* holds no autoencoder that can be used here; connect that of"),
        (a_file_of_another_kind, None, "T2VLoadModel", "vae.pt: this is a VAE.* Load it with Load VAE. A text-to-vid"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_does_not_fit_is_said_in_plain_words(comfy, mistake, sampler, node_type, message):
    graph = Graph()
    mistake(graph, sampler)
    with pytest.raises(Failed) as failed:
        comfy.run(graph)
    assert failed.value.node_type == node_type
    assert re.search(message, failed.value.message)
    assert "\n" not in failed.value.message


# --- where files are, and when they are read again ---


def sampling(model_name: str) -> tuple[Graph, Node, Node, Node]:
    """A few steps of a UNet for the bundled model's text: the graph, its T2VLoadModel, what shows latents and text."""
    graph = Graph()
    loader = graph.add("T2VLoadModel", model_name=model_name, weight_dtype="auto")
    text = graph.add("T2VTextEncode", clip=bundled(graph)[1], text=PROMPT)
    empty = graph.add("T2VEmptyLatent", width=32, height=32, num_frames=2)
    sampled = t2v_sampler(graph, loader, text, text, empty)
    saved = graph.add("SaveLatent", samples=sampled, filename_prefix="files")
    return graph, loader, saved, graph.add("ProbeTensor", value=text)


def cached(run) -> set[str]:
    return {node for data in run.data("execution_cached") for node in data["nodes"]}


def test_a_file_is_read_again_when_it_has_changed(comfy, write_unet):
    file = comfy.models / "text2video" / "replaced.safetensors"
    write_unet(file, context_dim=96, seed=1)
    first = file.stat()
    graph, loader, saved, _ = sampling(file.name)
    latents = [comfy.run(graph).latent(saved)]
    assert cached(comfy.run(graph)) == set(graph)

    write_unet(file, context_dim=96, seed=2)
    second = file.stat()
    assert second.st_size == first.st_size and second.st_mtime_ns != first.st_mtime_ns
    run = comfy.run(graph)
    assert loader.id not in cached(run) and cached(run)
    latents.append(run.latent(saved))

    shutil.copyfile(PACKS[PACK] / "t2v_core" / "bundled" / "t2v-shapes.safetensors", file)
    os.utime(file, ns=(second.st_atime_ns, second.st_mtime_ns))  # size and time may each stay the same
    latents.append(comfy.run(graph).latent(saved))
    bundled_graph, _, bundled_saved, _ = sampling("bundled")
    assert torch.equal(latents[2], comfy.run(bundled_graph).latent(bundled_saved))
    assert relative_error(latents[1], latents[0]) > 0.1 and relative_error(latents[2], latents[1]) > 0.1


def test_a_folder_of_models_that_is_gone_holds_none(comfy, write_unet):
    folder, away = comfy.models / "text2video", comfy.models / "away"
    write_unet(folder / "kept.safetensors", context_dim=96)

    def listed() -> list[str]:
        return comfy.get_json("/object_info/T2VLoadModel")["T2VLoadModel"]["input"]["required"]["model_name"][0]

    assert "kept.safetensors" in listed()
    folder.rename(away)
    try:
        assert "bundled" in listed() and "kept.safetensors" not in listed()
    finally:
        away.rename(folder)
    assert "kept.safetensors" in listed()


def test_a_file_that_is_gone_is_refused(comfy, write_unet):
    file = comfy.models / "text2video" / "gone.safetensors"
    write_unet(file, context_dim=96)
    graph, loader, _, text = sampling(file.name)
    del graph[text.id]  # which does without the file, and would run
    comfy.run(graph)
    file.unlink()
    with pytest.raises(Refused) as refused:
        comfy.run(graph)
    (error,) = refused.value.node_errors[loader.id]["errors"]
    assert error["type"] == "value_not_in_list" and file.name in error["details"]


def test_models_lie_in_every_folder_that_the_user_names(comfy_paths, tmp_path, write_unet, headless_sample):
    elsewhere = tmp_path / "elsewhere"
    section = {"base_path": str(elsewhere), "text2video": "clips\nmore", "diffusion_models": "nets"}
    with Server(comfy_paths, tmp_path / "base", extra_model_paths={"mine": section}) as server:

        def listed() -> list[str]:
            info = server.get_json("/object_info/T2VLoadModel")["T2VLoadModel"]
            return info["input"]["required"]["model_name"][0]

        assert not elsewhere.exists() and not list(server.models.iterdir())
        assert listed() == ["bundled"]
        for seed, file in enumerate(
            [
                server.models / "text2video" / "twice.safetensors",
                server.models / "diffusion_models" / "twice.safetensors",
                server.models / "diffusion_models" / "near" / "by.safetensors",
                elsewhere / "more" / "deep" / "er" / "far.safetensors",
                elsewhere / "nets" / "net.safetensors",
            ]
        ):
            write_unet(file, context_dim=96, seed=seed)
        (elsewhere / "more" / "notes.txt").touch()
        names = ["deep/er/far.safetensors", "near/by.safetensors", "net.safetensors", "twice.safetensors"]
        assert listed()[0] == "bundled" and sorted(listed()[1:]) == names
        for name, folder in (
            ("twice.safetensors", server.models / "text2video"),  # the first of two that bear the name
            ("deep/er/far.safetensors", elsewhere / "more"),
        ):
            graph, _, saved, text = sampling(name)
            run = server.run(graph)
            cond = run.tensors(text)["0.0"]
            expected = headless_sample(folder / name, cond, cond, (2, 4, 4, 4))
            assert relative_error(run.latent(saved), expected) <= 1e-5, name
