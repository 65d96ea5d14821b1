"""The folder of the runs: opening one, which ones there are, clearing them."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import T2VError
from .files import read_json, read_tensors
from .kept_run import LATENTS, LOCK, OURS, RUN, STATE, KeptRun
from .lock import Lock, Locked

logger = logging.getLogger(__name__)

KEPT_FROM = 128
"""Frames of the shortest clip whose run is kept, unless told otherwise: eight times what models are trained on."""
MOST_KEPT = 4
"""Tensors of x's size that a sampler remembers at most: UniPC's."""
FLOAT_BYTES = 4
DIGITS = 16  # of the key in a folder's name; all of it is in the folder


@dataclass(frozen=True)
class RunsFolder:
    """Where runs are kept, and which.

    path: made with the first of them.
    kept_from: frames of the shortest clip whose run is kept, 1 and up.
    advice: what a person can do instead where a run cannot be kept.
    say: told in a line what is kept where, and from where a run goes on.
    """

    path: Path
    kept_from: int = KEPT_FROM
    advice: str = ""
    say: Callable[[str], None] = logger.info

    def keeps(self, frames: int) -> bool:
        """Whether a clip of so many frames is kept."""
        return frames >= self.kept_from

    def open(self, key: str, shape: Sequence[int], steps: int, sampler: str) -> KeptRun:
        """The run of this key, as far as it has come; a new one where there is none.

        shape: of x; its first axis or, of five, its third is frames. steps: 1 and up. sampler: its name, for people.

        Raises T2VError, before anything is changed, where another process is at it, where the folder is another run's
        or damaged, where it cannot be written to, and where the disk has not the room that it may need.
        """
        frames = frames_of(shape)
        folder = self.path / f"{frames}-frames-{key[:DIGITS]}"
        try:
            made = not self.path.exists()
            folder.mkdir(parents=True, exist_ok=True)
            lock = Lock(folder / LOCK)
        except Locked:
            raise T2VError(f"the run in {folder} is at work in another process; wait for its end, or end it") from None
        except OSError as error:
            raise T2VError(f"the run cannot be kept in {folder}: {error.strerror or error}{self._else()}") from None
        run = KeptRun(folder, lock, key, steps, self.advice, self.say, made)
        try:
            self._check_room(folder, shape)
            run.begin({"shape": list(shape), "frames": frames, "sampler": sampler})
            self.say(self._announced(run, shape))
        except BaseException:
            run.close()
            raise
        return run

    def _announced(self, run: KeptRun, shape: Sequence[int]) -> str:
        place = f"{run.folder} (at most {shown_bytes(most_bytes(shape))})"
        if run.done == 0:
            return f"This run is kept in {place}: cut off, it goes on where it was."
        if run.done == run.steps:
            return f"This run has ended before; its result is in {place}."
        return f"This run goes on after step {run.done} of {run.steps}, kept in {place}."

    def _check_room(self, folder: Path, shape: Sequence[int]) -> None:
        needed = most_bytes(shape) - sum(each.st_size for each in _found_in(folder).values())
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise T2VError(
                f"keeping this run in {folder} may take {shown_bytes(needed)} and the disk has {shown_bytes(free)} "
                f"free; make room{self._else(', or ')}"
            )

    def _else(self, join: str = "; ") -> str:
        return f"{join}{self.advice}" if self.advice else ""

    def found(self) -> list[Found]:
        """Every run in the folder, the one written last first; what cannot be read of one is its `problem`. None where
        there is no folder. T2VError where it cannot be read."""
        try:
            entries = list(os.scandir(self.path))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise T2VError(f"{self.path} cannot be read: {error.strerror or error}") from None
        folders = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        runs = [_look(each) for each in folders if any(os.path.exists(each / name) for name in (RUN, STATE))]
        return sorted(runs, key=lambda run: run.written, reverse=True)

    def clear(self, name: str) -> int:
        """Remove a run of `found` by its name; how many bytes that freed.

        Only files of this pack's are removed; the folder stays where there is something else in it. Raises T2VError for
        a name that is not found, for a run that is at work, and where the files cannot be removed.
        """
        if name not in (run.name for run in self.found()):
            raise T2VError(f"there is no run {name!r} in {self.path}")
        folder = self.path / name
        try:
            lock = Lock(folder / LOCK)
        except Locked:
            raise T2VError(f"the run {name} is at work; end it first") from None
        except OSError as error:
            raise T2VError(f"{folder} cannot be removed: {error.strerror or error}") from None
        try:
            freed = 0
            for file, found in _found_in(folder).items():
                file.unlink()
                freed += found.st_size
        except OSError as error:
            lock.close()
            raise T2VError(f"{folder} cannot be removed: {error.strerror or error}") from None
        lock.remove()
        return freed


@dataclass(frozen=True)
class Found:
    """A run that lies in the folder.

    done, steps: how many steps it has taken, and of how many; None where that cannot be read.
    written: seconds since 1970. delivered: whether its latents are there. problem: what is damaged, else "".
    """

    name: str
    bytes: int
    frames: int | None
    done: int | None
    steps: int | None
    sampler: str
    written: float
    delivered: bool
    problem: str

    def line(self) -> str:
        """What a person wants to know of it."""
        if self.problem:
            how_far = f"damaged: {self.problem}"
        elif self.done == self.steps:
            how_far = f"ended, {self.steps} steps of {self.sampler}"
        else:
            how_far = f"step {self.done} of {self.steps} of {self.sampler}"
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.written))
        return f"{self.name}  {shown_bytes(self.bytes)}  {when}  {how_far}"


def frames_of(shape: Sequence[int]) -> int:
    """The frames of a clip `[f, c, h, w]` or `[b, c, f, h, w]`."""
    return shape[2] if len(shape) == 5 else shape[0]


def most_bytes(shape: Sequence[int]) -> int:
    """What a run of this shape may take on the disk: its state while the next one is written, and its latents."""
    x = FLOAT_BYTES
    for side in shape:
        x *= side
    return 2 * (1 + MOST_KEPT) * x + x + 2**16


def shown_bytes(count: int) -> str:
    """A number of bytes for a person: 1.5 GB."""
    size, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "bytes" or size >= 10 else f"{size:.1f} {unit}"


def _found_in(folder: Path) -> dict[Path, os.stat_result]:
    """This pack's files in a run folder, all but its lock; a run at work renames its own at any moment."""
    found = {}
    for name in OURS:
        with suppress(FileNotFoundError):
            found[folder / name] = os.lstat(folder / name)
    return {file: each for file, each in found.items() if not stat.S_ISDIR(each.st_mode)}


def _look(folder: Path) -> Found:
    about, done, problem = {}, 0, ""
    try:
        about = read_json(folder / RUN)
        done = int(read_tensors(folder / STATE, checked=False)[1]["steps"])
    except FileNotFoundError as missing:
        problem = "" if about else f"{missing.filename or missing} is missing"
    except (T2VError, KeyError, ValueError) as error:
        problem = str(error)
    numbers = {name: about[name] if isinstance(about.get(name), int) else None for name in ("frames", "steps")}
    files = _found_in(folder).values()
    return Found(
        name=folder.name,
        bytes=sum(file.st_size for file in files),
        done=done,
        sampler=str(about.get("sampler", ""))[:40],
        written=max((file.st_mtime for file in files), default=0.0),
        delivered=(folder / LATENTS).exists(),
        problem=problem,
        **numbers,
    )
