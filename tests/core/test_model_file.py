"""A model file as a host reads it, and as a program that keeps nothing but a state dict writes it back."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from t2v_core.checkpoints import BUNDLED_PATH, ModelSettings, load_bundled, read_model, save_unet
from t2v_core.diffusion import NativeSize
from t2v_core.errors import CheckpointError
from t2v_core.models.unet3d import UNet3D, UNet3DConfig

PREFIX = "model.diffusion_model."
TINY = UNet3DConfig(
    widths=(8, 16), attention=(True, False), blocks_per_level=1, context_dim=6, head_dim=4, norm_groups=4
)


@pytest.fixture
def modelscope_file(tmp_path):
    torch.manual_seed(0)
    return save_unet(UNet3D(TINY), tmp_path / "modelscope.safetensors", "modelscope")


def host_saves(file, path, **extra):
    """What ComfyUI's ModelSave writes: prefixed weights, no metadata of ours."""
    weights = {PREFIX + key: tensor.contiguous() for key, tensor in file.to_file(file.unet.state_dict).items()}
    save_file(weights | file.settings_entry() | extra, path, {"prompt": "{}"})
    return path


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_unet_alone_is_of_modelscopes_family(modelscope_file):
    file = read_model(modelscope_file)
    assert file.settings == ModelSettings("eps", False, 0.18215, NativeSize(256, 256, 16, 8.0))
    assert file.prompt_encoder is None and file.autoencoder is None and file.unet.layout == "modelscope"
    assert file.noise_schedule().sigma_max == pytest.approx(14.6146, abs=1e-4)  # Stable Diffusion's
    model = file.video_model(torch.float16)
    assert model.latent_scale == 0.18215 and model.denoiser.prediction == "eps"
    assert {tensor.dtype for tensor in model.denoiser.network.state_dict().values()} == {torch.float16}


def test_saved_by_a_host_it_has_the_files_own_names_and_shapes(modelscope_file, tmp_path):
    file = read_model(modelscope_file)
    path = host_saves(file, tmp_path / "saved.safetensors")
    original, written = load_file(modelscope_file), load_file(path)
    same({key.removeprefix(PREFIX): tensor for key, tensor in written.items() if "t2v_config" not in key}, original)
    again = read_model(path)
    assert again.unet.config == TINY and again.settings == file.settings  # 4 norm groups stand in no shape
    same(again.unet.state_dict, file.unet.state_dict)


def test_saved_without_anything_unusual_there_is_nothing_beside_the_weights(tmp_path):
    config = UNet3DConfig(widths=(32, 64), attention=(True, False), blocks_per_level=1, context_dim=6, head_dim=4)
    file = read_model(save_unet(UNet3D(config), tmp_path / "plain.safetensors", "modelscope"))
    assert file.settings_entry() == {}


def test_the_bundled_model_saved_by_a_host_is_itself_again(tmp_path):
    file = read_model(BUNDLED_PATH)
    path = host_saves(file, tmp_path / "saved.safetensors", v_pred=torch.tensor([]))
    again = read_model(path)
    assert again.settings == file.settings and again.settings.prediction == "v" and again.settings.latent_rgb
    same(again.unet.state_dict, file.unet.state_dict)
    assert again.prompt_encoder is None and again.autoencoder is None

    others = {key: tensor for key, tensor in load_file(BUNDLED_PATH).items() if not key.startswith(PREFIX)}
    whole = load_bundled(path=host_saves(file, tmp_path / "whole.safetensors", **others))
    expected = load_bundled()
    assert torch.equal(whole.prompt_encoder.encode("a cat")[0], expected.prompt_encoder.encode("a cat")[0])
    same(whole.autoencoder.state_dict(), expected.autoencoder.state_dict())


