"""A model in every form in which people have one, written by the reference, computes what the reference computes."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from core.references import (
    MODELSCOPE_CONTEXT,
    as_videocrafter,
    clip,
    diffusers_unet,
    modelscope_unet,
    relative_error,
)
from safetensors.torch import load_file, save_file

from t2v_core.checkpoints import load_unet, read_model, save_unet, unet_state_dict
from t2v_core.errors import CheckpointError

SMALL = {"multipliers": (1, 2), "attention": (True, False), "blocks_per_level": 1}
SHARD = "60KB"


def save(network, folder, **options):
    """What diffusers' pipeline folder holds of the UNet."""
    network.save_pretrained(folder / "unet", **options)
    (folder / "model_index.json").write_text('{"_class_name": "TextToVideoSDPipeline"}')
    return folder


def one_file(weights, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(weights, path)
    return path


DIFFUSERS = {
    "safetensors": {},
    "bin": {"safe_serialization": False},
    "fp16": {"variant": "fp16"},
    "shards": {"max_shard_size": SHARD},
    "shards, bin": {"max_shard_size": SHARD, "safe_serialization": False},
    "shards, fp16": {"max_shard_size": SHARD, "variant": "fp16"},
}
MODELSCOPE = {
    "file": lambda weights, folder: one_file(weights, folder / "zeroscope.pth"),
    "ModelScope's folder": lambda weights, folder: one_file(weights, folder / "text2video_pytorch_model.pth").parent,
    "A1111's folder": lambda weights, folder: (
        one_file({"state_dict": weights}, folder / "zs2_576w" / "text2video_pytorch_model.pth").parent
    ),
    "safetensors, prefixed": lambda weights, folder: (
        save_file(
            {f"model.diffusion_model.{key}": tensor for key, tensor in weights.items()}, folder / "unet.safetensors"
        )
        or folder / "unet.safetensors"
    ),
}


@pytest.fixture(scope="module")
def modelscope():
    return modelscope_unet(**SMALL)


@pytest.fixture(scope="module")
def with_fps():
    return modelscope_unet(**SMALL, fps=True)


ALL = (1, 5, 16, 24)  # an image, a few frames, and what the models were made for


def check(ours, theirs, context_dim, lengths=ALL, limit=1e-5, **options):
    """The same output for clips of these numbers of frames."""
    for frames in lengths:
        x, t, context = clip(1, frames, 4, 8, context_dim, seed=frames)
        with torch.no_grad():
            expected = theirs(x, t, context, **options)
            assert relative_error(ours(x, t, context, **options), getattr(expected, "sample", expected)) <= limit


@pytest.mark.parametrize("form", DIFFUSERS)
def test_diffusers_folder(form, tmp_path):
    reference = diffusers_unet()
    if "fp16" in form:
        reference.half()
    folder = save(reference, tmp_path / "model", **DIFFUSERS[form])
    files = [path.name for path in (folder / "unet").iterdir()]
    assert (len(files) > 3) == ("shards" in form) and any("fp16" in name for name in files) == ("fp16" in form)
    read = unet_state_dict(folder)
    assert read.layout == "diffusers" and len(read.state_dict) == len(reference.state_dict())
    assert read.config.norm_groups == 4  # which only config.json tells
    check(
        load_unet(folder, dtype=torch.float32), reference.float(), 12, ALL if form in ("safetensors", "fp16") else (5,)
    )


@pytest.mark.parametrize("form", MODELSCOPE)
def test_modelscope(form, modelscope, tmp_path):
    path = MODELSCOPE[form](modelscope.state_dict(), tmp_path)
    assert unet_state_dict(path).layout == "modelscope"
    check(load_unet(path), modelscope, MODELSCOPE_CONTEXT, ALL if form == "file" else (5,))


@pytest.mark.parametrize("wrap", ["state_dict", "module"])
def test_videocrafter2(wrap, with_fps, tmp_path):
    """With everything that stands in its file beside the UNet. Its authors' UNet itself gave 1.9e-6, by hand."""
    weights = as_videocrafter(with_fps.state_dict())
    before = {"state_dict": "", "module": "_forward_module."}[wrap]
    others = ("first_stage_model.decoder.conv_in.weight", "cond_stage_model.model.ln_final.weight", "alphas_cumprod")
    content = {f"{before}model.diffusion_model.{key}": tensor for key, tensor in weights.items()}
    content |= {f"{before}{name}": torch.zeros(1) for name in others}
    path = one_file({wrap: content, "global_step": 1}, tmp_path / "model.ckpt")
    read = unet_state_dict(path)
    assert read.layout == "videocrafter" and read.config.fps_embedding
    if wrap == "state_dict":
        check(load_unet(path), with_fps, MODELSCOPE_CONTEXT, limit=5e-6, fps=torch.tensor([28]))
    saved = load_file(save_unet(load_unet(path), tmp_path / "saved.safetensors", "videocrafter"))
    assert saved.keys() == weights.keys() and all(torch.equal(saved[key], weights[key]) for key in weights)


def test_videocrafters_layout_holds_only_its_own_network(modelscope, tmp_path):
    unet = load_unet(one_file(modelscope.state_dict(), tmp_path / "unet.pth"))
    saved = save_unet(unet, tmp_path / "saved.safetensors", "videocrafter")  # without fps it is a smaller file
    assert unet_state_dict(saved).config == unet.config


@torch.no_grad()
def test_half_precision_is_no_worse_than_diffusers_own(tmp_path):
    reference = diffusers_unet((32, 64), context_dim=24, head_dim=16, norm_groups=8)
    folder = save(reference, tmp_path / "model")
    half = torch.bfloat16
    ours, theirs = load_unet(folder, dtype=half), copy.deepcopy(reference).to(half)
    for frames in ALL:
        x, t, context = clip(1, frames, 8, 8, 24)
        expected = reference(x, t, context).sample
        given = x.to(half), t, context.to(half)
        errors = [relative_error(each.float(), expected) for each in (ours(*given), theirs(*given).sample)]
        assert 1e-3 < errors[0] <= 1.25 * errors[1], frames


def test_saved_in_modelscopes_layout_it_loads_in_modelscope(modelscope, tmp_path):
    path = MODELSCOPE["ModelScope's folder"](modelscope.state_dict(), tmp_path)
    with torch.no_grad():
        for parameter in (unet := load_unet(path)).parameters():
            parameter.add_(0.01)
    again = copy.deepcopy(modelscope)
    again.load_state_dict(load_file(save_unet(unet, tmp_path / "saved.safetensors")), strict=True)
    check(unet, again, MODELSCOPE_CONTEXT, (5,))
    name = "input_blocks.1.0.temopral_conv.conv1.2.weight"
    assert torch.equal(again.state_dict()[name], modelscope.state_dict()[name] + 0.01)


def test_saved_into_diffusers_folder_it_loads_in_diffusers(tmp_path):
    reference = diffusers_unet()
    folder = save(reference, tmp_path / "model")
    with torch.no_grad():
        for parameter in (unet := load_unet(folder)).parameters():
            parameter.add_(0.01)
    save_unet(unet, folder / "unet" / "diffusion_pytorch_model.safetensors", "diffusers", overwrite=True)
    again = type(reference).from_pretrained(folder / "unet")
    check(load_unet(folder), again, 12, (5,))
    weight = reference.state_dict()["conv_in.weight"]
    assert torch.equal(again.state_dict()["conv_in.weight"], weight + 0.01)


def test_the_variant_that_suits_is_read(tmp_path):
    full, half = diffusers_unet(seed=1), diffusers_unet(seed=2).half()
    folder = save(full, tmp_path / "model", safe_serialization=False)
    save(half, folder, variant="fp16", safe_serialization=False)
    key = "conv_out.bias"

    def read(dtype):
        return unet_state_dict(folder, dtype=dtype).state_dict["out.2.bias"]

    assert torch.equal(read(torch.float16), half.state_dict()[key])
    for dtype in (None, torch.float32, torch.bfloat16):
        assert torch.equal(read(dtype), full.state_dict()[key])
    save(diffusers_unet(seed=3), folder)  # .safetensors, and so before them all
    assert torch.equal(read(torch.float16), diffusers_unet(seed=3).state_dict()[key])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_num_groups": 3}, "do not divide into 3 norm groups"),
        ({"norm_num_groups": "4"}, "norm_groups is '4', and should be of type int"),
        ({"norm_num_groups": None}, "norm_groups is None, and should be of type int"),
        ({"norm_num_groups": 2**70}, "should be between 0 and 65536"),
        ({"attention_head_dim": 8}, r"config.json: attention_head_dim is 8, but the weights are of a network with 4"),
        ({"block_out_channels": [8, 32]}, r"block_out_channels is \[8, 32\], but .* \[8, 16\]"),
        ({"cross_attention_dim": 16}, "cross_attention_dim is 16"),
        ({"layers_per_block": 2}, "layers_per_block is 2"),
        ({"in_channels": 8}, "in_channels is 8"),
        ({"down_block_types": ["DownBlock3D", "DownBlock3D"]}, "down_block_types is"),
        ({"act_fn": "gelu"}, "act_fn is 'gelu'; only networks with silu can be computed here"),
        ({"norm_eps": 1e-6}, "norm_eps is 1e-06"),
    ],
)
def test_sizes_beside_the_weights_have_to_agree_with_them(tmp_path, change, message):
    folder = save(diffusers_unet(), tmp_path / "model")
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_unet(folder)
    assert str(caught.value).startswith(str(folder / "unet")) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["no json", "[]", "{" * 100_000, "\xff"])
