"""The text encoder and the autoencoder of a public model, and what a person is told of the model."""

from __future__ import annotations

import pytest
import torch
from core.references import (
    as_videocrafter,
    diffusers_autoencoder,
    modelscope_autoencoder,
    modelscope_unet,
    open_clip_tower,
)
from safetensors.torch import save_file

from t2v_core.checkpoints import BUNDLED_PATH, find_models, read_model, save_unet
from t2v_core.checkpoints.companions import autoencoder_weights, text_encoder_weights
from t2v_core.checkpoints.describe import count
from t2v_core.diffusion import NativeSize
from t2v_core.errors import CheckpointError
from t2v_core.models.unet3d import UNet3D, UNet3DConfig

TINY = UNet3DConfig(widths=(32,), attention=(True,), blocks_per_level=1, context_dim=8, head_dim=8)
HUGGING_FACE = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding": "embeddings.token_embedding",
}
HUGGING_FACE |= {"ln_final": "final_layer_norm", "transformer.resblocks": "encoder.layers", ".ln_": ".layer_norm"}
HUGGING_FACE |= {".attn.": ".self_attn.", ".c_fc.": ".fc1.", ".c_proj.": ".fc2."}


def hugging_face(tower: dict[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
    """The same tower under transformers' names."""
    renamed = {}
    for name, tensor in tower.items():
        for theirs, here in HUGGING_FACE.items():
            name = name.replace(theirs, here)
        for part, third in zip("qkv", tensor.chunk(3), strict=True) if "in_proj_" in name else [("", tensor)]:
            renamed[prefix + name.replace("in_proj_", f"{part}_proj.")] = third.clone()
    return renamed


def same(found, expected):
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def model_folder(path, name="text2video_pytorch_model.safetensors", **options):
    """A folder with a tiny UNet in it, as ModelScope's are."""
    path.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    save_unet(UNet3D(TINY), path / name, "modelscope", **options)
    return path


def test_modelscopes_own_files(tmp_path):
    """The autoencoder's holds more than the autoencoder, the text encoder's a second tower."""
    folder = model_folder(tmp_path / "ms")
    network = modelscope_autoencoder()
    content = {f"first_stage_model.{key}": tensor for key, tensor in network.state_dict().items()}
    others = {"model.diffusion_model.out.2.bias": torch.zeros(4), "cond_stage_model.logit_scale": torch.zeros(1)}
    torch.save({"state_dict": {**content, **others}, "epoch": 1}, folder / "VQGAN_autoencoder.pth")
    tower = open_clip_tower()
    others = {"visual.proj": torch.zeros(2, 2), "logit_scale": torch.zeros(()), "attn_mask": torch.zeros(77, 77)}
    torch.save({**tower, **others}, folder / "open_clip_pytorch_model.bin")

    (entry,) = find_models(tmp_path)
    companions = read_model(entry).companions
    same(companions.read_text_encoder().tensors, tower)
    read = companions.read_autoencoder()
    assert read.path == folder / "VQGAN_autoencoder.pth"
    theirs = modelscope_autoencoder(folder / "VQGAN_autoencoder.pth")  # reads strictly what it takes
    same(read.tensors, theirs.state_dict())
    same(read.tensors, network.state_dict())


@pytest.mark.parametrize("form", ["safetensors", "bin", "shards", "fp16"])
def test_diffusers_folder(form, tmp_path):
    folder = model_folder(tmp_path / "model/unet", "diffusion_pytorch_model.safetensors").parent
    network = diffusers_autoencoder()
    network = network.half() if form == "fp16" else network
    options = {"bin": {"safe_serialization": False}, "shards": {"max_shard_size": "30KB"}, "fp16": {"variant": "fp16"}}
    network.save_pretrained(folder / "vae", **options.get(form, {}))
    weights = hugging_face(open_clip_tower(), "text_model." if form == "bin" else "")  # transformers 4 and 5
    (folder / "text_encoder").mkdir()
    save_file(
        {**weights, "text_model.embeddings.position_ids": torch.arange(77)} if form == "bin" else weights,
        folder / "text_encoder" / "model.safetensors",
    )
    companions = read_model(folder).companions
    same(companions.read_autoencoder().tensors, network.state_dict())
    expected = hugging_face(open_clip_tower(), "text_model.")
    del expected["text_model.text_projection"]
    same(
        companions.read_text_encoder().tensors, {key: expected[key] for key in expected if "text_projection" not in key}
    )


def test_videocrafters_one_file_holds_all_three(tmp_path):
    unet = as_videocrafter(modelscope_unet((1, 1), (True, False), 1, fps=True).state_dict())
    tower, autoencoder = open_clip_tower(), modelscope_autoencoder().state_dict()
    content = {f"model.diffusion_model.{key}": tensor for key, tensor in unet.items()}
    content |= {f"first_stage_model.{key}": tensor for key, tensor in autoencoder.items()}
    content |= {f"cond_stage_model.model.{key}": tensor for key, tensor in tower.items()}
    content |= {"scale_arr": torch.zeros(1000), "alphas_cumprod": torch.zeros(1000)}
    torch.save({"state_dict": content}, tmp_path / "model.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "VQGAN_autoencoder.pth")  # not needed, and so not read
    (entry,) = find_models(tmp_path)
    file = read_model(entry)
    same(file.companions.read_text_encoder().tensors, tower)
    same(file.companions.read_autoencoder().tensors, autoencoder)
    assert file.settings.native == NativeSize(512, 320, 16, 28.0) and file.settings_entry() == {}
    text = file.description.text()
    assert "model: VideoCrafter2\n" in text and "videocrafter layout, fp32" in text
    assert "text encoder: in the same file\nVAE: in the same file" in text


def test_parts_that_are_not_asked_for_are_not_read(tmp_path):
    folder = model_folder(tmp_path / "ms")
    for name in ("VQGAN_autoencoder.pth", "open_clip_pytorch_model.bin"):
        (folder / name).write_text("no weights")
    file = read_model(folder, parts=("text_encoder",))
    assert file.unet is None and file.description.parameters == sum(p.numel() for p in UNet3D(TINY).parameters())
    with pytest.raises(CheckpointError, match="open_clip_pytorch_model.bin: this is a text file, not weights"):
        file.companions.read_text_encoder()


def spoil(weights, key, value=None):
    changed = dict(weights)
    if value is None:
        del changed[key]
    else:
        changed[key] = value
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: spoil(t, "ln_final.weight"), "weights are missing: ln_final.weight"),
        (lambda t: spoil(t, "transformer.resblocks.1.mlp.c_fc.bias"), "1 weights are .*resblocks.1.mlp.c_fc.bias"),
        (lambda t: {k: v for k, v in t.items() if ".resblocks.1." not in k}, "12 weights are .*resblocks.1.attn"),
        (
            lambda t: spoil(t, "ln_final.bias", torch.full((8,), torch.nan)),
            "1 weights hold NaN or infinity: ln_final.b",
        ),
        (lambda t: spoil(t, "ln_final.bias", torch.zeros(8, dtype=torch.int8)), "not floating point: ln_final.bias"),
        (lambda t: {"decoder.conv_in.weight": torch.zeros(1)}, "no text encoder of CLIP's kind in this file"),
        (lambda t: spoil(hugging_face(t), "encoder.layers.2.self_attn.k_proj.bias"), "layers.2.self_attn.k_proj.bias"),
        (lambda t: spoil(hugging_face(t), "embeddings.token_embedding.weight"), "embeddings.token_embedding.weight"),
    ],
)
def test_a_text_encoder_that_is_not_whole(change, message):
    with pytest.raises(CheckpointError, match=message):
        text_encoder_weights(change(open_clip_tower()))


