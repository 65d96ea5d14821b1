"""Faults that each kind of file meets in its own way: two passes, many files, text added at the end. Really done."""

import os
import shutil
import signal
import subprocess
import sys

import imageio_ffmpeg
import numpy as np
import pytest

from t2v_core.errors import VideoError
from t2v_core.video import FORMATS, OutputFolder, write_video

# One for each muxer, and for each way in which prompt and workflow get into the file.
KINDS = ["h264-mp4", "prores-4444-mov", "vp9-webm", "ffv1-mkv", "webp", "apng", "gif", "png"]
METADATA = {"prompt": '{"1": {}}', "workflow": "{}"}
FRAMES = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), np.uint8)

linux = pytest.mark.skipif(sys.platform != "linux", reason="mounts, and processes through /proc")
every_kind = pytest.mark.parametrize("format", KINDS)


def target(folder, format):
    return folder / ("a" + FORMATS[format].extension)


def metadata(format):
    return METADATA if FORMATS[format].metadata else None


def write(folder, format, frames=FRAMES, **options):
    return write_video(frames, target(folder, format), 8, format=format, metadata=metadata(format), **options)


def is_whole(path, format):
    """Whether ffmpeg reads all of it without a complaint."""
    folder, name = (path, "%05d.png") if path.is_dir() else (path.parent, f"file:{path.name}")
    if format == "webp":  # which ffmpeg cannot read
        from PIL import Image

        with Image.open(path) as image:
            return image.n_frames == len(FRAMES)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", name, "-map", "0:v", "-f", "framecrc", "-"]
    read = subprocess.run(command, cwd=folder, capture_output=True, check=True)
    return not read.stderr and sum(line.startswith(b"0,") for line in read.stdout.splitlines()) == len(FRAMES)


@linux
@every_kind
def test_ffmpeg_is_killed(tmp_path, format, started):
    def on_frame(count):
        if count == 3:
            (ffmpeg,) = started()
            os.kill(ffmpeg, signal.SIGKILL)

    with pytest.raises(VideoError, match="killed by signal 9"):
        write(tmp_path, format, np.tile(FRAMES, (10, 4, 4, 1)), on_frame=on_frame)
    assert list(tmp_path.iterdir()) == [] and started() == []


@linux
@every_kind
def test_cancel(tmp_path, format, started):
    class Cancelled(BaseException):
        pass

    def on_frame(count):
        if count == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        write(tmp_path, format, on_frame=on_frame)
    assert list(tmp_path.iterdir()) == [] and started() == []


@pytest.fixture
def ffmpeg_that(tmp_path, monkeypatch):
    """ffmpeg_that(shell): the real ffmpeg, before which a line of shell looks at the arguments."""

    def put(shell):
        program = tmp_path / "ffmpeg"
        program.write_text(f'#!/bin/sh\n{shell}\nexec "{imageio_ffmpeg.get_ffmpeg_exe()}" "$@"\n')
        program.chmod(0o755)
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))

    (tmp_path / "out").mkdir()
    return put


@pytest.mark.skipif(os.name != "posix", reason="a program in the shell's language")
@pytest.mark.parametrize(
    "shell, says", [("kill -9 $$", "killed by signal 9"), ("echo no colours >&2; exit 7", "no colours")]
)
def test_the_second_pass_of_a_gif_fails(tmp_path, ffmpeg_that, shell, says):
    ffmpeg_that(f'case "$*" in *paletteuse*) {shell};; esac')
    with pytest.raises(VideoError, match=says):
        write(tmp_path / "out", "gif")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="a program in the shell's language")
