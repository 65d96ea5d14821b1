"""Fixtures of the tests of api_client/client.py: a pytest plugin, which those test files name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from clients import WORKFLOW, Process


@pytest.fixture
def start() -> Iterator:
    """start("run", ...) starts a client, which does not outlive the test."""
    started = []

    def start(*arguments: object) -> Process:
        started.append(Process(*arguments))
        return started[-1]

    yield start
    for process in started:
        process.popen.kill()
        process.popen.wait()


@pytest.fixture
def run(start, comfy, tmp_path):
    """run(...) runs `client.py run` on the session's server, writing into tmp_path, to its end."""
    yield lambda *arguments: start("run", "--server", comfy.url, "--out", tmp_path, *arguments).end()
    comfy.post("/queue", {"clear": True})
    comfy.interrupt()


@pytest.fixture
def slow(start, comfy, tmp_path, request):
    """slow() starts a run that would take very long. Another seed each time, or the server would not run it."""
    seeds = iter(range(abs(hash(request.node.name)) % 2**31, 2**32))
    sizes = ("--set", "Sampler.steps=10000", "--out", tmp_path)

    def slow(*arguments: object, server: str = comfy.url) -> Process:
        return start("run", WORKFLOW, "--server", server, *sizes, "--set", f"5.seed={next(seeds)}", *arguments)

    yield slow
    comfy.post("/queue", {"clear": True})
    comfy.interrupt()
