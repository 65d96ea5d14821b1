"""Wrong files: each gives one message that says what it is and what to do, runs nothing, leaves nothing half-done."""

import json
import os
import pickle
import tarfile
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from core.references import diffusers_unet, randomise
from safetensors.torch import load_file, save_file

from t2v_core.checkpoints import load_bundled, load_unet, save_unet
from t2v_core.checkpoints.keymap import is_finite
from t2v_core.errors import CheckpointError
from t2v_core.models.unet3d import UNet3D, UNet3DConfig

TINY = UNet3DConfig(widths=(32,), attention=(True,), blocks_per_level=1, context_dim=8, head_dim=8)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A good file, which each test damages in its own way."""
    return save_unet(randomise(UNet3D(TINY)), tmp_path_factory.mktemp("whole") / "unet.safetensors")


def refusal(path: Path, **options) -> str:
    """The message of the error that loading the file gives; it is one line and names the file."""
    with pytest.raises(CheckpointError) as caught:
        load_unet(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 1200
    return message


def damaged(whole: Path, path: Path, change) -> Path:
    weights = load_file(whole)
    change(weights)
    save_file(weights, path)
    return path


def test_missing_file(tmp_path):
    assert "there is no such file" in refusal(tmp_path / "none.safetensors")


@pytest.mark.parametrize("name", ["unet.safetensors", "unet.pth"])
def test_empty_file(tmp_path, name):
    (tmp_path / name).touch()
    assert "the file is empty. Download" in refusal(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "unet.safetensors")
    assert "not an ordinary file" in refusal(tmp_path / "unet.safetensors")


@pytest.mark.parametrize("name", ["unet.safetensors", "unet.pth", "unet.txt"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text_to_video: model\n", "this is a text file"),
        (b"<!DOCTYPE html><html>Sign in to download", "this is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "Git LFS pointer"),
    ],
)
def test_text_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert message in refusal(tmp_path / name)


def test_other_binary_file(tmp_path):
    (tmp_path / "unet.pth").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00")
    assert "not a format that holds weights" in refusal(tmp_path / "unet.pth")


@pytest.mark.parametrize("share", [0.001, 0.02, 0.5, 0.999])
def test_truncated_safetensors(whole, tmp_path, share):
    content = whole.read_bytes()
    (tmp_path / "unet.safetensors").write_bytes(content[: int(len(content) * share)])
    assert "cut short or damaged, no whole .safetensors" in refusal(tmp_path / "unet.safetensors")


@pytest.mark.parametrize("length", [0, 1, 100_000_001, 2**40, 2**63, 2**64 - 1])
def test_hostile_header_length(whole, tmp_path, length):
    content = whole.read_bytes()
    (tmp_path / "unet.safetensors").write_bytes(length.to_bytes(8, "little") + content[8:])
    assert "cut short or damaged" in refusal(tmp_path / "unet.safetensors")


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"a": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}},
        {
            "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        },  # fmt: skip  # noqa: E501
        {"__metadata__": {"config": 5}, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
        [],
    ],
)
def test_hostile_header(tmp_path, header):
    text = json.dumps(header).encode()
    (tmp_path / "unet.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 4)
    assert "cut short or damaged" in refusal(tmp_path / "unet.safetensors")


class Payload:
    """Makes a file when it is unpickled with code allowed."""

    def __init__(self, made: Path):
        self.made = made

    def __reduce__(self):
        return os.mkdir, (str(self.made),)


def as_zip(content, path: Path) -> None:
    torch.save(content, path)


def as_stream(content, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def as_plain(content, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", [as_zip, as_stream, as_plain])
@pytest.mark.parametrize("wrap", [lambda p: p, lambda p: {"x": p, "state_dict": {"out.2.weight": torch.zeros(2)}}])
def test_pickle_that_would_run_code(tmp_path, save, wrap):
    made, path = tmp_path / "made", tmp_path / "unet.pth"
    save(wrap(Payload(made)), path)
    message = refusal(path)
    assert "nothing in it was run" in message and "mkdir" in message and "safetensors" in message
    assert not made.exists()


def test_the_payload_would_have_run(tmp_path):
    """The test above can fail: the same file, read with code allowed, does its work."""
    as_zip(Payload(tmp_path / "made"), tmp_path / "unet.pth")
    torch.load(tmp_path / "unet.pth", weights_only=False)
    assert (tmp_path / "made").exists()


def test_tar_that_begins_like_a_pickle(tmp_path):
    path = tmp_path / "unet.pth"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as archive:
        archive.addfile(tarfile.TarInfo("\x80\x02hidden"))
    assert path.read_bytes()[:1] == b"\x80"
    assert "a tar file" in refusal(path)


@pytest.mark.parametrize("save", [as_zip, as_stream])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_pickle(whole, tmp_path, save, share):
    save(load_file(whole), tmp_path / "unet.pth")
    content = (tmp_path / "unet.pth").read_bytes()
    (tmp_path / "unet.pth").write_bytes(content[: int(len(content) * share)])
    assert "cut short or damaged, no whole PyTorch file" in refusal(tmp_path / "unet.pth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["weights"], "holds one list, not weights by name"),
        ([torch.zeros(2)], "holds one list, not weights by name. A list of tensors is a LoRA of cloneofsimo's kind"),
        (torch.zeros(2), "holds one Tensor, not weights by name"),
        ({"epoch": 3}, "holds no weights"),
        ({}, "holds no weights"),
        ({"state_dict": {}}, "holds no weights"),
        ({"input_blocks.0.0.weight": torch.zeros(1).expand(2**40)}, "claims more numbers than the file stores"),
        ({"input_blocks.0.0.weight": torch.zeros(2, device="meta")}, "claims more numbers than the file stores"),
    ],
)
def test_pickles_without_weights(tmp_path, content, message):
    torch.save(content, tmp_path / "unet.pth")
    assert message in refusal(tmp_path / "unet.pth")


def test_zip_of_other_things(tmp_path):
    with zipfile.ZipFile(tmp_path / "unet.pth", "w") as archive:
        archive.writestr("unet.safetensors", "")
    assert "a zip archive, not weights; unpack it" in refusal(tmp_path / "unet.pth")


def test_ten_weights_missing(whole, tmp_path):
    gone = sorted(load_file(whole))[::8][:10]
    path = damaged(whole, tmp_path / "unet.safetensors", lambda weights: [weights.pop(key) for key in gone])
    message = refusal(path)
    assert "10 of " in message and "weights are missing" in message and all(key in message for key in gone)
    assert "The file is incomplete" in message and "download or copy it again" in message


@pytest.mark.parametrize(
    "gone",
    [
        "input_blocks.0.0.weight",
        "input_blocks.0.1.proj_in.weight",
        "middle_block.1.transformer_blocks.0.attn2.to_k.weight",
        "input_blocks.1.0.in_layers.2.weight",
    ],
)
def test_a_weight_missing_that_sizes_are_read_from(whole, tmp_path, gone):
    path = damaged(whole, tmp_path / "unet.safetensors", lambda weights: weights.pop(gone))
    assert f"{gone} is missing" in refusal(path)


def test_left_over_weights(whole, tmp_path):
    extra = {f"output_blocks.0.7.extra{index}": torch.zeros(1) for index in range(12)}
    message = refusal(damaged(whole, tmp_path / "unet.safetensors", lambda weights: weights.update(extra)))
    assert "12 keys are not of this network: output_blocks.0.7.extra0" in message and "and 2 more" in message
    strange = {"mystery.weight": torch.zeros(1)}
    message = refusal(damaged(whole, tmp_path / "unet.safetensors", lambda weights: weights.update(strange)))
    assert "1 keys are not of this network: mystery.weight" in message


def test_unknown_part_beside_the_network(whole, tmp_path):
    weights = {f"model.diffusion_model.{key}": tensor for key, tensor in load_file(whole).items()}
    save_file({**weights, "image_proj.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert "1 keys of no part known here: image_proj.weight" in refusal(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("out.2.bias", (5,)),
        ("input_blocks.1.0.temopral_conv.conv1.2.weight", (32, 32, 3, 1)),
        ("input_blocks.1.2.proj_in.weight", (32, 32)),
        ("input_blocks.1.0.in_layers.2.weight", (64, 32, 3, 3)),
        ("input_blocks.0.0.weight", ()),
    ],
)
def test_wrong_shapes(whole, tmp_path, key, shape):
    message = refusal(
        damaged(whole, tmp_path / "unet.safetensors", lambda weights: weights.update({key: torch.zeros(shape)}))
    )
    assert "wrong shape" in message or "no size can be read" in message
    assert f"is {list(shape)}" in message or key == "input_blocks.1.0.in_layers.2.weight"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_that_are_not_numbers(whole, tmp_path, value, dtype):
    def spoil(weights):
        weights.update({key: tensor.to(dtype) for key, tensor in weights.items()})
        weights["out.2.weight"][0, 0, 0, 0] = value

    message = refusal(damaged(whole, tmp_path / "unet.safetensors", spoil))
    assert "1 weights hold NaN or infinity: out.2.weight" in message and "take another copy" in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e5m2])
def test_one_bad_number_is_found_wherever_it_is(dtype):
    for length in (1, 7, 8, 33, 100_000):
        for place in {0, length // 2, length - 1}:
            for value in (float("nan"), float("inf"), -float("inf")):
                tensor = torch.ones(length).index_fill(0, torch.tensor([place]), value).to(dtype)
                assert not is_finite(tensor), (length, place, value)
        assert is_finite(torch.ones(length).to(dtype))
    assert is_finite(torch.zeros(0, dtype=dtype))


def test_quantised_weights(whole, tmp_path):
    def quantise(weights):
        weights.update({key: tensor.to(torch.int8) for key, tensor in weights.items() if tensor.ndim > 1})

    assert "not floating point" in refusal(damaged(whole, tmp_path / "unet.safetensors", quantise))


def test_number_of_norm_groups_cannot_be_guessed(tmp_path):
    save_file(diffusers_unet().state_dict(), tmp_path / "unet.safetensors")
    message = refusal(tmp_path / "unet.safetensors")
    assert "widths 8, 16 do not divide into 32 norm groups" in message and "norm_groups=" in message
    assert load_unet(tmp_path / "unet.safetensors", norm_groups=4).config.norm_groups == 4
    for groups in (0, -1, 3, 2**70, "4", True):
        assert "norm" in refusal(tmp_path / "unet.safetensors", norm_groups=groups)


@pytest.mark.parametrize(
    ("unet", "message"),
    [
        (None, "the metadata has no entry 'config' with a 'unet' in it"),
        ({}, "the metadata has no entry 'config' with a 'unet' in it"),
        ({"in_channels": 4}, "weights are missing"),
        ({"widths": [32], "attention": [True], "colour": 1}, "metadata: unet has an unknown entry 'colour'"),
        ({"widths": [0], "attention": [True]}, r"metadata: unet.widths is (0,), and should be at least 1"),
        ({"widths": [32], "attention": [True], "norm_groups": 0}, "metadata: unet.norm_groups is 0"),
        ({"widths": 32, "attention": [True]}, "metadata: unet.widths is 32, and should be a list"),
        ({"widths": ["32"], "attention": [True]}, "metadata: unet.widths[0] is '32', and should be of type int"),
        ({"widths": [2**40], "attention": [True]}, "should be between 0 and 65536"),
        ({**asdict(TINY), "blocks_per_level": 60_000}, "more blocks than there are weights"),
        ({**asdict(TINY), "widths": [32, 32]}, "2 widths need as many attention flags"),
    ],
)
def test_hostile_metadata(whole, tmp_path, unet, message):
    weights = {key.replace("temopral", "temporal"): tensor for key, tensor in load_file(whole).items()}
    metadata = {} if unet is None else {"config": json.dumps({"unet": unet})}
    save_file(weights, tmp_path / "unet.safetensors", metadata)
    assert message in refusal(tmp_path / "unet.safetensors")


@pytest.mark.parametrize("config", ["", "[", "[1]", "[" * 100_000, "5", '{"unet": 3}', '{"model": "other"}'])
def test_metadata_of_other_programs_is_no_hindrance(whole, tmp_path, config):
    save_file(load_file(whole), tmp_path / "unet.safetensors", {"config": config})
    assert load_unet(tmp_path / "unet.safetensors").config == TINY


def test_bundled_file_of_another_kind(whole, tmp_path):
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_bundled(path=tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match=f"{whole.name}: metadata has no entry 'unet'"):
        load_bundled(path=whole)
