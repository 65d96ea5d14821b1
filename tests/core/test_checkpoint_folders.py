"""Which models a folder holds, told by names alone: one entry for each, its parts found, nothing outside looked at."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
import torch

from t2v_core.checkpoints import find_models, folders
from t2v_core.checkpoints.entries import Part, variant_of

DIFFUSERS = [
    "model_index.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.bin",
    "text_encoder/config.json",
    "text_encoder/pytorch_model.bin",
    "tokenizer/vocab.json",
    "scheduler/scheduler_config.json",
]
ORIGINAL = [
    "text2video_pytorch_model.pth",
    "VQGAN_autoencoder.pth",
    "open_clip_pytorch_model.bin",
    "configuration.json",
]
SHARDS = [f"diffusion_pytorch_model-{n:05}-of-00002.safetensors" for n in (1, 2)]
INDEX = "diffusion_pytorch_model.safetensors.index.json"


@pytest.fixture
def tree(tmp_path):
    """tree(folder, names) makes empty files below `models`, which it returns."""
    root = tmp_path / "models"
    root.mkdir()

    def make(folder: str, *names: str) -> Path:
        for name in names:
            path = root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return root

    return make


def found(root: Path) -> dict[str, tuple]:
    """Each model's name with its files, as seen from the root: UNet, text encoder, autoencoder."""

    def names(part):
        return part and sorted(os.path.relpath(file, root).replace(os.sep, "/") for file in part.files)

    return {
        each.name: tuple(map(names, (each.unet, each.text_encoder, each.autoencoder))) for each in find_models(root)
    }


def test_diffusers_folder_is_one_model(tree):
    root = tree("zeroscope_v2_576w", *DIFFUSERS, "zs2_576w/text2video_pytorch_model.pth", "teaser.gif")
    unet = sorted(f"zeroscope_v2_576w/{name}" for name in DIFFUSERS if "unet/diff" in name)
    text_encoder = ["zeroscope_v2_576w/text_encoder/pytorch_model.bin"]
    assert found(root) == {
        "zeroscope_v2_576w": (unet, text_encoder, ["zeroscope_v2_576w/vae/diffusion_pytorch_model.bin"])
    }
    (entry,) = find_models(root)
    assert entry.unet.config == root / "zeroscope_v2_576w/unet/config.json"


def test_modelscopes_folder_is_one_model(tree):
    root = tree("ms", *ORIGINAL)
    assert found(root) == {"ms": (["ms/" + ORIGINAL[0]], ["ms/" + ORIGINAL[2]], ["ms/" + ORIGINAL[1]])}


def test_models_that_share_what_lies_one_level_up(tree):
    """As the A1111 extension has them: cerspense/zeroscope_v2_1111models."""
    tree("1111", "VQGAN_autoencoder.pth")
    for name in ("zs2_448w", "zs2_576w", "zs2_XL"):
        root = tree(f"1111/{name}", "text2video_pytorch_model.pth", "open_clip_pytorch_model.bin")
    models = found(root)
    assert list(models) == ["1111/zs2_448w", "1111/zs2_576w", "1111/zs2_XL"]
    assert {tuple(parts[2]) for parts in models.values()} == {("1111/VQGAN_autoencoder.pth",)}
    assert models["1111/zs2_XL"][1] == ["1111/zs2_XL/open_clip_pytorch_model.bin"]


def test_what_lies_above_the_root_is_not_of_its_models(tree, tmp_path):
    root = tree("zs2_576w", "text2video_pytorch_model.pth")
    (tmp_path / "VQGAN_autoencoder.pth").touch()
    (tmp_path / "models/open_clip_pytorch_model.bin").touch()
    assert found(root)["zs2_576w"][1:] == (["open_clip_pytorch_model.bin"], None)
    assert found(root / "zs2_576w") == {"text2video_pytorch_model.pth": (["text2video_pytorch_model.pth"], None, None)}


def test_files_are_models_of_their_own_and_companions_are_none(tree):
    root = tree("", "zs.safetensors", "b.PTH", "VQGAN_autoencoder.pth", "notes.txt", "open_clip_pytorch_model.bin")
    tree("VideoCrafter2", "model.ckpt")
    tree("deep/er", "a.pt")
    models = found(root)
    assert list(models) == ["VideoCrafter2/model.ckpt", "b.PTH", "deep/er/a.pt", "zs.safetensors"]
    assert models["zs.safetensors"] == (["zs.safetensors"], ["open_clip_pytorch_model.bin"], ["VQGAN_autoencoder.pth"])
    assert models["deep/er/a.pt"][1:] == (None, None)


def test_sharded_weights_are_one_model(tree):
    root = tree("model/unet", "config.json", INDEX, *SHARDS)
    tree("lone", "config.json", INDEX, *SHARDS)
    tree("bare", INDEX, *SHARDS)
    models = {each.name: each.unet for each in find_models(root)}
    assert list(models) == [f"bare/{INDEX}", "lone", "model"]
    for part in models.values():
        assert [file.name for file in part.files] == [INDEX]
        assert {file.name for file in part.more} - {"config.json"} == set(SHARDS)


