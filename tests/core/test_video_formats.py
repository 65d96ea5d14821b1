"""Every format as others read it: ffprobe (Debian's), PyAV and Pillow."""

import json
import shutil
import subprocess
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from t2v_core.errors import VideoError
from t2v_core.video import FORMATS, QUALITIES, VideoOptions, write_video
from t2v_core.video.ffmpeg import find_ffmpeg
from t2v_core.video.writing.encoders import encoder_names, opens, writable

HEIGHT, WIDTH, COUNT = 50, 66, 10
METADATA = {"prompt": '{"1": {"class_type": "x"}}', "workflow": json.dumps({"text": "日本 ; = # \\ \" '"})}
SOFTWARE = [name for name, row in FORMATS.items() if not row.hardware]

# codec, profile, pixel format, pixel format with alpha: as ffprobe names them
EXPECTED = {
    "h264-mp4": ("h264", "High", "yuv420p", None),
    "h264-10bit-mp4": ("h264", "High 10", "yuv420p10le", None),
    "h265-mp4": ("hevc", "Main", "yuv420p", None),
    "h265-10bit-mp4": ("hevc", "Main 10", "yuv420p10le", None),
    "av1-mp4": ("av1", "Main", "yuv420p10le", None),
    "av1-webm": ("av1", "Main", "yuv420p10le", None),
    "vp9-webm": ("vp9", "Profile 0", "yuv420p", "yuv420p"),  # the alpha is a second stream beside it
    "prores-422hq-mov": ("prores", "HQ", "yuv422p10le", None),
    "prores-4444-mov": ("prores", "4444", "yuv444p12le", "yuva444p12le"),  # its decoder has 12 bits always
    "ffv1-mkv": ("ffv1", None, "bgr0", "bgra"),
    "ffv1-10bit-mkv": ("ffv1", None, "gbrp10le", "gbrap10le"),
    "ffv1-16bit-mkv": ("ffv1", None, "gbrp16le", "gbrap16le"),
    "apng": ("apng", None, "rgb24", "rgba"),
    "png": ("png", None, "rgb24", "rgba"),
    "png-16bit": ("png", None, "rgb48be", "rgba64be"),
}
SOUND = {".mp4": "aac", ".webm": "opus", ".mov": "pcm_s24le", ".mkv": "flac"}

needs_ffprobe = pytest.mark.skipif(shutil.which("ffprobe") is None, reason="no ffprobe on this machine")


