"""What goes wrong with run folders, really done: cut files, other runs, full disks, no rights, two at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor

from t2v_core.diffusion.samplers import State
from t2v_core.errors import T2VError
from t2v_core.runs import RunsFolder
from t2v_core.runs import folder as folders
from t2v_core.runs.files import read_tensors, write_tensors
from t2v_core.runs.lock import Lock, Locked

ROOT = Path(__file__).parents[2]
KEY, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4
SHAPE = (130, 4, 6, 5)


def opened(path: Path, key: str = KEY, **options):
    return RunsFolder(path, advice="do something else", **options).open(key, SHAPE, 5, "dpmpp_2m")


def state(steps: int) -> State:
    generator = torch.Generator().manual_seed(steps)
    draws = tuple((float(step + 2) / 3, float(step + 1) / 3) for step in reversed(range(steps)))
    tensors = [torch.randn(SHAPE, generator=generator) for _ in range(2)]
    return State(steps, tensors[0], {"D": tensors[1], "h": torch.tensor(0.1), "half": tensors[1].bfloat16()}, draws)


def same(first: State, second: State) -> bool:
    return (
        (first.steps, first.draws, first.kept.keys()) == (second.steps, second.draws, second.kept.keys())
        and torch.equal(first.x, second.x)
        and all(torch.equal(value, second.kept[name]) for name, value in first.kept.items())
        and all(value.dtype == second.kept[name].dtype for name, value in first.kept.items())
    )


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "lock"}


@pytest.fixture
def kept(tmp_path) -> Path:
    """The folder of a run of which 3 steps are kept."""
    with opened(tmp_path / "runs") as run:
        for steps in (1, 2, 3):
            run.keep(state(steps))
    return run.folder


def test_what_is_kept_is_what_is_read(kept):
    with opened(kept.parent) as run:
        assert run.done == 3 and same(run.state, state(3))
        run.keep(State(5, torch.zeros(SHAPE)))
    with opened(kept.parent) as run:
        assert run.done == 5 and same(run.state, State(5, torch.zeros(SHAPE)))
    assert sorted(each.name for each in kept.iterdir()) == ["lock", "run.json", "state.safetensors"]


def test_the_files_are_what_others_read_too(kept):
    from safetensors.torch import load_file

    read = load_file(kept / "state.safetensors")
    assert torch.equal(read["x"], state(3).x) and torch.equal(read["kept.half"], state(3).kept["half"])
    assert json.loads((kept / "run.json").read_text())["frames"] == 130


def refused(kept: Path, *parts: str) -> None:
    """That the run cannot be opened, or not be read, is said with these parts; nothing of it has changed."""
    before = content(kept)
    with pytest.raises(T2VError) as error, opened(kept.parent) as run:
        run.state  # noqa: B018 (read from the disk)
    for part in (*parts, "remove it"):
        assert part in str(error.value), str(error.value)
    after = content(kept)
    assert after.keys() == before.keys()
    assert all(after[name] == before[name] for name in before if name != "run.json")
    Lock(kept / "lock").close()  # given back


def test_a_kill_at_any_moment_leaves_a_whole_state(tmp_path):
    """Forty processes that write states of 300 kB as fast as they can, killed after a random time."""
    random, shape, last = Random(), (130, 4, 8, 9), 0
    big = [torch.full(shape, float(steps)) for steps in range(2)]
    for _ in range(40):
        child = os.fork()
        if child == 0:
            try:
                with RunsFolder(tmp_path).open(KEY, shape, 10**6, "euler") as run:
                    while True:
                        run.keep(State(run.done + 1, big[run.done % 2], {"D": big[run.done % 2]}))
            finally:
                os._exit(1)  # never the tests that follow
        time.sleep(random.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with RunsFolder(tmp_path).open(KEY, shape, 10**6, "euler") as run:
            assert run.done >= last
            if last := run.done:
                found = run.state
                assert found.steps == last
                assert torch.equal(found.x, big[(last - 1) % 2]) and torch.equal(found.kept["D"], found.x)
    assert last > 40


def test_a_new_state_is_a_new_file(kept):
    """Whoever reads the one before goes on reading that one."""
    before = (kept / "state.safetensors").read_bytes()
    with (kept / "state.safetensors").open("rb") as file, opened(kept.parent) as run:
        run.keep(state(4))
        assert file.read() == before
    assert (kept / "state.safetensors").read_bytes() != before


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_state_is_refused(kept, share):
    whole = (kept / "state.safetensors").read_bytes()
    (kept / "state.safetensors").write_bytes(whole[: int(share * len(whole))])
    refused(kept, "state.safetensors is cut short or damaged", kept.name)
    (kept / "state.safetensors").write_bytes(whole)
    with opened(kept.parent) as run:
        assert same(run.state, state(3))


def test_a_single_changed_bit_is_refused(kept):
    data = bytearray((kept / "state.safetensors").read_bytes())
    data[-5] ^= 1
    (kept / "state.safetensors").write_bytes(data)
    refused(kept, "state.safetensors is damaged")


@pytest.mark.parametrize(
    ("name", "value"), [("steps", "9"), ("steps", "0"), ("steps", "x"), ("draws", "[[1, NaN]]"), ("draws", "{")]
)
def test_states_that_cannot_be_are_refused(kept, name, value):
    tensors, metadata = read_tensors(kept / "state.safetensors")
    write_tensors(kept / "state.safetensors", tensors, {**metadata, name: value})
    refused(kept, "state.safetensors is damaged")


def test_another_runs_folder_under_this_ones_name_is_refused(tmp_path, kept):
    with opened(tmp_path / "others", OTHER) as run:
        run.keep(state(4))
    shutil.rmtree(kept)
    shutil.copytree(run.folder, kept)
    refused(kept, f"{kept} is another run's")


def test_another_runs_state_is_refused(tmp_path, kept):
    with opened(tmp_path / "others", OTHER) as run:
        run.keep(state(4))
    shutil.copy(run.folder / "state.safetensors", kept)
    refused(kept, "state.safetensors is another run's")


@pytest.mark.parametrize("text", ["", "[", "[]", "{}", "\xff", '{"key": 1}', "[" * 10**5])
def test_a_run_json_that_is_none_is_refused_or_another_runs(kept, text):
    (kept / "run.json").write_bytes(text.encode("latin-1"))
    before = content(kept)
    with pytest.raises(T2VError, match="run.json cannot be read|another run's"):
        opened(kept.parent)
    assert content(kept) == before


@pytest.mark.parametrize("text", ["[", '{"key": 1}'])
def test_a_refused_folder_keeps_even_a_run_that_has_only_begun(kept, text):
    (kept / "state.safetensors").unlink()
    (kept / "run.json").write_text(text)
    with pytest.raises(T2VError, match="nothing was changed: move the folder"):
        opened(kept.parent)
    assert content(kept) == {"run.json": text.encode()}


def test_runs_are_found_while_one_is_at_work(kept):
    """Its files get other names at any moment."""
    runs, stop = RunsFolder(kept.parent), threading.Event()

    def look() -> list[str]:
        problems = []
        while not stop.is_set():
            problems += [found.problem for found in runs.found()]
        return problems

    with ThreadPoolExecutor(1) as pool, opened(kept.parent) as run:
        looking = pool.submit(look)
        for _ in range(300):
            run.keep(state(1))
        stop.set()
        assert set(looking.result()) == {""}


def test_headers_that_lie_end_in_an_error(tmp_path):
    path = tmp_path / "state.safetensors"
    for header in (b"{}", b'{"x":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', b"[" * 4000, b"\0" * 40):
        path.write_bytes(struct.pack("<Q", len(header)) + header)
        with pytest.raises(T2VError, match="cut short or damaged"):
            read_tensors(path)
    path.write_bytes(struct.pack("<Q", 2**62))
    with pytest.raises(T2VError, match="cut short or damaged"):
        read_tensors(path)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_without_the_room_is_refused_before_any_work(small_disk):
    (small_disk / "mine").write_bytes(b"0" * 600_000)
    with pytest.raises(T2VError, match=r"may take .* kB and the disk has .* kB free; make room, or do something"):
        opened(small_disk / "runs")
    assert [each.name for each in small_disk.iterdir()] == ["mine"]


def test_a_disk_that_fills_up_keeps_the_last_whole_state(small_disk, monkeypatch):
    monkeypatch.setattr(folders, "MOST_KEPT", 2)
    with opened(small_disk / "runs") as run:
        run.keep(state(1))
        run.keep(state(2))
        (small_disk / "mine").write_bytes(b"0" * (shutil.disk_usage(small_disk).free - 50_000))
        with pytest.raises(T2VError, match=r"No space left.* goes on after step 2; do something else"):
            run.keep(state(3))
        latents = torch.ones(SHAPE)
        assert run.deliver(latents) is latents  # in memory, where it is safe
        names = sorted(each.name for each in run.folder.iterdir())
        assert names == ["lock", "run.json", "state.safetensors"]
    (small_disk / "mine").unlink()
    with opened(small_disk / "runs") as run:
        assert run.done == 2 and same(run.state, state(2))
        run.keep(state(3))
        assert same(run.state, state(3))


IN_ANOTHER_PROCESS = """
    import sys
    sys.path.insert(0, sys.argv[1])
    from pathlib import Path
    from t2v_core.errors import T2VError
    from t2v_core.runs import RunsFolder
    for path in sys.argv[3:]:
        try:
            with RunsFolder(Path(path), advice="ADVICE").open(sys.argv[2], (130, 4, 6, 5), 5, "euler"):
                print("opened", flush=True)
                sys.stdin.read()
        except T2VError as error:
            print(error)