def test_the_message_carries_ffmpegs_last_lines(tmp_path, ffmpeg_that):
    ffmpeg_that('for n in $(seq 1 100); do echo "[mp4 @ 0x55] [error] line $n" >&2; done; exit 9')
    with pytest.raises(VideoError) as caught:
        write(tmp_path / "out", "h264-mp4")
    lines = str(caught.value).splitlines()
    assert "exit code 9" in lines[0] and lines[1:] == [f"line {n}" for n in range(93, 101)]
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def mounted(tmp_path):
    """mounted(options) mounts a tmpfs and returns its folder."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options, *more):
        try:
            subprocess.run(
                ["mount", *more, "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True, capture_output=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"mounting a tmpfs is not permitted here: {error}")
        return disk

    yield mount
    if os.path.ismount(disk):
        subprocess.run(["umount", disk], check=True)


@linux
@every_kind
def test_the_disk_fills_at_any_moment(mounted, format):
    """From no room at all to room enough: each time an error and nothing left, or a whole file."""
    disk = mounted("size=2m,nr_inodes=64")
    total = shutil.disk_usage(disk).total
    page, outcomes = os.sysconf("SC_PAGE_SIZE"), []
    for pages in (0, 1, 2, 4, 16, 32, 64, 160, 400):
        (disk / "filler").write_bytes(bytes(total - pages * page))
        try:
            path = write(disk, format)
        except VideoError as error:
            assert "No space left" in str(error), (pages, str(error))
            outcomes.append(False)
        else:
            assert is_whole(path, format)
            outcomes.append(True)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert [entry.name for entry in disk.iterdir()] == ["filler"], pages
    assert outcomes == sorted(outcomes) and 1 < sum(outcomes) < len(outcomes) - 1, outcomes


@linux
@pytest.mark.parametrize("format", ["h264-mp4", "png"])
def test_a_disk_that_may_only_be_read(mounted, format):
    disk = mounted("size=1m,ro")
    with pytest.raises(VideoError, match="cannot write in .*Read-only file system"):
        write(disk, format)
    for prefix in ("a", "new/a"):
        with pytest.raises(VideoError, match="cannot write in .*Read-only file system"):
            OutputFolder(disk).write(prefix, FRAMES, 8, format=format)
    with pytest.raises(VideoError, match="cannot write in .*Read-only file system"):
        OutputFolder(disk / "not" / "there").write("a", FRAMES, 8, format=format)
    assert list(disk.iterdir()) == []


@linux
@every_kind
def test_the_folder_is_deleted_meanwhile(tmp_path, format, started):
    """As when somebody tidies up: an error, not a file in a folder that they did not want."""
    for tidied in ("out", "out/.t2v-*"):
        out = tmp_path / "out"
        out.mkdir()

        def on_frame(count, tidied=tidied):
            if count == 3:
                for folder in tmp_path.glob(tidied):
                    shutil.rmtree(folder)

        with pytest.raises(VideoError):
            write(out, format, on_frame=on_frame)
        assert started() == []
        assert not out.exists() or list(out.iterdir()) == []
        shutil.rmtree(out, ignore_errors=True)


@pytest.mark.skipif(os.name == "nt", reason="Windows forbids these characters in names")
@pytest.mark.parametrize("format", ["ffv1-mkv", "webp", "gif", "png"])  # changed after, two passes, a folder
def test_names_that_look_like_options_patterns_and_protocols(tmp_path, format):
    extension = FORMATS[format].extension
    for prefix in ('-i "it\'s"', "a%d%05d", "concat:a|b", "日本 é"):
        saved = OutputFolder(tmp_path).write(prefix, FRAMES, 8, format=format, metadata=metadata(format))
        assert saved.filename == f"{prefix}_00001_{extension}" and is_whole(saved.path, format)
    for wrong in ("a\nb", "../a", "a/../../b", "/a"):
        with pytest.raises(VideoError, match="prefix"):
            OutputFolder(tmp_path).write(wrong, FRAMES, 8, format=format)
    assert len(list(tmp_path.iterdir())) == 4
    path = tmp_path / f"two\nlines{extension}"
    assert write_video(FRAMES, path, 8, format=format) == path and is_whole(path, format)
