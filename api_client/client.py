"""Runs workflows on a ComfyUI server from a shell or a program: submit, follow, fetch the files, cancel.

One file, needing Python >= 3.10 and aiohttp: copy it where you want it. Manual: docs/api.md, `python client.py --help`.

    async with Client("http://127.0.0.1:8188") as client:
        files = await client.run(read_workflow("text_to_video.json"), out="videos")
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import math
import os
import re
import signal
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

SERVER = "http://127.0.0.1:8188"
RETRY = 30.0  # seconds for which an unreachable server is tried again
QUIET = 3.0  # seconds without news of a run after which the server is asked for them
GIVE_UP = 10.0  # seconds given to cancelling
FAILED, WRONG, LOST, LATE, CANCELLED = 1, 2, 3, 4, 130
EXIT_CODES = (
    "exit codes: 0 done; 1 the run failed, or a file of it could not be fetched or written; 2 the command or the "
    "workflow is wrong and nothing was run; 3 the server cannot be reached, or has lost the run; 4 timed out; "
    "130 cancelled. Every error is one line on stderr that starts with 'error:'."
)
_BUSY, _UNREACHABLE = (429, 503), (502, 504)  # HTTP statuses worth another try; the latter are a proxy's
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class ComfyError(Exception):
    """`code` is FAILED, WRONG (one problem a line), LOST, LATE or CANCELLED, with the meaning of the exit codes.

    traceback: of a node that failed, the server's, as it sent it; else empty.
    """

    def __init__(self, code: int, message: str, traceback: str = ""):
        super().__init__(message)
        self.code, self.traceback = code, traceback


def read_workflow(path: str | os.PathLike) -> dict[str, Any]:
    """The body of a POST to /prompt, from a file with an API-format graph or with such a body. ComfyError(WRONG)."""
    try:
        document = json.loads(Path(path).read_text("utf-8-sig"))
    except OSError as error:
        raise ComfyError(WRONG, f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ComfyError(WRONG, f"{path}: not a workflow file: {error}") from None
    body = document if isinstance(document, dict) else {}
    if isinstance(body.get("nodes"), list):
        hint = "in ComfyUI choose Workflow > Export (API) and use the file that gives"
        raise ComfyError(WRONG, f"{path}: this is the UI format, which only ComfyUI's page can read; {hint}")
    if not isinstance(body.get("prompt"), dict) or "class_type" in body["prompt"]:
        body = {"prompt": body}
    nodes = body["prompt"].values()
    if not nodes or not all(isinstance(node, dict) and isinstance(node.get("inputs"), dict) for node in nodes):
        raise ComfyError(WRONG, f"{path}: not the API format, an object of nodes with a class_type and inputs each")
    return {"prompt": body["prompt"], "extra_data": body.get("extra_data") or {}}


def change(workflow: dict[str, Any], settings: list[str]) -> None:
    """Applies each "NODE.input=value"; NODE is an id, or the title or class of just one node. ComfyError(WRONG)."""
    problems = []
    for setting in settings:
        try:
            _change(workflow["prompt"], setting)
        except ValueError as error:
            problems.append(f"--set {setting}: {error}")
    if problems:
        raise ComfyError(WRONG, "\n".join(problems))


def _change(graph: dict[str, dict], setting: str) -> None:
    target, equals, text = setting.partition("=")
    name, dot, key = target.rpartition(".")  # a title may hold dots, an input's name does not
    if not equals or not dot:
        raise ValueError("the form is NODE.input=value, with the id, the title or the class of a node")
    ways = (lambda node: node, lambda node: _title(graph, node), lambda node: graph[node].get("class_type"))
    found = next(filter(None, ([node for node in graph if way(node) == name] for way in ways)), [])
    if len(found) != 1:
        known = ", ".join(_place(graph, node) for node in found or graph)
        many = f"{len(found)} nodes are called {name}; use an id" if found else f"no node is called {name}; there are"
        raise ValueError(f"{many}: {known}")
    inputs, place = graph[found[0]]["inputs"], _place(graph, found[0])
    if key not in inputs:
        raise ValueError(f"{place} has no input {key} in the file; it has {', '.join(inputs)}")
    old = inputs[key]
    if isinstance(old, list):
        raise ValueError(f"{place}, input {key} is linked to another node, so it has no value to set")
    if isinstance(old, bool):
        value, kind = _TRUTHS.get(text.lower()), "true or false"
    else:
        value, kind = (text, "") if isinstance(old, str) else (_number(text), "a number")
    if value is None:
        raise ValueError(f"{text} is not {kind}")
    # ComfyUI's page writes 8.0 as 8, so where a whole number stands any number may
    inputs[key] = float(value) if isinstance(old, float) else value


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        with contextlib.suppress(ValueError, OverflowError):
            return kind(text) if math.isfinite(kind(text)) else None
    return None


def _title(graph: dict[str, dict], node: str) -> str:
    return str((graph[node].get("_meta") or {}).get("title") or graph[node].get("class_type"))


def _place(graph: dict[str, dict], node: Any) -> str:
    return f'node {node} "{_title(graph, node)}" ({graph[node].get("class_type")})' if node in graph else f"node {node}"


class _Patience:
    """Waits longer each time; raises the error when `seconds` (None: no end) have passed since the first."""

    def __init__(self, seconds: float | None, code: int, note: Callable[[str], None]):
        self.seconds, self.code, self.note, self.until, self.pause = seconds, code, note, 0.0, 0.25

    async def wait(self, problem: str) -> None:
        first, now = not self.until, time.monotonic()
        self.until = self.until or now + (math.inf if self.seconds is None else self.seconds)
        if (left := self.until - now) <= 0:
            raise ComfyError(self.code, f"{problem}; gave up after {self.seconds:g} s" if self.seconds else problem)
        if first:
            self.note(f"{problem}; trying again" + ("" if self.seconds is None else f" for {self.seconds:g} s"))
        await asyncio.sleep(min(self.pause, left))
        self.pause = min(2 * self.pause, 5.0)


class Run:
    """One run of a workflow, and where it is: what `on_progress` gets, each time something changes.

    prompt_id: its id on the server. ahead: how many prompts run or wait before it; 0 once it runs.
    node: the title of the node that runs, empty before. step, steps: of that node; 0, 0 where it counts none.
    nodes_done, node_count: of the graph's nodes, cached ones included.
    """

    def __init__(self, workflow: dict[str, Any], on_progress: Callable[[Run], None], note: Callable[[str], None]):
        self.workflow, self.graph, self._tell, self._note = workflow, workflow["prompt"], on_progress, note
        self.prompt_id, self.client_id = str(uuid.uuid4()), uuid.uuid4().hex
        self.ahead, self.node, self.step, self.steps, self.nodes_done, self.node_count = 0, "", 0, 0, 0, len(self.graph)
        self.submitted = self.ended = False
        self.error: dict[str, Any] = {}
        self.socket: aiohttp.ClientWebSocketResponse | None = None
        self._done: set[str] = set()
        self._current = ""

    def take(self, message: dict[str, Any]) -> bool:
        """Reads a message of the server's; whether it is about this run. `ended` says that it was the last."""
        kind, data = message.get("type"), message.get("data")
        unsigned = self.prompt_id if kind in ("executing", "progress") else None  # as sent to this client alone
        if not isinstance(data, dict) or data.get("prompt_id", unsigned) != self.prompt_id:
            return False
        if kind == "execution_cached" and (nodes := self.graph.keys() & set(map(str, data.get("nodes") or ()))):
            self._done |= nodes
            self._note(f"{len(self._done)} of {self.node_count} nodes are cached")
        elif kind == "executing" and data.get("node") is not None:
            self._enter(str(data.get("display_node") or data["node"]))
        elif kind == "progress":
            step, steps = data.get("value"), data.get("max")
            if isinstance(step, (int, float)) and isinstance(steps, (int, float)) and 0 <= step <= steps < math.inf:
                self.show(step=int(step), steps=int(steps))
        elif kind in ("executing", "execution_success", "execution_error", "execution_interrupted"):
            self.ended, self.error = True, data if kind == "execution_error" else self.error
        return True

    def show(self, **changes: Any) -> None:
        if any(getattr(self, name) != value for name, value in changes.items()):
            vars(self).update(changes)
            self._tell(self)

    def _enter(self, node: str) -> None:
        if node != self._current:  # the nodes of a subgraph that a node expands to count as that node
            self._done |= {self._current} & self.graph.keys()
            self._current, name = node, _title(self.graph, node) if node in self.graph else f"node {node}"
            self.show(node=name, ahead=0, step=0, steps=0, nodes_done=len(self._done))


