"""A user's own formats, and files that would abuse them."""

import json
import logging

import av
import numpy as np
import pytest

from t2v_core.errors import VideoError
from t2v_core.video import FORMATS, write_video
from t2v_core.video.formats.user_formats import read_format, user_formats

FRAMES = np.random.default_rng(0).integers(0, 256, (6, 48, 64, 3), np.uint8)


def stored(folder, given, name="mine"):
    path = folder / f"{name}.json"
    path.write_text(given if isinstance(given, str) else json.dumps(given))
    return path


def test_a_format_like_another(tmp_path):
    given = {
        "title": "For line art",
        "like": "h264-mp4",
        "pixel_format": "yuv444p10le",
        "crf": 30,
        "preset": "ultrafast",
        "options": {"tune": "animation", "g": 2, "maxrate": "4M", "bufsize": "8M"},
    }
    stored(tmp_path, given, "line-art")
    (row,) = user_formats(tmp_path).values()
    assert (list(user_formats(tmp_path)), row.title, row.alignment, row.deep) == (["line-art"], "For line art", 1, True)
    path = write_video(FRAMES[:, :47, :63], tmp_path / "a.mp4", 24, format=row)
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        assert (frames[0].format.name, frames[0].width, frames[0].height) == ("yuv444p10le", 63, 47)
        assert [bool(frame.key_frame) for frame in frames] == [True, False] * 3  # g


def test_what_is_left_out_is_as_in_the_other(tmp_path):
    row = read_format(stored(tmp_path, {"like": "vp9-webm"}))
    built_in = FORMATS["vp9-webm"]
    assert (row.title, row.encoder, row.alpha, row.rate) == (
        built_in.title,
        built_in.encoder,
        built_in.alpha,
        built_in.rate,
    )


def test_its_crf_or_bitrate_holds_at_every_quality(tmp_path):
    for name, amount in (("crf", {"crf": 40}), ("rate", {"bitrate": 0.1})):
        row = read_format(stored(tmp_path, {"like": "h264-mp4", **amount}, name))
        sizes = []
        for quality in ("low", "highest"):
            path = write_video(FRAMES, tmp_path / f"{name}{quality}.mp4", 24, format=row, quality=quality)
            sizes.append(path.stat().st_size)
        assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "unknown video format None; known: h264-mp4"),
        ({"like": "divx"}, "unknown video format 'divx'"),
        ([], "one JSON object"),
        ("{", "not JSON"),
        ("[" * 60_000, "not JSON"),
        ('"' + "x" * 70_000 + '"', "longer than 65536 bytes"),
        ({"like": "h264-mp4", "shell": "rm"}, "unknown field 'shell'"),
        ({"like": "h264-mp4", "pixel_format": "rgb24,movie=/etc/passwd"}, "pixel_format"),
        ({"like": "h264-mp4", "pixel_format": ["yuv420p"]}, "pixel_format"),
        ({"like": "ffv1-mkv", "pixel_format": "yuv420p"}, "pixel_format"),
        ({"like": "h264-mp4", "crf": "18"}, "crf is '18'"),
        ({"like": "h264-mp4", "crf": 60}, "crf is 60"),
        ({"like": "png", "crf": 1}, "png has no crf"),
        ({"like": "h264-mp4", "preset": "-i"}, "unknown preset"),
        ({"like": "h264-mp4", "title": ""}, "title"),
        ({"like": "h264-mp4", "options": {"x264-params": "stats=/tmp/x"}}, "'x264-params' may not be set"),
        ({"like": "h264-mp4", "options": {"passlogfile": "/tmp/x"}}, "'passlogfile' may not be set"),
        ({"like": "h264-mp4", "options": {"vf": "movie=/etc/passwd"}}, "'vf' may not be set"),
        ({"like": "h264-mp4", "options": {"tune": "film;rm"}}, "is no value for it"),
        ({"like": "h264-mp4", "options": {"tune": "film\n"}}, "is no value for it"),
        ({"like": "h264-mp4", "options": {"g": True}}, "must be a word or a number"),
        ({"like": "h264-mp4", "options": {"maxrate": "1e9"}}, "is no value for it"),
        ({"like": "h264-mp4", "options": []}, "options must be"),
    ],
)
def test_wrong_files_say_what_is_wrong(tmp_path, given, message):
    with pytest.raises(VideoError, match=f"mine.json: .*{message}"):
        read_format(stored(tmp_path, given))


@pytest.mark.parametrize("name", ["h264-mp4", "Mine", "a b", "-x", "x" * 80])
def test_names_are_plain_and_not_taken(tmp_path, name):
    with pytest.raises(VideoError, match="the file's name must be"):
        read_format(stored(tmp_path, {"like": "gif"}, name))


def test_a_wrong_file_is_left_out_with_one_warning(tmp_path, caplog):
    stored(tmp_path, "{", "broken")
    stored(tmp_path, {"like": "gif"}, "fine")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "read-me.txt").write_text("not a format")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert list(user_formats(tmp_path)) == ["fine"]
    warned = [record.message.split(":")[0].rsplit("/", 1)[-1] for record in caplog.records]
    assert warned == ["broken.json", "folder.json"]


def test_without_a_folder_there_are_none(tmp_path):
    assert user_formats(None) == user_formats(tmp_path / "none") == {}