def test_a_config_that_is_none(tmp_path, content):
    folder = save(diffusers_unet(), tmp_path / "model")
    (folder / "unet" / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match="config.json: (not JSON|holds no JSON object)"):
        load_unet(folder)


@pytest.fixture
def sharded(tmp_path):
    """A folder with a UNet in shards, its index as data, and what writes that back."""
    folder = save(diffusers_unet(), tmp_path / "model", max_shard_size=SHARD)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index = json.loads(path.read_text())

    def refused() -> str:
        path.write_text(json.dumps(index))
        with pytest.raises(CheckpointError) as caught:
            load_unet(folder)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return folder / "unet", index, refused


def test_missing_shards_are_named_in_one_message(sharded):
    folder, index, refused = sharded
    names = sorted(set(index["weight_map"].values()))
    assert len(names) > 2
    for name in names[1:]:
        (folder / name).unlink()
    message = refused()
    assert f"{len(names) - 1} of {len(names)} shards are missing" in message and all(n in message for n in names[1:])


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "/etc/secret.safetensors",
        "sub/x.safetensors",
        "..\\x.safetensors",
        "C:x.safetensors",
        "config.json",
        ".hidden.safetensors",
        "",
    ],
)
def test_an_index_names_only_weight_files_beside_it(sharded, name):
    folder, index, refused = sharded
    save_file({"conv_in.weight": torch.zeros(1)}, folder.parent / "secret.safetensors")
    index["weight_map"]["conv_in.weight"] = name
    assert f"refused: {name!r} is not the name of a weight file in the same folder" in refused()


