"""What travels beside the picture: metadata and sound."""

import json
import subprocess
from fractions import Fraction

import imageio_ffmpeg
import numpy as np
import pytest
import torch

from t2v_core.errors import VideoError
from t2v_core.video import write_video
from t2v_core.video.writing import avi
from t2v_core.video.writing.audio import Sound

FRAMES = torch.zeros(12, 16, 16, 3, dtype=torch.uint8)


def ffmpeg(*arguments, stdin=b""):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout


def boxes(data):
    """The boxes directly inside `data`, as {type: content} (ISO/IEC 14496-12, 4.2)."""
    found, position = {}, 0
    while position + 8 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        found[data[position + 4 : position + 8]] = data[position + 8 : position + size]
        position += size
    return found


def page_metadata(path):
    """What ComfyUI's page reads when the file is dropped on it: moov/udta/meta, names in `keys`, values in `ilst`."""
    meta = boxes(boxes(boxes(boxes(path.read_bytes())[b"moov"])[b"udta"])[b"meta"][4:])
    keys, names = meta[b"keys"][8:], []
    while keys:
        size = int.from_bytes(keys[:4], "big")
        names.append(keys[8:size].decode())
        keys = keys[size:]
    items = boxes(meta[b"ilst"])
    return {name: boxes(items[n.to_bytes(4, "big")])[b"data"][8:].decode() for n, name in enumerate(names, 1)}


