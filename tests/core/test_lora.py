"""A LoRA of each format in our UNet gives what diffusers and modelscope give with the weights merged."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from core import lora_files as write_as
from core.references import clip, diffusers_unet, modelscope_unet, relative_error, write
from safetensors.torch import load_file, save_file

from t2v_core.checkpoints import load_unet
from t2v_core.errors import CheckpointError
from t2v_core.lora import changed, place_lora, read_lora

RANK, ALPHA = 4, 6.0
SCALE = ALPHA / RANK
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@pytest.fixture(scope="module")
def diffusers(tmp_path_factory):
    """diffusers' UNet and ours with its weights."""
    network = diffusers_unet(widths=(8, 16), attention=(True, False))
    path = write(network, tmp_path_factory.mktemp("diffusers") / "unet.safetensors")
    return network, load_unet(path, norm_groups=4)


@pytest.fixture(scope="module")
def modelscope(tmp_path_factory):
    network = modelscope_unet((1, 1), (True, False), 1)
    return network, load_unet(write(network, tmp_path_factory.mktemp("modelscope") / "unet.safetensors"))


def every(network) -> list[str]:
    return list(write_as.layers(network))


def attention(network) -> list[str]:
    return [name for name in every(network) if name.endswith(ATTENTION)]


def blocks(network) -> list[str]:
    """What is inside the blocks: the web UI's trainer leaves diffusers' names on the few layers outside them."""
    return [name for name in every(network) if "block" in name]


Files = dict[str, tuple[str, Callable, Callable]]
# Format: the family read_lora names, the layers that such files change, the training and the writing of one.
DIFFUSERS_FILES = {
    "kohya, diffusers' names": ("kohya", every, SCALE, lambda t, path: write_as.kohya(t, path, ALPHA)),
    "peft": ("peft", every, SCALE, lambda t, path: write_as.peft(t, path, ALPHA)),
    "peft's folder": ("peft", every, SCALE, lambda t, path: write_as.peft_folder(t, path, ALPHA)),
    "processors": ("diffusers", attention, SCALE, lambda t, path: write_as.processors(t, path, ALPHA)),
    "lora layers": ("diffusers", every, SCALE, lambda t, path: write_as.lora_layers(t, path, ALPHA)),
    "list": ("cloneofsimo", every, 1.0, write_as.pickled_list),
    "numbered list": ("cloneofsimo", every, 1.0, lambda t, p: write_as.numbered_list(t, p, ["UNet3DConditionModel"])),
}


def check_equal(ours, theirs_of: Callable, path: Path, family: str, count: int, forward: Callable) -> None:
    """At strength 1, 0.5 and -0.5, and nothing left over."""
    lora = read_lora(path)
    placement = place_lora(lora, ours, None)
    assert (lora.family, placement.left, len(placement.unet)) == (family, (), count)
    plain = forward(ours)
    for strength in (1.0, 0.5, -0.5):
        expected = forward(theirs_of(strength))
        assert relative_error(forward(changed(ours, placement.unet, strength)), expected) <= 1e-5, strength
        assert relative_error(plain, expected) > 1e-2, "the LoRA changes nothing to speak of"


def diffusers_forward(network):
    out = network(*clip(2, 3, 6, 4, 12))
    return getattr(out, "sample", out)


def modelscope_forward(network):
    return network(*clip(1, 3, 4, 4, 1024))


@pytest.mark.parametrize("name", DIFFUSERS_FILES)
@torch.no_grad()
def test_files_of_diffusers_networks(diffusers, name, tmp_path):
    network, ours = diffusers
    family, names, scale, write_file = DIFFUSERS_FILES[name]
    trained = write_as.train(network, names(network), RANK, scale)
    path = write_file(trained, tmp_path / "lora.safetensors")
    check_equal(ours, trained.merged, path, family, len(trained.pairs), diffusers_forward)


