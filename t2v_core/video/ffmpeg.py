"""One run of ffmpeg, fed through a pipe: found, started, watched, and never left running."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import IO

import imageio_ffmpeg
import numpy as np

from ..errors import VideoError

_TAIL = 8192
"""Bytes kept of what ffmpeg prints: it may print without end."""
ERRORS = re.compile(rb"\[(error|fatal|panic)\]")
_ORIGIN = re.compile(r"^(\[[^\]\n]*\] *)+", re.MULTILINE)
"""Which part of ffmpeg speaks, where it lies in memory, how bad it is: not for people."""
_LAST_LINES = 8
GRACE = 10.0
"""Seconds a process gets to end by itself once it has closed its input, or its pipes once it is dead."""


def find_ffmpeg() -> str:
    """Absolute path of the ffmpeg to use: IMAGEIO_FFMPEG_EXE if set, else the one imageio-ffmpeg brings or finds."""
    try:
        name = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        name = "ffmpeg"
    program = shutil.which(name)
    if program is None:
        raise VideoError(
            f"ffmpeg was not found: {name!r} is not a program that can be run. Set IMAGEIO_FFMPEG_EXE to an ffmpeg, "
            "or unset it and install imageio-ffmpeg, which brings one"
        )
    return os.path.abspath(program)


def start(program: str, arguments: list[str], *, stdin: int, folder: Path | None = None) -> subprocess.Popen:
    """ffmpeg in `folder`, its two outputs piped; VideoError if it cannot be started."""
    try:
        return subprocess.Popen(
            [program, "-hide_banner", "-nostdin", "-nostats", *arguments],
            cwd=folder,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is ours to handle: it must not reach ffmpeg by itself
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except OSError as error:
        raise VideoError(f"ffmpeg could not be started: {program}: {error.strerror}") from error
    except ValueError as error:  # half a surrogate pair in a name
        raise VideoError(f"ffmpeg cannot be given this file name: {error}") from None


class FFmpeg:
    """A running ffmpeg: `write` to its input, then `finish`. Leaving the `with` block any earlier kills it.

    `arguments` is everything after the program and the options that concern this class; `folder` its working folder,
    so that file names among the arguments can be plain words. VideoErrors carry the last lines that ffmpeg printed.
    """

    def __init__(self, program: str, arguments: list[str], folder: Path) -> None:
        # level: each line that ffmpeg itself logs says how bad it is. progress: how many frames reached the file.
        arguments = ["-loglevel", "level+error", "-progress", "pipe:1", *arguments]
        self._process = start(program, arguments, stdin=subprocess.PIPE, folder=folder)
        self._progress = Tail(self._process.stdout)
        self._log = Tail(self._process.stderr)

    def __enter__(self) -> FFmpeg:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if self._process.poll() is None:
            self._process.kill()
        self._reap()

    def write(self, data: bytes | np.ndarray) -> None:
        """Hand over bytes; waits while ffmpeg is busy. VideoError once ffmpeg has stopped reading."""
        try:
            self._process.stdin.write(data)
        except OSError:
            raise self._failure() from None

    def finish(self) -> int:
        """End of input: wait for ffmpeg to complete the file. Returns how many frames it wrote."""
        try:
            self._process.stdin.close()
        except OSError:
            raise self._failure() from None
        code = self._process.wait()
        self._reap()
        # ffmpeg 5 and older exit with 0 although the end of the file could not be written
        if code != 0 or ERRORS.search(self._log.text):
            raise self._failure()
        counts = re.findall(rb"^frame=\s*(\d+)", self._progress.text, re.MULTILINE)
        return int(counts[-1]) if counts else 0

    def _failure(self) -> VideoError:
        try:
            code = self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._reap()
        how = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
        return VideoError(f"ffmpeg {how}; its last words:\n{last_words(self._log.text)}")

    def _reap(self) -> None:
        try:
            self._process.stdin.close()
        except OSError:
            pass  # what was still buffered has nowhere to go
        self._process.wait()
        self._progress.join(GRACE)
        self._log.join(GRACE)


def last_words(log: bytes) -> str:
    """The last lines of what ffmpeg printed, each once, for people."""
    lines = list(dict.fromkeys(_ORIGIN.sub("", log.decode(errors="replace")).strip().splitlines()))
    return "\n".join(lines[-_LAST_LINES:]) or "(none)"


class Tail(threading.Thread):
    """Reads a pipe to its end, so that ffmpeg never waits for a reader, and keeps the last few kilobytes."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._pipe = pipe
        self.text = b""
        self.start()

    def run(self) -> None:
        with self._pipe:
            while piece := self._pipe.read1(4096):
                self.text = (self.text + piece)[-_TAIL:]