def test_changed_weights_are_what_is_saved(modelscope_file):
    file = read_model(modelscope_file)
    changed = {key: tensor + 1 for key, tensor in file.unet.state_dict.items()}
    saved = file.to_file(changed)
    assert torch.equal(saved["out.2.bias"], file.unet.state_dict["out.2.bias"] + 1)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (torch.tensor(list(b"{")), None),  # int64: another program's
        (torch.zeros(2, 2, dtype=torch.uint8), None),
        (torch.tensor(list(b"no json"), dtype=torch.uint8), None),
        (torch.tensor(list(b"\xff\xfe"), dtype=torch.uint8), None),
        (torch.tensor(list(b'{"prediction": 3}'), dtype=torch.uint8), "prediction is 3, and should be of type str"),
        (torch.tensor(list(b'{"native": {"fps": 1}}'), dtype=torch.uint8), "native has no entry 'width'"),
        (torch.tensor(list(b'{"unet": {"norm_groups": 5}}'), dtype=torch.uint8), "do not divide into 5 norm groups"),
    ],
)
def test_a_foreign_or_hostile_settings_tensor(tmp_path, entry, message):
    config = UNet3DConfig(widths=(32, 64), attention=(True, False), blocks_per_level=1, context_dim=6, head_dim=4)
    tensors = load_file(save_unet(UNet3D(config), tmp_path / "plain.safetensors", "modelscope"))
    save_file({**tensors, "t2v_config": entry}, tmp_path / "file.safetensors")
    if message is None:
        assert read_model(tmp_path / "file.safetensors").settings == ModelSettings()
    else:
        with pytest.raises(CheckpointError, match=message):
            read_model(tmp_path / "file.safetensors")


def test_metadata_goes_before_a_tensor(tmp_path):
    config = UNet3DConfig(widths=(32, 64), attention=(True, False), blocks_per_level=1, context_dim=6, head_dim=4)
    tensors = load_file(save_unet(UNet3D(config), tmp_path / "plain.safetensors", "modelscope"))
    entry = torch.tensor(list(b'{"prediction": "v"}'), dtype=torch.uint8)
    save_file({**tensors, "t2v_config": entry}, tmp_path / "a.safetensors", {"config": json.dumps({})})
    save_file({**tensors, "t2v_config": entry}, tmp_path / "b.safetensors")
    assert read_model(tmp_path / "a.safetensors").settings.prediction == "eps"
    assert read_model(tmp_path / "b.safetensors").settings.prediction == "v"


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"prediction": "x0"}, "prediction is 'x0'; known are eps, v"),
        ({"latent_scale": 0.0}, "latent_scale and native.fps should be above 0"),
        ({"latent_scale": 10**400}, "latent_scale is 1000.*should be of type float"),
        ({"native": {"width": 8, "height": 8, "num_frames": 1, "fps": -1}}, "native.fps should be above 0"),
        ({"latent_rgb": [[1.0, 2.0]]}, "latent_rgb should have 5 rows of 3 numbers"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, stored, message):
    config = UNet3DConfig(widths=(32, 64), attention=(True, False), blocks_per_level=1, context_dim=6, head_dim=4)
    tensors = load_file(save_unet(UNet3D(config), tmp_path / "plain.safetensors", "modelscope"))
    save_file(tensors, tmp_path / "file.safetensors", {"config": json.dumps(stored)})
    with pytest.raises(CheckpointError, match=message):
        read_model(tmp_path / "file.safetensors")


@pytest.mark.parametrize("part", [("text_encoder", "layers"), ("autoencoder", "deep_blocks")])
def test_a_small_file_cannot_ask_for_a_network_without_end(tmp_path, part):
    with safe_open(str(BUNDLED_PATH), "pt") as file:
        config = json.loads(file.metadata()["config"])
    config[part[0]][part[1]] = 65536
    save_file(load_file(BUNDLED_PATH), tmp_path / "file.safetensors", {"config": json.dumps(config)})
    with pytest.raises(CheckpointError, match=f"{part[0]}.{part[1]} is 65536, more than there are weights"):
        read_model(tmp_path / "file.safetensors")