def test_a_diffusers_folder_without_its_unet_is_listed_so_that_loading_it_can_say_so(tree):
    root = tree("half", "model_index.json", "vae/config.json", "vae/diffusion_pytorch_model.bin")
    tree("half/zs2_576w", "text2video_pytorch_model.pth")
    assert list(found(root)) == ["half", "half/zs2_576w"]
    assert found(root)["half"] == (None, None, ["half/vae/diffusion_pytorch_model.bin"])


def test_the_root_itself_may_be_a_model(tree):
    root = tree("zero", *DIFFUSERS)
    assert list(found(root / "zero")) == ["zero"]


def test_folders_that_are_not_there_or_cannot_be_read_hold_no_models(tree, tmp_path):
    assert find_models(tmp_path / "none") == [] and find_models(tmp_path / "none" / "\0") == []
    root = tree("closed", "a.pth")
    (root / "file.pth").touch()
    assert find_models(root / "file.pth") == []
    (root / "closed").chmod(0)
    try:
        assert [each.name for each in find_models(root)] == (
            ["closed/a.pth", "file.pth"] if os.getuid() == 0 else ["file.pth"]
        )
    finally:
        (root / "closed").chmod(0o700)


def test_links_are_followed_inside_the_root_only(tree, tmp_path):
    root = tree("blobs", "0f3a")  # as the hub's cache keeps files
    tree("snapshot/unet", "config.json")
    (root / "snapshot/unet/diffusion_pytorch_model.bin").symlink_to("../../blobs/0f3a")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.pth").touch()
    for name, target in {
        "out.pth": "../outside/secret.pth",
        "folder": "../outside",
        "up": "..",
        "circle": "circle",
        "self": ".",
        "nowhere.pth": "none",
        "folder.pth": "blobs",
    }.items():
        (root / name).symlink_to(target)
    (root / "snapshot/vae").symlink_to(tmp_path / "outside")
    assert found(root) == {"snapshot": (["snapshot/unet/diffusion_pytorch_model.bin"], None, None)}
    (tmp_path / "link").symlink_to(root)  # the root itself is what the caller says
    assert list(found(tmp_path / "link")) == ["snapshot"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_no_model(tree):
    root = tree("", "a.pth")
    os.mkfifo(root / "b.pth")
    assert list(found(root)) == ["a.pth"]


def test_no_file_is_opened(tree):
    root = tree("a", *DIFFUSERS, *ORIGINAL)
    tree("b", *ORIGINAL)
    opened, watching = [], True
    sys.addaudithook(lambda event, args: opened.append(args[0]) if watching and event == "open" else None)
    find_models(root)
    watching = False
    assert opened == []


def test_a_walk_ends(tree, monkeypatch):
    deep = "/".join("x" * 1 for _ in range(folders.MAX_DEPTH))
    root = tree(deep, "seen.pth")
    tree(f"{deep}/x", "too_deep.pth")
    assert list(found(root)) == [f"{deep}/seen.pth"]
    monkeypatch.setattr(folders, "MAX_FILES", 40)
    tree("many", *(f"{n}.pth" for n in range(100)))
    assert len(find_models(root)) <= 40


def test_a_large_folder_takes_little_time(tree):
    for n in range(200):
        root = tree(f"model{n}", *DIFFUSERS)
    started = time.process_time()
    assert len(find_models(root)) == 200
    assert time.process_time() - started < 2.0  # a tenth of it on a slow core; opening each would take more


@pytest.mark.parametrize(
    ("names", "asked", "read"),
    [
        (["m.bin", "m.safetensors"], None, "m.safetensors"),
        (["m.bin", "m.fp16.safetensors"], torch.float32, "m.fp16.safetensors"),
        (["m.fp16.safetensors", "m.safetensors"], None, "m.safetensors"),
        (["m.fp16.safetensors", "m.safetensors"], torch.float16, "m.fp16.safetensors"),
        (["m.fp16.safetensors", "m.safetensors"], torch.bfloat16, "m.safetensors"),
        (["m.bf16.bin", "m.fp16.bin", "m.bin"], torch.bfloat16, "m.bf16.bin"),
        (["m.fp16.bin", "m.non_ema.bin"], None, "m.fp16.bin"),
        (["m.safetensors", "m.safetensors.index.json"], None, "m.safetensors"),
        (["m.bin", "m.safetensors.index.json"], None, "m.safetensors.index.json"),
        (["m.safetensors.index.fp16.json", "m.safetensors"], torch.float16, "m.safetensors.index.fp16.json"),
        (["m.pth", "m.fp16.pth"], torch.float64, "m.pth"),
    ],
)
def test_which_of_several_files_is_read(names, asked, read):
    for order in (names, names[::-1]):
        assert Part(tuple(map(Path, order))).choose(asked).name == read


def test_variants_are_named_as_diffusers_and_transformers_name_them():
    from diffusers.utils.constants import SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME
    from diffusers.utils.hub_utils import _add_variant

    for name in (WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, "model.safetensors"):
        assert variant_of(name) == "" and variant_of(_add_variant(name, "fp16")) == "fp16"
