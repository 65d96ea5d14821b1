"""Runs a checked graph: what its output nodes need, each node once, sources first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch

from ..t2v_core.errors import ScheduleError, T2VError
from .graph import Graph, Node, link_of, sort, sources_of
from .schema import Input, hidden_of, inputs_of
from .validate import outputs_of
from .wording import plain, plain_lines


def execute(graph: Graph, classes: dict[str, type]) -> Iterator[tuple[str, dict]]:
    """Yields (node id, its "ui" result) of every output node, as each is done.

    The graph must have passed `validate.check`. Raises T2VError naming the node in which anything went wrong.
    """
    schemas = {node.class_type: inputs_of(classes[node.class_type]) for node in graph.nodes.values()}
    order, _ = sort(graph, outputs_of(graph, classes), schemas)
    sources = {node_id: sources_of(graph.nodes[node_id], schemas[graph.nodes[node_id].class_type]) for node_id in order}
    readers = Counter(source for node_id in order for source in sources[node_id])
    results: dict[str, tuple] = {}
    for node_id in order:
        node = graph.nodes[node_id]
        arguments = _arguments(graph, node_id, classes[node.class_type], schemas[node.class_type], results)
        outcome = _run(graph, node_id, classes[node.class_type], arguments)
        del arguments
        is_output = getattr(classes[node.class_type], "OUTPUT_NODE", False)
        shown = outcome.get("ui") if is_output and isinstance(outcome, dict) else None
        results[node_id] = outcome.get("result", ()) if isinstance(outcome, dict) else outcome
        del outcome
        readers.subtract(sources[node_id])
        for done in {node_id, *sources[node_id]}:
            if readers[done] == 0:  # frames and latents are large: each goes as soon as its last reader has run
                results.pop(done, None)
        if shown is not None:
            yield node_id, shown


def _arguments(
    graph: Graph, node_id: str, node_class: type, schema: dict[str, Input], results: dict[str, tuple]
) -> dict[str, Any]:
    node: Node = graph.nodes[node_id]
    arguments = {}
    for name, declared in schema.items():
        if name in node.inputs:
            link = link_of(node.inputs[name])
            arguments[name] = results[link[0]][link[1]] if link else declared.convert(node.inputs[name])
    hidden = {"PROMPT": graph.prompt, "EXTRA_PNGINFO": lambda: graph.extra_pnginfo, "UNIQUE_ID": lambda: node_id}
    arguments.update((name, hidden[kind]()) for name, kind in hidden_of(node_class).items())
    return arguments


def _run(graph: Graph, node_id: str, node_class: type, arguments: dict[str, Any]) -> Any:
    try:
        with torch.inference_mode():
            return getattr(node_class(), node_class.FUNCTION)(**arguments)
    except Exception as error:
        raise T2VError(f"{graph.place(node_id)} ({node_class.__name__}): {_cause(error)}") from error


def _cause(error: Exception) -> str:
    if isinstance(error, ScheduleError):
        return plain_lines(str(error))
    if isinstance(error, T2VError):
        return plain(str(error))
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        return "not enough memory; make the clip smaller or shorter"
    first_line = (str(error).strip().splitlines() or [""])[0]
    return plain(f"unexpected {type(error).__name__}: {first_line} (--debug shows where)")
