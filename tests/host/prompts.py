"""Prompts to a running ComfyUI: build a graph, queue it, follow it, read what came out.

graph = Graph()
empty = graph.add("EmptyLatentImage", width=64, height=64, batch_size=2)
saved = graph.add("SaveLatent", samples=empty, filename_prefix="empty")
latent = Client("http://127.0.0.1:8188").run(graph).latent(saved)
"""

from __future__ import annotations

import asyncio
import json
import struct
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import safetensors.torch
from torch import Tensor

ANSWER_SECONDS = 60
RUN_SECONDS = 300
# A binary message: its type, the length of some JSON, the JSON, a picture; integers are big-endian.
PREVIEW_IMAGE = 4
WANTS_PREVIEWS = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}


@dataclass(frozen=True)
class Node:
    """A node of a graph. `node[1]` is its second output; the node itself, given as an input, is its first."""

    id: str

    def __getitem__(self, slot: int) -> list:
        return [self.id, slot]


class Graph(dict):
    """A workflow in ComfyUI's API format, built node by node."""

    def add(self, class_type: str, **inputs: Any) -> Node:
        node = Node(str(len(self) + 1))
        linked = {name: value[0] if isinstance(value, Node) else value for name, value in inputs.items()}
        self[node.id] = {"class_type": class_type, "inputs": linked}
        return node


class Refused(Exception):
    """The server did not queue the prompt. `error` and `node_errors` are its answer."""

    def __init__(self, answer: dict):
        self.error, self.node_errors = answer["error"], answer["node_errors"]
        super().__init__(json.dumps(answer, indent=1))


class Failed(Exception):
    """A node raised. `node_id`, `node_type`, `exception_type` and `message` are as ComfyUI reports them."""

    def __init__(self, report: dict):
        self.node_id, self.node_type = report["node_id"], report["node_type"]
        self.exception_type, self.message = report["exception_type"], report["exception_message"].strip()
        trace = "".join(report["traceback"])
        super().__init__(f"{self.node_type} ({self.node_id}): {self.exception_type}: {self.message}\n{trace}")


class Interrupted(Exception):
    """The prompt was interrupted while `node_id` ran."""

    def __init__(self, report: dict):
        self.node_id = report["node_id"]
        super().__init__(f"{report['node_type']} ({self.node_id}) was interrupted")


@dataclass(frozen=True)
class Run:
    """A prompt that has run to its end.

    outputs: node id to what the node showed (its `ui`), nodes served from the cache included.
    messages: (type, data) of every message that came over the websocket, in order.
    previews: the pictures that came while it ran, encoded as JPEG or PNG.
    seconds: from queueing to the end.
    """

    client: Client
    prompt_id: str
    outputs: dict[str, dict]
    messages: list[tuple[str, dict]]
    previews: list[bytes]
    seconds: float

    def data(self, kind: str) -> list[dict]:
        """The data of every message of one type, such as "progress", "executing" or "execution_cached"."""
        return [data for each, data in self.messages if each == kind]

    def files(self, node: Node | str) -> list[dict]:
        """The files that a node showed, as {"filename", "subfolder", "type"}."""
        shown = self.outputs[node if isinstance(node, str) else node.id].values()
        return [item for items in shown for item in items if isinstance(item, dict) and "filename" in item]

    def fetch(self, node: Node | str) -> bytes:
        """The content of the one file that a node showed."""
        (file,) = self.files(node)
        return self.client.view(file)

    def tensors(self, node: Node | str) -> dict[str, Tensor]:
        """The tensors in the one file that a node showed: SaveLatent's, or ProbeTensor's of `probe`."""
        return safetensors.torch.load(self.fetch(node))

    def latent(self, node: Node | str) -> Tensor:
        """What a SaveLatent saved, `[f, c, h, w]`."""
        return self.tensors(node)["latent_tensor"]


