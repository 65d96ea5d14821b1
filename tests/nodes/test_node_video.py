"""T2VDecode and T2VSaveVideo; files are read back with ffmpeg."""

import json
import os
import re
import subprocess
from fractions import Fraction
from types import SimpleNamespace

import imageio_ffmpeg
import pytest
import torch
from PIL import Image


def ffmpeg(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *map(str, arguments)], capture_output=True, check=True)


def metadata(path) -> dict[str, str]:
    lines = ffmpeg("-i", path, "-f", "ffmetadata", "-").stdout.decode()
    entries = re.findall(r"^(prompt|workflow)=(.*)$", lines, re.MULTILINE)
    return {name: re.sub(r"\\(.)", r"\1", value) for name, value in entries}


@pytest.fixture
def save(part, host):
    def save(images=None, **changes):
        arguments = {"fps": 8.0, "filename_prefix": "clips/red", "format": "h264-mp4", "quality": "high"}
        images = torch.rand(4, 32, 48, 3) if images is None else images
        return part("nodes").T2VSaveVideo().save(images, **{**arguments, **changes})

    return save


@pytest.mark.parametrize("frames_per_batch", [0, 1, 2, 5, 100])
def test_decoding_is_the_autoencoder_s_in_0_to_1_whatever_the_batch(part, host, tiny, frames_per_batch):
    latents = 300 * torch.randn(5, 4, 2, 3)
    (images,) = part("nodes").T2VDecode().decode({"samples": latents}, tiny.vae, frames_per_batch)
    with torch.no_grad():
        expected = (tiny.vae.decode(latents).permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1)
    assert images.shape == (5, 16, 24, 3) and images.dtype == torch.float32
    torch.testing.assert_close(images, expected)
    assert (images.min(), images.max()) == (0, 1)  # far enough out that the clamp is seen


def test_large_frames_are_decoded_a_few_at_a_time(part, host, tiny, monkeypatch):
    module = part("headless.host")
    monkeypatch.setattr(module, "CODING_BYTES", 2 * 16 * 24 * module.BYTES_PER_PIXEL)
    sizes, decode = [], tiny.vae.decode
    monkeypatch.setattr(tiny.vae, "decode", lambda latents: sizes.append(len(latents)) or decode(latents))
    part("nodes").T2VDecode().decode({"samples": torch.zeros(5, 4, 2, 3)}, tiny.vae, 0)
    assert sizes == [2, 2, 1]