@torch.no_grad()
def test_stable_lora_as_it_is_trained(diffusers, tmp_path):
    network, ours = diffusers
    trained = write_as.train_stable(network, every(network), RANK)
    path = write_as.stable(trained, tmp_path / "lora.safetensors")
    check_equal(ours, trained.merged, path, "stable_lora", len(trained.pairs), diffusers_forward)


@torch.no_grad()
def test_stable_lora_for_the_web_ui(modelscope, tmp_path):
    """Original names, but the trainer's converter leaves diffusers' on the few layers outside the blocks."""
    network, ours = modelscope
    outside = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "out.2": "conv_out",
    }
    trained = write_as.in_half(write_as.train_stable(network, every(network), RANK))
    path = write_as.stable_webui(trained, tmp_path / "lora.safetensors", lambda name: outside.get(name, name))
    assert "conv_in.lora_A" in load_file(path) and "input_blocks.0.1.proj_in.lora_B" in load_file(path)
    check_equal(ours, trained.merged, path, "stable_lora", len(trained.pairs), modelscope_forward)


@torch.no_grad()
def test_kohya_with_original_names(modelscope, tmp_path):
    """Conv1d around the temporal attention, Conv3d over frames: two and one axes more than our weights have."""
    network, ours = modelscope
    trained = write_as.train(network, every(network), RANK, SCALE)
    path = write_as.kohya(trained, tmp_path / "lora.safetensors", ALPHA)
    shapes = {tuple(tensor.shape) for tensor in load_file(path).values()}
    assert (RANK, 64, 3, 1, 1) in shapes and (64, RANK, 1) in shapes
    check_equal(ours, trained.merged, path, "kohya", len(trained.pairs), modelscope_forward)


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model.", "unet.", "base_model.model."])
def test_prefixes_that_programs_put_before_names(diffusers, prefix, tmp_path):
    ours = diffusers[1]
    pair = {"lora_up.weight": torch.ones(16, 1), "lora_down.weight": torch.ones(1, 16)}
    name = "middle_block.1.transformer_blocks.0.attn1.to_q"
    save_file({f"{prefix}{name}.{end}": tensor for end, tensor in pair.items()}, tmp_path / "lora.safetensors")
    assert list(place_lora(read_lora(tmp_path / "lora.safetensors"), ours, None).unet) == [f"{name}.weight"]


@pytest.mark.parametrize("classes", [{"Attention"}, {"Attention", "GEGLU"}, {"Attention", "GEGLU", "ResnetBlock2D"},
                                     {"TransformerTemporalModel"}, {"TemporalConvLayer"}])  # fmt: skip
@pytest.mark.parametrize("told", [True, False])
@torch.no_grad()
def test_lists_of_chosen_layers(diffusers, classes, told, tmp_path):
    """Whether the file tells which classes were trained, or the shapes have to."""
    network, ours = diffusers
    trained = write_as.train(network, write_as.walk(network, classes), RANK)
    if told:
        path = write_as.numbered_list(trained, tmp_path / "lora.safetensors", _listed(classes))
    else:
        path = write_as.pickled_list(trained, tmp_path / "lora.pt")
    check_equal(ours, trained.merged, path, "cloneofsimo", len(trained.pairs), diffusers_forward)


def _listed(classes: set[str]) -> list[str]:
    """lora_diffusion's own lists name the attention class of either version of diffusers."""
    return sorted(classes | {"CrossAttention"} if "Attention" in classes else classes)


