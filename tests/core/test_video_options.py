"""Loops, ping-pong, the length of the sound, and what a format cannot do."""

import subprocess
from fractions import Fraction

import av
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from t2v_core.errors import VideoError
from t2v_core.video import FORMATS, VideoOptions, write_video
from t2v_core.video.writing.audio import Sound

GREYS = [10, 60, 110, 160, 210]
FRAMES = torch.tensor(GREYS, dtype=torch.uint8)[:, None, None, None].expand(-1, 16, 16, 3)


def greys(path):
    """The brightness of each frame, as the nearest of GREYS."""
    with av.open(str(path)) as container:
        means = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)]
    return [min(GREYS, key=lambda grey: abs(grey - mean)) for mean in means]


def write(folder, name="ffv1-mkv", frames=FRAMES, audio=None, on_frame=None, **options):
    path = folder / f"a{FORMATS[name].extension}"
    return write_video(frames, path, 10, format=name, options=VideoOptions(**options), audio=audio, on_frame=on_frame)


def silence(seconds):
    return {"waveform": torch.zeros(1, 1, int(seconds * 8000)), "sample_rate": 8000}


class Twice:
    """Frames that can be read forward and backward, and are made anew each time."""

    def __init__(self, greys):
        self._greys, self.read = greys, []

    def __iter__(self):
        return self._each(self._greys)

    def __reversed__(self):
        return self._each(self._greys[::-1])

    def _each(self, greys):
        for grey in greys:
            self.read.append(grey)
            yield np.full((16, 16, 3), grey, np.uint8)


@pytest.mark.parametrize("frames", [FRAMES, list(FRAMES), Twice(GREYS)], ids=["tensor", "list", "anew"])
def test_pingpong_goes_back_without_the_ends(tmp_path, frames):
    assert greys(write(tmp_path, frames=frames, pingpong=True)) == [10, 60, 110, 160, 210, 160, 110, 60]


@pytest.mark.parametrize("count, wanted", [(1, [10]), (2, [10, 60]), (3, [10, 60, 110, 60])])
def test_pingpong_of_very_short_clips(tmp_path, count, wanted):
    assert greys(write(tmp_path, frames=FRAMES[:count], pingpong=True)) == wanted


def test_what_a_file_cannot_say_it_holds(tmp_path):
    assert greys(write(tmp_path, loops=3)) == GREYS * 3
    assert greys(write(tmp_path, "h264-mp4", loops=2, pingpong=True)) == [*GREYS, 160, 110, 60] * 2


@pytest.mark.parametrize(
    "name, loops, stored", [("gif", 0, 0), ("gif", 1, None), ("gif", 4, 3), ("webp", 4, 4), ("apng", 4, 4)]
)
def test_what_a_file_can_say_is_stored(tmp_path, name, loops, stored):
    """A GIF counts how often it plays again, the others how often it plays."""
    with Image.open(write(tmp_path, name, loops=loops)) as image:
        assert (image.n_frames, image.info.get("loop")) == (len(GREYS), stored)


def test_frames_that_can_be_read_once_play_once(tmp_path):
    for options in ({"pingpong": True}, {"loops": 2}):
        with pytest.raises(VideoError, match="can be read again: .* not generator"):
            write(tmp_path, frames=(frame for frame in FRAMES), **options)
    assert list(tmp_path.iterdir()) == []
    assert greys(write(tmp_path, frames=(frame for frame in FRAMES), loops=1)) == GREYS


def test_nothing_is_held_for_going_back(tmp_path):
    frames = Twice(GREYS)
    write(tmp_path, frames=frames, pingpong=True)
    assert frames.read[: len(GREYS)] == GREYS and frames.read[len(GREYS) :] == [210, 160, 110, 60]