def test_a_shard_that_is_a_link_out_of_the_folder_is_not_there(sharded, tmp_path):
    folder, index, refused = sharded
    name = index["weight_map"]["conv_in.weight"]
    (folder / name).rename(tmp_path / "elsewhere.safetensors")
    (folder / name).symlink_to(tmp_path / "elsewhere.safetensors")
    assert "shards are missing" in refused() and name in refused()


@pytest.mark.parametrize("change", ["one more", "one less", "another shard"])
def test_shards_that_are_not_what_the_index_says(sharded, change):
    _, index, refused = sharded
    keys, names = list(index["weight_map"]), sorted(set(index["weight_map"].values()))
    if change == "one more":
        index["weight_map"]["mystery"] = names[0]
    elif change == "one less":
        del index["weight_map"][keys[0]]
    else:
        index["weight_map"][keys[0]] = next(name for name in names if name != index["weight_map"][keys[0]])
    wrong = "mystery" if change == "one more" else keys[0]
    assert f"does not hold the weights that the index says: {wrong}" in refused()


@pytest.mark.parametrize("listed", [None, {}, [], {"a": 1}, {"a": ["b"]}])
def test_an_index_that_is_none(sharded, listed):
    _, index, refused = sharded
    index["weight_map"] = listed
    assert "no index of a checkpoint" in refused()


def test_a_folder_without_a_unet(tmp_path):
    for present in ((), ("readme.txt",), ("VQGAN_autoencoder.pth", "configuration.json")):
        for name in present:
            (tmp_path / name).touch()
        with pytest.raises(CheckpointError, match="in which there is no model. A model's folder has unet/diffusion"):
            read_model(tmp_path)
    (tmp_path / "model_index.json").touch()
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").touch()
    with pytest.raises(CheckpointError, match="a model's folder in which the UNet is missing. A model's folder has un"):
        read_model(tmp_path)


def test_a_folder_of_several_models(tmp_path):
    for name in ("a.ckpt", "b.ckpt"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match="a folder of 2 models; name one of them: a.ckpt, b.ckpt"):
        read_model(tmp_path)
