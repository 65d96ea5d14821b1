"""`python -m headless schedule`: what a prompt schedule or a value schedule says at each frame, as a table."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from ..t2v_core.errors import GraphError, ScheduleError
from ..t2v_core.schedules import DIALECT_CHOICES, FILE_LIMIT, MAX_FRAMES
from ..t2v_core.schedules.table import KINDS, read_schedule, summary, table
from .progress import Progress
from .wording import plain

DONE, WRONG = 0, 2
EXIT_CODES = (
    "exit codes: 0 the schedule is right; 2 the command or the schedule is wrong; 130 interrupted. Errors and warnings "
    "go to stderr: the line, the column, a caret below what is meant, and what would be right."
)


def add(commands) -> None:
    """Adds the command to the program's."""
    parser = commands.add_parser("schedule", help="show what a schedule says at each frame", epilog=EXIT_CODES)
    parser.set_defaults(command=show)
    parser.add_argument("file", metavar="FILE", help="a text file (UTF-8) with the schedule; - reads stdin")
    parser.add_argument("--kind", choices=KINDS, default="auto", help="what it is a schedule of (default: auto)")
    parser.add_argument("--dialect", choices=DIALECT_CHOICES, default="auto", help="whose rules (default: auto)")
    parser.add_argument("--frames", metavar="N", type=_frames, default=16, help="the clip's frames (default: 16)")
    parser.add_argument("--fps", metavar="F", type=_fps, default=8.0, help="its frames a second (default: 8)")
    parser.add_argument("--every", metavar="K", type=_frames, default=1, help="a row for every K-th frame (default: 1)")


def show(options: argparse.Namespace, progress: Progress) -> int:
    """Prints the table, and returns the exit code. GraphError for a file that cannot be read."""
    name = "stdin" if options.file == "-" else options.file
    text = _read(options.file, name)
    try:
        schedule = read_schedule(text, options.kind, options.dialect, FILE_LIMIT)
        warnings = schedule.check(options.frames, options.fps)
        lines = table(schedule, options.frames, options.fps, options.every)
    except ScheduleError as error:
        _print_problems("error", name, error.problems)
        return WRONG
    _print_problems("warning", name, warnings)
    sys.stdout.reconfigure(errors="backslashreplace")  # prompts have letters that a terminal's encoding may lack
    print(summary(schedule, options.frames, options.fps, warnings=False), end="\n\n")
    for line in lines:
        print(plain(line))
    return DONE


def _read(file: str, name: str) -> str:
    try:
        if file == "-":
            content = sys.stdin.buffer.read(FILE_LIMIT + 1)
        else:
            with Path(file).open("rb") as opened:
                content = opened.read(FILE_LIMIT + 1)
    except (OSError, ValueError) as error:
        raise GraphError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > FILE_LIMIT:
        raise GraphError(f"{name}: larger than {FILE_LIMIT:,} bytes; at most that much is read")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise GraphError(f"{name}: not UTF-8 text: byte {error.start} does not belong there") from error


def _print_problems(kind: str, name: str, problems) -> None:
    """Each as `error: FILE: line 1, column 9: ...` and indented lines below it."""
    for problem in problems:
        first, *more = str(replace(problem, warning=False)).split("\n")
        print(f"{kind}: {plain(name)}: {plain(first)}", file=sys.stderr)
        for line in more:
            print(line, file=sys.stderr)


def _frames(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= MAX_FRAMES):
        raise argparse.ArgumentTypeError(f"{plain(text[:40])} is not a whole number from 1 to {MAX_FRAMES}")
    return int(text)


def _fps(text: str) -> float:
    try:
        fps = float(text)
    except ValueError:
        fps = 0.0
    if not 0.01 <= fps <= 1000:
        raise argparse.ArgumentTypeError(f"{plain(text[:40])} is not a number from 0.01 to 1000")
    return fps