def test_decoding_reports_frames(part, host, tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(host, "progress", lambda total, label: lambda done: seen.append((done, total)))
    part("nodes").T2VDecode().decode({"samples": torch.zeros(5, 4, 2, 3)}, tiny.vae, 2)
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_what_cannot_be_decoded_is_refused_by_name(part, host, tiny):
    error, decode = part("t2v_core.errors").T2VError, part("nodes").T2VDecode().decode
    with pytest.raises(error, match="samples: the latent has 5 dimensions"):
        decode({"samples": torch.zeros(1, 4, 5, 2, 3)}, tiny.vae, 0)
    with pytest.raises(error, match="vae: .*holds no autoencoder"):
        decode({"samples": torch.zeros(5, 4, 2, 3)}, None, 0)
    with pytest.raises(error, match="16"):
        decode({"samples": torch.zeros(5, 16, 2, 3)}, tiny.vae, 0)


def test_a_saved_video_is_whole_numbered_and_shown(save, tmp_path):
    first, second = save()["ui"], save()["ui"]
    assert first == {
        "images": [{"filename": "red_00001_.mp4", "subfolder": "clips", "type": "output"}],
        "animated": (True,),
    }
    assert second["images"][0]["filename"] == "red_00002_.mp4"
    path = tmp_path / "out/clips/red_00001_.mp4"
    assert imageio_ffmpeg.count_frames_and_secs(str(path)) == (4, 0.5)
    assert sorted(os.listdir(tmp_path / "out")) == ["clips"]


def test_the_frames_are_in_the_file_in_order(save, tmp_path):
    grey = torch.tensor([0.1, 0.5, 0.9]).reshape(3, 1, 1, 1).expand(3, 32, 32, 3)
    save(grey, quality="highest")
    raw = ffmpeg("-i", tmp_path / "out/clips/red_00001_.mp4", "-f", "rawvideo", "-pix_fmt", "rgb24", "-").stdout
    means = torch.frombuffer(bytearray(raw), dtype=torch.uint8).reshape(3, -1).float().mean(1) / 255
    torch.testing.assert_close(means, torch.tensor([0.1, 0.5, 0.9]), atol=0.01, rtol=0)


def test_prompt_and_workflow_travel_in_the_file(save, tmp_path):
    prompt = {"1": {"class_type": "T2VTextEncode", "inputs": {"text": 'a "réd" = circle; \\( #1 \n日本 \ud800'}}}
    save(prompt=prompt, extra_pnginfo={"workflow": {"nodes": []}, "another pack's": 1})
    found = metadata(tmp_path / "out/clips/red_00001_.mp4")
    assert json.loads(found["prompt"]) == prompt
    assert json.loads(found["workflow"]) == {"nodes": []}


def test_no_metadata_where_the_host_says_so(save, host, tmp_path, monkeypatch):
    monkeypatch.setattr(host, "writes_metadata", lambda: False)
    save(prompt={"1": {}}, extra_pnginfo={"workflow": {}})
    assert metadata(tmp_path / "out/clips/red_00001_.mp4") == {}


def test_audio_is_in_the_file(save, tmp_path):
    save(audio={"waveform": torch.zeros(1, 1, 8000), "sample_rate": 16000})
    raw = ffmpeg("-i", tmp_path / "out/clips/red_00001_.mp4", "-vn", "-f", "s16le", "-").stdout
    assert len(raw) >= 0.5 * 16000 * 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"filename_prefix": "../evil"}, "../evil"),
        ({"filename_prefix": "/tmp/evil"}, "absolute"),
        ({"filename_prefix": ""}, "empty"),
        ({"fps": 0.0}, "fps"),
        ({"fps": float("nan")}, "fps"),
        ({"format": "divx"}, "'divx' cannot be written here; there are h264-mp4"),
        ({"quality": "best"}, "best"),
        ({"images": torch.zeros(0, 8, 8, 3)}, "images: the images are [0, 8, 8, 3]"),
        ({"images": torch.zeros(2, 8, 8, 4)}, "alpha channel, and h264-mp4 holds none"),
        ({"images": torch.zeros(8, 8, 3)}, "images: not an IMAGE"),
        ({"images": torch.full((2, 8, 8, 3), float("nan"))}, "NaN"),
        ({"audio": {"waveform": torch.zeros(4), "sample_rate": 8}}, "audio"),
    ],
)
def test_what_cannot_be_saved_is_refused_and_nothing_is_written(save, part, tmp_path, change, says):
    with pytest.raises(part("t2v_core.errors").T2VError) as caught:
        save(**change)
    assert says in str(caught.value)
    assert not (tmp_path / "out").exists() and not (tmp_path / "evil").exists()


def test_a_prefix_that_cannot_be_is_refused_before_the_run_and_names_the_input(part):
    check = part("nodes").T2VSaveVideo.VALIDATE_INPUTS
    assert check(filename_prefix="clips/%year%/red") is True and check() is True
    for wrong in ("", "../out", "/etc/cron", "a/../../b", "C:\\x", "a\0b"):
        assert check(filename_prefix=wrong).startswith("filename_prefix: ")


def test_comfyuis_variables_in_the_prefix_are_filled_in(save, tmp_path):
    answer = save(filename_prefix="%year%/%width%x%height%_%nothing%_%day")["ui"]["images"][0]
    assert re.fullmatch(r"20\d\d", answer["subfolder"])
    assert answer["filename"] == "48x32_%nothing%_%day_00001_.mp4"
    assert (tmp_path / "out" / answer["subfolder"] / answer["filename"]).is_file()


