"""The folder of --models: a plain one or ComfyUI's own; and where a model's tokenizer is found."""

from __future__ import annotations

import gzip
import json
import os
import shutil

import public_models
import pytest


@pytest.fixture
def folder_at(part):
    return part("headless.folders").ModelsFolder


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_a_plain_folder_holds_models_and_its_folder_loras_loras(folder_at, tmp_path):
    touch(*(tmp_path / name for name in ("a.safetensors", "zero/unet/diffusion_pytorch_model.bin", "sub/b.pth")))
    touch(*(tmp_path / name for name in ("loras/style.safetensors", "loras/old/c.pt", "loras2/d.ckpt")))
    folder = folder_at(tmp_path)
    assert list(folder.models()) == ["a.safetensors", "loras2/d.ckpt", "sub/b.pth", "zero"]
    assert list(folder.loras()) == ["old/c.pt", "style.safetensors"]


@pytest.mark.parametrize("sign", ["text2video", "diffusion_models"])
def test_comfyuis_folder_is_read_as_comfyui_reads_it(folder_at, tmp_path, sign):
    """Names are those below its folders, so a workflow's model_name means the same; the first of a name wins."""
    (tmp_path / sign).mkdir()
    touch(*(tmp_path / "checkpoints" / name for name in ("sd15.safetensors", "x/y.ckpt")), tmp_path / "root.pth")
    for name in ("text2video", "unet", "diffusion_models"):
        if name in (sign, "unet"):
            touch(tmp_path / name / "same.safetensors", tmp_path / name / f"of_{name}.safetensors")
    touch(tmp_path / sign / "zs2_576w/text2video_pytorch_model.pth", tmp_path / "loras/a.safetensors")
    folder = folder_at(tmp_path)
    models = folder.models()
    assert list(models) == sorted([f"of_{sign}.safetensors", "of_unet.safetensors", "same.safetensors", "zs2_576w"])
    first = "text2video" if sign == "text2video" else "unet"
    assert models["same.safetensors"].path == tmp_path / first / "same.safetensors"
    assert list(folder.loras()) == ["a.safetensors"]


def test_a_folder_with_unet_in_it_is_not_comfyuis(folder_at, tmp_path):
    touch(tmp_path / "unet/diffusion_pytorch_model.safetensors", tmp_path / "model_index.json")
    assert list(folder_at(tmp_path).models()) == [tmp_path.name]


def test_a_folder_that_is_not_there_holds_nothing(folder_at, tmp_path):
    folder = folder_at(tmp_path / "none")
    assert folder.models() == {} and folder.loras() == {}


def test_the_command_line_says_the_rule_and_follows_it(headless, tmp_path):
    shown = " ".join(headless("run", "--help").stdout.split())
    assert "with LoRAs in its folder 'loras'; or ComfyUI's own folder 'models'" in shown
    touch(tmp_path / "text2video/mine.ckpt", tmp_path / "loras/my_lora.pt")
    listed = headless("nodes", "--models", tmp_path).stdout
    assert "bundled, mine.ckpt" in listed and "none, my_lora.pt" in listed


@pytest.fixture
def found(part, folder_at):
    """found(FOLDER, NAME) is the path of the vocabulary of a model in a folder of models."""

    def found(folder, name):
        folder = folder_at(folder)
        return part("headless.clip_tokenizer").find_vocabulary(folder.tokenizers(folder.models()[name])).path

    return found


def test_the_tokenizer_is_in_the_models_folder_or_one_level_up_or_comfyuis(found, tmp_path):
    root = tmp_path / "comfyui/models/text2video"
    touch(root / "a/zs2/text2video_pytorch_model.pth", root / "whole.ckpt")
    for folder in (
        "comfyui/comfy/sd1_tokenizer",
        "comfyui/models/tokenizer",
        "elsewhere",
    ):  # the first one alone counts
        public_models.write_tokenizer(tmp_path / folder)

    def place():
        return found(root.parent, "a/zs2"), found(root.parent, "whole.ckpt")

    comfyui = tmp_path / "comfyui/comfy/sd1_tokenizer"
    assert place() == (comfyui, comfyui)
    public_models.write_tokenizer(root / "tokenizer")
    assert place() == (comfyui, root / "tokenizer")
    public_models.write_tokenizer(root / "a/tokenizer")
    assert place() == (root / "a/tokenizer", root / "tokenizer")
    os.symlink(tmp_path / "elsewhere", root / "a/zs2/tokenizer")  # leads out of the folder of models
    assert place() == (root / "a/tokenizer", root / "tokenizer")
    (root / "a/zs2/tokenizer").unlink()
    public_models.write_tokenizer(root / "a/zs2/tokenizer")
    assert place() == (root / "a/zs2/tokenizer", root / "tokenizer")
    (root / "a/zs2/tokenizer/merges.txt").unlink()  # half a vocabulary is none
    assert place() == (root / "a/tokenizer", root / "tokenizer")


