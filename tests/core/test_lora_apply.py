"""A LoRA in a VideoModel and a text encoder: what is new, what is shared, and how it goes away again."""

import copy
import math

import pytest
import torch
from core import lora_files as write_as
from core.references import clip, diffusers_unet, relative_error, write
from safetensors.torch import save_file
from torch import nn

from t2v_core.checkpoints import load_bundled, load_unet
from t2v_core.diffusion import Denoiser, NativeSize, NoiseSchedule, VideoModel
from t2v_core.errors import CheckpointError, T2VError
from t2v_core.lora import LowRank, changed, encoder_with_lora, place_lora, read_lora, with_lora
from t2v_core.text import PromptEncoder

LAYERS, WIDTH = 2, 8


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    network = diffusers_unet()
    path = write(network, tmp_path_factory.mktemp("unet") / "unet.safetensors")
    return network, load_unet(path, norm_groups=4)


@pytest.fixture
def lora(networks, tmp_path):
    network = networks[0]
    names = [name for name in write_as.layers(network) if "mid_block" in name]
    return write_as.train(network, names, 2), tmp_path / "lora.safetensors"


def bits(network: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(network.state_dict())


def video_model(unet) -> VideoModel:
    return VideoModel(Denoiser(unet, NoiseSchedule.scaled_linear(), "eps"), 0.18215, NativeSize(64, 64, 3, 8.0))


@torch.no_grad()
def test_a_video_model_with_a_lora(networks, lora):
    network, ours = networks
    trained, path = lora
    placement = place_lora(read_lora(write_as.kohya(trained, path, 2.0)), ours, None)
    model, before = video_model(ours), bits(ours)
    changed_model = with_lora(model, placement.unet, 0.8)

    x, _, context = clip(1, 3, 6, 4, 12)
    sigma = torch.tensor(2.0)
    expected = copy.copy(model.denoiser)
    merged = trained.merged(0.8)
    expected.network = lambda x, t, cond: merged(x, t, cond).sample
    assert relative_error(changed_model.denoiser(x, sigma, context), expected(x, sigma, context)) <= 1e-5

    # The model that came in is as it was, so that leaving the LoRA out again is exact.
    assert model.denoiser.network is ours and all(torch.equal(before[key], each) for key, each in bits(ours).items())
    # Only what changed takes memory again.
    theirs = changed_model.denoiser.network.state_dict()
    again = {key for key, each in ours.state_dict().items() if each.data_ptr() != theirs[key].data_ptr()}
    assert again == set(placement.unet) and len(theirs) == len(before)
    assert changed_model.denoiser.network.input_blocks is ours.input_blocks
    # And nothing of it reaches for a gradient.
    assert not any(parameter.requires_grad for parameter in changed_model.denoiser.network.parameters())


def test_strength_0_is_the_very_same_model(networks, lora):
    placement = place_lora(read_lora(write_as.kohya(*lora, 2.0)), networks[1], None)
    model = video_model(networks[1])
    assert with_lora(model, placement.unet, 0.0) is model


@pytest.mark.parametrize("strength", [math.nan, math.inf])
def test_a_strength_that_is_no_number(networks, strength):
    with pytest.raises(T2VError, match="strength is (nan|inf)"):
        with_lora(video_model(networks[1]), {}, strength)


@torch.no_grad()
def test_several_loras_add_up(networks, tmp_path):
    network, ours = networks
    model, names = video_model(ours), [name for name in write_as.layers(network) if "mid_block" in name]
    merged = network
    for seed, strength in ((1, 0.7), (2, -1.2)):
        trained = write_as.train(network, names, 2, seed=seed)
        placement = place_lora(read_lora(write_as.kohya(trained, tmp_path / "lora.safetensors", 2.0)), ours, None)
        model = with_lora(model, placement.unet, strength)
        trained.network = merged
        merged = trained.merged(strength)
    inputs = clip(1, 3, 6, 4, 12)
    assert relative_error(model.denoiser.network(*inputs), merged(*inputs).sample) <= 1e-5


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0), (torch.float16, 1e-6), (torch.float64, 1e-13)])
@torch.no_grad()
def test_weights_keep_their_dtype_and_are_rounded_once(dtype, tolerance):
    torch.manual_seed(0)
    network = nn.Linear(16, 8).to(dtype)
    change = LowRank(torch.randn(8, 2, dtype=torch.float16), torch.randn(2, 16, dtype=torch.float16), 0.5)
    found = changed(network, {"weight": change}, 0.3).weight
    exact = network.weight.double() + 0.15 * change.up.double() @ change.down.double()
    # Half a unit in the last place, and a little for float32 having been in between.
    assert found.dtype == dtype
    assert float(((found.double() - exact) / exact).abs().max()) <= 0.505 * torch.finfo(dtype).eps + tolerance


