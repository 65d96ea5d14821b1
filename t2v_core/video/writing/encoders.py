"""Which formats the ffmpeg at hand can really write."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

from ...errors import VideoError
from ..ffmpeg import FFmpeg
from ..formats.format import Format
from . import avi

_TIMEOUT = 30.0
"""Seconds that ffmpeg gets to list its encoders."""
_SIDE = 256
"""Pixels: the smallest picture that every hardware encoder takes."""


def writable(program: str, formats: Mapping[str, Format]) -> dict[str, Format]:
    """Those of `formats` that the ffmpeg `program` writes here; all but the hardware ones if it does not answer.

    ffmpeg is asked once for each file it is; each hardware encoder has to encode a few frames once.
    """
    try:
        stamp = os.stat(program).st_mtime_ns
        known = encoder_names(program, stamp)
    except (OSError, VideoError):
        return {name: row for name, row in formats.items() if row.hardware is None}
    there = {name: row for name, row in formats.items() if row.encoder_name in known}
    hardware = [row for row in there.values() if row.hardware is not None and _may_be_there(row.hardware)]
    with ThreadPoolExecutor(max_workers=4) as pool:
        opened = dict(zip(hardware, pool.map(lambda row: opens(program, stamp, row), hardware), strict=True))
    return {name: row for name, row in there.items() if row.hardware is None or opened.get(row)}


@functools.lru_cache(maxsize=8)
def encoder_names(program: str, stamp: int) -> frozenset[str]:
    """The names of the ffmpeg's encoders; `stamp` tells one version of the file from the next.

    Raises VideoError, or OSError where it cannot be started.
    """
    command = [program, "-hide_banner", "-nostdin", "-encoders"]
    try:
        answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise VideoError(f"{program} did not list its encoders within {_TIMEOUT:.0f} s") from None
    names = re.findall(rb"^ [VAS][A-Z.]{5} (\S+)", answer.stdout, re.MULTILINE)
    if not names:
        raise VideoError(f"{program} lists no encoders; is it ffmpeg?")
    return frozenset(name.decode() for name in names)


@functools.lru_cache(maxsize=64)
def opens(program: str, stamp: int, row: Format) -> bool:
    """Whether the encoder really encodes: two grey frames, with the row's own arguments."""
    frame = bytes([128]) * (_SIDE * _SIDE * 3)
    arguments = [
        *("-f", "avi", "-c:v", "rawvideo", "-i", "pipe:0", "-vf", row.filters(False), *row.encoder),
        *(row.rate.arguments("high", None, None, None) if row.rate else ()),
        *(*row.container, "probe" + row.extension),
    ]
    try:
        with tempfile.TemporaryDirectory(prefix="t2v-") as folder, FFmpeg(program, arguments, Path(folder)) as ffmpeg:
            ffmpeg.write(avi.header(_SIDE, _SIDE, Fraction(24)))
            for piece in (*avi.chunk(avi.VIDEO, frame), *avi.chunk(avi.VIDEO, frame)):
                ffmpeg.write(piece)
            return ffmpeg.finish() == 2
    except (OSError, VideoError):
        return False


def _may_be_there(hardware: str) -> bool:
    """A cheap look, to leave out what cannot be: trying an encoder takes ffmpeg a while."""
    if hardware == "nvidia":
        return shutil.which("nvidia-smi") is not None
    return sys.platform == "win32" or Path("/dev/dri").exists()
