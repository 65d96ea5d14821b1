"""Files written by the reference implementations load whole, give the same weights, and are given back as they were."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from core.references import MODELSCOPE_CONTEXT, clip, diffusers_unet, modelscope_unet, randomise, relative_error, write
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from t2v_core.checkpoints import (
    LAYOUTS,
    load_bundled,
    load_unet,
    save_bundled,
    save_unet,
    unet_state_dict,
)
from t2v_core.checkpoints.keymap import KeyMap
from t2v_core.errors import CheckpointError
from t2v_core.models.autoencoder import Autoencoder, AutoencoderConfig
from t2v_core.models.text_encoder import TextEncoder, TextEncoderConfig
from t2v_core.models.unet3d import UNet3D, UNet3DConfig

SMALL_MODELSCOPE = {"multipliers": (1, 1), "attention": (True, False), "blocks_per_level": 1}
SMALL_DIFFUSERS = {"widths": (32, 64), "attention": (True, False), "head_dim": 32, "norm_groups": 32}
TINY = UNet3DConfig(
    widths=(8, 16), attention=(True, False), blocks_per_level=1, context_dim=12, head_dim=4, norm_groups=4
)

WRAPS = {
    "bare": lambda weights: weights,
    "prefixed": lambda weights: {f"model.diffusion_model.{key}": tensor for key, tensor in weights.items()},
    "in parallel": lambda weights: {f"module.{key}": tensor for key, tensor in weights.items()},
    "beside others": lambda weights: {
        **{f"model.diffusion_model.{key}": tensor for key, tensor in weights.items()},
        "first_stage_model.decoder.conv_in.weight": torch.zeros(1),
        "cond_stage_model.model.token_embedding.weight": torch.zeros(1),
        "model_ema.decay": torch.zeros(1),
        "alphas_cumprod": torch.zeros(1),
    },
}
PICKLE_WRAPS = {
    "state_dict": lambda weights: {"state_dict": weights, "epoch": 3},
    "state_dict, prefixed": lambda weights: {"state_dict": WRAPS["prefixed"](weights), "global_step": 10},
    "deepspeed": lambda weights: {
        "module": {f"_forward_module.model.diffusion_model.{key}": tensor for key, tensor in weights.items()}
    },
}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """The same keys, shapes, types and bits."""
    assert set(found) == set(expected)
    for key, tensor in expected.items():
        assert found[key].shape == tensor.shape and found[key].dtype == tensor.dtype, key
        assert torch.equal(found[key], tensor), key


@pytest.fixture(scope="module")
def references():
    return {"modelscope": modelscope_unet(**SMALL_MODELSCOPE), "diffusers": diffusers_unet(**SMALL_DIFFUSERS)}


@pytest.mark.parametrize("layout", ["modelscope", "diffusers"])
@pytest.mark.parametrize("wrap", WRAPS)
def test_safetensors_come_back_as_they_were(references, layout, wrap, tmp_path):
    weights = references[layout].state_dict()
    save_file(WRAPS[wrap](weights), tmp_path / "unet.safetensors")
    read = unet_state_dict(tmp_path / "unet.safetensors")
    assert read.layout == layout and len(read.state_dict) == len(weights)
    saved = save_unet(load_unet(tmp_path / "unet.safetensors"), tmp_path / "again.safetensors", layout)
    same(load_file(saved), weights)


@pytest.mark.parametrize("layout", ["modelscope", "diffusers"])
@pytest.mark.parametrize("wrap", [*WRAPS, *PICKLE_WRAPS])
@pytest.mark.parametrize("name", ["unet.pth", "model.ckpt"])
def test_pickles_come_back_as_they_were(references, layout, wrap, name, tmp_path):
    weights = references[layout].half().state_dict()
    # The older container, one stream without a directory, cannot be mapped.
    torch.save({**WRAPS, **PICKLE_WRAPS}[wrap](weights), tmp_path / name, _use_new_zipfile_serialization="pth" in name)
    saved = save_unet(load_unet(tmp_path / name), tmp_path / "again.safetensors", layout)
    same(load_file(saved), weights)
    references[layout].float()


def test_modelscope_with_all_published_weights(tmp_path):
    reference = modelscope_unet()
    weights = reference.state_dict()
    path = write(reference, tmp_path / "unet.safetensors")
    read = unet_state_dict(path)
    assert len(weights) == len(read.state_dict) == 1480
    assert sum(len(read.state_dict[key].shape) == 4 and key.count("temporal_conv") for key in read.state_dict) == 88
    assert read.config == replace(UNet3DConfig(), widths=(64, 128, 256, 256))
    saved = save_unet(load_unet(path), tmp_path / "again.safetensors")
    assert saved.read_bytes() == path.read_bytes()
    reference.load_state_dict(load_file(saved), strict=True)


def test_diffusers_with_all_published_weights(tmp_path):
    sizes = {"attention": (True, True, True, False), "blocks_per_level": 2, "head_dim": 32, "norm_groups": 32}
    reference = diffusers_unet((32, 64, 96, 96), **sizes)
    reference.save_pretrained(tmp_path / "unet")
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    read = unet_state_dict(path)
    assert len(reference.state_dict()) == len(read.state_dict) == 1480
    assert read.config == replace(UNet3DConfig(), widths=(32, 64, 96, 96), context_dim=12, head_dim=32)
    unet = load_unet(path)
    theirs = path.read_bytes()
    assert save_unet(unet, path, "diffusers", overwrite=True).read_bytes() == theirs
    again = type(reference).from_pretrained(tmp_path / "unet")
    same(again.state_dict(), reference.state_dict())


@torch.no_grad()
def test_modelscope_converted_to_diffusers_computes_the_same(tmp_path):
    """The two references meet through our tables: same weights, same function."""
    reference = modelscope_unet((1, 2), (True, False), 2)
    unet = load_unet(write(reference, tmp_path / "unet.safetensors"))
    other = diffusers_unet(
        (64, 128), (True, False), 2, head_dim=64, norm_groups=32, context_dim=MODELSCOPE_CONTEXT, seed=1
    )
    converted = load_file(save_unet(unet, tmp_path / "converted.safetensors", "diffusers"))
    other.load_state_dict(converted, strict=True)
    x, t, context = clip(2, 3, 8, 16, MODELSCOPE_CONTEXT)
    assert relative_error(other(x, t, context).sample, reference(x, t, context)) <= 1e-5
    back = save_unet(load_unet(tmp_path / "converted.safetensors"), tmp_path / "back.safetensors", "modelscope")
    same(load_file(back), reference.state_dict())


@settings(max_examples=12, deadline=None)
@given(
    attention=st.lists(st.booleans(), min_size=1, max_size=4),
    blocks=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 4]),
    input_heads=st.sampled_from([1, 4, 8]),
    head_dim=st.sampled_from([2, 4]),
    context_dim=st.integers(1, 9),
    ff_mult=st.sampled_from([1, 2, 4]),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    layout=st.sampled_from(["modelscope", "diffusers", "bundled"]),
    data=st.data(),
)
def test_any_size_comes_back(
    tmp_path_factory, attention, blocks, groups, input_heads, head_dim, context_dim, ff_mult, channels, layout, data
):
    config = UNet3DConfig(
        in_channels=channels[0],
        out_channels=channels[1],
        widths=tuple(data.draw(st.sampled_from([4, 8, 12])) for _ in attention),
        attention=tuple(attention),
        blocks_per_level=blocks,
        context_dim=context_dim,
        head_dim=head_dim,
        input_heads=input_heads,
        norm_groups=groups,
        ff_mult=ff_mult,
        fps_embedding=layout == "modelscope" and data.draw(st.booleans()),
    )
    unet = randomise(UNet3D(config))
    read = unet_state_dict(save_unet(unet, tmp_path_factory.mktemp("any") / "unet.safetensors", layout))
    assert read.config == config and read.layout == layout
    same(read.state_dict, unet.state_dict())


def test_header_length_that_looks_like_a_pickle(tmp_path):
    """A .safetensors file begins with the length of its header: in one of 32 files as a pickle begins."""
    weights = LAYOUTS["modelscope"].key_map(TINY).to_file(UNet3D(TINY).state_dict())
    path, settings = tmp_path / "unet.safetensors", json.dumps({"unet": {"norm_groups": 4}})
    for padding in range(0, 256, 8):
        save_file(weights, path, {"config": settings, "padding": "x" * padding})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    assert unet_state_dict(path).config == TINY


def test_what_only_our_layout_can_say(tmp_path):
    config = replace(TINY, text_queries=3, scale_shift=True, frame_position=True, coordinates=True)
    unet = randomise(UNet3D(config))
    read = unet_state_dict(save_unet(unet, tmp_path / "ours.safetensors", "bundled"))
    assert read.config == config
    same(read.state_dict, unet.state_dict())
    for layout in ("modelscope", "diffusers"):
        with pytest.raises(CheckpointError, match=f"the {layout} layout cannot hold this network: .*text_pool"):
            save_unet(unet, tmp_path / "theirs.safetensors", layout)
    for field in ({"scale_shift": True}, {"coordinates": True}):
        lost = "in_channels, coordinates" if "coordinates" in field else "scale_shift"
        with pytest.raises(CheckpointError, match=f"{lost} would be lost"):
            save_unet(randomise(UNet3D(replace(TINY, **field))), tmp_path / "theirs.safetensors")
    with pytest.raises(CheckpointError, match="no place for fps_embedding"):
        save_unet(UNet3D(replace(TINY, fps_embedding=True)), tmp_path / "theirs.safetensors", "diffusers")
    assert [file.name for file in tmp_path.iterdir()] == ["ours.safetensors"]


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("asked", [None, torch.float32, torch.bfloat16])
def test_dtypes(references, stored, asked, tmp_path):
    weights = {key: tensor.to(stored) for key, tensor in references["modelscope"].state_dict().items()}
    save_file(weights, tmp_path / "unet.safetensors")
    unet = load_unet(tmp_path / "unet.safetensors", dtype=asked)
    assert {parameter.dtype for parameter in unet.parameters()} == {asked or stored}
    assert not unet.training and not any(parameter.requires_grad for parameter in unet.parameters())
    expected = weights["input_blocks.0.0.weight"].to(asked or stored)
    assert torch.equal(unet.state_dict()["input_blocks.0.0.weight"], expected)


def test_mixed_and_eight_bit_files_become_one_dtype(references, tmp_path):
    weights = references["modelscope"].state_dict()
    mixed = {key: tensor.half() if tensor.ndim > 1 else tensor for key, tensor in weights.items()}
    save_file(mixed, tmp_path / "mixed.safetensors")
    assert {p.dtype for p in load_unet(tmp_path / "mixed.safetensors").parameters()} == {torch.float16}
    eight = {key: tensor.to(torch.float8_e4m3fn) for key, tensor in weights.items()}
    save_file(eight, tmp_path / "eight.safetensors")
    assert {p.dtype for p in load_unet(tmp_path / "eight.safetensors").parameters()} == {torch.float32}


def test_saving_in_another_dtype(tmp_path):
    unet = randomise(UNet3D(TINY))
    saved = load_file(save_unet(unet, tmp_path / "half.safetensors", dtype=torch.float16))
    assert {tensor.dtype for tensor in saved.values()} == {torch.float16}
    assert torch.equal(saved["out.2.weight"], unet.state_dict()["out.2.weight"].half())


def test_injected_operations_build_the_network(tmp_path):
    class Linear(torch.nn.Linear):
        pass

    class Operations:
        Conv2d, GroupNorm, LayerNorm = torch.nn.Conv2d, torch.nn.GroupNorm, torch.nn.LayerNorm

    Operations.Linear = Linear
    path = save_unet(randomise(UNet3D(TINY)), tmp_path / "unet.safetensors")
    assert isinstance(load_unet(path, operations=Operations).time_embed[0], Linear)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize("name", ["unet.safetensors", "unet.pth"])
def test_weights_are_mapped_not_copied(tmp_path, name):
    def anonymous() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

    unet = UNet3D(UNet3DConfig(widths=(64, 256), attention=(False, False), blocks_per_level=1, head_dim=8))
    weights = LAYOUTS["modelscope"].key_map(unet.config).to_file(unet.state_dict())
    save_file(weights, tmp_path / name) if name.endswith("tensors") else torch.save(weights, tmp_path / name)
    size = (tmp_path / name).stat().st_size
    assert size > 40e6
    before = anonymous()
    loaded = load_unet(tmp_path / name)
    assert anonymous() - before < 0.25 * size
    same(loaded.state_dict(), unet.state_dict())


def test_loading_leaves_the_random_state_alone(tmp_path):
    path = save_unet(randomise(UNet3D(TINY)), tmp_path / "unet.safetensors")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_unet(path)
    assert torch.equal(torch.rand(3), expected)


VOCABULARY = ("red", "circle", "moves", "left")
SETTINGS = {
    "vocabulary": VOCABULARY,
    "prompt_length": 12,
    "prediction": "v",
    "zero_terminal_snr": True,
    "latent_scale": 0.18215,
    "native": {"width": 64, "height": 64, "num_frames": 16, "fps": 8},
}


@pytest.fixture
def networks():
    unet = UNet3D(replace(TINY, text_queries=2, scale_shift=True, frame_position=True, coordinates=True))
    text_encoder = TextEncoder(TextEncoderConfig(vocabulary_size=8, length=12, width=12, layers=1, heads=2))
    autoencoder = Autoencoder(AutoencoderConfig(widths=(4, 8, 8)))
    return [randomise(network, seed) for seed, network in enumerate((unet, text_encoder, autoencoder))]


@torch.no_grad()
def test_bundled_file(networks, tmp_path):
    path = save_bundled(tmp_path / "model.safetensors", *networks, SETTINGS)
    with safe_open(path, framework="pt") as file:
        config, keys = json.loads(file.metadata()["config"]), set(file.keys())
        assert {file.get_tensor(key).dtype for key in keys} == {torch.float16}
    assert config["vocabulary"] == list(VOCABULARY) and config["native"]["fps"] == 8
    assert config["unet"] == json.loads(json.dumps(asdict(networks[0].config)))
    prefixes = ("model.diffusion_model.", "cond_stage_model.", "first_stage_model.")
    expected = {prefix + key for prefix, part in zip(prefixes, networks, strict=True) for key in part.state_dict()}
    assert keys == expected

    bundled = load_bundled(path=path)
    unet, text_encoder, autoencoder = (network.half().float() for network in networks)  # as stored
    same(bundled.model.denoiser.network.state_dict(), unet.state_dict())
    assert not any(parameter.requires_grad for parameter in bundled.autoencoder.parameters())
    assert bundled.model.denoiser.prediction == "v" and bundled.model.latent_scale == 0.18215
    assert bundled.model.denoiser.noise_schedule.sigma_max > 1000
    assert (bundled.model.native.num_frames, bundled.model.native.fps) == (16, 8)

    cond, pooled = bundled.prompt_encoder.encode("a red circle")
    ids = torch.tensor([[1, 3, 4, 5, 2] + [0] * 7])  # start, unknown, red, circle, end, padding
    assert torch.equal(cond, text_encoder(ids)[0]) and torch.equal(pooled, text_encoder(ids)[1])
    x = torch.randn(1, 4, 3, 4, 4)
    sigma = torch.tensor(2.0)
    v = unet(x / 5**0.5, bundled.model.denoiser.noise_schedule.timestep(sigma)[None], cond)
    assert torch.allclose(bundled.model.denoiser(x, sigma, cond), x / 5 - v * 2 / 5**0.5, atol=1e-5)
    latents = torch.randn(2, 4, 2, 2)
    assert torch.equal(bundled.autoencoder.decode(latents), autoencoder.decode(latents))

    half = load_bundled(torch.float16, path)
    assert {parameter.dtype for parameter in half.model.denoiser.network.parameters()} == {torch.float16}
    read = unet_state_dict(path)
    assert read.layout == "bundled" and read.config == unet.config
    same(read.state_dict, unet.half().state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction": "x0"}, "prediction is 'x0'"),
        ({"vocabulary": VOCABULARY[:3]}, r"the tokenizer's ids \(7\) and text_encoder.vocabulary_size \(8\)"),
        ({"vocabulary": ("Red", *VOCABULARY[1:])}, "'Red' is not a word"),
        ({"prompt_length": 13}, r"prompt_length \(13\) is above"),
        ({"prompt_length": "12"}, "prompt_length is '12', and should be of type int"),
        ({"latent_scale": 0}, "latent_scale and native.fps should be above 0"),
        ({"native": {"width": 64}}, "native has no entry 'height'"),
        ({"colour": 1}, "config has an unknown entry 'colour'"),
    ],
)
def test_bundled_settings_that_do_not_fit_are_refused_before_anything_is_written(networks, change, message, tmp_path):
    with pytest.raises(Exception, match=message):
        save_bundled(tmp_path / "model.safetensors", *networks, {**SETTINGS, **change})
    assert not any(tmp_path.iterdir())


def test_key_map_reads_both_ways():
    keys = KeyMap(
        [("a.{}.tpyo.*", "b.{}.typo.*"), ("buffer", None), ("proj_{}.weight", "p.{}.w"), ("same.*", "same.*")],
        one_axis_more=["b.{}.typo.weight"],
    )
    names, unknown = keys.ours(["a.0.tpyo.x.y", "buffer", "proj_in.weight", "same.1", "a.0.1.tpyo.x", "other"])
    assert names == {"b.0.typo.x.y": "a.0.tpyo.x.y", "p.in.w": "proj_in.weight", "same.1": "same.1"}
    assert unknown == ["a.0.1.tpyo.x", "other"]
    assert all(keys.theirs(ours) == theirs for ours, theirs in names.items())
    assert keys.file_shape("b.7.typo.weight", (2, 3)) == (2, 3, 1)
    assert keys.file_shape("b.7.typo.bias", (2,)) == (2,)
    with pytest.raises(CheckpointError, match="two keys for one weight: same.1 and same.1"):
        keys.ours(["same.1", "same.1"])
