"""zeroscope's two stages as the file is shipped: with models of the names it says, in diffusers' folders."""

from __future__ import annotations

import imageio_ffmpeg
import public_models
from shipped import ROOT, read

SMALL = {"4.width": 16, "4.height": 16, "4.num_frames": 3, "5.steps": 2, "8.width": 32, "8.height": 24, "9.steps": 2}


def test_the_cascade_runs_with_the_folders_it_names(headless, tmp_path):
    """Whole diffusers folders in ComfyUI's own place: UNet, text encoder, VAE and tokenizer are found; of the second
    model only the UNet is read."""
    file = ROOT / "workflows/api/zeroscope_cascade.json"
    graph = read(file)
    names = [node["inputs"]["model_name"] for node in graph.values() if node["class_type"] == "T2VLoadModel"]
    assert names == ["zeroscope_v2_576w", "zeroscope_v2_XL"]
    folders = [tmp_path / "comfyui/models/text2video" / name for name in names]
    for seed, folder in enumerate(folders):
        public_models.write_diffusers(folder, seed=seed)
    (folders[1] / "vae/diffusion_pytorch_model.safetensors").write_text("not read")
    changes = [argument for target, value in SMALL.items() for argument in ("--set", f"{target}={value}")]
    ran = headless("run", file, "--models", tmp_path / "comfyui/models", "--out", tmp_path / "out", "--quiet", *changes)
    assert (ran.returncode, ran.stderr) == (0, "")
    reader = imageio_ffmpeg.read_frames(ran.stdout.strip())
    said = next(reader)
    assert (said["size"], said["fps"], len(list(reader))) == ((32, 24), 8.0, 3)


def test_what_the_two_stages_are(pack):
    """As its maker used it: from 576 x 320 to 1024 x 576, 24 frames, with 0.6 to 0.85 of the second denoised."""
    graph = read(ROOT / "workflows/api/zeroscope_cascade.json")
    stock = read(ROOT / "workflows/api/zeroscope_cascade_stock.json")
    for first, size, second in ((graph["5"], graph["8"], graph["9"]), (stock["5"], stock["8"], stock["10"])):
        assert first["inputs"]["denoise"] == 1.0 and 0.6 <= second["inputs"]["denoise"] <= 0.85
        assert (size["inputs"]["width"], size["inputs"]["height"]) == (1024, 576)
        assert size["inputs"]["upscale_method"] == "bicubic"
        assert first["inputs"]["model"] == ["1", 0] and second["inputs"]["model"] == ["7", 0]
        shared = ("cfg", "sampler_name", "scheduler", "positive", "negative")
        assert all(first["inputs"][name] == second["inputs"][name] for name in shared)
    for name in ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise"):
        assert graph["5"]["inputs"][name] == stock["5"]["inputs"][name]
        assert graph["9"]["inputs"][name] == stock["10"]["inputs"][name]