"""


def another_process(*paths: Path, before: tuple[str, ...] = ()) -> subprocess.Popen:
    command = [*before, sys.executable, "-c", textwrap.dedent(IN_ANOTHER_PROCESS), ROOT, KEY, *paths]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(list(map(str, command)), **pipes)


def test_one_that_may_not_write_there_is_told_so(kept):
    """Another user, for whom the run folder and the one around it are read-only."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root can become another user")
    for parent in (*kept.parents, kept):
        if parent.stat().st_mode & 0o755 != 0o755:
            parent.chmod(0o755)
    before = content(kept)
    other = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
    with another_process(kept.parent, kept.parent.parent / "new", before=other) as process:
        said, new = (*process.communicate()[0].splitlines(), "", "")[:2]
    if not said:
        pytest.skip("another user cannot run this Python")
    assert said.startswith(f"the run cannot be kept in {kept}: Permission denied; ADVICE"), said
    assert "Permission denied; ADVICE" in new
    assert content(kept) == before and not (kept.parent.parent / "new").exists()


def test_two_at_once(kept):
    with another_process(kept.parent) as other:
        assert other.stdout.readline() == "opened\n"
        with pytest.raises(T2VError, match=r"is at work in another process"):
            opened(kept.parent)
        with pytest.raises(T2VError, match="at work"):
            RunsFolder(kept.parent).clear(kept.name)
        opened(kept.parent, OTHER).close()  # another run
        other.kill()  # and the system gives the lock back
        other.wait()
        with opened(kept.parent) as run:
            assert same(run.state, state(3))
            with pytest.raises(T2VError, match="is at work"):
                opened(kept.parent)  # here, too
    assert kept.is_dir()