@pytest.mark.parametrize(
    ("name", "extension", "animated"),
    [("vp9-webm", ".webm", True), ("webp", ".webp", True), ("apng", ".png", True), ("gif", ".gif", False)]
    + [("ffv1-mkv", ".mkv", False)],
)
def test_the_page_is_told_what_it_can_show(save, name, extension, animated):
    """It plays mp4 and webm, shows animated WebP and PNG, and fails on a GIF that is called animated."""
    shown = save(format=name)["ui"]
    assert shown["images"] == [{"filename": f"red_00001_{extension}", "subfolder": "clips", "type": "output"}]
    assert shown.get("animated") == ((True,) if animated else None)


def test_a_folder_of_pictures_shows_its_first(save, tmp_path):
    prompt = {"1": {"class_type": "T2VTextEncode", "inputs": {"text": "a circle"}}}
    assert save(format="png", prompt=prompt)["ui"] == {
        "images": [{"filename": "00000.png", "subfolder": "clips/red_00001_", "type": "output"}]
    }
    assert save(format="png")["ui"]["images"][0]["subfolder"] == "clips/red_00002_"
    for picture in sorted((tmp_path / "out/clips/red_00001_").iterdir()):
        with Image.open(picture) as image:
            assert json.loads(image.info["prompt"]) == prompt


def test_a_video_brings_its_own_rate_and_sound(save, tmp_path):
    """What ComfyUI's VIDEO answers; its own class is asked in tests/host."""
    sound = {"waveform": torch.zeros(1, 1, 8000), "sample_rate": 16000}
    video = SimpleNamespace(
        get_components=lambda: SimpleNamespace(images=torch.rand(4, 32, 48, 3), frame_rate=Fraction(16), audio=sound)
    )
    save(video, fps=8.0)
    path = tmp_path / "out/clips/red_00001_.mp4"
    assert imageio_ffmpeg.count_frames_and_secs(str(path)) == (4, 0.25)
    assert ffmpeg("-i", path, "-vn", "-f", "s16le", "-").stdout


def test_alpha_goes_where_it_is_kept(save, tmp_path):
    frames = torch.rand(3, 16, 16, 4)
    save(frames, format="apng")
    with Image.open(tmp_path / "out/clips/red_00001_.png") as image:
        assert image.mode == "RGBA"


def test_options_reach_the_file_and_the_progress(part, save, host, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(host, "progress", lambda total, label: lambda done: seen.append((done, total)))
    (options,) = (
        part("nodes")
        .T2VVideoOptions()
        .build(crf=30, bitrate=0.0, preset="ultrafast", dither="auto", loops=2, pingpong=True, audio_length="video")
    )
    assert (options.crf, options.bitrate, options.preset) == (30, None, "ultrafast")
    save(options=options)
    assert seen == [(done, 12) for done in range(1, 13)]
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "out/clips/red_00001_.mp4"))[0] == 12


def test_the_options_defaults_ask_for_nothing(part):
    node = part("nodes").T2VVideoOptions
    defaults = {name: options["default"] for name, (_, options) in node.INPUT_TYPES()["required"].items()}
    (options,) = node().build(**defaults)
    assert options == part("t2v_core.video").VideoOptions()


def test_a_format_of_the_user_s_own_is_offered_and_written(part, save, host, tmp_path):
    folder = host.video_formats_folder()
    folder.mkdir(parents=True)
    (folder / "line-art.json").write_text('{"like": "h264-mp4", "pixel_format": "yuv444p", "crf": 12}')
    offered = part("nodes").T2VSaveVideo.INPUT_TYPES()["required"]["format"][0]
    assert offered[0] == "h264-mp4" and offered[-1] == "line-art"
    save(format="line-art")
    said = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-i", tmp_path / "out/clips/red_00001_.mp4"], capture_output=True, check=False
    ).stderr
    assert b"yuv444p" in said
