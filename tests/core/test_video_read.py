"""Reading videos: the right frames, in the right colours, compared with PyAV and with the frames that went in."""

import gc
import os
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import H264, LOSSLESS, by_pyav, ffmpeg, make, number, numbered

from t2v_core.errors import VideoError
from t2v_core.video.reading.probe import probe
from t2v_core.video.reading.read import read_video
from t2v_core.video.reading.read_audio import read_audio

linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes through /proc")

# How many frames each file of `clips` has, and what it is to be made with.
KINDS = {
    "h264.mp4": (30, H264),
    "b-frames.mp4": (30, (*H264, "-bf", "3", "-g", "7")),
    "cut.mp4": (30, (*H264, "-bf", "0", "-g", "1", "-movflags", "+faststart")),
    "stream.ts": (30, H264),
    "vp9.webm": (12, ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8")),
    "prores.mov": (12, ("-c:v", "prores_ks", "-profile:v", "4", "-pix_fmt", "yuv444p10le")),
    "ffv1.mkv": (30, LOSSLESS),
    "mpeg4.avi": (30, ("-c:v", "mpeg4", "-q:v", "3", "-bf", "0")),
    "old.mpg": (30, ("-c:v", "mpeg2video", "-q:v", "3", "-pix_fmt", "yuv420p")),
    "a.gif": (12, ()),
    "a.apng": (12, ("-f", "apng", "-plays", "0")),
    "a.webp": (12, ("-loop", "0", "-lossless", "1")),
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return {
        name: make(folder / name, numbered(count), *arguments, fps=25 if name != "a.gif" else 20)
        for name, (count, arguments) in KINDS.items()
    }


def read(*arguments, **options):
    return np.stack(list(read_video(*arguments, **options)))


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_gives_its_frames_in_order(clips, name):
    count = KINDS[name][0]
    frames = read(clips[name], bits=8)
    assert frames.dtype == np.uint8 and [number(frame) for frame in frames] == list(range(count))
    if not name.endswith(("webp", "apng")):  # PyAV's own conversion interpolates colour otherwise
        theirs = by_pyav(clips[name])
        assert len(theirs) == count
        assert np.abs(frames.astype(int) - theirs).mean() < 1
    assert [number(frame) for frame in read_video(clips[name], 4, 11, 3)] == [4, 7, 10]


@pytest.mark.parametrize(
    "start, end, stride",
    [(0, None, 1), (5, None, 1), (0, 1, 1), (29, None, 1), (29, 30, 7), (1, 29, 4), (10, 10**9, 1), (0, None, 30)]
    + [(0, None, 10**9), (7, 26, 6)],
)
def test_ranges_are_those_of_a_slice(clips, start, end, stride):
    for name in ("b-frames.mp4", "stream.ts"):
        read = [number(frame) for frame in read_video(clips[name], start, end, stride)]
        assert read == list(range(30))[start:end:stride], name


@pytest.mark.parametrize("name", ["ffv1.mkv", "a.apng", "a.webp"])
def test_lossless_files_are_read_to_the_bit(clips, name):
    assert (read(clips[name]) == numbered(KINDS[name][0])).all()


@pytest.mark.parametrize(
    "name, pixels, channels",
    [("a.mkv", "gbrp16le", 3), ("a.mkv", "gbrap16le", 4), ("a.apng", "rgb48be", 3), ("a.apng", "rgba64be", 4)],
)
def test_sixteen_bits_are_read_to_the_bit(tmp_path, name, pixels, channels):
    frames = np.random.default_rng(0).integers(0, 65536, (3, 18, 30, channels), np.uint16)
    codec = ("-c:v", "ffv1") if name == "a.mkv" else ("-f", "apng")
    clip = make(tmp_path / name, frames, *codec, "-pix_fmt", pixels)
    found = read(clip, alpha=channels == 4)
    assert found.dtype == np.uint16 and (found == frames).all()
    eight = read(clip, bits=8, alpha=channels == 4)  # rounded, not cut off
    assert np.abs(eight.astype(float) - frames / 257).max() <= 0.51


def test_ten_bits_keep_their_depth_and_eight_can_be_had_as_sixteen(tmp_path, clips):
    ramp = np.broadcast_to(np.linspace(0, 65535, 256).astype(np.uint16)[None, None, :, None], (2, 16, 256, 3))
    deep = read(make(tmp_path / "a.mkv", ramp, "-c:v", "ffv1", "-pix_fmt", "gbrp10le"))
    assert deep.dtype == np.uint16
    assert np.abs(deep.astype(int) - ramp).max() <= 65535 / 1023
    for name in ("ffv1.mkv", "a.webp"):
        assert (read(clips[name], 0, 3, bits=16) == numbered(3).astype(np.uint16) * 257).all()


@pytest.mark.parametrize("size", [(32, 24), (128, 96), (33, 47), (1, 1)])
@pytest.mark.parametrize("name", ["h264.mp4", "a.webp"])
def test_resizing(clips, name, size):
    frames = read(clips[name], 0, 9, size=size)
    assert frames.shape == (9, size[1], size[0], 3)
    if min(size) >= 24:
        assert [number(frame) for frame in frames] == list(range(9))


def test_resizing_is_smooth_and_keeps_the_mean(tmp_path):
    dots = np.random.default_rng(0).integers(0, 2, (1, 240, 320, 1), np.uint8).repeat(3, 3) * 255
    small = read(make(tmp_path / "a.mkv", dots, *LOSSLESS), size=(20, 15))
    assert abs(small.mean() - dots.mean()) < 1 and small.std() < 20  # each pixel is a mean of 256


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_video_is_read_as_players_show_it(tmp_path, clips, degrees):
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", degrees, "-i", clips["h264.mp4"], "-c", "copy", turned)
    upright = read(clips["h264.mp4"], 0, 5)
    info, found = probe(turned), read(turned, 0, 5)
    assert (info.height, info.width) == found.shape[1:3] == np.rot90(upright, degrees // 90, (1, 2)).shape[1:3]
    assert np.abs(found.astype(int) - np.rot90(upright, degrees // 90, (1, 2))).mean() < 1


def unequal(folder, stamps, count):
    """A Matroska file whose frames have these time stamps, in milliseconds."""
    clip, file = make(folder / "even.mkv", numbered(count), *LOSSLESS), folder / "unequal.mkv"
    with av.open(str(clip)) as source, av.open(str(file), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet, stamp in zip(source.demux(video=0), stamps, strict=False):
            packet.pts = packet.dts = stamp
            packet.time_base, packet.stream = Fraction(1, 1000), stream
            target.mux(packet)
    return file


def test_frames_of_unequal_length_are_read_as_they_are_stored(tmp_path):
    stamps = [0, 10, 20, 500, 510, 2000, 2100, 2900, 2910, 3000]
    file = unequal(tmp_path, stamps, len(stamps))
    assert [number(frame) for frame in read_video(file)] == list(range(10))
    assert probe(file, count=True).variable_rate
    # at 10 frames a second: what is shown at 0.0, 0.1, 0.2, ...
    shown = [max(i for i, stamp in enumerate(stamps) if stamp <= moment) for moment in range(0, 3000, 100)]
    assert [number(frame) for frame in read_video(file, fps=10)][:30] == shown
    assert [number(frame) for frame in read_video(file, 3, 9, 2, fps=10)] == shown[3:9:2]


@pytest.mark.parametrize("name", ["h264.mp4", "a.webp"])
@pytest.mark.parametrize("fps", [5, 12.5, 25, 30, 50, Fraction(24000, 1001)])
def test_another_rate(clips, name, fps):
    count, own = KINDS[name][0], 25
    reader = read_video(clips[name], fps=fps)
    shown = [number(frame) for frame in reader]
    expected = [int(index * own / Fraction(fps)) for index in range(1000) if index / Fraction(fps) < count / own]
    assert shown == expected and reader.fps == fps


def test_the_rate_that_comes_out(clips):
    assert read_video(clips["h264.mp4"]).fps == 25
    assert read_video(clips["h264.mp4"], stride=2).fps == Fraction(25, 2)
    assert read_video(clips["h264.mp4"], fps=23.976, stride=3).fps == Fraction(8000, 1001)


def test_a_size_that_changes_midway_changes_nothing(tmp_path):
    parts = [make(tmp_path / f"{w}.ts", numbered(20, w, w // 4 * 3), *H264, fps=25) for w in (64, 128)]
    whole = tmp_path / "both.ts"
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = read(whole, 5)  # an index that ffmpeg would begin anew with the second size
    assert frames.shape == (35, 48, 64, 3)
    assert [number(frame) for frame in frames] == [*range(5, 20), *range(20)]


@linux
def test_ending_early_leaves_no_process(tmp_path, started):
    clip = make(tmp_path / "a.mkv", numbered(200, 320, 240), *LOSSLESS)
    reader = read_video(clip)
    assert number(next(reader)) == 0 and len(started()) == 1
    reader.close()
    assert started() == [] and list(reader) == []
    with pytest.raises(ZeroDivisionError), read_video(clip) as reader:
        next(reader)
        raise ZeroDivisionError
    assert started() == []
    reader = read_video(clip)
    next(reader)
    del reader
    gc.collect()
    assert started() == []
    assert len(list(read_video(clip))) == 200 and started() == []


@linux
def test_a_slow_reader_is_no_hang_and_a_killed_ffmpeg_is_an_error(tmp_path, monkeypatch, started):
    monkeypatch.setattr("t2v_core.video.reading.read._SILENCE", 1.0)
    clip = make(tmp_path / "a.mkv", numbered(60, 320, 240), *LOSSLESS)
    reader = read_video(clip)
    next(reader)
    time.sleep(2.5)
    assert len(list(reader)) == 59
    reader = read_video(clip)
    next(reader)
    os.kill(*started(), 9)
    with pytest.raises(VideoError, match="killed by signal 9"):
        list(reader)
    reader = read_video(clip)
    os.kill(*started(), 19)  # stopped: alive, and gives nothing
    with pytest.raises(VideoError, match="gave no frame for 1 s"):
        list(reader)
    assert started() == []


@linux
def test_memory_does_not_grow_with_the_length(tmp_path):
    clip = make(tmp_path / "a.mp4", numbered(600, 320, 240), *H264)
    peaks = []
    for count, frame in enumerate(read_video(clip)):
        if count in (100, 599):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            peaks.append(pages * os.sysconf("SC_PAGE_SIZE"))
        del frame
    assert peaks[1] - peaks[0] < 20 * 320 * 240 * 3


@pytest.mark.parametrize(
    "options, message",
    [
        ({"start": -1}, "start is -1"),
        ({"start": 1.5}, "start is 1.5"),
        ({"start": True}, "start is True"),
        ({"start": 30}, "has no frame 30: it ends after about 30 frames"),
        ({"start": 10**12}, "start is 1000000000000"),
        ({"end": 0}, "end is 0; it must be greater"),
        ({"start": 5, "end": 5}, "end is 5"),
        ({"stride": 0}, "stride is 0"),
        ({"size": 5}, "size is 5"),
        ({"size": (0, 5)}, "width is 0"),
        ({"size": (64, 10**6)}, "64 x 1000000"),
        ({"fps": 0}, "fps is 0"),
        ({"fps": 1e9}, "fps is 1000000000"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"bits": 10}, "bits is 10"),
    ],
)
def test_wrong_arguments(clips, options, message):
    with pytest.raises(VideoError, match=message):
        list(read_video(clips["h264.mp4"], **options))


def test_a_webp_ends_too(clips):
    with pytest.raises(VideoError, match="has no frame 12: it ends after 12 frames"):
        list(read_video(clips["a.webp"], 12))


def tone(folder, name, *arguments, channels=2, start=0.0):
    """A clip of two seconds with PCM noise beside it, and the noise."""
    noise = np.random.default_rng(0).integers(-20000, 20000, (16000, channels), np.int16)
    raw = folder / "noise.raw"
    raw.write_bytes(noise.tobytes())
    sound = ("-f", "s16le", "-ar", 8000, "-ac", channels, "-i", raw)
    clip = make(folder / name, numbered(48), *LOSSLESS, *(arguments or ("-c:a", "pcm_s16le")), inputs=sound)
    if start:
        late = ("-i", clip, "-itsoffset", start, "-i", clip, "-map", "0:v", "-map", "1:a", "-c", "copy")
        ffmpeg(*late, folder / f"late-{name}")
        clip = folder / f"late-{name}"
    return clip, noise.T.astype(np.float32) / 32768


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_sound_is_read_to_the_bit(tmp_path, channels):
    clip, noise = tone(tmp_path, "a.mkv", channels=channels)
    sound = read_audio(clip)
    assert sound["sample_rate"] == 8000 and sound["waveform"].shape == (1, channels, 16000)
    assert (sound["waveform"][0].numpy() == noise).all()
    part = read_audio(clip, 0.25, 0.5)["waveform"][0].numpy()
    assert (part == noise[:, 2000:6000]).all()
    assert read_audio(clip, 1.5, 60)["waveform"].shape[2] == 4000
    assert read_audio(clip, 99)["waveform"].shape == (1, channels, 0)


def test_sound_that_begins_later_stays_in_step(tmp_path):
    clip, noise = tone(tmp_path, "a.mkv", start=0.5)
    sound = read_audio(clip)["waveform"][0].numpy()
    assert np.abs(sound[:, :3990]).max() == 0
    assert np.abs(sound[:, 4000:16000] - noise[:, :12000]).max() < 1e-6


def test_sound_as_pyav_decodes_it(tmp_path):
    clip, _ = tone(tmp_path, "a.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "128k")
    with av.open(str(clip)) as container:
        theirs = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    ours = read_audio(clip)["waveform"][0].numpy()
    length = min(ours.shape[1], theirs.shape[1])
    assert abs(length - 16000) <= 1024 and np.abs(ours[:, :length] - theirs[:, :length]).max() < 1e-4


def test_no_sound_is_none_and_wrong_times_are_refused(clips):
    assert read_audio(clips["h264.mp4"]) is None and read_audio(clips["a.webp"]) is None
    for wrong in (-1, float("nan"), float("inf"), "0", True):
        with pytest.raises(VideoError, match="start_seconds is"):
            read_audio(clips["h264.mp4"], wrong)
        with pytest.raises(VideoError, match="duration is"):
            read_audio(clips["h264.mp4"], 0, wrong)