class Client:
    """A ComfyUI server. `note` gets what happens beside the progress, such as a lost connection, as text.

    retry: seconds for which an unreachable server is tried again. ValueError for an address that is none.
    """

    def __init__(self, server: str = SERVER, *, retry: float = RETRY, note: Callable[[str], None] = lambda text: None):
        self._base = (server if "://" in server else f"http://{server}").rstrip("/")
        parts = urlsplit(self._base)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{server} is not the address of a server, such as {SERVER}")
        self.server = self._base.replace(parts.netloc, parts.netloc.rpartition("@")[2], 1)  # shown without a password
        self._retry, self._note = retry, note
        self._faults = 0  # how often the server could not be reached, or was lost

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, connect=10, sock_read=60))
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._session.close()

    async def run(
        self,
        workflow: dict[str, Any],
        *,
        out: str | os.PathLike = ".",
        timeout: float | None = None,
        max_queue: int | None = None,
        wait_queue: float | None = None,
        on_progress: Callable[[Run], None] = lambda run: None,
    ) -> list[Path]:
        """Runs a workflow (see read_workflow) and fetches the files it made into the folder `out`.

        timeout: seconds for all of it, the queue included. max_queue: submit once fewer prompts run and wait.
        wait_queue: seconds to wait for that, or for a server that says it is busy. Ended early, by the timeout or by
        cancelling the task, it cancels the prompt on the server. ComfyError; OSError for a file.
        """
        run = Run(workflow, on_progress, self._note)
        try:
            return await asyncio.wait_for(self._run(run, Path(out), max_queue, wait_queue), timeout)
        except asyncio.TimeoutError:
            raise ComfyError(LATE, f"not done after {timeout:g} s; {await self._give_up(run)}") from None
        except ComfyError:
            raise
        except BaseException:  # the task was cancelled, or on_progress raised
            self._note(await self._give_up(run))
            raise

    async def queue(self) -> tuple[list[str], list[str]]:
        """The ids of the prompts that run, and of those that wait, in order."""

        def read(state: dict) -> list[list[str]]:
            parts = [state["queue_running"], state["queue_pending"]]  # of [number, id, ...], or in a fork of objects
            keys = [[(e["priority"], e["prompt_id"]) if isinstance(e, dict) else e[:2] for e in part] for part in parts]
            return [[str(prompt_id) for _, prompt_id in sorted(part)] for part in keys]

        running, waiting = await self._ask("GET", "queue", read)
        return running, waiting

    async def cancel(self, prompt_id: str) -> str:
        """Takes a prompt off the queue, or interrupts it and waits ten seconds for it to end.

        Returns "deleted", "interrupted", "stopping" (its node has not noticed yet) or "unknown".
        """
        state, until = "unknown", time.monotonic() + GIVE_UP
        for pause in itertools.chain((0.1, 0.2, 0.4), itertools.repeat(1.0)):
            running, waiting = await self.queue()
            if prompt_id not in running + waiting or time.monotonic() > until:
                return "stopping" if prompt_id in running else state
            if prompt_id in waiting:
                state = "deleted"
                await self._ask("POST", "queue", json={"delete": [prompt_id]})
            else:  # again and again: a prompt that is only just starting forgets an interrupt
                state = "interrupted"
                await self._ask("POST", "interrupt", json={"prompt_id": prompt_id})
                await asyncio.sleep(pause)

    async def fetch(self, outputs: dict[str, Any], out: str | os.PathLike = ".") -> list[Path]:
        """Fetches the files that a run's outputs name into `out`. Each appears when whole, and none is overwritten."""
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        return [await self._download(file, folder) for file in _files(outputs)]

    async def _run(self, run: Run, out: Path, max_queue: int | None, wait_queue: float | None) -> list[Path]:
        try:
            await self._connect(run)  # first, so that no message is missed
            room = _Patience(wait_queue, LATE, self._note)
            while max_queue and (queued := await self._ask("GET", "prompt", _queue_length)) >= max_queue:
                await room.wait(f"{queued} prompts are in the server's queue")
            await self._submit(run, room)
            outputs = await self._finished(run)
            run.submitted = False
        finally:
            if run.socket is not None:
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(run.socket.close(), 1)
        return await self.fetch(outputs, out)

    async def _submit(self, run: Run, room: _Patience) -> None:
        async def submit() -> tuple[int, list[str]]:
            if run.submitted and await self._look(run):
                return 200, []  # it had arrived; only the answer was lost
            run.submitted = True
            body = {**run.workflow, "prompt_id": run.prompt_id, "client_id": run.client_id}
            async with self._session.post(f"{self._base}/prompt", allow_redirects=False, json=body) as answer:
                _check(answer, 400, 500)
                try:
                    document = await answer.json(content_type=None)
                except ValueError:
                    document = {"error": f"the server fails on this workflow: HTTP {answer.status} {answer.reason}"}
                if answer.status == 200:
                    run.prompt_id = str(document["prompt_id"])  # old servers give their own
                return answer.status, _refusal(document, run.graph)

        status, problems = await self._persist(submit, busy=room)
        if status == 200 and problems:  # the server would leave these nodes out and run the rest
            await self.cancel(run.prompt_id)
        if status != 200 or problems:
            run.submitted = False
            raise ComfyError(WRONG, "\n".join(problems) or f"the server answers HTTP {status} to this workflow")
        self._note(f"queued as {run.prompt_id}")

    async def _finished(self, run: Run) -> dict[str, Any]:
        """The run's outputs, as soon as the server's history has them.

        The websocket is for progress; what holds is the history and the queue. They are looked at when a message says
        that the run ended, when the connection was lost, and in any silence: a server can forget a client's websocket.
        """
        faults, heard = self._faults, time.monotonic()
        while True:
            if run.ended or time.monotonic() - heard >= QUIET:
                if not (found := await self._look(run)):
                    if faults == self._faults:
                        raise ComfyError(CANCELLED, "the run was taken off the server's queue")
                    raise ComfyError(LOST, "the server no longer knows the run: it was restarted, or the run deleted")
                if "outputs" in found:
                    return _outputs(found, run)
                run.ended, heard = False, time.monotonic()
            message = await self._receive(run)
            if message is None:
                self._faults, heard = self._faults + 1, 0.0
                self._note("lost the connection")
                await asyncio.sleep(0.5)  # else the server's end of the old websocket may take the new one with it
                await self._connect(run)
            elif run.take(message):
                heard = time.monotonic()

    async def _look(self, run: Run) -> dict[str, Any]:
        """The run's entry in the history; {"ahead": ...} while it waits or runs; {} if the server does not know it."""
        for _ in range(2):  # between the two questions it may move from the queue to the history
            if entry := await self._ask("GET", f"history/{run.prompt_id}", lambda all: all.get(run.prompt_id)):
                return entry
            running, waiting = await self.queue()
            if run.prompt_id in (known := running + waiting):
                run.show(ahead=known.index(run.prompt_id) if run.prompt_id in waiting else 0)
                return {"ahead": run.ahead}
        return {}

    async def _connect(self, run: Run) -> None:
        async def connect() -> aiohttp.ClientWebSocketResponse:
            url, own = f"{self._base}/ws", {"clientId": run.client_id}
            return await self._session.ws_connect(url, params=own, heartbeat=30, max_msg_size=2**26)

        run.socket = await self._persist(connect)

    async def _receive(self, run: Run) -> dict | None:
        """The next message; {} for a silence, or one that says nothing; None when the connection is lost."""
        try:
            received = await run.socket.receive(timeout=QUIET)
            if received.type is aiohttp.WSMsgType.TEXT:
                message = json.loads(received.data)
                return message if isinstance(message, dict) else {}
        except (asyncio.TimeoutError, ValueError, RecursionError):
            return {}
        return {} if received.type is aiohttp.WSMsgType.BINARY else None

    async def _give_up(self, run: Run) -> str:
        """Cancels the run within a few seconds, whatever the server does, and says what came of it."""
        if not run.submitted:
            return "nothing of it is in the server's queue"
        try:
            return f"cancelled on the server ({await asyncio.wait_for(self.cancel(run.prompt_id), GIVE_UP + 2)})"
        except (ComfyError, asyncio.TimeoutError):
            return f"the server could not be told to cancel {run.prompt_id}"

    async def _ask(
        self, method: str, path: str, read: Callable[[Any], Any] = lambda document: None, **options: Any
    ) -> Any:
        """What `read` makes of the server's answer."""

        async def ask() -> Any:
            async with self._session.request(
                method, f"{self._base}/{path}", allow_redirects=False, **options
            ) as answer:
                _check(answer)
                return read(await answer.json(content_type=None))

        return await self._persist(ask)

    async def _download(self, file: dict[str, str], folder: Path) -> Path:
        name = safe_name(file["filename"])
        part = folder / f"{name}.{uuid.uuid4().hex[:8]}.part"

        async def download() -> Path:
            try:
                async with self._session.get(f"{self._base}/view", params=file, allow_redirects=False) as answer:
                    _check(answer)
                    with part.open("xb") as target:
                        async for piece in answer.content.iter_chunked(2**18):
                            target.write(piece)
                return _publish(part, folder, name)
            finally:
                part.unlink(missing_ok=True)

        try:
            return await self._persist(download)
        except ComfyError as error:
            raise ComfyError(error.code, f"{name} cannot be fetched: {error}") from None

    async def _persist(self, attempt: Callable[[], Awaitable[Any]], busy: _Patience | None = None) -> Any:
        """What `attempt` returns, tried while the server is unreachable or, with `busy`'s patience, says it is busy."""
        lost = _Patience(self._retry, LOST, self._note)
        while True:
            patience = lost
            try:
                return await attempt()
            except aiohttp.ClientResponseError as error:  # an answer, but not the one hoped for; of a websocket too
                problem = f"{self.server} answers HTTP {error.status} {error.message}"
                if error.status not in _BUSY + _UNREACHABLE:
                    raise ComfyError(LOST, f"{problem}; is it a ComfyUI server?") from None
                patience = busy or lost if error.status in _BUSY else lost
            except (aiohttp.ClientError, asyncio.TimeoutError) as error:
                self._faults += 1
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                problem = f"{self.server} cannot be reached: {reason}"
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
                problem = f"{self.server} does not answer as ComfyUI does: {type(error).__name__}: {error}"
                raise ComfyError(LOST, problem) from None
            await patience.wait(problem)


