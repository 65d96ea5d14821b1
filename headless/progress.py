"""Shows how far a long step is: a bar that redraws itself, or a plain line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

BAR_CELLS = 30
REDRAW_SECONDS = 0.05
LINE_SECONDS = 10.0


class Progress:
    """Progress on a text stream.

    style is "bar" (one line, redrawn in place), "lines" (a line at the end of each step and every ten seconds before)
    or "none". clock gives seconds, and is there to be replaced in tests.
    """

    def __init__(self, stream: TextIO, style: str, clock: Callable[[], float] = time.monotonic):
        self._stream = stream
        self._style = style
        self._clock = clock
        self._drawn = ""  # the bar on the screen, if one is unfinished

    def start(self, total: int, label: str) -> Callable[..., None]:
        """Begins a step of `total` units; the function returned takes the number of units done so far, and may be given
        what the next unit is at, a few words to be shown until it is done, and how many units were done before this one
        began, of which nothing can be learned about the time that is left."""
        self.close()
        began = last = reached = self._clock()
        pause, so_far = REDRAW_SECONDS if self._style == "bar" else LINE_SECONDS, 0

        def report(done: int, at: str = "", found: int = 0) -> None:
            nonlocal last, reached, so_far
            now = self._clock()
            if done != so_far:
                reached, so_far = now, done
            if self._style != "none" and (done >= total or now - last >= pause):
                last = now
                here = done - found
                left = (reached - began) / here * (total - done) - (now - reached) if here else 0.0
                self._show(done, total, label, at, (now - began, max(left, 0.0)))

        if self._style == "bar" and total:
            self._show(0, total, label, "", (0.0, 0.0))
        return report

    def note(self, text: str) -> None:
        """A line beside the steps."""
        self.close()
        if self._style != "none":
            self._stream.write(f"{text}\n")
            self._stream.flush()

    def close(self) -> None:
        """Ends the line of a bar that stopped half-way, so that what is printed next starts on its own line."""
        if self._drawn:
            self._stream.write("\n")
            self._drawn = ""

    def _show(self, done: int, total: int, label: str, at: str, seconds: tuple[float, float]) -> None:
        """seconds: elapsed, and left."""
        elapsed, left = map(_duration, seconds)
        timing = f"{elapsed} elapsed" if done < total else elapsed
        if 0 < done < total:
            timing += f", {left} left"
        if at and done < total:
            timing = f"{at}, {timing}"
        if self._style == "lines":
            self._stream.write(f"{label} {done}/{total}, {timing}\n")
        else:
            filled = BAR_CELLS * done // total
            line = f"{label} {done}/{total} [{'#' * filled}{'.' * (BAR_CELLS - filled)}] {timing}"
            self._stream.write("\r" + line.ljust(len(self._drawn)))
            self._drawn = line
            if done >= total:
                self.close()
        self._stream.flush()


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