def workflow(size):
    text = "quotes \" ' backslash \\ = ; # [x] %d \t\r\n \u2028 日本 é 😀 "
    return {"1": {"class_type": "T2VTextEncode", "inputs": {"text": text * (size // len(text))}}}


AWKWARD = {
    "300 kB": json.dumps(workflow(300_000), ensure_ascii=False),
    "2 MB": json.dumps(workflow(2_000_000)),
    "raw": "=;#\\ \\\\ \\n\n\n;x\r\r\n#y\n[STREAM]\nprompt=1\\ ",
    "small": "{}",
}


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("with_audio", [False, True])
def test_metadata_is_where_the_page_looks(tmp_path, name, with_audio):
    metadata = {"prompt": AWKWARD[name], "workflow": '{"last": "ü"}'}
    audio = {"waveform": torch.zeros(1, 1, 800), "sample_rate": 8000} if with_audio else None
    path = write_video(FRAMES, tmp_path / "a.mp4", 24, metadata=metadata, audio=audio)
    assert page_metadata(path) == metadata
    if name == "300 kB":
        assert json.loads(page_metadata(path)["prompt"]) == workflow(300_000)


def test_ffmpeg_reads_the_metadata_back(tmp_path):
    text = AWKWARD["300 kB"]
    path = write_video(FRAMES, tmp_path / "a.mp4", 24, metadata={"prompt": text})
    dump = ffmpeg("-i", path, "-f", "ffmetadata", "-").decode()
    escaped = "".join("\\" + c if c in "=;#\\\n" else c for c in text)
    assert f"prompt={escaped}\n" in dump


def test_without_metadata_there_is_none(tmp_path):
    assert page_metadata(write_video(FRAMES, tmp_path / "a.mp4", 24)) == {}


@pytest.mark.parametrize(
    "metadata, message",
    [
        ({"prompt": {"1": 2}}, "'prompt' is dict"),
        ({"prompt": "a\0b"}, "NUL"),
        ({"prompt": "a\\"}, "backslash"),
        ({"prompt": "\ud800"}, "Unicode"),
        ({"a=b\n": "x"}, "key"),
        ({"": "x"}, "key"),
        ({1: "x"}, "key"),
        ("prompt", "must map names"),
    ],
)
def test_wrong_metadata(tmp_path, metadata, message):
    with pytest.raises(VideoError, match=message):
        write_video(FRAMES, tmp_path / "a.mp4", 24, metadata=metadata)
    assert list(tmp_path.iterdir()) == []


def tone(seconds, sample_rate, channels):
    """440 Hz on the first channel, 660 Hz on the second, half as loud as can be."""
    time = torch.arange(int(seconds * sample_rate)) / sample_rate
    waves = [0.5 * torch.sin(2 * torch.pi * pitch * time) for pitch in (440, 660)[:channels]]
    return {"waveform": torch.stack(waves)[None], "sample_rate": sample_rate}


def heard(path, sample_rate, channels):
    raw = ffmpeg("-i", path, "-map", "0:a", "-ar", sample_rate, "-ac", channels, "-f", "f32le", "-")
    return np.frombuffer(raw, "<f4").reshape(-1, channels)


@pytest.mark.parametrize("fps, sample_rate, channels", [(24, 44100, 2), (23.976, 48000, 1)])
@pytest.mark.parametrize("seconds", [0, 0.2, 0.5, 3])
def test_sound_lasts_as_long_as_the_picture(tmp_path, fps, sample_rate, channels, seconds):
    audio = tone(seconds, sample_rate, channels)
    samples = heard(write_video(FRAMES, tmp_path / "a.mp4", fps, audio=audio), sample_rate, channels)
    length = 12 / fps * sample_rate
    assert abs(len(samples) - length) <= 1024  # one AAC frame
    given = audio["waveform"][0].T.numpy()[: len(samples)]
    sounding = int(min(len(given), length))
    assert np.abs(samples[sounding + 1024 :]).max(initial=0) < 0.01
    if sounding > 4096:  # one sample of delay alone would be 0.02 to 0.03
        assert np.abs(samples[1024 : sounding - 1024] - given[1024 : sounding - 1024]).mean() < 0.01


@pytest.mark.parametrize("fps", [Fraction(24000, 1001), Fraction(1000), Fraction(1, 3)])
def test_each_frame_gets_its_own_samples(fps):
    audio = tone(2, 44100, 2)
    sound = Sound.from_comfyui(audio)
    pieces = [np.frombuffer(sound.during(frame, fps), "<f4").reshape(-1, 2) for frame in range(1000)]
    together = np.concatenate(pieces)
    assert len(together) == 1000 * 44100 // fps
    common = min(len(together), 88200)
    assert np.array_equal(together[:common], audio["waveform"][0].T.numpy()[:common])
    assert not together[common:].any()


def test_ffmpeg_reads_our_pipe_bit_for_bit():
    """Odd sizes on purpose: 5x3 frames are 45 bytes, so that every chunk needs its padding."""
    frames = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 3), np.uint8)
    samples = np.random.default_rng(0).random((4, 100, 2), np.float32)
    stream = avi.header(5, 3, Fraction(24), channels=2, sample_rate=2400)
    for picture, sound in zip(frames, samples, strict=True):
        stream += b"".join([*avi.chunk(avi.VIDEO, picture.data), *avi.chunk(avi.SOUND, sound.data)])
    source = ("-f", "avi", "-c:v", "rawvideo", "-i", "pipe:0")
    assert ffmpeg(*source, "-map", "0:v", "-f", "rawvideo", "-", stdin=stream) == frames.tobytes()
    assert ffmpeg(*source, "-map", "0:a", "-c", "copy", "-f", "f32le", "-", stdin=stream) == samples.tobytes()


def test_sound_is_clipped_and_other_rates_are_resampled(tmp_path):
    loud = tone(0.5, 192_000, 1)
    loud["waveform"] = (loud["waveform"] * 20).double()
    samples = heard(write_video(FRAMES, tmp_path / "a.mp4", 24, audio=loud), 48000, 1)
    assert abs(len(samples) - 24000) <= 1024
    assert 0.9 < np.abs(samples).max() < 3  # unclipped it would be 10; AAC overshoots


def test_the_same_input_gives_the_same_bytes(tmp_path):
    noise = torch.rand(30, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    files = [
        write_video(noise, tmp_path / f"{n}.mp4", 24, metadata={"prompt": "{}"}, audio=tone(1, 48000, 2)).read_bytes()
        for n in range(3)
    ]
    assert files[0] == files[1] == files[2]


@pytest.mark.parametrize(
    "audio, message",
    [
        (torch.zeros(1, 1, 10), "audio must be"),
        ({"waveform": torch.zeros(1, 1, 10)}, "audio must be"),
        ({"waveform": torch.zeros(1, 10), "sample_rate": 8000}, r"\[1, 10\]"),
        ({"waveform": torch.zeros(2, 1, 10), "sample_rate": 8000}, r"\[2, 1, 10\]"),
        ({"waveform": torch.zeros(1, 7, 10), "sample_rate": 8000}, "6 channels"),
        ({"waveform": torch.zeros(1, 1, 10, dtype=torch.int16), "sample_rate": 8000}, "int16"),
        ({"waveform": torch.full((1, 1, 10), torch.nan), "sample_rate": 8000}, "NaN"),
        ({"waveform": torch.zeros(1, 1, 10), "sample_rate": 0}, "sample_rate"),
        ({"waveform": torch.zeros(1, 1, 10), "sample_rate": 44100.0}, "sample_rate"),
    ],
)
def test_wrong_audio(tmp_path, audio, message):
    with pytest.raises(VideoError, match=message):
        write_video(FRAMES, tmp_path / "a.mp4", 24, audio=audio)
    assert list(tmp_path.iterdir()) == []