@pytest.mark.parametrize(
    "wish, seconds, count",
    [
        ("video", 0.2, 5),
        ("video", 2, 5),
        ("shortest", 0.25, 3),  # the third frame is shown until 0.3 s
        ("shortest", 2, 5),
        ("shortest", 0, 1),
        ("longest", 0.2, 5),
        ("longest", 0.71, 8),
    ],
)
def test_sound_and_picture_end_as_asked(tmp_path, wish, seconds, count):
    given = []
    path = write(tmp_path, audio=silence(seconds), audio_length=wish, on_frame=given.append)
    assert greys(path) == (GREYS + [210] * 9)[:count]
    raw = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", path, "-map", "0:a", "-f", "s16le", "-"],
        capture_output=True,
        check=True,
    ).stdout
    assert len(raw) / 2 / 8000 == count / 10
    sound = Sound.from_comfyui(silence(seconds)).seconds
    told = VideoOptions(audio_length=wish).length(5, FORMATS["ffv1-mkv"], Fraction(10), sound)
    assert told == given[-1] == count


@pytest.mark.parametrize(
    "loops, pingpong, name", [(0, False, "gif"), (3, True, "gif"), (3, True, "ffv1-mkv"), (2, False, "apng")]
)
def test_the_progress_ends_at_the_number_that_was_told(tmp_path, loops, pingpong, name):
    given = []
    write(tmp_path, name, loops=loops, pingpong=pingpong, on_frame=given.append)
    options = VideoOptions(loops=loops, pingpong=pingpong)
    assert given == list(range(1, options.length(5, FORMATS[name], Fraction(10), None) + 1))


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("png", {"crf": 10}, "png has no crf"),
        ("gif", {"bitrate": 1}, "gif has no bitrate"),
        ("prores-4444-mov", {"preset": "slow"}, "prores-4444-mov has no preset"),
        ("h264-mp4", {"crf": 52}, "crf is 52; h264-mp4 takes 0 to 51"),
        ("h264-mp4", {"dither": "error diffusion"}, "is for GIF"),
        ("h264-mp4", {"loops": 101}, "loops is 101; h264-mp4 holds the clip that often, which goes to 100"),
        ("h264-10bit-mp4", {"dither": "ordered"}, "more than 8 bits"),
        ("h264-nvenc-mp4", {"preset": "superfast"}, "has no preset 'superfast'; it has ultrafast, veryfast"),
    ],
)
def test_a_format_says_what_it_cannot_do(tmp_path, name, options, message):
    with pytest.raises(VideoError, match=message):
        write(tmp_path, name, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options, message",
    [
        ({"crf": -1}, "crf is -1"),
        ({"crf": 1.5}, "crf is 1.5"),
        ({"crf": True}, "crf is True"),
        ({"bitrate": 0}, "bitrate is 0"),
        ({"bitrate": float("nan")}, "bitrate is nan"),
        ({"bitrate": 1, "crf": 1}, "both given"),
        ({"preset": "quick"}, "unknown preset 'quick'; known: ultrafast"),
        ({"dither": "x"}, "unknown dither"),
        ({"audio_length": None}, "unknown audio_length"),
        ({"loops": None}, "loops is None"),
        ({"loops": 10**9}, "loops is 1000000000"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(VideoError, match=message):
        VideoOptions(**options)


def test_a_gif_dithers_as_asked(tmp_path):
    """A slope of thousands of colours in 32: where it is dithered, neighbours differ more often."""
    slope = np.linspace(0, 1, 96, dtype=np.float32)
    frames = np.stack(np.broadcast_arrays(slope[None, :, None], slope[None, None, :], np.float32(0.5)), -1)
    changes = {}
    for dither in ("none", "ordered", "error diffusion", "auto"):
        path = tmp_path / f"{dither}.gif"
        write_video(frames, path, 10, format="gif", quality="low", options=VideoOptions(dither=dither))
        with Image.open(path) as image:
            picture = np.asarray(image.convert("RGB")).astype(int)
        changes[dither] = (np.abs(np.diff(picture, axis=1)).sum(-1) > 0).mean()
    assert changes["none"] * 2 < changes["ordered"] < changes["error diffusion"] == changes["auto"]
