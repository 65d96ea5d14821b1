"""T2VLoadLora on the headless host."""

import io
import json
import logging
import math

import pytest
import torch
from safetensors.torch import save_file

UNET, TEXT = "middle_block.1.transformer_blocks.0.attn2.to_k", "layers.0.out"


@pytest.fixture
def folder(part, tmp_path):
    """The headless host in use, with a LoRA folder in its models folder, as in ComfyUI."""
    nodes_host, progress = part("nodes.host"), part("headless.progress").Progress(io.StringIO(), "none")
    nodes_host.use(part("headless.host").HeadlessHost(tmp_path / "models", tmp_path / "out", progress))
    (tmp_path / "models/loras").mkdir(parents=True)
    yield tmp_path / "models/loras"
    nodes_host.use(None)


def write(path, tiny, strays=()):
    """A LoRA of rank 1 for one weight of each network; what it adds to them."""
    file, added = {}, []
    for key, network, name in (
        (f"unet.{UNET}", tiny.model.denoiser.network, UNET),
        (f"text_encoder.{TEXT}", tiny.clip.network, TEXT),
    ):
        weight = network.get_submodule(name).weight
        up, down = torch.randn(len(weight), 1), torch.randn(1, weight.shape[1])
        file |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}
        added.append(up @ down)
    path.parent.mkdir(exist_ok=True)
    save_file(file | {stray: torch.ones(1) for stray in strays}, path)
    return added


def load(part, *arguments, **options):
    return part("nodes").T2VLoadLora().load(*arguments, **options)["result"]


def weights(model, clip):
    return model.denoiser.network.get_submodule(UNET).weight, clip.network.get_submodule(TEXT).weight


def test_both_networks_change_by_their_own_strength(part, folder, tiny):
    to_unet, to_text = write(folder / "a.safetensors", tiny)
    before = [weight.clone() for weight in weights(tiny.model, tiny.clip)]
    model, clip, info = load(part, tiny.model, "a.safetensors", 0.5, -2.0, clip=tiny.clip)
    unet, text = weights(model, clip)
    torch.testing.assert_close(unet, before[0] + 0.5 * to_unet)
    torch.testing.assert_close(text, before[1] - 2.0 * to_text)
    assert info.splitlines()[:3] == [
        "a.safetensors: peft LoRA of rank 1",
        "UNet: 1 weights, 0 of them over time",
        "text encoder: 1 weights",
    ]
    assert all(map(torch.equal, weights(tiny.model, tiny.clip), before))


def test_strength_0_and_none_pass_on_what_came_in(part, folder, tiny):
    write(folder / "a.safetensors", tiny)
    assert load(part, tiny.model, "a.safetensors", 0.0, 0.0, clip=tiny.clip)[:2] == (tiny.model, tiny.clip)
    assert load(part, tiny.model, "none", 1.0, 1.0, clip=tiny.clip) == (tiny.model, tiny.clip, "no LoRA")


def test_without_a_clip_the_text_encoder_s_part_is_told(part, folder, tiny):
    write(folder / "a.safetensors", tiny)
    _, clip, info = load(part, tiny.model, "a.safetensors", 1.0, 1.0)
    assert clip is None and "1 weights, which are not applied: no clip is connected" in info


def test_keys_without_a_place_are_one_warning(part, folder, tiny, caplog):
    write(folder / "a.safetensors", tiny, strays=["strange.bias", "stranger.bias"])
    with caplog.at_level(logging.WARNING):
        info = load(part, tiny.model, "a.safetensors", 1.0, 1.0, clip=tiny.clip)[2]
    says = "2 keys of a.safetensors have no place in this model: strange.bias, stranger.bias"
    assert [record.getMessage() for record in caplog.records] == [says] and info.endswith(says)