def _check(answer: aiohttp.ClientResponse, *refusals: int) -> None:
    if answer.status not in (200, *refusals):  # a redirect is not followed either: it may lead anywhere
        raise aiohttp.ClientResponseError(answer.request_info, (), status=answer.status, message=str(answer.reason))


def _queue_length(document: dict[str, Any]) -> int:
    return int(document["exec_info"]["queue_remaining"])


def safe_name(name: str) -> str:
    """The last part of a path that a server sent, as a plain, visible file name on any system."""
    name = re.sub(r"[^\w.() -]", "_", re.split(r"[/\\]", name)[-1]).strip(" .-")
    return name.encode()[-180:].decode(errors="ignore").lstrip(" .-") or "file"  # the end, for its extension


def _publish(part: Path, folder: Path, name: str) -> Path:
    """Gives a whole file its name, or that with the first free number."""
    stem, suffix = os.path.splitext(name)
    for number in itertools.count(1):
        final = folder / (name if number == 1 else f"{stem}_{number}{suffix}")
        try:
            os.link(part, final)  # unlike a rename, it never takes the place of a file
            return final
        except FileExistsError:
            continue
        except OSError:  # a file system without links
            if not os.path.lexists(final):
                return part.rename(final)


def _files(outputs: dict[str, Any]) -> list[dict[str, str]]:
    """What to ask /view for: each file once that stands below a node's "images", "gifs", "video", "audio" ..."""
    lists = (items for shown in outputs.values() if isinstance(shown, dict) for items in shown.values())
    items = (item for some in lists if isinstance(some, list) for item in some if isinstance(item, dict))
    keys = ("filename", "subfolder", "type")
    files = (tuple(str(item.get(key) or "") for key in keys) for item in items if item.get("type") != "input")
    return [dict(zip(keys, file, strict=True)) for file in dict.fromkeys(files) if file[0]]