def clip(channels=3, count=COUNT, height=HEIGHT, width=WIDTH):
    """Smooth noise that changes from frame to frame, floats in 0..1."""
    random = torch.rand(count, channels, 5, 7, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(random, size=(height, width), mode="bicubic").clamp(0, 1)
    return smooth.permute(0, 2, 3, 1).contiguous()


def tone(seconds=1.0, rate=44100):
    time = torch.arange(int(seconds * rate)) / rate
    return {"waveform": (0.5 * torch.sin(2 * torch.pi * 440 * time)).expand(1, 2, -1), "sample_rate": rate}


def written(folder, name, frames=None, fps=23.976, **more):
    """The file, or the first picture of the folder, of one format."""
    row = FORMATS[name]
    path = write_video(clip() if frames is None else frames, folder / f"a{row.extension}", fps, format=name, **more)
    return path / "00000.png" if row.is_folder else path


def probed(path):
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-show_format", "-of", "json", str(path)]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    streams = {stream["codec_type"]: stream for stream in answer["streams"]}
    return streams["video"], streams.get("audio"), answer["format"]


def tags(video):
    return {video.get(f"color_{name}", "unknown") for name in ("space", "transfer", "primaries")}


@needs_ffprobe
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("name", EXPECTED)
def test_ffprobe_finds_what_was_asked(tmp_path, name, channels):
    row = FORMATS[name]
    codec, profile, *pixels = EXPECTED[name]
    if channels == 4 and row.alpha is None:
        with pytest.raises(VideoError, match=r"alpha channel.*vp9-webm"):
            written(tmp_path, name, clip(4))
        assert list(tmp_path.iterdir()) == []
        return
    video, audio, container = probed(written(tmp_path, name, clip(channels), audio=tone() if row.audio else None))
    assert (video["codec_name"], video["pix_fmt"]) == (codec, pixels[channels - 3])
    assert profile is None or video["profile"] == profile
    assert (video["width"], video["height"]) == (WIDTH, HEIGHT)
    if name == "vp9-webm":
        assert video.get("tags", {}).get("alpha_mode") == (None if channels == 3 else "1")
    if not row.is_folder:
        assert (Fraction(video["r_frame_rate"]), int(video["nb_read_frames"])) == (Fraction(24000, 1001), COUNT)
    if row.audio:
        length = Fraction(COUNT * 1001, 24000)
        assert float(container["duration"]) == pytest.approx(length, abs=0.03)  # Opus comes in pieces of 20 ms
        assert (audio["codec_name"], audio["channels"]) == (SOUND[row.extension], 2)
    if pixels[0].startswith("yuv"):
        assert (video["color_range"], tags(video)) == ("tv", {"bt709"})
    elif codec == "ffv1":
        assert (video["color_range"], tags(video)) == ("pc", {"gbr", "iec61966-2-1", "bt709"})


@pytest.mark.parametrize("name", SOFTWARE)
def test_the_same_frames_give_the_same_bytes(tmp_path, name):
    one, two = tmp_path / "1", tmp_path / "2"
    for folder in (one, two):
        folder.mkdir()
    first, second = (written(folder, name, metadata=METADATA).read_bytes() for folder in (one, two))
    assert first == second


@pytest.mark.parametrize("name", [name for name in SOFTWARE if FORMATS[name].audio])
def test_pyav_finds_the_metadata_beside_sound(tmp_path, name):
    path = written(tmp_path, name, metadata=METADATA, audio=tone())
    with av.open(str(path)) as container:
        found = {key.lower(): value for key, value in container.metadata.items()}
    assert {key: found.get(key) for key in METADATA} == METADATA


@pytest.mark.parametrize("name", ["apng", "png", "png-16bit"])
@pytest.mark.parametrize("count", [1, 3])
def test_pillow_finds_the_metadata_in_pngs(tmp_path, name, count):
    path = written(tmp_path, name, clip(count=count), metadata=METADATA)
    for picture in sorted(path.parent.glob("*.png")):
        with Image.open(picture) as image:
            assert {key: image.info[key] for key in METADATA} == METADATA


@pytest.mark.parametrize("quality", ["high", "highest"])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("count", [1, COUNT])  # of one frame the encoder makes a still picture
def test_pillow_reads_the_webp(tmp_path, quality, channels, count):
    frames = clip(channels, count)
    path = written(tmp_path, "webp", frames, metadata=METADATA, quality=quality)
    with Image.open(path) as image:
        exif = {number: value.encode("latin-1").decode() for number, value in image.getexif().items()}
        assert exif == {0x0110: f"prompt:{METADATA['prompt']}", 0x010F: f"workflow:{METADATA['workflow']}"}
        found, milliseconds = [], []
        for picture in ImageSequence.Iterator(image):
            picture.load()
            milliseconds.append(picture.info.get("duration"))
            found.append(np.asarray(picture.convert("RGBA" if channels == 4 else "RGB")))
        assert (len(found), image.size) == (count, (WIDTH, HEIGHT))
        if count > 1:
            assert sum(milliseconds) == pytest.approx(count * 1001 / 24, abs=1.5)
    given = (frames * 255 + 0.5).to(torch.uint8).numpy()
    seen = given[..., 3:] > 8 if channels == 4 else np.full_like(given[..., :1], True, bool)
    apart = np.abs(np.stack(found)[..., :3].astype(int) - given[..., :3]) * seen
    assert apart.max() <= (0 if quality == "highest" else 60) and apart.mean() <= 3
    if channels == 4:
        assert np.abs(np.stack(found)[..., 3].astype(int) - given[..., 3]).max() == 0


def test_a_gif_has_the_length_of_the_clip_and_its_colours(tmp_path):
    frames = torch.zeros(COUNT, HEIGHT, WIDTH, 3)
    frames[..., 0], frames[:, :, WIDTH // 2 :, 1] = 1, 0.5
    with Image.open(written(tmp_path, "gif", frames)) as image:
        lengths = [picture.info["duration"] for picture in ImageSequence.Iterator(image)]
        assert sum(lengths) == pytest.approx(COUNT * 1001 / 24, abs=10)
        image.seek(0)
        picture = np.asarray(image.convert("RGB"))
    assert (picture[5, 5], picture[5, -5]) == (pytest.approx([255, 0, 0], abs=2), pytest.approx([255, 128, 0], abs=2))


def test_a_gif_keeps_what_is_transparent(tmp_path):
    frames = torch.ones(3, HEIGHT, WIDTH, 4)
    frames[:, :20, :, 3] = 0
    with Image.open(written(tmp_path, "gif", frames)) as image:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
    assert (alpha[:20] == 0).all() and (alpha[20:] == 255).all()


def test_a_folder_of_pictures_counts_from_zero_and_is_whole(tmp_path):
    first = written(tmp_path, "png", clip(count=12))
    assert sorted(path.name for path in first.parent.iterdir()) == [f"{index:05}.png" for index in range(12)]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", [name for name in SOFTWARE if FORMATS[name].rate])
def test_qualities_differ_as_their_names_say(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)
    sizes = []
    for quality in QUALITIES:
        folder = tmp_path / quality
        folder.mkdir()
        sizes.append(written(folder, name, noise, quality=quality).stat().st_size)
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("name", SOFTWARE)
@pytest.mark.parametrize("height, width", [(15, 17), (17, 33)])
def test_small_and_odd_sizes(tmp_path, name, height, width):
    path = written(tmp_path, name, clip(height=height, width=width, count=2))
    align = FORMATS[name].alignment
    if name in ("webp", "apng", "gif", "png", "png-16bit"):
        with Image.open(path) as image:
            size = image.size
    else:
        with av.open(str(path)) as container:
            size = container.streams.video[0].width, container.streams.video[0].height
    assert size == (-(-width // align) * align, -(-height // align) * align)


def test_sound_where_there_can_be_none_is_refused_at_once(tmp_path):
    for name in ("webp", "apng", "gif", "png"):
        with pytest.raises(VideoError, match=rf"{name} holds no sound; .*h264-mp4"):
            written(tmp_path, name, audio=tone())
    assert list(tmp_path.iterdir()) == []


def test_a_gif_says_how_fast_it_can_be(tmp_path):
    with pytest.raises(VideoError, match="gif can say at most 50 frames per second"):
        written(tmp_path, "gif", fps=60)


def test_only_what_this_ffmpeg_writes_is_offered(tmp_path):
    """A program that lists two encoders stands for an ffmpeg built without the others."""
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho ' V....D libx264  H.264'\necho ' VF...D png  PNG'\n")
    program.chmod(0o755)
    assert set(writable(str(program), FORMATS)) == {"h264-mp4", "h264-10bit-mp4", "png", "png-16bit"}
    assert set(writable(find_ffmpeg(), FORMATS)) >= set(SOFTWARE)


def test_an_ffmpeg_that_does_not_answer_costs_only_the_hardware_encoders(tmp_path):
    assert list(writable(str(tmp_path / "none"), FORMATS)) == SOFTWARE
    with pytest.raises(VideoError, match="lists no encoders; is it ffmpeg"):
        encoder_names("/bin/true", 0)


def test_a_hardware_encoder_counts_only_when_it_encodes():
    program = find_ffmpeg()
    assert opens(program, 0, FORMATS["h264-mp4"])
    assert not opens(program, 0, replace(FORMATS["h264-nvenc-mp4"], encoder=("-c:v", "h264_nvenc", "-gpu", "77")))


def test_exact_quality_goes_before_the_word(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)
    sizes = {}
    for index, options in enumerate((VideoOptions(crf=5), VideoOptions(crf=45), VideoOptions(bitrate=0.02))):
        (tmp_path / str(index)).mkdir()
        sizes[index] = written(tmp_path / str(index), "h264-mp4", noise, options=options).stat().st_size
    assert sizes[0] > 4 * sizes[1] and sizes[0] > 2 * sizes[2]
