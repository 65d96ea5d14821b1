"""Memory does not grow with the clip: each figure is of a fresh process, above what it had before the first frame."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "video_memory.py"
WRITE = ("write", "--width", "1280", "--height", "720")
DECODE = ("decode", "--width", "640", "--height", "360")
SMALL = ("decode", "--width", "96", "--height", "96", "--batch", "8")  # 105 kB a frame

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads memory from Linux's /proc")


def peaks(arguments, frames):
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments, "--frames", str(frames)], capture_output=True, text=True, timeout=3500
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["frames"] == frames and found["ffmpeg_peak_mib"] > 0
    return found["peak_above_loaded_mib"], found["ffmpeg_peak_mib"]


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    "arguments, frames, slack",  # slack: MiB, or 5 % of the shorter clip's if that is more
    [
        pytest.param(WRITE, 400, 50, marks=pytest.mark.long),
        pytest.param(SMALL, 300, 12, marks=pytest.mark.long),
        pytest.param(WRITE, 10_000, 50, marks=pytest.mark.long),
        pytest.param(DECODE, 2000, 50, marks=pytest.mark.long),
    ],
    ids=["write", "decode", "write-10000", "decode-2000"],
)
def test_a_long_clip_takes_no_more_than_one_of_a_hundred_frames(arguments, frames, slack):
    for short, long in zip(peaks(arguments, 100), peaks(arguments, frames), strict=True):
        assert long - short <= max(slack, 0.05 * short)