def _outputs(entry: dict[str, Any], run: Run) -> dict[str, Any]:
    """The outputs of a run that ended; ComfyError if it did not succeed."""
    status = entry.get("status") or {}
    if status.get("status_str") != "error":
        return entry["outputs"] or {}
    events = {}
    for message in status.get("messages") or ():  # [event, data], or in a fork "event: text"
        event, data = message if isinstance(message, list) else str(message).partition(": ")[::2]
        events[event] = data if isinstance(data, dict) else {"exception_message": data}
    if "execution_interrupted" in events:
        raise ComfyError(CANCELLED, "the run was interrupted on the server")
    error = run.error or events.get("execution_error", {})
    kind = str(error.get("exception_type") or "error").rpartition(".")[2]
    text = _line(
        "node_id" in error and _place(run.graph, error["node_id"]),
        kind,
        error.get("exception_message") or "no reason given",
    )
    trace = "".join(map(str, error.get("traceback") or ()))
    raise ComfyError(FAILED, text, trace)


def _refusal(answer: dict[str, Any], graph: dict[str, dict]) -> list[str]:
    """What the server finds wrong with a workflow: a line for each problem of each node."""
    errors = [(f"{_place(graph, n)}: ", e) for n, w in (answer.get("node_errors") or {}).items() for e in w["errors"]]
    whole = answer.get("error") or {}  # of the workflow; where nodes are wrong it says that they are
    errors = errors or [("", whole if isinstance(whole, dict) else {"message": whole})]
    texts = [(where, _line(e.get("message"), e.get("details"))) for where, e in errors]
    return [where + text for where, text in texts if text]


