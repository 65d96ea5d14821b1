"""What goes wrong while a video is written: one clear error, and nothing left behind. Each fault is really done."""

import importlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch

import t2v_core
from t2v_core.errors import VideoError
from t2v_core.video import OutputFolder, write_video

REPOSITORY = Path(__file__).parents[2]
FRAME = np.zeros((32, 32, 3), np.uint8)

linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes through /proc")


def noise(count, size=256):
    random = np.random.default_rng(0)
    for _ in range(count):
        yield random.integers(0, 256, (size, size, 3), np.uint8)


def refused(tmp_path, frames, message, fps=24, name="a.mp4", **options):
    with pytest.raises(VideoError, match=message) as error:
        write_video(frames, tmp_path / name, fps, **options)
    assert list(tmp_path.iterdir()) == []
    return str(error.value)


@pytest.mark.parametrize(
    "frames, message",
    [
        ([], "no frames"),
        (iter(()), "no frames"),
        (torch.zeros(0, 8, 8, 3), "no frames"),
        (None, "iterable"),
        (5, "iterable"),
        (torch.tensor(1.0), "iterable"),
        ("frames", "frame 0 is str"),
        ([None], "frame 0 is NoneType"),
        ([[1, 2, 3]], "frame 0 is list"),
        (torch.zeros(8, 8, 3), r"frame 0 has shape \[8, 3\]"),
        (torch.zeros(1, 2, 8, 8, 3), r"frame 0 has shape \[2, 8, 8, 3\]"),
        (torch.zeros(2, 3, 8, 8), r"frame 0 has shape \[3, 8, 8\]"),
        (torch.zeros(2, 8, 8, 4), "alpha channel, and h264-mp4 holds none"),
        (torch.zeros(2, 8, 8, 1), r"\[8, 8, 1\]"),
        (torch.zeros(2, 0, 8, 3), r"\[0, 8, 3\]"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.int64), "torch.int64"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.bool), "torch.bool"),
        (np.zeros((2, 8, 8, 3), np.int16), "int16"),
        (np.zeros((2, 8, 8, 3), np.complex64), "complex64"),
        (np.zeros((2, 8, 8, 3), object), "object"),
        ([FRAME, FRAME, FRAME[:16]], "frame 2 is 32x16 .* frame 0 is 32x32"),
        ([FRAME, FRAME[:, :31]], "frame 1 is 31x32"),
        ([FRAME, FRAME[..., :1]], "frame 1 has shape"),
        ([FRAME, FRAME[..., [0, 1, 2, 2]]], "frame 1 has 4 channels, frame 0 has 3"),
        ([FRAME, "x"], "frame 1 is str"),
        (np.zeros((1, 100_000, 3), np.uint8)[None], "100000x1; no side may exceed 16384"),
        ([FRAME, np.full((32, 32, 3), np.nan)], "frame 1 holds NaN"),
        ([np.full((32, 32, 3), np.inf, np.float32)], "frame 0 holds NaN or infinite"),
        ([torch.full((32, 32, 3), -torch.inf, dtype=torch.bfloat16)], "frame 0 holds NaN or infinite"),
    ],
)
def test_wrong_frames(tmp_path, frames, message):
    refused(tmp_path, frames, message)


def test_one_bad_value_is_found(tmp_path):
    frames = torch.rand(3, 33, 31, 3)
    frames[1, 32, 30, 2] = torch.nan
    refused(tmp_path, frames, "frame 1 holds NaN")


def test_unknown_words(tmp_path):
    assert "h264-mp4" in refused(tmp_path, [FRAME], "unknown video format 'divx'", format="divx")
    assert "low, medium, high, highest" in refused(tmp_path, [FRAME], "quality 'ultra'", quality="ultra")
    refused(tmp_path, [FRAME], "unknown video format", format=["h264-mp4"])


@pytest.mark.parametrize(
    "name, message",
    [("a.avi", "end in .mp4"), ("a", "end in .mp4"), ("no/a.mp4", "does not exist"), ("a\0.mp4", "NUL")]
    + [("a" * 300 + ".mp4", "cannot write")],
)
def test_wrong_paths(tmp_path, name, message):
    refused(tmp_path, iter([FRAME]), message, name=name)


def test_everything_is_checked_before_the_first_frame(tmp_path, monkeypatch):
    def source():
        pytest.fail("a frame was asked for")
        yield

    for wrong in ({"format": "x"}, {"quality": "x"}, {"fps": 0}, {"metadata": {"a": 1}}, {"audio": {}}, {"name": "a"}):
        refused(tmp_path, source(), ".", **wrong)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "nowhere"))
    refused(tmp_path, source(), "IMAGEIO_FFMPEG_EXE")


def test_ffmpeg_is_missing_or_not_a_program(tmp_path, monkeypatch):
    program = tmp_path / "ffmpeg"
    output = tmp_path / "output"
    output.mkdir()
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    refused(output, [FRAME], "ffmpeg was not found")
    program.write_text("I am a text\n")
    refused(output, [FRAME], "ffmpeg was not found")
    if os.name == "posix":
        program.chmod(0o755)
        program.write_bytes(b"\x7fELF not really")
        refused(output, [FRAME], "could not be started")
        program.write_text("#!/bin/sh\necho no codec today >&2\nexit 3\n")
        assert "exit code 3" in refused(output, [FRAME] * 50, "no codec today")
        program.write_text("#!/bin/sh\ncat > /dev/null\necho '[out#0][error] half of it is lost' >&2\n")
        refused(output, [FRAME] * 5, "half of it is lost")
        program.write_text("#!/bin/sh\ncat > /dev/null\n")
        refused(output, [FRAME] * 5, "given 5 frames and wrote 0")


