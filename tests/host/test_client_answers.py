"""api_client/client.py and answers that no honest server gives, or gives only at a moment of its own choosing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from clients import WORKFLOW

pytest_plugins = ["client_fixtures"]


class Fake:
    """A server that answers as it is told, in a thread; by default it has run whatever is submitted.

    shown: what the one node showed. routes: (method, path) to a handler that is asked first; a handler that returns
    None leaves the answer to the usual one. posts: the bodies of the prompts that came. done: the ids of those that
    ran.
    """

    def __init__(self, shown: object = (), routes: dict | None = None):
        self.shown, self.routes, self.posts, self.done = shown, routes or {}, [], []
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.url = asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(10)

    async def _serve(self) -> str:
        self._runner = web.ServerRunner(web.Server(self._answer))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return site.name if not site.name.endswith(":0") else f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        place = (request.method, request.path.split("/")[1])
        if place == ("POST", "prompt"):
            self.posts.append(await request.json())
        if place in self.routes and (answer := await self.routes[place](request)) is not None:
            return answer
        return await getattr(self, f"{place[0]}_{place[1]}".lower())(request)

    async def get_ws(self, request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for _ in socket:
            pass
        return socket

    async def post_prompt(self, request):
        self.done.append(self.posts[-1]["prompt_id"])
        return web.json_response({"prompt_id": self.done[-1], "node_errors": {}})

    async def get_history(self, request):
        entry = {"outputs": {"7": self.shown}, "status": {"status_str": "success"}}
        return web.json_response({i: entry for i in self.done if request.path == f"/history/{i}"})

    async def get_queue(self, request):
        return web.json_response({"queue_running": [], "queue_pending": []})

    async def get_view(self, request):
        return web.Response(body=b"content of " + request.query["filename"].encode()[:20])

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)


@pytest.fixture
def fake() -> Iterator:
    """fake(shown, routes) starts one."""
    started = []

    def fake(*arguments) -> Fake:
        started.append(Fake(*arguments))
        return started[-1]

    yield fake
    for server in started:
        server.stop()


def video(name: object) -> dict:
    return {"images": [{"filename": name, "subfolder": "", "type": "output"}], "animated": [True]}


HOSTILE = [
    *(
        "../../evil.mp4",
        "/etc/passwd",
        "..\\..\\evil.mp4",
        "C:\\evil.mp4",
        "..",
        ".",
        "/",
        "~/.bashrc",
        ".bashrc",
        "-rf",
    ),
    *("a\x1b[31m\nb.mp4", "\u202e4pm.exe", "x" * 5000 + ".mp4", "\U0001f600" * 300 + ".mp4", "a\0b", "taken.mp4"),
]


def test_hostile_names_stay_in_the_folder(start, fake, tmp_path):
    out, outside = tmp_path / "a" / "b" / "out", tmp_path / "outside.mp4"
    out.mkdir(parents=True)
    outside.write_text("mine")
    (out / "taken.mp4").symlink_to(outside)
    (out / "evil.mp4").symlink_to(tmp_path / "a" / "nothing there yet")
    shown = [*video(HOSTILE[0])["images"], *({"filename": name, "subfolder": "../.."} for name in HOSTILE[1:])]
    server = fake(
        {"gifs": shown, "text": ["a.mp4"], "video": "b.mp4", "more": [{"filename": 5, "type": ["output"]}, None]}
    )
    ended = start("run", WORKFLOW, "--server", server.url, "--out", out).end()
    assert ended.code == 0 and len(ended.output) == len(HOSTILE) + 1
    assert sorted(map(Path, ended.output)) == sorted(path for path in out.iterdir() if not path.is_symlink())
    for path in map(Path, ended.output):
        assert path.parent == out and path.is_file() and re.fullmatch(r"[\w()][\w.() -]*", path.name), path
    assert outside.read_text() == "mine" and sorted(os.listdir(tmp_path)) == ["a", "outside.mp4"]
    assert os.listdir(tmp_path / "a") == ["b"] and os.listdir(tmp_path / "a" / "b") == ["out"]


def test_hostile_text_cannot_reach_the_terminal(start, fake):
    async def refuse(request):
        errors = {"5": {"errors": [{"message": "\x1b]0;owned\x07\r\nerror: 2", "details": ""}], "class_type": "A"}}
        return web.json_response({"error": {}, "node_errors": errors}, status=400)

    ended = start("run", WORKFLOW, "--server", fake((), {("POST", "prompt"): refuse}).url).end()
    assert ended.code == 2 and len(ended.problems) == 1 and "\x1b" not in ended.errors


def test_messages_that_make_no_sense_are_passed_over(start, fake, tmp_path):
    async def babble(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for data in (
            None,
            5,
            {"value": "1", "max": 0},
            {"value": 1e999, "max": 2},
            {"node": ["5"]},
            {"nodes": [["1"]]},
        ):
            for kind in ("progress", "executing", "execution_cached", "status", None):
                await socket.send_str(json.dumps({"type": kind, "data": data}))
        for text in ("", "{", "[" * 100_000, "5"):
            await socket.send_str(text)
        await socket.send_bytes(b"\0" * 100_000)
        with contextlib.suppress(ConnectionError):  # and on and on: never silent, never a word about the run
            while not socket.closed:
                await socket.send_str(json.dumps({"type": "monitor", "data": {"cpu": 50}}))
                await asyncio.sleep(0.1)
        return socket

    over = time.monotonic() + 4  # when all that is said has been

    async def not_yet(request):
        return web.json_response({}) if time.monotonic() < over else None

    async def running(request):
        return web.json_response({"queue_running": [[0, server.posts[0]["prompt_id"]]], "queue_pending": []})

    routes = {("GET", "ws"): babble, ("GET", "history"): not_yet, ("GET", "queue"): running}
    server = fake(video("a.mp4"), routes)
    ended = start("run", WORKFLOW, "--server", server.url, "--out", tmp_path).end()
    assert (ended.code, ended.output) == (0, [str(tmp_path / "a.mp4")])


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(start, fake, tmp_path, status):
    async def busy(request):
        return web.Response(status=status) if len(server.posts) < 3 else None

    server = fake(video("a.mp4"), {("POST", "prompt"): busy})
    ended = start("run", WORKFLOW, "--server", server.url, "--out", tmp_path).end()
    assert ended.code == 0 and len(server.posts) == 3 and f"answers HTTP {status}" in ended.errors

    async def always(request):
        return web.Response(status=status)

    server = fake((), {("POST", "prompt"): always})
    ended = start("run", WORKFLOW, "--server", server.url, "--out", tmp_path, "--wait-queue", 1).end()
    assert ended.code == 4 and ended.problems[0].endswith("; gave up after 1 s")


def test_a_lost_answer_does_not_submit_twice(start, fake, tmp_path):
    async def drop(request):
        server.done.append(server.posts[-1]["prompt_id"])
        request.transport.close()
        return web.Response()

    server = fake(video("a.mp4"), {("POST", "prompt"): drop})
    ended = start("run", WORKFLOW, "--server", server.url, "--out", tmp_path).end()
    assert ended.code == 0 and len(server.posts) == 1 and (tmp_path / "a.mp4").is_file()


def test_a_file_that_breaks_off_is_fetched_again_or_not_at_all(start, fake, tmp_path):
    asked = []

    async def break_off(request):
        asked.append(request.path)
        if len(asked) < 3 or "for ever" in shown:
            answer = web.StreamResponse(headers={"Content-Length": "1000"})
            await answer.prepare(request)
            await answer.write(b"0123456789")
            request.transport.close()
            return answer

    for shown, code, left in ((video("a.mp4"), 0, ["a.mp4"]), ({**video("a.mp4"), "for ever": []}, 3, [])):
        server = fake(shown, {("GET", "view"): break_off})
        out = tmp_path / str(code)
        ended = start("run", WORKFLOW, "--server", server.url, "--out", out, "--retry", 2).end()
        assert ended.code == code and os.listdir(out) == left and len(asked) >= 3
    assert (tmp_path / "0" / "a.mp4").read_bytes() == b"content of a.mp4"
    assert ended.problems[0].startswith("error: a.mp4 cannot be fetched: ")


@pytest.mark.parametrize(
    "answer", ["[]", "{}", '{"queue_running": 5, "queue_pending": [[]]}', "[" * 100_000, "", "null"]
)
def test_answers_that_make_no_sense_are_an_error(start, fake, answer):
    async def senseless(request):
        return web.Response(text=answer, content_type="application/json")

    ended = start("queue", "--server", fake((), {("GET", "queue"): senseless}).url).end()
    assert ended.code == 3 and len(ended.problems) == 1
    assert "does not answer as ComfyUI does" in ended.problems[0]


def test_what_is_no_comfyui_is_said_to_be_none(start, fake):
    async def page(request):
        return web.Response(text="<html>", content_type="text/html")

    async def elsewhere(request):
        raise web.HTTPFound("http://127.0.0.1:9/")

    for answer, found in ((page, "HTTP 200"), (elsewhere, "")):
        server = fake((), {("GET", "ws"): answer})
        ended = start("run", WORKFLOW, "--server", server.url, "--retry", 0).end()
        assert ended.code == 3 and found in ended.problems[0]
    ended = start("run", WORKFLOW, "--server", fake((), {("POST", "prompt"): elsewhere}).url, "--retry", 0).end()
    assert ended.code == 3 and "HTTP 302 Found; is it a ComfyUI server?" in ended.problems[0]
    for answer, found in ((page, "does not answer as ComfyUI does"), (elsewhere, "HTTP 302 Found")):
        ended = start("queue", "--server", fake((), {("GET", "queue"): answer}).url, "--retry", 0).end()
        assert ended.code == 3 and found in ended.problems[0]


def test_the_forms_of_other_servers_are_read(start, fake):
    """A fork writes queue entries as objects and a run's events as texts."""

    async def queue(request):
        entries = [{"priority": number, "prompt_id": f"id{number}", "prompt": {}} for number in (3, 1, 2)]
        return web.json_response({"queue_running": entries[:1], "queue_pending": entries[1:]})

    async def failed(request):
        status = {"status_str": "error", "messages": ["execution_start", "execution_error: out of memory: 2 GB"]}
        return web.json_response({server.posts[0]["prompt_id"]: {"outputs": {}, "status": status}})

    server = fake((), {("GET", "queue"): queue, ("GET", "history"): failed})
    assert start("queue", "--server", server.url).end().output == ["running id3", "waiting id1", "waiting id2"]
    ended = start("run", WORKFLOW, "--server", server.url).end()
    assert ended.code == 1 and "out of memory: 2 GB" in ended.problems[0]