def _line(*parts: Any) -> str:
    """What a server sent, in one line."""
    return ": ".join(" ".join(str(part).split()) for part in parts if part)


class Bar:
    """Shows progress on stderr: as a bar that is redrawn in place, or as lines now and then."""

    def __init__(self, redraw: bool):
        self.redraw, self.drawn, self.place, self.began, self.last = redraw, "", (), 0.0, 0.0

    def show(self, run: Run) -> None:
        now, place = time.monotonic(), (run.node, run.ahead)
        if place != self.place or run.step <= 1:
            self.began = now  # the first step is not counted: it may have loaded a model
        elif not self.redraw and run.step < run.steps and now - self.last < 10:
            return
        self.place, self.last = place, now
        line = f"waiting, {run.ahead} before it" if run.ahead else "starting"
        line = f"[{run.nodes_done + 1}/{run.node_count}] {run.node}" if run.node else line
        if run.steps:
            filled = 30 * run.step // run.steps
            line += f" {run.step}/{run.steps} [{'#' * filled}{'.' * (30 - filled)}]"
        if 1 < run.step < run.steps:
            line += f" {(now - self.began) / (run.step - 1) * (run.steps - run.step):.0f} s left"
        line, new = plain(line), "\r" if self.redraw else ""
        print(new + line.ljust(len(self.drawn)), end="" if self.redraw else "\n", file=sys.stderr, flush=True)
        self.drawn = line if self.redraw else ""

    def note(self, text: str) -> None:
        self.end()
        print(plain(text), file=sys.stderr, flush=True)

    def end(self) -> None:
        """Ends the bar's line, so that what is printed next stands on its own."""
        if self.drawn:
            print(file=sys.stderr, flush=True)
            self.drawn = ""


