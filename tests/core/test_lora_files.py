"""LoRA files that are none, that are another model's, or that are damaged: each is told in one message."""

import zipfile
from pathlib import Path

import pytest
import torch
from core import lora_files as write_as
from core.references import diffusers_unet, write
from safetensors.torch import save_file

from t2v_core.checkpoints import load_unet, save_unet
from t2v_core.errors import CheckpointError
from t2v_core.lora import place_lora, read_lora
from t2v_core.models.unet3d import UNet3D, UNet3DConfig

NAME = "middle_block.1.transformer_blocks.0.attn1.to_q"
DOWN, UP = f"{NAME}.lora_down.weight", f"{NAME}.lora_up.weight"


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    path = write(diffusers_unet(), tmp_path_factory.mktemp("unet") / "unet.safetensors")
    return load_unet(path, norm_groups=4)


@pytest.fixture(scope="module")
def real_sizes():
    """text-to-video-ms-1.7b, without memory for its weights."""
    return UNet3D(device="meta")


def pair(out: int = 16, into: int = 16, rank: int = 2) -> dict[str, torch.Tensor]:
    return {DOWN: torch.ones(rank, into), UP: torch.ones(out, rank)}


def saved(tmp_path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file(tensors, tmp_path / "lora.safetensors", metadata)
    return tmp_path / "lora.safetensors"


def refusal(path: Path, unet=None) -> str:
    """The one message of reading it and, with a network, placing it; it names the file."""
    with pytest.raises(CheckpointError) as caught:
        lora = read_lora(path)
        place_lora(lora, unet, None)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and message.count(str(path)) == 1
    return message


def test_keys_that_have_no_place_are_named(ours, tmp_path):
    strays = {f"nowhere.{index:02}.lora_down.weight": torch.ones(2, 4) for index in range(12)}
    strays |= {f"nowhere.{index:02}.lora_up.weight": torch.ones(4, 2) for index in range(12)}
    lone = {"mid_block.resnets.0.conv1.lora_up.weight": torch.ones(1, 1), f"{NAME}.diff_b": torch.ones(4)}
    placement = place_lora(read_lora(saved(tmp_path, pair() | strays | lone)), ours, None)
    assert list(placement.unet) == [f"{NAME}.weight"]
    warning = placement.warning()
    assert warning.startswith("14 keys of lora.safetensors have no place in this model: nowhere.00.lora_down.weight, ")
    assert "nowhere.09" in warning and "nowhere.10" not in warning and warning.endswith(", and 4 more")
    assert set(lone) < set(placement.left) and warning in placement.summary()


def test_a_summary_says_what_it_is(ours, tmp_path):
    placement = place_lora(read_lora(saved(tmp_path, pair())), ours, None)
    assert placement.summary().splitlines() == [
        "lora.safetensors: kohya LoRA of rank 2",
        "UNet: 1 weights, 0 of them over time",
        "Nothing in it works over time: it may have been made for a model of images.",
    ]
    assert placement.warning() == ""


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (pair(out=17), f"{DOWN}: [17, 2] by [2, 16] is no change of a weight [16, 16]"),
        (pair(into=15), f"{DOWN}: [16, 2] by [2, 15] is no change of a weight [16, 16]"),
        ({DOWN: torch.ones(3, 16), UP: torch.ones(16, 2)}, f"{DOWN}: [16, 2] by [3, 16] is no change"),
        ({DOWN: torch.ones(16), UP: torch.ones(16, 2)}, f"{DOWN}: [16, 2] by [16] is no change"),
        ({DOWN: torch.tensor(1.0), UP: torch.tensor(1.0)}, f"{DOWN}: [] by [] is no change"),
        ({DOWN: torch.ones(2, 16, 3, 3), UP: torch.ones(16, 2, 1, 1)}, "[2, 16, 3, 3] is no change"),
        ({DOWN: torch.ones(2, 16, 1, 1), UP: torch.ones(16, 2, 3, 3)}, "[16, 2, 3, 3] by [2, 16, 1, 1] is no change"),
        ({**pair(), f"{NAME}.lora_mid.weight": torch.ones(2, 3, 3, 3)}, "does not fit the factor beside it, [2, 3, 3"),
        ({**pair(), f"{NAME}.alpha": torch.tensor([1.0, 2.0])}, f"{NAME}.alpha should be one finite number"),
        ({**pair(), f"{NAME}.alpha": torch.tensor(torch.nan)}, f"{NAME}.alpha should be one finite number"),
        ({**pair(), f"{NAME}.dora_scale": torch.ones(16)}, f"a DoRA, which rescales whole weights ({NAME}.dora_scale)"),
        ({DOWN: torch.full((2, 16), torch.inf), UP: torch.ones(16, 2)}, f"{DOWN} holds NaN or infinity"),
        ({DOWN: torch.ones(2, 16), UP: torch.full((16, 2), torch.nan)}, f"{DOWN} holds NaN or infinity"),
        ({DOWN: torch.ones(2, 16, dtype=torch.int8), UP: torch.ones(16, 2)}, f"{DOWN}: torch.int8 [2, 16] is no matr"),
        ({DOWN: torch.ones(0, 16), UP: torch.ones(16, 0)}, f"{DOWN}: torch.float32 [0, 16] is no matrix"),
        ({f"{NAME}.lora_A": torch.ones(2, 15), f"{NAME}.lora_B": torch.ones(16, 2)}, "[2, 15] is no change"),
        ({"mid_block.resnets.0.conv1.lora_A": torch.ones(6, 16), "mid_block.resnets.0.conv1.lora_B": torch.ones(48, 6)},
         "[48, 6] by [6, 16] is no change of a weight [16, 16, 3, 3]"),
        ({f"{NAME}.hada_w1_a": torch.ones(2, 2)}, "a LyCORIS file of another kind than LoRA"),
        ({"some.weight": torch.ones(2, 2)}, "no LoRA in a format known here; its keys are some.weight"),
        ({"first_stage_model.decoder.x": torch.ones(2)}, "no LoRA: this is a VAE"),
        ({DOWN: torch.ones(2, 16)}, f"each pair lacks a half: {DOWN}. Download or copy it again"),
        ({"unet:0:up": torch.ones(4, 2), "unet:2:up": torch.ones(4, 2)}, "unet:0 is missing or half missing"),
        ({"unet:0:up": torch.ones(5, 2), "unet:0:down": torch.ones(2, 7)}, "its 1 pairs have no names, and their sha"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(ours, tensors, says, tmp_path):
    assert says in refusal(saved(tmp_path, tensors), ours)


@pytest.mark.parametrize("alpha", ['"4"', "NaN", "true", "[4]"])
def test_metadata_with_a_bad_alpha(ours, alpha, tmp_path):
    tensors = {"unet.x.lora_A.weight": torch.ones(2, 4), "unet.x.lora_B.weight": torch.ones(4, 2)}
    settings = {"lora_adapter_metadata": f'{{"unet.lora_alpha": {alpha}}}'}
    path = saved(tmp_path, tensors | {"text_encoder.x.alpha": torch.ones(1)}, settings)
    assert "metadata: alpha of unet.x is" in refusal(path, ours)


@pytest.mark.parametrize("metadata", ["", "[", "[1, 2]", '"text"', '{"alpha_pattern": 3}', "[" * 100_000])
def test_metadata_that_says_nothing(ours, metadata, tmp_path):
    lora = read_lora(saved(tmp_path, pair(), {"lora_adapter_metadata": metadata, "unet": metadata}))
    assert lora.pairs[0].scale == 1.0


# Modules of other models' LoRAs with the sizes they have, and what the file is then said to be.
CROSS = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
FOREIGN = {
    "Stable Diffusion 1.x": {CROSS: (320, 768), CROSS.replace("attn2_to_k", "attn1_to_q"): (320, 320)},
    "Stable Diffusion XL": {
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (640, 2048),
        "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q": (640, 640),
    },
    "an AnimateDiff motion LoRA": {
        "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.to_q": (320, 320)
    },
    "a LoRA for Flux or SD3": {"transformer.single_transformer_blocks.0.attn.to_q": (3072, 3072)},
    "a LoRA for a video transformer": {"diffusion_model.blocks.0.self_attn.q": (1536, 1536)},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_loras_of_other_models_are_told(real_sizes, kind, tmp_path):
    tensors = {}
    for name, (out, into) in FOREIGN[kind].items():
        tensors |= {f"{name}.lora_down.weight": torch.ones(4, into), f"{name}.lora_up.weight": torch.ones(out, 4)}
    message = refusal(saved(tmp_path, tensors), real_sizes)
    assert f"It seems to be {kind}" in message or f"It seems to be a LoRA for {kind}" in message


def test_a_lora_of_stable_diffusion_2_fits_and_is_told(real_sizes, tmp_path):
    """ModelScope's layers of space are Stable Diffusion 2's, so its LoRAs do fit; that none is of time is said."""
    tensors = {f"{CROSS}.lora_down.weight": torch.ones(4, 1024), f"{CROSS}.lora_up.weight": torch.ones(320, 4)}
    placement = place_lora(read_lora(saved(tmp_path, tensors)), real_sizes, None)
    assert list(placement.unet) == ["input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"]
    assert "Nothing in it works over time" in placement.summary()


def test_a_lora_of_another_size_of_this_model(real_sizes, tmp_path):
    network = diffusers_unet()
    trained = write_as.train(network, list(write_as.layers(network))[:30], 2)
    message = refusal(write_as.kohya(trained, tmp_path / "lora.safetensors", 2.0), real_sizes)
    assert "pairs do not fit this model" in message and "It seems" not in message
    assert "was made for another model" in refusal(write_as.pickled_list(trained, tmp_path / "lora.pt"), real_sizes)


def test_a_whole_model_is_no_lora(tmp_path):
    config = UNet3DConfig(widths=(8, 16), attention=(True, False), blocks_per_level=1, context_dim=12, head_dim=4,
                          norm_groups=4)  # fmt: skip
    for layout in ("modelscope", "diffusers"):
        path = save_unet(UNet3D(config), tmp_path / f"{layout}.safetensors", layout)
        assert "a whole text-to-video model and no LoRA; load it with T2V Load Model" in refusal(path)


class Payload:
    """Pickled, it would write a file when it is read."""

    def __reduce__(self):
        return Path.touch, (Path("/tmp/t2v-lora-payload"),)


def test_files_that_cannot_be_read(tmp_path):
    assert "there is no such file" in refusal(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    assert "this is a text file" in refusal(tmp_path / "text.safetensors")
    whole = saved(tmp_path, pair()).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "cut short or damaged" in refusal(tmp_path / "cut.safetensors")
    with zipfile.ZipFile(tmp_path / "archive.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "this is a zip archive" in refusal(tmp_path / "archive.pt")


@pytest.mark.parametrize("wrap", [lambda bad: bad, lambda bad: [torch.ones(2, 2), bad], lambda bad: {"x": bad}])
def test_a_pickle_with_a_payload_runs_nothing(wrap, tmp_path):
    torch.save(wrap(Payload()), tmp_path / "lora.pt")
    assert "refused, and nothing in it was run" in refusal(tmp_path / "lora.pt")
    assert not Path("/tmp/t2v-lora-payload").exists()


@pytest.mark.parametrize(
    "content",
    [[], [torch.ones(2, 2)], [torch.ones(2, 2), 3], [torch.ones(1).expand(10**12), torch.ones(2, 2)], [[], []]],
)
def test_lists_that_are_no_pairs(content, tmp_path):
    torch.save(content, tmp_path / "lora.pt")
    message = refusal(tmp_path / "lora.pt")
    assert f"holds a list of {len(content)} things; a LoRA's list is tensors, an up and a down in turn" in message
