"""A workflow file in ComfyUI's API format, `{id: {"class_type": ..., "inputs": {...}, "_meta": {"title": ...}}}`.

Files come from strangers: reading one is bounded in size and depth, takes only strict JSON, and keeps every
problem it meets so that they can be reported together, each with the node and the input it is in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..t2v_core.errors import GraphError
from .wording import plain, short, shown

MAX_BYTES = 16 * 2**20
MAX_DEPTH = 100
MAX_CYCLES = 10


@dataclass
class Node:
    """One node of the file. `inputs` holds values and links (`["node id", output number]`), as in the file."""

    class_type: str
    inputs: dict[str, Any]
    title: str


@dataclass
class Graph:
    """The well-formed nodes of a file in its order, what else it carries, and what is wrong with the rest of it."""

    nodes: dict[str, Node] = field(default_factory=dict)
    extra_pnginfo: dict[str, Any] | None = None
    problems: list[str] = field(default_factory=list)
    faulty: set[str] = field(default_factory=set)  # ids of nodes that `problems` already speaks of

    def place(self, node_id: str, input_name: str | None = None) -> str:
        """'node 5 "Sampler", input steps': how every message says where."""
        title = self.nodes[node_id].title if node_id in self.nodes else ""
        where = f"node {short(node_id)}" + (f' "{short(title)}"' if title else "")
        return where if input_name is None else f"{where}, input {short(input_name)}"

    def prompt(self) -> dict[str, dict]:
        """The graph in the API format, as it is now."""
        return {
            node_id: {"class_type": node.class_type, "inputs": dict(node.inputs), "_meta": {"title": node.title}}
            for node_id, node in self.nodes.items()
        }


def read_graph(path: Path, titles: dict[str, str]) -> Graph:
    """Reads a workflow file.

    titles names the nodes that the file gives no title: class type to display name, as on ComfyUI's page. What is wrong
    inside the graph is left in `Graph.problems`; GraphError is for a file that holds no graph at all.
    """
    document = _parse(_read(path), path)
    if not isinstance(document, dict):
        raise GraphError(f"{path}: a workflow file holds an object of nodes, not {shown(document)}")
    if isinstance(document.get("nodes"), list):
        raise GraphError(
            f"{path}: this is a workflow in the UI format, which only ComfyUI's page can read; "
            "in ComfyUI choose Workflow > Export (API) and use the file that gives"
        )
    nodes, extra = document, None
    if isinstance(document.get("prompt"), dict) and "class_type" not in document["prompt"]:
        nodes, extra = document["prompt"], document.get("extra_data")  # the body of a POST to ComfyUI's /prompt
    graph = Graph()
    for node_id, entry in nodes.items():
        if error := _shape_error(entry):
            graph.problems.append(f"{graph.place(node_id)}: {error}")
            graph.faulty.add(node_id)
        else:
            title = (entry.get("_meta") or {}).get("title") or titles.get(entry["class_type"], "")
            graph.nodes[node_id] = Node(entry["class_type"], dict(entry["inputs"]), title)
    if not nodes:
        graph.problems.append(f"{path}: the workflow has no nodes")
    _find_unsound(graph, nodes)
    info = extra.get("extra_pnginfo") if isinstance(extra, dict) else None
    if isinstance(info, dict):
        graph.extra_pnginfo = info
        graph.problems += [f"extra_data{_trail(keys)}: {error}" for keys, error in _unsound(info)]
    return graph


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise GraphError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise GraphError(f"{path}: larger than {MAX_BYTES // 2**20} MiB, which no workflow is")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise GraphError(f"{path}: not a workflow file: byte {error.start} is not UTF-8 text") from None


class _Repeated(dict):
    """An object of the file that gave some key more than once."""

    keys_repeated: tuple[str, ...] = ()


def _object(pairs: list[tuple[str, Any]]) -> dict:
    result = dict(pairs)
    if len(result) == len(pairs):
        return result
    seen: set[str] = set()
    repeated = _Repeated(result)
    repeated.keys_repeated = tuple(dict.fromkeys(key for key, _ in pairs if key in seen or seen.add(key)))
    return repeated


def _parse(text: str, path: Path) -> Any:
    too_deep = GraphError(f"{path}: nested more than {MAX_DEPTH} levels deep, which no workflow is")
    try:
        document = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise GraphError(f"{path}: line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise too_deep from None
    except ValueError as error:  # an integer of thousands of digits
        raise GraphError(f"{path}: not JSON: {plain(str(error))}") from None
    level = [document]
    for _ in range(MAX_DEPTH):
        level = [child for value in level for child in _children(value)]
    if level:
        raise too_deep
    return document


def _children(value: Any) -> list:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _shape_error(entry: Any) -> str | None:
    """What keeps an entry of the file from being a node."""
    if not isinstance(entry, dict):
        return f'{shown(entry)} is not a node, which is {{"class_type": ..., "inputs": {{...}}}}'
    if not isinstance(entry.get("class_type"), str):
        return "has no class_type, the name of the kind of node"
    if not isinstance(entry.get("inputs"), dict):
        return "has no inputs, an object of names and values"
    meta = entry.get("_meta")
    if meta is not None and not (isinstance(meta, dict) and isinstance(meta.get("title", ""), str)):
        return '_meta is not an object like {"title": "..."}'
    return None


def _find_unsound(graph: Graph, nodes: dict[str, Any]) -> None:
    """Adds what strict JSON forbids to the graph's problems, by node and input."""
    for keys, error in _unsound(nodes):
        if not keys:
            place = "the workflow"
        elif keys[1:2] == ["inputs"] and len(keys) > 2:
            place = graph.place(keys[0], keys[2])
        else:
            place = graph.place(keys[0])
        graph.problems.append(f"{place}: {error}")
        graph.faulty.update(keys[:1])