def plain(text: str) -> str:
    """The text with terminal escapes and other control characters written out: a server may send anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        print(f"error: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(WRONG)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--server", default=SERVER, metavar="URL", help="of ComfyUI (default: %(default)s)")
    retry = "how long to try again while the server cannot be reached (default: %(default)g)"
    common.add_argument("--retry", type=_amount, default=RETRY, metavar="S", help=retry)
    common.add_argument("--quiet", action="store_true", help="show errors only")
    parser = _Parser(prog="client.py", description="Runs workflows on a ComfyUI server.", epilog=EXIT_CODES)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, function: Callable, about: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, parents=[common], help=about, description=about, epilog=EXIT_CODES)
        added.set_defaults(command=function, verbose=False)
        return added

    run = command("run", _run, "run a workflow, fetch what it made and print the paths, one a line")
    run.add_argument("workflow", metavar="WORKFLOW.json", help="a workflow in the API format")
    change = "change an input; NODE is a node's id, title or class; may be given more than once"
    run.add_argument("--set", metavar="NODE.input=value", action="append", default=[], dest="settings", help=change)
    run.add_argument("--out", metavar="DIR", type=Path, default="output", help="for the files (default: %(default)s)")
    run.add_argument("--timeout", metavar="S", type=_amount, help="cancel the run after S seconds (default: never)")
    room = "submit once fewer than N prompts run and wait on the server (default: at once)"
    run.add_argument("--max-queue", metavar="N", type=_count, help=room)
    wait = "how long to wait for that, or for a server that says it is busy (default: for ever)"
    run.add_argument("--wait-queue", metavar="S", type=_amount, help=wait)
    run.add_argument("--verbose", action="store_true", help="show the server's traceback of a node that failed")
    cancel = command("cancel", _cancel, "take prompts off the queue, or interrupt them")
    which = cancel.add_mutually_exclusive_group(required=True)
    which.add_argument("ids", metavar="PROMPT_ID", nargs="*", default=[], help="as `run` and `queue` print it")
    which.add_argument("--all", action="store_true", help="every prompt on the server, other people's too")
    command("queue", _queue, "list what runs and what waits, one prompt a line")
    return parser


def _amount(text: str) -> float:
    if not 0 <= float(text) < math.inf:
        raise ValueError
    return float(text)


def _count(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


async def _run(client: Client, options: argparse.Namespace, bar: Bar) -> int:
    workflow = read_workflow(options.workflow)
    change(workflow, options.settings)
    try:  # before the work, not after it
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ComfyError(WRONG, f"{options.out}: {error.strerror}") from None
    limits = {"timeout": options.timeout, "max_queue": options.max_queue, "wait_queue": options.wait_queue}
    shown = {} if options.quiet else {"on_progress": bar.show}
    files = await client.run(workflow, out=options.out, **limits, **shown)
    if not files and not options.quiet:
        bar.note("done; the workflow made no files")
    bar.end()
    for file in files:
        print(file, flush=True)
    return 0


async def _cancel(client: Client, options: argparse.Namespace, bar: Bar) -> int:
    ids = sum(reversed(await client.queue()), []) if options.all else options.ids  # none that waits may start
    states = [await client.cancel(prompt_id) for prompt_id in ids]
    for prompt_id, state in zip(ids, states, strict=True):
        print(state, plain(prompt_id))
    return FAILED if "unknown" in states and not options.all else 0


async def _queue(client: Client, options: argparse.Namespace, bar: Bar) -> int:
    for state, ids in zip(("running", "waiting"), await client.queue(), strict=True):
        for prompt_id in ids:
            print(state, plain(prompt_id))
    return 0


async def _command(options: argparse.Namespace, bar: Bar) -> int:
    """Runs the command; the first Ctrl-C or SIGTERM cancels it, the second leaves without any clean-up."""
    try:
        client = Client(options.server, retry=options.retry, note=(lambda text: None) if options.quiet else bar.note)
    except ValueError as error:
        raise ComfyError(WRONG, str(error)) from None
    async with client:
        work = asyncio.ensure_future(options.command(client, options, bar))
        loop, presses = asyncio.get_running_loop(), itertools.count(1)

        def stop(number: int, frame: object) -> None:
            if next(presses) > 1:
                os._exit(CANCELLED)
            loop.call_soon_threadsafe(work.cancel)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        try:
            return await work
        except asyncio.CancelledError:
            raise ComfyError(CANCELLED, "cancelled") from None


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    options = _parser().parse_args(arguments)
    bar = Bar(redraw=sys.stderr.isatty())
    try:
        return asyncio.run(_command(options, bar))
    except ComfyError as error:
        code, traceback, problems = error.code, error.traceback if options.verbose else "", str(error)
    except OSError as error:  # of our own files and streams; the server's are ComfyErrors
        if isinstance(error, BrokenPipeError):  # keep Python from writing to it once more when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code, traceback, problems = FAILED, "", f"{error.filename or 'output'}: {error.strerror}"
    except KeyboardInterrupt:  # before the command had begun
        code, traceback, problems = CANCELLED, "", "cancelled"
    bar.end()
    for line in [*traceback.splitlines(), *(f"error: {problem}" for problem in problems.split("\n"))]:
        print(plain(line), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
