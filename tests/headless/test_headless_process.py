"""`python -m headless` as a process of its own: the shipped workflow, interruption, and disks that refuse."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = "workflows/api/text_to_video.json"


@pytest.fixture
def job(models, workflow, tmp_path_factory):
    """job(frames, steps) -> (FILE, --models, DIR) for a run of the tiny model."""

    def job(num_frames=3, steps=2):
        workflow["1"]["inputs"]["model_name"] = "tiny.safetensors"
        workflow["4"]["inputs"]["num_frames"], workflow["5"]["inputs"]["steps"] = num_frames, steps
        path = tmp_path_factory.mktemp("job") / "workflow.json"
        path.write_text(json.dumps(workflow))
        return path, "--models", models

    return job


def test_the_shipped_workflow_makes_a_video_the_same_one_each_time(headless, tmp_path):
    done = headless("run", SHIPPED, "--out", tmp_path / "a", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    path = Path(done.stdout.strip())
    assert path == tmp_path / "a/text_to_video_00001_.mp4"
    assert imageio_ffmpeg.count_frames_and_secs(str(path)) == (16, 2.0)
    again = headless("run", SHIPPED, "--out", tmp_path / "b", "--quiet")
    assert again.returncode == 0 and (tmp_path / "b" / path.name).read_bytes() == path.read_bytes()


def test_set_changes_the_shipped_workflow_s_video(headless, tmp_path):
    settings = ("--set", "Sampler.steps=3", "--set", "Empty latent.num_frames=2", "--disable-metadata", "--quiet")
    for name, text in (("a", "a red circle moving left to right"), ("b", "a blue square moving up")):
        done = headless("run", SHIPPED, "--out", tmp_path / name, *settings, "--set", f"Prompt.text={text}")
        assert (done.returncode, done.stderr) == (0, "")
    first, second = (next((tmp_path / name).iterdir()).read_bytes() for name in "ab")
    assert first != second


def test_it_runs_from_any_folder_that_sees_the_pack(headless, tmp_path, job):
    path, *models = job()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = headless("run", path, *models, "--quiet", cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout) == (0, "output/text_to_video_00001_.mp4\n")


# No sampling before the writing: denoise 0.
LONG = {"Sampling": ("--set", "5.steps=10000"), "Writing": ("--set", "4.num_frames=4000", "--set", "5.denoise=0")}


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("Sampling", signal.SIGINT),
        pytest.param("Writing", signal.SIGINT, marks=pytest.mark.long),
        ("Writing", signal.SIGTERM),
    ],
)
def test_an_interrupted_run_leaves_nothing_behind(tmp_path, job, stage, number):
    command = [sys.executable, "-m", "headless", "run", *job(), *LONG[stage], "--out", tmp_path / "out", "--progress"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    options = {"cwd": ROOT, "start_new_session": True, **pipes}
    # What a shell starts in the background ignores Ctrl-C, and so does all that it starts.
    options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(list(map(str, command)), **options) as process:
        try:
            seen = ""
            while f"{stage} 1" not in seen and process.poll() is None:
                seen += process.stderr.read(1)
            os.killpg(process.pid, number)  # as a terminal does: ffmpeg gets it too
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "error: interrupted" and "Traceback" not in seen + err
    assert list(tmp_path.rglob("*")) == []


def test_a_folder_that_may_not_be_written_to(tmp_path, job):
    out = tmp_path / "out"
    out.mkdir(mode=0o555)
    command = [sys.executable, "-m", "headless", "run", *job(), "--out", out, "--quiet"]
    if os.geteuid() == 0:  # root writes anywhere, until it gives up the right to
        lesser = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
        if not shutil.which("setpriv") or subprocess.run([*lesser, "true"]).returncode:
            pytest.skip("root cannot give up its right to write anywhere here: no setpriv")
        command = [*lesser, *command]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: argument --out: {out} may not be written to")
    assert list(out.iterdir()) == []


def test_a_full_disk(headless, tmp_path, job):
    out = tmp_path / "small"
    out.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", out], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    try:
        done = headless("run", *job(num_frames=64), "--set", "7.quality=highest", "--out", out, "--quiet")
        warning, error = done.stderr.splitlines()
        assert (done.returncode, done.stdout) == (1, "") and warning.startswith("warning: latent_image has 64 frames")
        assert error.startswith('error: node 7 "Save video" (T2VSaveVideo): ')
        assert list(out.iterdir()) == []
    finally:
        subprocess.run(["umount", out], check=True)


def test_a_reader_that_has_gone_is_no_traceback():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "headless", "nodes"]
    done = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