@pytest.mark.parametrize(
    "key", ["encoder.conv_in.weight", "decoder.conv_out.weight", "encoder.mid.block_1.conv1.weight"]
)
def test_an_autoencoder_that_is_not_whole(key):
    weights = modelscope_autoencoder().state_dict()
    with pytest.raises(CheckpointError, match=f"1 weights are missing: {key}. The file is incomplete"):
        autoencoder_weights(spoil(weights, key))
    with pytest.raises(
        CheckpointError, match="no autoencoder in this file. Stable Diffusion's is wanted: VQGAN_autoen"
    ):
        autoencoder_weights(open_clip_tower())


@pytest.mark.parametrize(
    ("name", "says", "native"),
    [
        ("zeroscope_v2_576w", "zeroscope v2 576w, going by its name", (576, 320, 24)),
        ("1111/zs2_XL", "zeroscope v2 XL, going by its name", (1024, 576, 24)),
        ("zeroscope_v2_XL/zs2_XL.safetensors", "zeroscope v2 XL, going by its name", (1024, 576, 24)),
        ("zeroscope_v2_dark_30x", "zeroscope v2 dark 30x, going by its name", (448, 256, 30)),
        ("ZS2_448W", "zeroscope v2 448w, going by its name", (448, 256, 24)),
        ("zeroscope_v1_320s", "zeroscope, going by its name", None),
        ("potat1", "potat1, going by its name", (1024, 576, 16)),
        ("animov-512x", "animov 512x, going by its name", (512, 512, 16)),
        ("text-to-video-ms-1.7b", "ModelScope text-to-video 1.7B, going by its name", (256, 256, 16)),
        ("my_own_finetune", "ModelScope kind", None),
    ],
)
def test_what_only_a_name_tells_is_said_to_be_so(name, says, native, tmp_path):
    *folders, last = name.split("/")
    if last.endswith(".safetensors"):
        model_folder(tmp_path.joinpath(*folders), last)
    else:
        model_folder(tmp_path / name)
    (entry,) = find_models(tmp_path)
    file = read_model(entry)
    assert entry.name == name and file.settings.native == NativeSize(*(native or (256, 256, 16)), 8.0)
    width, height, frames = native or (256, 256, 16)
    size = f"{width} x {height}, {frames} frames"
    parameters = f"{sum(parameter.numel() for parameter in UNet3D(TINY).parameters()):,}"
    assert file.description.text().splitlines() == [
        f"model: {says}",
        f"file: modelscope layout, fp32, {parameters} parameters in the UNet",
        f"made for: {size}" if native else f"made for: not known by its name; ModelScope's {size} is assumed",
        "text encoder: none found: connect CLIPLoader, type stable_diffusion, with OpenCLIP ViT-H/14's text encoder "
        "(open_clip_pytorch_model.bin, or text_encoder/model.safetensors of the diffusers repository)",
        "VAE: none found: connect VAELoader with a VAE of Stable Diffusion 1 or 2",
    ]