def test_a_lock_whose_file_was_removed_is_no_lock(tmp_path):
    """Six that take the lock, remove its file and begin again: never are two of them in at once."""
    (tmp_path / "mine").touch()  # so that the folder stays
    inside, most, taken, end = [], [0], [], time.monotonic() + 1.0

    def work() -> None:
        while time.monotonic() < end:
            try:
                lock = Lock(tmp_path / "lock")
            except Locked:
                continue
            inside.append(lock)
            most[0] = max(most[0], len(inside))
            time.sleep(0)
            inside.pop()
            taken.append(lock)
            lock.remove()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] and len(taken) > 10


def test_runs_are_found_sized_and_cleared(tmp_path, kept):
    runs = RunsFolder(tmp_path / "runs")
    with opened(runs.path, OTHER) as run:
        run.keep(State(5, torch.zeros(SHAPE)))
        latents: Tensor = run.deliver(torch.ones(SHAPE))
    (runs.path / "mine").mkdir()
    (runs.path / "mine" / "photo.jpg").write_bytes(b"0")
    (runs.path / "link").symlink_to(kept)
    (kept / "note.txt").write_text("mine, too")
    (kept / "state.safetensors.part").write_bytes(b"0" * 1000)  # what a kill leaves behind
    os.utime(kept / "state.safetensors.part", (0, 0))
    os.utime(kept / "state.safetensors", (1, 1))
    os.utime(kept / "run.json", (1, 1))
    assert [found.name for found in runs.found()] == [run.folder.name, kept.name]
    ended, cut = runs.found()
    assert (ended.done, ended.steps, ended.delivered, ended.frames) == (5, 5, True, 130)
    assert (cut.done, cut.steps, cut.delivered, cut.problem) == (3, 5, False, "")
    assert "step 3 of 5 of dpmpp_2m" in cut.line() and "ended, 5 steps" in ended.line()
    files = [file for file in kept.iterdir() if file.name not in ("lock", "note.txt")]
    assert cut.bytes == sum(file.stat().st_size for file in files)
    for name in ("mine", "link", "..", "", "nothing", str(kept)):
        with pytest.raises(T2VError, match="there is no run"):
            runs.clear(name)
    assert runs.clear(kept.name) == cut.bytes
    assert [file.name for file in kept.iterdir()] == ["note.txt"]
    assert runs.clear(run.folder.name) == ended.bytes
    assert torch.equal(latents, torch.ones(SHAPE))  # whoever has it mapped keeps it
    assert sorted(each.name for each in runs.path.iterdir()) == sorted(["link", "mine", kept.name])
    assert runs.found() == [] and RunsFolder(tmp_path / "nowhere").found() == []


def test_what_is_damaged_is_found_and_can_be_cleared(kept):
    runs = RunsFolder(kept.parent)
    (kept / "state.safetensors").write_bytes(b"nothing")
    [found] = runs.found()
    assert "damaged: " in found.line() and "cut short" in found.problem
    (kept / "run.json").unlink()
    [found] = runs.found()
    assert "run.json is missing" in found.problem
    runs.clear(kept.name)
    assert not kept.exists()
