"""api_client/client.py as a process, for the tests of it. Their fixtures: client_fixtures.py."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "api_client" / "client.py"
WORKFLOW = ROOT / "workflows" / "api" / "text_to_video.json"
SMALL = ("--set", "Sampler.steps=3", "--set", "Empty latent.num_frames=2")
SECONDS = 120


class Process:
    """`python client.py COMMAND ...`, running. Its stderr is collected as it comes."""

    def __init__(self, *arguments: object, stderr: int = subprocess.PIPE):
        command = [sys.executable, CLIENT, *map(str, arguments)]
        self.popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
        self.lines: list[str] = []
        if stderr == subprocess.PIPE:
            self.reader = threading.Thread(target=self._read)
            self.reader.start()

    def _read(self) -> None:
        for line in self.popen.stderr:
            self.lines.append(line)

    def says(self, pattern: str, seconds: float = SECONDS) -> re.Match:
        """Waits for a line on stderr in which the pattern is found."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.errors, re.MULTILINE)):
            assert time.monotonic() < deadline and self.popen.poll() is None, f"no {pattern!r} in:\n{self.errors}"
            time.sleep(0.05)
        return found

    @property
    def errors(self) -> str:
        return "".join(list(self.lines))

    def end(self, seconds: float = SECONDS) -> Process:
        """Waits for its end; then `code` is its exit code and `output` the lines of its stdout."""
        self.code = self.popen.wait(seconds)
        self.output = self.popen.stdout.read().splitlines()
        self.popen.stdout.close()
        self.reader.join()
        return self

    @property
    def problems(self) -> list[str]:
        return [line for line in self.errors.splitlines() if line.startswith("error: ")]


def wait_until(condition, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def queued_as(process: Process) -> str:
    return process.says(r"^queued as (\S+)$")[1]
