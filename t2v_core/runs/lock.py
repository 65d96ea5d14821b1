"""One process at a time in a run folder. The system itself takes a lock back from a process that has died."""

from __future__ import annotations

import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt


class Locked(Exception):
    """Another one has the lock."""


class Lock:
    """The lock of one file, which is made for it and stays; `close` gives it back.

    Raises Locked where it is taken, by this process too, and OSError where the file cannot be made or locked.
    """

    def __init__(self, path: Path):
        self._path = path
        while True:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                _take(self._file)
                if _is_still(path, self._file):
                    return
            except BaseException:
                os.close(self._file)
                raise
            os.close(self._file)

    def close(self) -> None:
        """Give it back."""
        os.close(self._file)

    def remove(self) -> None:
        """Give it back, and remove its file and then the folder that it is in, if nothing else is there."""
        if os.name == "nt":  # an open file cannot be removed there; elsewhere, one that is not locked is another's
            self.close()
        try:
            os.unlink(self._path)
            os.rmdir(os.path.dirname(self._path))
        except OSError:
            pass
        if os.name != "nt":
            self.close()


def _take(file: int) -> None:
    try:
        if os.name == "nt":
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise Locked from error


def _is_still(path: Path, file: int) -> bool:
    """Whether the locked file is the one of that name: whoever had the lock before may have removed it."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False