def test_a_list_in_the_order_of_older_diffusers(diffusers, tmp_path):
    """Until 0.16 a transformer block registered its feed-forward before its second attention."""
    network, ours = diffusers

    def older(name: str) -> str:
        return name.replace(".attn2.", ".z.").replace(".ff.", ".y.") if "transformer_blocks" in name else name

    names, start = [], 0
    for index, name in enumerate(every(network)):  # each block's own layers change places, the others stay
        if "transformer_blocks" in name:
            continue
        names += sorted(every(network)[start:index], key=lambda each: older(each).split(".")[-2:] and _rank(each))
        names.append(name)
        start = index + 1
    trained = write_as.train(network, names, RANK)
    placement = place_lora(read_lora(write_as.pickled_list(trained, tmp_path / "lora.pt")), ours, None)
    assert set(placement.unet) == {key for key, weight in ours.state_dict().items() if weight.ndim > 1}
    delta = placement.unet["middle_block.1.transformer_blocks.0.ff.net.2.weight"].delta(torch.zeros(16, 64))
    expected = trained.deltas["mid_block.attentions.0.transformer_blocks.0.ff.net.2"]
    assert relative_error(delta, expected.float()) <= 1e-6


def _rank(name: str) -> int:
    return next(rank for rank, part in enumerate((".attn1.", ".ff.", ".attn2.")) if part in name)


def test_a_kernel_between_the_factors(diffusers, tmp_path):
    """LoCon's third factor: a convolution from rank to rank, held against the three convolutions one after another."""
    ours, generator = diffusers[1], torch.Generator().manual_seed(0)
    down, middle, up = (
        torch.randn(*shape, generator=generator) for shape in ((3, 8, 1, 1), (3, 3, 3, 3), (8, 3, 1, 1))
    )
    key = "lora_unet_down_blocks_0_resnets_0_conv1"
    file = {f"{key}.lora_down.weight": down, f"{key}.lora_mid.weight": middle, f"{key}.lora_up.weight": up}
    save_file(file, tmp_path / "lora.safetensors")
    (change,) = place_lora(read_lora(tmp_path / "lora.safetensors"), ours, None).unet.values()
    x = torch.randn(1, 8, 5, 5, generator=generator)
    expected = torch.conv2d(torch.conv2d(torch.conv2d(x, down), middle, padding=1), up)
    assert relative_error(torch.conv2d(x, change.delta(torch.zeros(8, 8, 3, 3)), padding=1), expected) <= 1e-5


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"unet.lora_alpha": 8}, 8 / RANK),
        ({"unet.lora_alpha": 8, "unet.use_rslora": True}, 8 / RANK**0.5),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": 2}}, 2 / RANK),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"tn1.to_q": 2, "(a*)*b": 1}}, 8 / RANK),
        ({"text_encoder.lora_alpha": 8}, 1.0),
        ({}, 1.0),
    ],
)
def test_peft_s_settings(diffusers, settings, scale, tmp_path):
    """Scaling as in peft's LoraLayer: alpha / r, or alpha / sqrt(r) for rsLoRA; a pattern is the end of a name."""
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    file = {f"{name}.lora_A.weight": torch.ones(RANK, 16), f"{name}.lora_B.weight": torch.ones(16, RANK)}
    save_file(file, tmp_path / "lora.safetensors", {"lora_adapter_metadata": json.dumps(settings)})
    (change,) = place_lora(read_lora(tmp_path / "lora.safetensors"), diffusers[1], None).unet.values()
    assert change.delta(torch.zeros(16, 16))[0, 0] == pytest.approx(RANK * scale)


@pytest.mark.parametrize("key", ["middle_block.1.transformer_blocks.0.attn1.to_q", "text_model.x"])
def test_two_keys_for_one_weight(diffusers, key, tmp_path):
    file = {}
    for name in (key, "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"):
        file |= {f"{name}.lora_up.weight": torch.ones(16, 1), f"{name}.lora_down.weight": torch.ones(1, 16)}
    save_file(file, tmp_path / "lora.safetensors")
    lora = read_lora(tmp_path / "lora.safetensors")
    if key.startswith("text"):
        assert place_lora(lora, diffusers[1], None).waiting == 1
        return
    with pytest.raises(CheckpointError, match="two keys for one weight: mid_block.*and middle_block|middle_block.*mid"):
        place_lora(lora, diffusers[1], None)
