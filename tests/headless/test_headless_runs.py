"""`python -m headless`: killed while it samples, and gone on with; the kept runs listed, sized and cleared."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = "workflows/api/text_to_video.json"


def steps_in(runs: Path) -> int:
    """How many steps of the one run lie on the disk."""
    for state in runs.glob("*/state.safetensors"):
        with safe_open(state, "pt") as file:
            return int(file.metadata()["steps"])
    return 0


def killed(command: list, runs: Path, after: int, later: float) -> int:
    """Starts the command, kills it `later` seconds after so many steps are kept; how many are kept then."""
    options = {"cwd": ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(list(map(str, command)), **options) as process:
        deadline = time.monotonic() + 1800
        while steps_in(runs) < after and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(later)
        process.kill()
        said = process.stderr.read()
    assert process.returncode == -signal.SIGKILL, said
    return steps_in(runs)


def kill_and_resume(headless, tmp_path: Path, job: list, steps: int, kills: int, draw: random.Random) -> None:
    """Kills a run at random points, goes on with it in the end, and compares with one that nobody killed."""
    runs = tmp_path / "runs"
    command = ["run", *job, "--resume", "--runs", runs, "--out", tmp_path / "out"]
    done = 0
    for kill in range(kills):
        after = draw.randint(done + 1, max(done + 1, (kill + 1) * (steps - 2) // kills))
        done = killed([sys.executable, "-m", "headless", *command], runs, after, draw.random() * 0.05)
        assert after <= done < steps
    resumed = headless(*command)
    assert resumed.returncode == 0
    assert f"goes on after step {done} of {steps}" in resumed.stderr
    assert len(list(runs.iterdir())) == 1
    [latents] = runs.glob("*/latents.safetensors")
    whole = headless("run", *job, "--resume", "--runs", tmp_path / "whole", "--out", tmp_path / "whole_out", "--quiet")
    assert whole.returncode == 0 and "goes on" not in whole.stderr
    [expected] = (tmp_path / "whole").glob("*/latents.safetensors")
    assert expected.parent.name == latents.parent.name
    assert torch.equal(load_file(latents)["x"], load_file(expected)["x"])
    assert Path(resumed.stdout.strip()).read_bytes() == Path(whole.stdout.strip()).read_bytes()


@pytest.fixture
def job(models, workflow, tmp_path) -> list:
    """A run of the tiny model by a sampler with memory and noise."""
    workflow["1"]["inputs"]["model_name"] = "tiny.safetensors"
    workflow["4"]["inputs"].update(width=64, height=64, num_frames=12)
    workflow["5"]["inputs"].update(steps=60, sampler_name="dpmpp_2m_sde")
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(workflow))
    return [path, "--models", models]


def test_a_run_killed_twice_goes_on_bit_for_bit(headless, tmp_path, job):
    kill_and_resume(headless, tmp_path, job, 60, 2, random.Random())


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_ten_kills_of_a_long_clip(headless, tmp_path):
    """512 frames of the bundled model: ten resumes, the last of which must be bit for bit what nobody killed."""
    job = [SHIPPED, "--set", "4.num_frames=512", "--set", "5.steps=16", "--set", "5.sampler_name=uni_pc"]
    kill_and_resume(partial(headless, timeout=3600), tmp_path, job, 16, 10, random.Random())


def test_interrupted_goes_on_and_no_resume_begins_anew(headless, tmp_path, job):
    runs = ("--runs", tmp_path / "runs")
    command = list(
        map(str, [sys.executable, "-m", "headless", "run", *job, "--resume", *runs, "--out", tmp_path / "a"])
    )
    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, **options) as process:
        while steps_in(tmp_path / "runs") < 3 and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=240)
    assert process.returncode == 130 and said.endswith("error: interrupted\n")
    before = steps_in(tmp_path / "runs")
    fresh = headless("run", *job, "--no-resume", *runs, "--out", tmp_path / "b", "--set", "7.filename_prefix=b")
    assert fresh.returncode == 0 and "kept" not in fresh.stderr and steps_in(tmp_path / "runs") == before
    # Not what it is, but what it is called and where it goes: the same run.
    resumed = headless("run", *job, "--resume", *runs, "--out", tmp_path / "c", "--set", "7.filename_prefix=c",
                       "--disable-metadata")  # fmt: skip
    assert f"goes on after step {before} of 60" in resumed.stderr
    again = headless("run", *job, "--resume", *runs, "--out", tmp_path / "d", "--disable-metadata")
    assert "has ended before" in again.stderr and "Sampling" not in again.stderr
    videos = [Path(done.stdout.strip()).read_bytes() for done in (resumed, again)]
    assert videos[0] == videos[1]


def test_short_clips_are_kept_only_when_asked(headless, tmp_path, job):
    short = ["run", *job, "--set", "5.steps=2", "--runs", tmp_path / "runs", "--out", tmp_path / "out"]
    done = headless(*short)
    assert done.returncode == 0 and "kept" not in done.stderr and not (tmp_path / "runs").exists()
    done = headless(*short, "--set", "4.num_frames=128", "--set", "4.width=16", "--set", "4.height=16")
    assert re.search(r"This run is kept in \S+/runs/128-frames-[0-9a-f]{16} \(at most \d+ kB\)", done.stderr)
    said = headless("runs", "--runs", tmp_path / "runs")
    assert (said.returncode, said.stderr) == (0, "")
    line, total = said.stdout.splitlines()
    assert re.fullmatch(r"128-frames-[0-9a-f]{16}  \d+ kB  [-0-9]{10} [0-9:]{5}  ended, 2 steps of dpmpp_2m_sde", line)
    assert re.fullmatch(rf"1 run in {tmp_path}/runs, \d+ kB", total)


def test_runs_are_listed_and_cleared(part, headless, tmp_path, capsys):
    cli, runs = part("headless.cli"), part("t2v_core.runs").RunsFolder(tmp_path / "runs")
    state = part("t2v_core.diffusion.samplers").State(1, torch.zeros(9, 4, 2, 2))
    names = []
    for key in ("a" * 64, "b" * 64, "c" * 64):
        with runs.open(key, state.x.shape, 3, "heun") as run:
            run.keep(state)
            names.append(run.folder.name)

    def ask(*arguments: str) -> tuple[int, list[str], str]:
        code = cli.main(["runs", "--runs", str(runs.path), *arguments])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err

    code, lines, _ = ask()
    assert code == 0 and sorted(line.split()[0] for line in lines[:-1]) == names and "3 runs in" in lines[-1]
    code, lines, error = ask("--clear", names[0], "--clear", "nothing")
    assert (code, lines) == (2, []) and "there is no run 'nothing'" in error and len(runs.found()) == 3
    code, lines, _ = ask("--clear", names[0])
    assert code == 0 and lines[0].startswith(f"{names[0]} cleared, ") and len(runs.found()) == 2
    with runs.open("b" * 64, state.x.shape, 3, "heun"):
        code, _, error = ask("--clear", names[1])
        assert code == 2 and "is at work" in error
        code, lines, error = ask("--clear", "all")
        assert code == 0 and error.startswith("warning: ") and "is at work" in error and len(lines) == 1
    assert [found.name for found in runs.found()] == [names[1]]
    assert ask("--clear", "all")[0] == 0
    assert ask() == (0, [f"no runs in {runs.path}, 0 bytes"], "")
    assert os.listdir(runs.path) == []


def test_a_runs_folder_that_is_none_is_one_line(headless, tmp_path, job):
    (tmp_path / "file").write_text("mine")
    for command in (["runs"], ["run", *job, "--resume", "--quiet", "--out", tmp_path / "out"]):
        done = headless(*command, "--runs", tmp_path / "file")
        assert done.returncode in (1, 2) and done.stderr.count("\n") == 1 and "Not a directory" in done.stderr
    assert "--no-resume" in done.stderr and not (tmp_path / "out").exists()
    assert (tmp_path / "file").read_text() == "mine"
