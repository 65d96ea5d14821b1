"""Fixtures of the tests in a real ComfyUI: one server and one browser for them all, started when first asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from comfyui import HERE, PACK, PACKS, Installation, NotInstalled, Server, find
from page import Browser, find_chromium


@pytest.fixture(scope="session")
def comfy_paths() -> Installation:
    """Where ComfyUI is; skips the test where there is none."""
    try:
        return find()
    except NotInstalled as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def comfy(comfy_paths, tmp_path_factory) -> Iterator[Server]:
    """The server that the tests share. A test that ends it, or needs other options, starts a `Server` of its own."""
    with Server(comfy_paths, tmp_path_factory.mktemp("comfyui"), "--preview-method", "latent2rgb") as server:
        yield server


@pytest.fixture(scope="session")
def first_video(comfy) -> None:
    """The shared server has run text_to_video, whose video video_to_video reads from the output folder."""
    comfy.run(json.loads((PACKS[PACK] / "workflows" / "api" / "text_to_video.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[Browser]:
    """A browser without a window; skips the test where there is none."""
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium to open ComfyUI's page in")
    with Browser(program, tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Puts the end of its servers' logs beside a failed test's traceback, and gives every skipped test this folder as
    its place, for pytest lists those of one place and one reason in one line."""
    report = yield
    if report.failed:
        servers = {id(each): each for each in getattr(item, "funcargs", {}).values() if isinstance(each, Server)}
        report.sections += [(f"ComfyUI on {server.url}", server.log_tail()) for server in servers.values()]
    if report.skipped and isinstance(report.longrepr, tuple):
        report.longrepr = (str(HERE), None, report.longrepr[2])
    return report
