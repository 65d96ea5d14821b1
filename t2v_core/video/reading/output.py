"""What ffmpeg writes to its standard output, read as it comes or all at once, within a time."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from ...errors import VideoError
from ..ffmpeg import GRACE, Tail, find_ffmpeg, last_words, start

_REPORT = 2**20
"""Bytes kept of the start of what ffmpeg prints, where it reports on a file."""

_NEWEST = 10**6


class Output:
    """A running ffmpeg that reads files and writes to a pipe. Leaving the `with` block, or `close`, kills it.

    arguments: everything after the program and the options that concern this class. level: what ffmpeg prints.
    """

    def __init__(self, arguments: list[str], log: type[Tail] = Tail, level: str = "level+error") -> None:
        self._process = start(find_ffmpeg(), ["-loglevel", level, *arguments], stdin=subprocess.DEVNULL)
        self._log = log(self._process.stderr)
        self._watch = _Watch(self._process)

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_watch"):
            self.close()

    @property
    def log(self) -> bytes:
        return self._log.text

    @property
    def too_slow(self) -> bool:
        """Whether ffmpeg was stopped because a `read_into` took longer than it was allowed to."""
        return self._watch.expired

    def read_into(self, view: memoryview, seconds: float) -> int:
        """Fills `view` (of bytes) and returns how many bytes there were: fewer only at the end of the output.

        ffmpeg is killed if that takes longer than `seconds`.
        """
        with self._watch.allowing(seconds):
            return self._process.stdout.readinto(view)

    def finish(self) -> int:
        """Waits for the end of an ffmpeg whose output was read to its end; its exit code."""
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            pass
        self.close()
        return self._process.returncode

    def close(self) -> None:
        self._watch.end()
        if self._process.poll() is None:
            self._process.kill()
        self._process.stdout.close()
        self._process.wait()
        self._log.join(GRACE)


def capture(arguments: list[str], *, seconds: float, limit: int, what: str) -> tuple[bytes, str]:
    """Runs ffmpeg and returns what it wrote to its standard output, and the start of what it printed.

    Its exit code tells little here and is left aside. VideoError, starting with `what`, if it takes longer than
    `seconds` in all, or writes more than `limit` bytes.
    """
    written, piece, end = bytearray(), memoryview(bytearray(2**18)), time.monotonic() + seconds
    with Output(arguments, _Head, "info") as ffmpeg:
        while count := ffmpeg.read_into(piece, end - time.monotonic()):
            written += piece[:count]
            if len(written) > limit:
                raise VideoError(f"{what}: it holds more than {limit:,} bytes of metadata or samples")
        ffmpeg.finish()
        if ffmpeg.too_slow:
            raise VideoError(f"{what}: ffmpeg had not read it after {seconds:g} s and was stopped")
        return bytes(written), ffmpeg.log.decode(errors="replace")


def every_frame_once() -> list[str]:
    """The output option that keeps ffmpeg from repeating and dropping frames, which was renamed in version 5.1."""
    return ["-vsync", "0"] if _version(find_ffmpeg()) < (5, 1) else ["-fps_mode", "passthrough"]


@lru_cache(maxsize=8)
def _version(program: str) -> tuple[int, ...]:
    """The version that this ffmpeg says it has; builds of no version are newer than all."""
    try:
        said = subprocess.run([program, "-version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return (_NEWEST,)  # what is wrong with it shows when it is used
    match = re.match(rb"ffmpeg version n?(\d+)\.(\d+)", said)
    return tuple(map(int, match.groups())) if match else (_NEWEST,)


def failure(code: int, log: bytes, what: str) -> VideoError:
    """The error for an ffmpeg that ended with this exit code, or had errors to report."""
    if code < 0:
        return VideoError(f"{what}: ffmpeg was killed by signal {-code}")
    return VideoError(f"{what}: ffmpeg could not read it; its last words:\n{last_words(log)}")


class _Head(Tail):
    """Reads a pipe to its end and keeps the start."""

    def run(self) -> None:
        with self._pipe:
            while piece := self._pipe.read1(4096):
                self.text += piece[: _REPORT - len(self.text)]


class _Watch(threading.Thread):
    """Kills a process that lets its reader wait too long."""

    def __init__(self, process: subprocess.Popen) -> None:
        super().__init__(daemon=True)
        self.expired = False
        self._process = process
        self._deadline: float | None = None
        self._ended = threading.Event()
        self.start()

    @contextmanager
    def allowing(self, seconds: float) -> Iterator[None]:
        self._deadline = time.monotonic() + seconds
        try:
            yield
        finally:
            self._deadline = None

    def run(self) -> None:
        while not self._ended.wait(0.25):
            deadline = self._deadline
            if deadline is not None and time.monotonic() > deadline:
                self.expired = True
                self._process.kill()
                return

    def end(self) -> None:
        self._ended.set()
