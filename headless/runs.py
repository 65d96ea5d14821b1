"""`python -m headless runs`: what has been sampled and kept, and clearing it; and how `run` is told what to keep."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..t2v_core.errors import GraphError, T2VError
from ..t2v_core.runs import KEPT_FROM, RunsFolder
from ..t2v_core.runs.folder import shown_bytes
from .progress import Progress
from .wording import plain

DONE = 0
RUNS = Path("runs")
ALL = "all"
ADVICE = "choose another folder by --runs, or keep nothing by --no-resume"
EXIT_CODES = (
    "exit codes: 0 done; 2 there is no such run, it is at work, or the folder cannot be read or changed; "
    "130 interrupted. Errors are one line on stderr."
)


def add_options(run: argparse.ArgumentParser) -> None:
    """What `run` may be told of keeping."""
    run.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        help="keep the sampling of every clip on disk after each step, however short, and go on where the same one was "
        f"cut off; --no-resume keeps nothing and begins anew (default: clips of {KEPT_FROM} frames and more)",
    )
    _add_folder(run)


def chosen(options: argparse.Namespace, progress: Progress) -> RunsFolder | None:
    """What `run` was told."""
    if options.resume is False:
        return None
    return RunsFolder(options.runs, 1 if options.resume else KEPT_FROM, ADVICE, progress.note)


def add(commands) -> None:
    """Adds the command to the program's."""
    parser = commands.add_parser("runs", help="list kept runs, and clear them", epilog=EXIT_CODES)
    parser.set_defaults(command=show)
    _add_folder(parser)
    parser.add_argument(
        "--clear",
        metavar="NAME",
        action="append",
        default=[],
        help=f"remove a run by its name, or '{ALL}' of them but those at work; may be given more than once",
    )


def show(options: argparse.Namespace, progress: Progress) -> int:
    """Lists the runs, or clears those that are named, and returns the exit code. GraphError for what cannot be."""
    folder = RunsFolder(options.runs)
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        found = folder.found()
        if options.clear:
            _clear(folder, [run.name for run in found], options.clear)
            return DONE
    except T2VError as error:
        raise GraphError(plain(str(error))) from error
    for run in found:
        print(plain(run.line()))
    many = "1 run" if len(found) == 1 else f"{len(found) or 'no'} runs"
    print(plain(f"{many} in {folder.path}, {shown_bytes(sum(run.bytes for run in found))}"))
    return DONE


def _clear(folder: RunsFolder, found: list[str], names: list[str]) -> None:
    for name in names:
        if name not in (*found, ALL):
            raise T2VError(f"there is no run {name!r} in {folder.path}; nothing was removed")
    for name in found if ALL in names else dict.fromkeys(names):
        try:
            freed = folder.clear(name)
        except T2VError as error:
            if ALL not in names:
                raise
            print(f"warning: {plain(str(error))}", file=sys.stderr)
        else:
            print(plain(f"{name} cleared, {shown_bytes(freed)}"))


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runs", metavar="DIR", type=Path, default=RUNS, help=f"the folder of kept runs (default: {RUNS})"
    )