@linux
@pytest.mark.parametrize("frames", [4, 400])
def test_ffmpeg_is_killed(tmp_path, frames, started):
    """With 4 frames the death shows when the file is completed, with 400 while frames are handed over."""

    def on_frame(count):
        if count == 3:
            (child,) = started()
            os.kill(child, signal.SIGKILL)

    refused(tmp_path, noise(frames), "killed by signal 9", on_frame=on_frame)
    assert started() == []


class Cancelled(BaseException):
    """What a host raises to interrupt: not an Exception."""


@linux
@pytest.mark.parametrize("error", [Cancelled, KeyboardInterrupt, ValueError, OSError, StopIteration])
@pytest.mark.parametrize("where", ["frames", "on_frame"])
def test_cancel(tmp_path, error, where, started):
    raised = error("stop")

    def source():
        yield from noise(5)
        if where == "frames":
            raise raised
        yield from noise(5)

    def on_frame(count):
        if where == "on_frame" and count == 7:
            raise raised

    with pytest.raises((error, RuntimeError)) as caught:  # Python turns a generator's StopIteration to RuntimeError
        write_video(source(), tmp_path / "a.mp4", 24, on_frame=on_frame)
    assert raised in (caught.value, caught.value.__cause__)
    assert list(tmp_path.iterdir()) == []
    assert started() == []


@linux
def test_cancel_does_not_wait_for_ffmpeg(tmp_path, monkeypatch, started):
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\nexec sleep 100\n")
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    (tmp_path / "output").mkdir()
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        write_video([FRAME], tmp_path / "output" / "a.mp4", 24, on_frame=lambda count: 1 // 0)
    assert time.monotonic() - began < 80
    assert started() == []


@linux
def test_ctrl_c_and_sudden_death(tmp_path):
    """Ctrl-C goes to every process of the terminal's group; ffmpeg must not take it for itself, nor outlive us."""
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(REPOSITORY)!r})
import numpy as np
from t2v_core.video import write_video
os.setpgid(0, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
frames = np.zeros((50, 64, 64, 3), np.uint8)
try:
    write_video(frames, "a.mp4", 8, on_frame=lambda count: count == 5 and os.killpg(0, signal.SIGINT))
except KeyboardInterrupt:
    print("interrupted", os.listdir("."), flush=True)
signal.signal(signal.SIGINT, signal.SIG_IGN)
write_video(frames, "b.mp4", 8, on_frame=lambda count: count == 5 and os.killpg(0, signal.SIGINT))
write_video(frames, "c.mp4", 8, on_frame=lambda count: count == 5 and os.kill(os.getpid(), signal.SIGKILL))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=250)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "interrupted []\n"), done.stderr
    scratch, whole = sorted(tmp_path.iterdir())  # no one was left to clean up, but nothing bears the name c.mp4
    assert scratch.name.startswith(".t2v-") and whole.name == "b.mp4"
    deadline = time.monotonic() + 30
    while any_works_in(scratch):  # ffmpeg ends by itself: its input has
        assert time.monotonic() < deadline, "ffmpeg lives on"
        time.sleep(0.05)


def any_works_in(folder):
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if entry.resolve(strict=True) == folder:
                return True
        except OSError:
            continue
    return False


@pytest.mark.skipif(os.name != "posix", reason="users and modes of POSIX")
def test_read_only_folder():
    folder = Path(tempfile.mkdtemp())
    (folder / "sub").mkdir()
    folder.chmod(0o755)
    (folder / "sub").chmod(0o555)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)  # root may write anywhere
        else:
            folder.chmod(0o555)
        for target in (folder, folder / "sub"):
            with pytest.raises(VideoError, match="cannot write in .*Permission denied"):
                write_video([FRAME], target / "a.mp4", 24)
        for prefix in ("a", "sub/a", "new/a"):
            with pytest.raises(VideoError, match="cannot write in .*Permission denied"):
                OutputFolder(folder).write(prefix, [FRAME], 24)
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        left = sorted(path.name for path in folder.rglob("*"))
        shutil.rmtree(folder)
    assert left == ["sub"]


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 256 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounting a small tmpfs is not permitted here: {error}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_full_disk(tiny_disk):
    with pytest.raises(VideoError, match="No space left"):
        write_video(noise(12), tiny_disk / "a.mp4", 24, quality="highest")
    assert list(tiny_disk.iterdir()) == []
    with pytest.raises(VideoError, match="No space left"):
        write_video([FRAME], tiny_disk / "a.mp4", 24, metadata={"prompt": "x" * 300_000})
    with pytest.raises(VideoError, match="No space left"):
        write_video([FRAME], tiny_disk / "a.mp4", 24, metadata={"prompt": "x" * 200_000})
    assert list(tiny_disk.iterdir()) == []
    write_video([FRAME], tiny_disk / "a.mp4", 24)  # and the disk is usable again


def test_importing_looks_for_nothing(monkeypatch):
    def fail(*_, **__):
        pytest.fail("something was looked for at import")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", fail)
    monkeypatch.setattr(subprocess, "Popen", fail)
    monkeypatch.setattr(t2v_core, "video", t2v_core.video)  # put back afterwards, as are the modules
    for name in [name for name in sys.modules if name.startswith("t2v_core.video")]:
        monkeypatch.delitem(sys.modules, name)
    importlib.import_module("t2v_core.video")


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_the_file_can_be_read_by_others(tmp_path):
    mask = os.umask(0o022)
    try:
        path = write_video([FRAME], tmp_path / "a.mp4", 24)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
