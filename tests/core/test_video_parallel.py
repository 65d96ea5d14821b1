"""Two hundred saves with one prefix at the same time, from threads of several processes, each with its own ffmpeg."""

import multiprocessing
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from t2v_core.video import OutputFolder, write_video

PROCESSES, THREADS = 4, 50
SECONDS = 500


def clip(job):
    """A clip that no other job has."""
    return np.random.default_rng(job).integers(0, 256, (2 + job % 3, 16, 16, 3), np.uint8)


def save_all(folder, format, process, start, answers):
    """Saves of one process, all together when `start` opens; answers [(job, file name or error)]."""
    output, found = OutputFolder(folder), []

    def save(job):
        start.wait(SECONDS)
        try:
            found.append((job, output.write("clips/v", clip(job), 8, format=format, quality="low").filename))
        except Exception as error:
            found.append((job, repr(error)))

    threads = [threading.Thread(target=save, args=(process * THREADS + n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.put(found)


@pytest.mark.parametrize("format, extension", [("h264-mp4", ".mp4"), pytest.param("png", "", marks=pytest.mark.long)])
def test_two_hundred_parallel_saves_share_a_prefix(tmp_path, format, extension):
    context = multiprocessing.get_context("spawn")
    start, answers = context.Barrier(PROCESSES * THREADS), context.Queue()
    arguments = [(tmp_path, format, process, start, answers) for process in range(PROCESSES)]
    processes = [context.Process(target=save_all, args=each) for each in arguments]
    for process in processes:
        process.start()
    found = dict(pair for _ in processes for pair in answers.get(timeout=SECONDS))
    for process in processes:
        process.join()
    jobs = PROCESSES * THREADS
    names = sorted(path.name for path in (tmp_path / "clips").iterdir())
    assert names == [f"v_{number:05}_{extension}" for number in range(1, jobs + 1)]
    assert sorted(found) == list(range(jobs)) and sorted(found.values()) == names
    assert [path.name for path in tmp_path.iterdir()] == ["clips"]  # no temporary folder
    for job in range(0, jobs, 29):  # each name leads to what was saved under it
        alone = write_video(clip(job), tmp_path / f"alone{job}{extension}", 8, format=format, quality="low")
        assert content(alone) == content(tmp_path / "clips" / found[job])
    assert not any(works_below(tmp_path, entry) for entry in Path("/proc").glob("[0-9]*/cwd"))


def content(path: Path):
    return [each.read_bytes() for each in sorted(path.iterdir())] if path.is_dir() else path.read_bytes()


def works_below(folder, entry):
    """Whether a process, an ffmpeg that was left, works in a folder below this one."""
    try:
        return re.match(re.escape(str(folder)) + "/", str(entry.readlink())) is not None
    except OSError:
        return False