def nest(shapes: dict[str, tuple[int, ...]]) -> nn.Module:
    """A module whose state dict has these keys."""
    root = nn.Module()
    for key, shape in shapes.items():
        *path, name = key.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(name, nn.Parameter(torch.zeros(shape), requires_grad=False))
    return root


def text_encoder(prefix: str) -> nn.Module:
    """Names and shapes of transformers' CLIPTextModel, below a prefix."""
    shapes = {f"{prefix}embeddings.token_embedding.weight": (11, WIDTH)}
    for layer in range(LAYERS):
        start = f"{prefix}encoder.layers.{layer}"
        shapes |= {f"{start}.self_attn.{each}_proj.weight": (WIDTH, WIDTH) for each in ("k", "v", "q", "out")}
        shapes |= {f"{start}.mlp.fc1.weight": (4 * WIDTH, WIDTH), f"{start}.mlp.fc2.weight": (WIDTH, 4 * WIDTH)}
    return nest(shapes)


# transformers' own before and from version 5, and ComfyUI's CLIP of Stable Diffusion 2, which ModelScope's UNet reads.
PREFIXES = ("text_model.", "", "clip_h.transformer.text_model.")


def text_file(form: str, path) -> dict[str, torch.Tensor]:
    """A file in this form for three modules; what it adds, by the module's name from `encoder.` on."""
    generator, file, added = torch.Generator().manual_seed(0), {}, {}
    for index, name in enumerate(("self_attn.q_proj", "mlp.fc1", "mlp.fc2")):
        full = f"encoder.layers.1.{name}"
        out, into = {"self_attn.q_proj": (8, 8), "mlp.fc1": (32, 8), "mlp.fc2": (8, 32)}[name]
        up, down = torch.randn(out, 2, generator=generator), torch.randn(2, into, generator=generator)
        added[full] = up @ down
        flat, open_clip = full.replace(".", "_"), ("attn.q_proj", "mlp.c_fc", "mlp.c_proj")[index]
        a, b = {
            "kohya": (f"lora_te_text_model_{flat}.lora_down.weight", f"lora_te_text_model_{flat}.lora_up.weight"),
            "peft": (f"text_encoder.text_model.{full}.lora_A.weight", f"text_encoder.text_model.{full}.lora_B.weight"),
            "peft 5": (f"text_encoder.{full}.lora_A.weight", f"text_encoder.{full}.lora_B.weight"),
            "peft folder": (f"base_model.model.{full}.lora_A.weight", f"base_model.model.{full}.lora_B.weight"),
            "diffusers": (f"text_encoder.text_model.{full}.lora_linear_layer.down.weight",
                          f"text_encoder.text_model.{full}.lora_linear_layer.up.weight"),
            "stable_lora": (f"text_model.{full}.lora_A", f"text_model.{full}.lora_B"),
            "web UI": (f"resblocks.1.{open_clip}.lora_A", f"resblocks.1.{open_clip}.lora_B"),
        }[form]  # fmt: skip
        file |= {a: down, b: up}
    save_file(file, path)
    return added


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("form", ["kohya", "peft", "peft 5", "peft folder", "diffusers", "stable_lora", "web UI"])
def test_the_text_encoder_s_part(networks, form, prefix, tmp_path):
    path = tmp_path / "lora.safetensors"
    added = text_file(form, path)
    placement = place_lora(read_lora(path), networks[1], text_encoder(prefix))
    assert not placement.left and not placement.unet and not placement.waiting
    found = changed(text_encoder(prefix), placement.text_encoder, 1.0).state_dict()
    assert {key for key, each in found.items() if each.any()} == {f"{prefix}{name}.weight" for name in added}
    for name, delta in added.items():
        assert relative_error(found[f"{prefix}{name}.weight"], delta) <= 1e-6


