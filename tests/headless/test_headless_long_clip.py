"""`python -m headless` on minutes of video: what a clip's length costs in time and in memory."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from t2v_core.video import read_video

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = [
    "a red circle on a white background",
    "an orange circle on a white background",
    "a yellow circle on a navy background",
    "a yellow star on a navy background",
    "a green star on a navy background",
    "a green square on a beige background",
    "a blue square on a beige background",
    "a blue triangle on a white background",
    "a purple triangle on a white background",
    "a red circle on a white background",
]


@dataclass(frozen=True)
class Cost:
    """Of a whole process: seconds by the clock, and the most bytes of memory it had."""

    seconds: float
    peak: int


def cost_of(frames: int, folder: Path) -> Cost:
    """Makes the ten prompts' story in so many frames, from the model's file to the mp4."""
    graph = json.loads((ROOT / "workflows/api/ten_prompt_story.json").read_text())
    keys = [f'"{frames * number // len(PROMPTS)}": "{prompt}"' for number, prompt in enumerate(PROMPTS)]
    by_kind = {node["class_type"]: node["inputs"] for node in graph.values()}
    by_kind["T2VPromptSchedule"] |= {"text": ",\n".join(keys), "num_frames": frames}
    by_kind["T2VEmptyLatent"]["num_frames"] = frames
    folder.mkdir()
    file = folder / "story.json"
    file.write_text(json.dumps(graph))
    command = ["run", file, "--quiet", "--out", folder, "--runs", folder / "runs"]
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "headless", *map(str, command)], cwd=ROOT)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    seconds = time.perf_counter() - start
    [video] = folder.glob("*.mp4")
    assert sum(1 for _ in read_video(video)) == frames
    return Cost(seconds, used.ru_maxrss * 1024)


@pytest.mark.long
def test_3376_frames_cost_their_time_and_hardly_more_memory(tmp_path):
    """NUWA-XL's figure (Yin et al. 2303.12346), under ten prompts, beside 128 frames; a clip of one window tells what
    it costs to begin with, which is taken off both."""
    begin, short, long = (cost_of(frames, tmp_path / str(frames)) for frames in (16, 128, 3376))
    linear = (short.seconds - begin.seconds) * (3376 - 16) / (128 - 16)
    ratio = (long.seconds - begin.seconds) / linear
    print(f"\n16: {begin}\n128: {short}\n3376: {long}\ntime over linear {ratio:.3f}")
    assert ratio <= 1.15
    assert long.peak - short.peak <= 100e6