def test_a_native_size_that_the_name_told_is_kept_by_a_file_saved_under_another(tmp_path):
    file = read_model(model_folder(tmp_path / "zeroscope_v2_XL"))
    weights = file.to_file(file.unet.state_dict) | file.settings_entry()
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, tmp_path / "other.safetensors")
    again = read_model(tmp_path / "other.safetensors")
    assert again.settings == file.settings and again.settings.native.width == 1024
    assert "made for: 1024 x 576, 24 frames" in again.description.text()


def test_the_bundled_model_describes_itself():
    description = read_model(BUNDLED_PATH, parts=()).description
    assert description.family.name == "this pack's own kind" and description.precision == "fp16"
    assert "96 x 96, 16 frames\ntext encoder: in the same file\nVAE: in the same file" in description.text()
    assert 100_000 < description.parameters


def test_where_the_parts_lie_is_told_from_the_models_folder(tmp_path):
    folder = model_folder(tmp_path / "1111/zs2_576w")
    torch.save(open_clip_tower(), folder / "open_clip_pytorch_model.bin")
    torch.save({"first_stage_model.x": torch.zeros(1)}, folder.parent / "VQGAN_autoencoder.pth")
    (entry,) = find_models(tmp_path)
    description = read_model(entry).description
    assert (description.text_encoder, description.autoencoder) == (
        "open_clip_pytorch_model.bin",
        "../VQGAN_autoencoder.pth",
    )


def test_numbers_of_parameters_are_short():
    assert count(1_411_233_860) == "1.41 G" and count(83_653_863) == "83.7 M" and count(12_345) == "12,345"


@pytest.mark.parametrize(
    ("dtype", "said"), [(torch.float16, "fp16"), (torch.bfloat16, "bf16"), (torch.float32, "fp32")]
)
def test_the_precision_is_that_of_most_numbers(dtype, said, tmp_path):
    folder = model_folder(tmp_path, dtype=dtype)
    assert read_model(folder).description.precision == said