def test_the_list_is_the_folder_and_what_is_in_it(part, folder, tiny, tmp_path):
    node = part("nodes").T2VLoadLora
    assert node.INPUT_TYPES()["required"]["lora_name"][0] == ["none"]
    for name in ("b.safetensors", "sub/a.PT", "readme.txt", ".hidden.safetensors", "c.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    (tmp_path / "outside.safetensors").write_text("x")
    (folder / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    (folder / "circle").symlink_to(folder)
    names = ["none", "b.safetensors", "c.safetensors", "sub/a.PT"]
    assert node.INPUT_TYPES()["required"]["lora_name"][0] == names


@pytest.mark.parametrize("name", ["../models/x.safetensors", "/etc/passwd", "gone.safetensors", ""])
def test_a_name_that_is_not_listed_is_never_a_path(part, folder, tiny, name):
    with pytest.raises(part("t2v_core.errors").CheckpointError, match=r"there is no LoRA .*loras; there are none$"):
        load(part, tiny.model, name, 1.0, 1.0)


@pytest.mark.parametrize("strength", [math.nan, math.inf, 101.0, -101.0])
@pytest.mark.parametrize("place", [0, 1])
def test_strengths_are_finite_and_within_bounds(part, folder, tiny, strength, place):
    strengths = [1.0, 1.0]
    strengths[place] = strength
    name = ("strength_model", "strength_clip")[place]
    with pytest.raises(part("t2v_core.errors").T2VError, match=f"{name}: .* is outside -100 to 100"):
        load(part, tiny.model, "none", *strengths)


def test_a_file_is_read_again_only_when_it_changed(part, folder, tiny, monkeypatch):
    module, node = part("nodes.lora"), part("nodes").T2VLoadLora()
    reads, read = [], module.read_lora
    monkeypatch.setattr(module, "read_lora", lambda path: reads.append(path) or read(path))
    to_unet, _ = write(folder / "a.safetensors", tiny)
    for strength in (1.0, 0.25):
        model, *_ = node.load(tiny.model, "a.safetensors", strength, 0.0, tiny.clip)["result"]
    torch.testing.assert_close(weights(model, tiny.clip)[0], weights(tiny.model, tiny.clip)[0] + 0.25 * to_unet)
    assert len(reads) == 1
    stamp = node.IS_CHANGED(lora_name="a.safetensors", strength_model=1.0)
    (folder / "a.safetensors").unlink()
    to_unet, _ = write(folder / "a.safetensors", tiny, strays=["one.more"])
    assert node.IS_CHANGED(lora_name="a.safetensors", strength_model=1.0) != stamp
    model, *_ = node.load(tiny.model, "a.safetensors", 1.0, 0.0, tiny.clip)["result"]
    torch.testing.assert_close(weights(model, tiny.clip)[0], weights(tiny.model, tiny.clip)[0] + to_unet)
    assert len(reads) == 2
    assert node.IS_CHANGED(lora_name="none") is None and node.IS_CHANGED(lora_name=None) is None


def test_a_workflow_with_a_lora_runs_and_differs(headless, part, workflow, tmp_path):
    """From the command line; strength 0 gives the file without a LoRA, byte for byte."""
    checkpoints = part("t2v_core.checkpoints")
    weight = checkpoints.load_bundled().model.denoiser.network.get_submodule(UNET).weight
    (tmp_path / "models/loras").mkdir(parents=True)
    file = {
        f"lora_unet_{UNET.replace('.', '_')}.lora_down.weight": torch.randn(2, weight.shape[1]),
        f"lora_unet_{UNET.replace('.', '_')}.lora_up.weight": 3 * torch.randn(len(weight), 2) * weight.std(),
    }
    save_file(file, tmp_path / "models/loras/a.safetensors")
    (loader,) = (key for key, node in workflow.items() if node["class_type"] == "T2VLoadModel")
    (sampler,) = (key for key, node in workflow.items() if node["class_type"] == "T2VSampler")
    workflow[sampler]["inputs"] |= {"model": ["lora", 0], "steps": 2}
    workflow["lora"] = {
        "class_type": "T2VLoadLora",
        "inputs": {"model": [loader, 0], "lora_name": "none", "strength_model": 1.0, "strength_clip": 1.0},
    }
    (tmp_path / "workflow.json").write_text(json.dumps(workflow))
    videos = []
    for name, strength in (("none", 1.0), ("a.safetensors", 0.0), ("a.safetensors", 1.0)):
        settings = ["--set", f"lora.lora_name={name}", "--set", f"lora.strength_model={strength}"]
        out = tmp_path / f"out{len(videos)}"
        done = headless("run", tmp_path / "workflow.json", "--models", tmp_path / "models", "--out", out,
                        "--disable-metadata", *settings)  # fmt: skip
        assert done.returncode == 0, done.stderr
        (video,) = (path for path in out.rglob("*") if path.is_file())
        videos.append(video.read_bytes())
    assert videos[0] == videos[1] != videos[2]