def test_without_a_vocabulary_the_message_says_which_files_go_where(part, found, tmp_path):
    touch(tmp_path / "zs2/text2video_pytorch_model.pth")
    with pytest.raises(part("t2v_core.errors").CheckpointError) as caught:
        found(tmp_path, "zs2")
    assert "Put vocab.json and merges.txt of a diffusers" in str(caught.value)
    assert f"into {tmp_path / 'zs2/tokenizer'}, or run: pip install open_clip_torch" in str(caught.value)


TEXTS = ("a red, red circle!", "", "RED\tblue\n\nmoving-moving", "naïve 東京 🎉 it's 42", "<|endoftext|> cle")


@pytest.mark.parametrize("form", ["two files", "tokenizer.json"])
def test_ids_are_transformers_own_whatever_the_settings_beside_say(part, tmp_path, form):
    from transformers import CLIPTokenizer

    folder = public_models.write_tokenizer(tmp_path / "models/tokenizer")
    settled = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    if form == "tokenizer.json":  # as newer programs save it
        shutil.rmtree(folder)
        folder.mkdir()
        merges = [merge.split(" ") for merge in public_models.MERGES]
        model = {"type": "BPE", "vocab": public_models.vocabulary(), "merges": merges}
        (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))
    clip_tokenizer = part("headless.clip_tokenizer")
    ours = clip_tokenizer.ClipTokenizer(clip_tokenizer.find_vocabulary([(folder, folder)]))
    theirs, ids = public_models.tokenizer(), public_models.vocabulary()
    for text in TEXTS:
        assert ours.words(text) == theirs(text)["input_ids"][1:-1]
    assert ours.words("moving!")[-1] == ids["!</w>"] != settled("moving!")["input_ids"][-2]  # where "!" is the padding
    assert (ours.start, ours.end, ours.pad, ours.size) == (len(ids) - 2, len(ids) - 1, 0, len(ids))
    assert ours.word(ids["circle</w>"]) == "circle" and ours.word(10**6) == ""


def test_the_vocabulary_that_open_clip_comes_with(part, tmp_path, monkeypatch):
    """OpenAI's file holds merges alone, and more than CLIP uses. The ids are those of every CLIP tokenizer: the bytes
    from "!" and "!</w>" on, the merges, and at the end start and end, 49,408 in all."""
    letters = sorted(entry for entry in public_models.vocabulary() if len(entry) == 1)
    others = [f"{a} {b}" for a in letters for b in letters if f"{a} {b}" not in public_models.MERGES]
    package = tmp_path / "open_clip"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    lines = ["bpe_simple_vocab_16e6.txt#version: 0.2", *public_models.MERGES, *others, ""]
    (package / "bpe_simple_vocab_16e6.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    monkeypatch.syspath_prepend(tmp_path)
    clip_tokenizer = part("headless.clip_tokenizer")
    vocabulary = clip_tokenizer.find_vocabulary([(tmp_path / "none", tmp_path)])
    known = {"!": 0, "a": 64, "~": 93, "¡": 94, "ÿ": 187, "Ā": 188, "Ń": 255, "!</w>": 256, "a</w>": 320, "re": 512}
    known |= {public_models.START: 49406, public_models.END: 49407}
    assert {entry: vocabulary.ids[entry] for entry in known} == known and len(vocabulary.ids) == 49408
    ours = clip_tokenizer.ClipTokenizer(vocabulary)
    at = {merge.replace(" ", ""): 512 + index for index, merge in enumerate(public_models.MERGES)}
    assert ours.words("Red circle") == [at["red</w>"], at["circle</w>"]] and ours.size == 49408
    (package / "bpe_simple_vocab_16e6.txt.gz").write_bytes(b"\x1f\x8bno")
    with pytest.raises(part("t2v_core.errors").CheckpointError, match="16e6.txt.gz: cannot be read as text"):
        clip_tokenizer.find_vocabulary([(tmp_path / "none", tmp_path)])


NO_IDS, NO_PAIRS = "no vocabulary of CLIP's kind", "do not belong together"
BAD = [
    ("vocab.json", "[1]", "holds no JSON object"),
    ("vocab.json", "{}", NO_IDS),
    ("vocab.json", '{"<|startoftext|>": 0, "<|endoftext|>": "x"}', NO_IDS),
    ("vocab.json", '{"<|startoftext|>": -1, "<|endoftext|>": 1}', NO_IDS),
    ("merges.txt", "x y", NO_PAIRS),
    ("merges.txt", "r", NO_PAIRS),
]


@pytest.mark.parametrize(("name", "text", "says"), BAD, ids=range(len(BAD)))
def test_bad_vocabularies_are_named(part, tmp_path, name, text, says):
    folder = public_models.write_tokenizer(tmp_path / "tokenizer")
    (folder / name).write_text(text)
    clip_tokenizer = part("headless.clip_tokenizer")
    with pytest.raises(part("t2v_core.errors").CheckpointError, match=f"{folder}.*{says}"):
        clip_tokenizer.ClipTokenizer(clip_tokenizer.find_vocabulary([(folder, tmp_path)]))
