"""api_client/client.py when the connection drops, or the server is stopped, killed or restarted."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import WORKFLOW, wait_until
from comfyui import Server

pytest_plugins = ["client_fixtures"]


class Proxy:
    """A TCP proxy on a free port of this machine that can cut what goes through it."""

    def __init__(self, port: int):
        self.port, self.passes, self._sockets = port, True, []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near = self._listener.accept()[0]
                try:
                    far = socket.create_connection(("127.0.0.1", self.port)) if self.passes else None
                except OSError:
                    far = None
                if far is None:
                    near.close()
                    continue
                self._sockets += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.cut()


@pytest.fixture
def proxy(comfy) -> Iterator[Proxy]:
    proxy = Proxy(int(comfy.url.rpartition(":")[2]))
    yield proxy
    proxy.close()


def test_a_dropped_connection_is_taken_up_again(start, comfy, proxy, tmp_path):
    changes = ("--set", "Sampler.steps=60", "--set", f"Sampler.seed={time.time_ns()}")
    running = start("run", WORKFLOW, "--server", proxy.url, "--out", tmp_path, *changes)
    for _ in range(2):
        running.says(r"Sampler 1/60")
        proxy.cut()
        running.says("^lost the connection$")
    running.end()
    assert running.code == 0 and Path(running.output[0]).is_file()
    before, _, after = running.errors.rpartition("lost the connection")
    assert "[6/7] Decode" not in before and "[6/7] Decode" in after  # there is progress again


def test_what_ended_while_the_connection_was_down_is_fetched(start, comfy, proxy, tmp_path):
    changes = ("--set", "Sampler.steps=20", "--set", f"Sampler.seed={time.time_ns()}")
    running = start("run", WORKFLOW, "--server", proxy.url, "--out", tmp_path, *changes)
    running.says(r"Sampler 1/20")
    proxy.passes = False
    proxy.cut()
    running.says("cannot be reached: .*; trying again for 30 s$")
    wait_until(lambda: comfy.queued() == [])
    assert running.popen.poll() is None
    proxy.passes = True
    running.end(20)
    assert running.code == 0 and Path(running.output[0]).is_file()


def test_an_unreachable_server_is_an_error(start):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{unused.getsockname()[1]}"
        began = time.monotonic()
        ended = start("run", WORKFLOW, "--server", f"http://name:secret@{url}/", "--retry", 1).end()
        assert 1 <= time.monotonic() - began < 10
    assert ended.code == 3 and len(ended.problems) == 1 and "secret" not in ended.errors
    assert re.fullmatch(rf"error: http://{url} cannot be reached: .*; gave up after 1 s", ended.problems[0])
    assert start("queue", "--server", url, "--retry", 0).end().code == 3


@pytest.mark.long
def test_a_server_that_is_stopped_killed_or_restarted(comfy, slow, tmp_path):
    with Server(comfy.installation, tmp_path / "own") as server:
        proxy = Proxy(int(server.url.rpartition(":")[2]))
        try:
            restarted = slow("--retry", 150, server=proxy.url)
            restarted.says(r"Sampler \d+/10000")
            server.kill()
            restarted.says("cannot be reached: .*; trying again for 150 s$")
            with Server(comfy.installation, tmp_path / "own") as server:
                proxy.port = int(server.url.rpartition(":")[2])
                assert restarted.end(30).code == 3
                assert "the server no longer knows the run: it was restarted" in restarted.problems[0]

                hanging = slow(server=server.url)
                hanging.says(r"Sampler \d+/10000")
                killed = slow("--retry", 2, server=server.url)
                killed.says("^waiting, 1 before it$")
                server.process.send_signal(signal.SIGSTOP)
                hanging.popen.send_signal(signal.SIGINT)
                time.sleep(1)
                assert hanging.popen.poll() is None  # it waits for the server
                hanging.popen.send_signal(signal.SIGINT)
                assert hanging.end(2).code == 130
                server.process.send_signal(signal.SIGCONT)
                server.kill()
                assert killed.end(30).code == 3
                assert killed.problems[0].endswith("; gave up after 2 s")
        finally:
            proxy.close()
