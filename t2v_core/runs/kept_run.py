"""One run on disk: its state after every step, and its latents when it has ended."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..diffusion.samplers import State
from ..errors import T2VError
from .files import read_json, read_tensors, write_json, write_tensors
from .lock import Lock

RUN, STATE, LATENTS, LOCK = "run.json", "state.safetensors", "latents.safetensors", "lock"
OURS = (RUN, STATE, LATENTS, *(f"{name}.part" for name in (RUN, STATE, LATENTS)))
"""Files in a run folder besides the lock."""
X, KEPT = "x", "kept."


class KeptRun:
    """A sampler's `Keeper` in a folder that is locked while this is open; a context manager. See `RunsFolder.open`.

    The folder holds `run.json`, which says what run it is; `state.safetensors`, the state after the last step; and
    `latents.safetensors`, the result. Each is written under another name and renamed, so whatever ends the process,
    and whenever, the last whole state is there. Nothing of it is removed here but a folder in which nothing was kept.
    """

    def __init__(
        self, folder: Path, lock: Lock, key: str, steps: int, advice: str, say: Callable[[str], None], made: bool
    ):
        self.folder = folder
        self.key = key
        self.steps = steps
        self.done = 0
        self._lock, self._advice, self._say = lock, advice, say
        self._made = made  # the folder of the runs, too
        self._begun = False
        self._about: dict[str, Any] = {}

    def __enter__(self) -> KeptRun:
        return self

    def __exit__(self, *raised: Any) -> None:
        self.close()

    def begin(self, about: dict[str, Any]) -> None:
        """Find out how far the run has come, or begin it. Raises T2VError: see `RunsFolder.open`."""
        try:
            known = read_json(self.folder / RUN)
        except FileNotFoundError:
            known = {"key": self.key}
        except T2VError as error:
            raise T2VError(f"{error}; nothing was changed: {self._move()}") from None
        if known.get("key") != self.key:
            raise T2VError(f"the folder {self.folder} is another run's; nothing was changed: {self._move()}")
        settled = known.get("settled")
        self.done = 0 if (state := self._read(checked=False)) is None else state.steps
        self._about = {"key": self.key, "steps": self.steps, **about, "begun": time.time()}
        self._about["settled"] = settled if isinstance(settled, dict) else {}
        self._begun = True
        self._write(lambda: write_json(self.folder / RUN, self._about))

    @property
    def state(self) -> State | None:
        """The last whole state, read anew, or None. T2VError where it is damaged or another run's."""
        return self._read(checked=True)

    def keep(self, state: State) -> None:
        """Put this state in the place of the one before. T2VError where it cannot be written; that one then stays."""
        tensors = {X: state.x, **{f"{KEPT}{name}": value for name, value in state.kept.items()}}
        metadata = {"key": self.key, "steps": str(state.steps), "draws": json.dumps(state.draws)}
        self._write(lambda: write_tensors(self.folder / STATE, tensors, metadata))
        self.done = state.steps

    def settled(self, name: str, value: Any) -> Any:
        """What was settled under a name when the run began, for what may be decided otherwise each time and changes
        bits, such as by the memory that is free; `value`, a number or the like, if this is the first time."""
        if name not in self._about["settled"]:
            self._about["settled"][name] = value
            self._write(lambda: write_json(self.folder / RUN, self._about))
        return self._about["settled"][name]

    def deliver(self, latents: Tensor) -> Tensor:
        """The run's result, from now on in the folder: the same numbers as a tensor that is mapped into memory, so that
        who reads it a few frames at a time never holds all of it. Written into, it is no more the file's.

        Where it cannot be written, which is said, `latents` themselves.
        """
        path = self.folder / LATENTS
        try:
            before = read_tensors(path, checked=False)[0].get(X)
            if before is not None and before.dtype == latents.dtype and torch.equal(before, latents.cpu()):
                return before  # another one may have it mapped, and some systems then let nobody replace it
        except (FileNotFoundError, T2VError):
            pass
        try:
            write_tensors(path, {X: latents}, {"key": self.key})
            return read_tensors(path, checked=False)[0][X]
        except (OSError, T2VError) as error:
            self._say(f"The result could not be written into {self.folder}, and stays in memory: {error}")
            return latents

    def close(self) -> None:
        """Let others have the run. A folder in which nothing was kept is removed, but never what another run has."""
        kept = any((self.folder / name).exists() for name in ((STATE, LATENTS) if self._begun else OURS))
        if not kept:
            for name in OURS:
                (self.folder / name).unlink(missing_ok=True)
            self._lock.remove()
            if self._made:
                with suppress(OSError):  # there is something in it
                    os.rmdir(self.folder.parent)
        else:
            self._lock.close()

    def _read(self, checked: bool) -> State | None:
        path = self.folder / STATE
        try:
            tensors, metadata = read_tensors(path, checked)
            if metadata.get("key") != self.key:
                raise T2VError(f"{path} is another run's")
            steps, draws = int(metadata["steps"]), json.loads(metadata["draws"])
            pairs = tuple((float(sigma), float(sigma_next)) for sigma, sigma_next in draws)
            if not 1 <= steps <= self.steps or not all(math.isfinite(sigma) for pair in pairs for sigma in pair):
                raise ValueError(f"{steps} steps of {self.steps}")
            # A copy: this file will be replaced, which some systems refuse while it is mapped.
            own = {name: tensor.clone() if checked else tensor for name, tensor in tensors.items()}
            x = own.pop(X)
        except FileNotFoundError:
            return None
        except T2VError as error:
            raise T2VError(f"{error}; nothing was changed: {self._move()}") from None
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise T2VError(f"{path} is damaged ({error}); nothing was changed: {self._move()}") from None
        kept = {name.removeprefix(KEPT): tensor for name, tensor in own.items()}
        return State(steps, x, kept, pairs)

    def _write(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            so_far = f"what was kept stays, and the run goes on after step {self.done}" if self.done else ""
            raise T2VError(
                f"the run cannot be kept in {self.folder}: {error.strerror or error}. "
                + "; ".join(filter(None, (so_far, self._advice)))
            ) from None

    def _move(self) -> str:
        return f"move the folder {self.folder.name} away or remove it, and the run begins anew"