@pytest.mark.parametrize("whole", [True, False])
def test_lists_of_a_text_encoder(networks, whole, tmp_path):
    """transformers registers keys, values, queries, output; the trainer takes whole layers, or their attention."""
    names = ("k_proj", "v_proj", "q_proj", "out_proj", *(("fc1", "fc2") if whole else ()))
    tensors = []
    for number in range(LAYERS * len(names)):
        name = names[number % len(names)]
        out, into = {"fc1": (32, 8), "fc2": (8, 32)}.get(name, (8, 8))
        tensors += [torch.full((out, 1), float(number + 1)), torch.ones(1, into)]
    torch.save(tensors, tmp_path / "7500_text_encoder.pt")
    placement = place_lora(read_lora(tmp_path / "7500_text_encoder.pt"), networks[1], text_encoder("text_model."))
    found = changed(text_encoder("text_model."), placement.text_encoder, 1.0).state_dict()
    second = {key.split(".")[-2]: each.mean().item() for key, each in found.items() if "layers.1" in key}
    expected = {name: float(len(names) + index + 1) for index, name in enumerate(names)}
    assert second == {"fc1": 0.0, "fc2": 0.0} | expected


def test_an_embedding_of_stable_lora(networks, tmp_path):
    """loralib's Embedding: A is [r, words], B [dim, r], and the table changes by (B A) transposed."""
    up, down = torch.randn(WIDTH, 2), torch.randn(2, 11)
    name = "text_model.embeddings.token_embedding"
    save_file({f"{name}.lora_A": down, f"{name}.lora_B": up}, tmp_path / "lora.safetensors")
    placement = place_lora(read_lora(tmp_path / "lora.safetensors"), networks[1], text_encoder("text_model."))
    (change,) = placement.text_encoder.values()
    assert relative_error(change.delta(torch.zeros(11, WIDTH)), (up @ down).T) <= 1e-6


def test_a_text_encoder_of_another_width(networks, tmp_path):
    text_file("kohya", tmp_path / "lora.safetensors")
    other = nest({"text_model.encoder.layers.1.self_attn.q_proj.weight": (6, 6)})
    with pytest.raises(
        CheckpointError, match=r"q_proj.lora_down.weight: \[8, 2\] by \[2, 8\] is no change of.*\[6, 6\]"
    ):
        place_lora(read_lora(tmp_path / "lora.safetensors"), networks[1], other)


def test_without_a_text_encoder_its_part_waits(networks, tmp_path):
    text_file("kohya", tmp_path / "lora.safetensors")
    placement = place_lora(read_lora(tmp_path / "lora.safetensors"), networks[1], None)
    assert (placement.waiting, placement.left) == (3, ())
    assert "3 weights, which are not applied: no clip is connected" in placement.summary()


@torch.no_grad()
def test_the_bundled_model_and_its_text_encoder(tmp_path):
    bundled, file = load_bundled(), {}
    parts = {
        "lora_unet_middle_block_0_temporal_conv_conv1_2": (
            bundled.model.denoiser.network,
            "middle_block.0.temporal_conv.conv1.2",
        ),
        "lora_te_layers_0_qkv": (bundled.prompt_encoder.network, "layers.0.qkv"),
    }
    for key, (network, name) in parts.items():
        weight = network.get_submodule(name).weight
        axes = [1] * (weight.ndim - 1) if weight.ndim > 2 else []
        file[f"{key}.lora_up.weight"] = torch.randn(len(weight), 2, *axes) * weight.std()
        file[f"{key}.lora_down.weight"] = torch.randn(2, *weight.shape[1:], *axes[:1])
    save_file(file, tmp_path / "lora.safetensors")
    placement = place_lora(
        read_lora(tmp_path / "lora.safetensors"), bundled.model.denoiser.network, bundled.prompt_encoder.network
    )
    assert (len(placement.unet), len(placement.text_encoder), placement.temporal) == (1, 1, 1)

    encoder = bundled.prompt_encoder
    assert encoder_with_lora(encoder, placement.text_encoder, 0.0) is encoder
    twin, before = encoder_with_lora(encoder, placement.text_encoder, 0.5), encoder.encode("a red circle")[0]
    merged = PromptEncoder(copy.deepcopy(encoder.network), encoder.tokenizer, encoder.length)
    weight = merged.network.layers[0].qkv.weight
    up, down = file["lora_te_layers_0_qkv.lora_up.weight"], file["lora_te_layers_0_qkv.lora_down.weight"]
    weight += (0.5 * up.double() @ down.double()).to(weight.dtype)
    expected = merged.encode("a red circle")[0]
    assert relative_error(twin.encode("a red circle")[0], expected) <= 1e-5 < relative_error(before, expected)
    assert torch.equal(encoder.encode("a red circle")[0], before)