def _unsound(document: Any) -> Iterator[tuple[list[str], str]]:
    """(path of keys, error) for every number that is not finite and every repeated key."""
    stack: list[tuple[list[str], Any]] = [([], document)]
    while stack:
        keys, value = stack.pop()
        if isinstance(value, float) and not math.isfinite(value):
            yield keys, f"{shown(value)} is not a finite number"
        if isinstance(value, _Repeated):
            for key in value.keys_repeated:
                yield keys, f"the key {shown(key)} is given twice"
        children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        # Of plain values only those with something to say: a path for every number of a long list is a lot of memory.
        stack.extend((keys + [str(key)], child) for key, child in children if isinstance(child, (dict, list, float)))


def _trail(keys: list[str]) -> str:
    return "".join(f".{short(key)}" for key in keys[:4])


def link_of(value: Any) -> tuple[str, int] | None:
    """(node id, output number) if an input's value is a link; lists are never plain values. GraphError if malformed."""
    if not isinstance(value, list):
        return None
    if len(value) != 2 or not isinstance(value[0], str) or type(value[1]) is not int:
        raise GraphError(f'{shown(value)} is not a link, which is ["node id", output number]')
    return value[0], value[1]


def sources_of(node: Node, names: Any) -> list[str]:
    """The ids of the nodes that the named inputs are linked to, in order; malformed links are left out."""
    ids = []
    for name in names:
        try:
            link = link_of(node.inputs.get(name))
        except GraphError:
            continue
        if link:
            ids.append(link[0])
    return ids


def sort(graph: Graph, roots: list[str], names: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(the ids that the roots need, sources first, roots included; the cycles met, each as the ids along it).

    Of the cycles only the first `MAX_CYCLES`. names gives the input names of each class type. Links that lead nowhere
    are passed over. No recursion: a file may chain as many nodes as it likes.
    """
    order: list[str] = []
    cycles: list[list[str]] = []
    finished: dict[str, bool] = {}  # an id is here from the moment the walk enters it
    for root in roots:
        trail: list[tuple[str, Iterator[str]]] = []
        entering = None if root in finished else root
        while trail or entering is not None:
            if entering is not None:
                node = graph.nodes[entering]
                finished[entering] = False
                trail.append((entering, iter(sources_of(node, names.get(node.class_type, ())))))
                entering = None
            source = next(trail[-1][1], None)
            if source is None:
                node_id, _ = trail.pop()
                finished[node_id] = True
                order.append(node_id)
            elif finished.get(source) is False:
                if len(cycles) == MAX_CYCLES:  # a cycle is as long as the file is; a hostile file has one a node
                    continue
                ids = [node_id for node_id, _ in trail]
                cycles.append(ids[ids.index(source) :] + [source])
            elif source in graph.nodes and source not in finished:
                entering = source
    return order, cycles