class Client:
    """A client of the server at `url`. Its methods wait for the answer, and may be called from any thread.

    They raise aiohttp.ClientError when the server cannot be reached or answers with an HTTP error.
    """

    def __init__(self, url: str):
        self.url = url
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.session: aiohttp.ClientSession = self.wait(self._open())

    async def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(self.url, raise_for_status=True)

    def wait(self, coroutine: Coroutine) -> Any:
        """Runs a coroutine in the client's thread; TimeoutError after ANSWER_SECONDS."""
        bounded = asyncio.wait_for(coroutine, ANSWER_SECONDS)
        return asyncio.run_coroutine_threadsafe(bounded, self._loop).result()

    def close(self) -> None:
        if not self.session.closed:
            self.wait(self.session.close())
            self._loop.call_soon_threadsafe(self._loop.stop)

    async def _answer(self, method: str, path: str, **options) -> bytes:
        async with self.session.request(method, path, **options) as response:
            return await response.read()

    def get(self, path: str, **query: str) -> bytes:
        return self.wait(self._answer("GET", path, params=query))

    def get_json(self, path: str, **query: str) -> Any:
        return json.loads(self.get(path, **query))

    def post(self, path: str, value: Any) -> bytes:
        return self.wait(self._answer("POST", path, json=value))

    def view(self, file: Mapping[str, str]) -> bytes:
        """A file in the output, temp or input folder, named by {"filename", "subfolder", "type"}."""
        return self.get("/view", **{name: file[name] for name in ("filename", "subfolder", "type")})

    def upload_image(self, filename: str, content: bytes) -> str:
        """Puts a picture into the input folder; returns the name it got, for a LoadImage node."""
        form = aiohttp.FormData({"overwrite": "true"})
        form.add_field("image", content, filename=filename)
        return json.loads(self.wait(self._answer("POST", "/upload/image", data=form)))["name"]

    def interrupt(self) -> None:
        """Interrupts the prompt that runs now."""
        self.post("/interrupt", {})

    def free(self) -> None:
        """Asks the server to unload its models and forget its results. It does so when no prompt runs."""
        self.post("/free", {"unload_models": True, "free_memory": True})

    def queued(self) -> list[str]:
        """The ids of the prompts that run or wait, the running one first."""
        state = self.get_json("/queue")
        entries = [*state["queue_running"], *state["queue_pending"]]
        pairs = [entry[:2] if isinstance(entry, list) else (entry["priority"], entry["prompt_id"]) for entry in entries]
        running = len(state["queue_running"])
        return [prompt_id for _, prompt_id in [*pairs[:running], *sorted(pairs[running:])]]

    def drop(self, *prompt_ids: str) -> None:
        """Takes prompts that wait out of the queue."""
        self.post("/queue", {"delete": prompt_ids})

    def queue(self, graph: Mapping, workflow: Mapping | None = None) -> Job:
        """Queues a graph, with the page's workflow beside it if given. Raises Refused."""
        return Job(self, graph, workflow)

    def run(self, graph: Mapping, workflow: Mapping | None = None, seconds: float = RUN_SECONDS) -> Run:
        """Queues a graph and waits for its end. Raises what `queue` and `Job.result` raise."""
        return self.queue(graph, workflow).result(seconds)


class Job:
    """A prompt in the queue, followed over a websocket of its own."""

    def __init__(self, client: Client, graph: Mapping, workflow: Mapping | None):
        self.client = client
        self.messages: list[tuple[str, dict]] = []
        self.previews: list[bytes] = []
        self._news, self._over = threading.Condition(), False
        self._started = self._ended = time.monotonic()
        self.prompt_id: str = client.wait(self._submit(graph, workflow))

    async def _submit(self, graph: Mapping, workflow: Mapping | None) -> str:
        client_id = uuid.uuid4().hex
        socket = await self.client.session.ws_connect("/ws", params={"clientId": client_id}, max_msg_size=0)
        await socket.send_json(WANTS_PREVIEWS)
        extra = {} if workflow is None else {"extra_pnginfo": {"workflow": workflow}}
        prompt = {"prompt": graph, "client_id": client_id, "extra_data": extra}
        async with self.client.session.post("/prompt", json=prompt, raise_for_status=False) as response:
            answer = await response.json()
        if "prompt_id" not in answer:
            await socket.close()
            raise Refused(answer)
        self._following = asyncio.ensure_future(self._follow(socket, answer["prompt_id"]))
        return answer["prompt_id"]

    async def _follow(self, socket: aiohttp.ClientWebSocketResponse, prompt_id: str) -> None:
        """Collects the messages until the server says that the prompt is over, or the connection is."""
        try:
            async with socket:
                async for message in socket:
                    if message.type is aiohttp.WSMsgType.BINARY:
                        kind, length = struct.unpack_from(">II", message.data)
                        if kind == PREVIEW_IMAGE:
                            self.previews.append(message.data[8 + length :])
                        continue
                    kind, data = (json.loads(message.data)[key] for key in ("type", "data"))
                    self._note((kind, data))
                    if kind == "executing" and data["node"] is None and data["prompt_id"] == prompt_id:
                        break
        finally:
            self._note(None)

    def _note(self, message: tuple[str, dict] | None) -> None:
        with self._news:
            if message is None:
                self._over, self._ended = True, time.monotonic()
            else:
                self.messages.append(message)
            self._news.notify_all()

    def wait_for(
        self, kind: str, match: Callable[[dict], bool] = lambda data: True, seconds: float = RUN_SECONDS
    ) -> dict:
        """The data of the first message of this type that matches, whether it came before or comes now.

        Raises TimeoutError, or LookupError if the prompt ends without it.
        """
        found: list[dict] = []

        def came() -> bool:
            found.extend(data for each, data in self.messages if each == kind and match(data))
            return bool(found) or self._over

        with self._news:
            if not self._news.wait_for(came, seconds):
                raise TimeoutError(f"no {kind} within {seconds} seconds")
        if not found:
            raise LookupError(f"the prompt ended without {kind}")
        return found[0]

    def result(self, seconds: float = RUN_SECONDS) -> Run:
        """Waits for the prompt's end. Raises Failed, Interrupted, TimeoutError, or aiohttp.ClientError when the server
        is gone."""
        with self._news:
            if not self._news.wait_for(lambda: self._over, seconds):
                raise TimeoutError(f"the prompt did not end within {seconds} seconds; last: {self.messages[-1:]}")
        for kind, report in self.messages:
            if kind == "execution_error":
                raise Failed(report)
            if kind == "execution_interrupted":
                raise Interrupted(report)
        record = self.client.get_json(f"/history/{self.prompt_id}")[self.prompt_id]
        seconds = self._ended - self._started
        return Run(self.client, self.prompt_id, record["outputs"], self.messages, self.previews, seconds)
