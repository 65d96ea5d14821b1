"""Checks a graph against the nodes' INPUT_TYPES, as ComfyUI does before it runs one, and reports everything at once."""

from __future__ import annotations

import difflib
import inspect
from dataclasses import dataclass, field
from typing import Any

from ..t2v_core.errors import GraphError
from .graph import Graph, link_of, sort
from .schema import Input, inputs_of
from .wording import listed, plain_lines, short, shown

MOST_NAMED = 100  # nodes that only ComfyUI has, in one line
FOLDERS = {"model_name": "--models", "lora_name": "--models", "video": "--input"}  # options, by input that lists files
COMFYUI_ONLY = "not among this pack's nodes; outside ComfyUI only those run"


@dataclass
class Findings:
    """What a check found: `problems` keep the graph from running, `warnings` do not.

    One line each; what is wrong inside a text has more, which show the place.
    """

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def outputs_of(graph: Graph, classes: dict[str, type]) -> list[str]:
    """The ids of the nodes a run is for: those whose class says OUTPUT_NODE."""
    return [
        node_id
        for node_id, node in graph.nodes.items()
        if node.class_type in classes and getattr(classes[node.class_type], "OUTPUT_NODE", False)
    ]


def check(graph: Graph, classes: dict[str, type]) -> Findings:
    """Everything that is wrong with the graph. Like ComfyUI, nodes that no output needs may be incomplete."""
    found = Findings(problems=list(graph.problems))
    found.problems += _unknown(graph, classes)
    kinds = {node.class_type for node in graph.nodes.values() if node.class_type in classes}
    schemas = {kind: inputs_of(classes[kind]) for kind in kinds}
    outputs = outputs_of(graph, classes)
    if graph.nodes and not outputs:
        makers = [name for name, node in classes.items() if getattr(node, "OUTPUT_NODE", False)]
        found.problems.append(f"the workflow has no output node, such as {listed(makers)}, so there is nothing to make")
    needed, cycles = sort(graph, outputs or list(graph.nodes), schemas)
    for cycle in cycles:
        found.problems.append(f"{graph.place(cycle[0])}: its links form a cycle: {short(' <- '.join(cycle))}")
    wanted = set(needed) - graph.faulty
    for node_id, node in graph.nodes.items():
        if node_id in wanted and node.class_type in classes:
            _check_node(graph, node_id, classes, schemas[node.class_type], found)
    return found


def _unknown(graph: Graph, classes: dict[str, type]) -> list[str]:
    """One problem that names every node of a kind that is not ours."""
    strangers = [(node_id, node) for node_id, node in graph.nodes.items() if node.class_type not in classes]
    if not strangers:
        return []
    named = [f"{short(node.class_type)} ({graph.place(node_id)})" for node_id, node in strangers[:MOST_NAMED]]
    if len(strangers) > MOST_NAMED:
        named.append(f"and {len(strangers) - MOST_NAMED} more")
    text = f"{', '.join(named)}: {COMFYUI_ONLY}"
    kinds = list(dict.fromkeys(node.class_type for _, node in strangers))[:20]
    near = {kind: difflib.get_close_matches(kind[:100], classes, n=1) for kind in kinds}
    hints = [f"{short(kind)} may be meant as {match[0]}" for kind, match in near.items() if match]
    return ["; ".join([text, *hints])]


def _check_node(
    graph: Graph, node_id: str, classes: dict[str, type], schema: dict[str, Input], found: Findings
) -> None:
    node = graph.nodes[node_id]
    constants = {}
    before = len(found.problems)
    for name, declared in schema.items():
        if name not in node.inputs:
            if declared.required:
                found.problems.append(f"{graph.place(node_id, name)}: required, but the file does not give it")
            continue
        try:
            link = link_of(node.inputs[name])
            if link:
                _check_link(graph, link, declared, classes)
                constants[name] = None  # not known before the run
            else:
                constants[name] = _constant(name, declared, node.inputs[name])
        except (GraphError, ValueError) as error:
            found.problems.append(f"{graph.place(node_id, name)}: {error}")
    for name in node.inputs.keys() - schema.keys():
        found.warnings.append(f"{graph.place(node_id, name)}: {node.class_type} has no such input; ignored")
    if len(found.problems) == before:
        answer = _own_check(classes[node.class_type], constants)
        if answer is not True:
            found.problems.append(f"{graph.place(node_id)}: {plain_lines(str(answer))}")


def _constant(name: str, declared: Input, value: Any) -> Any:
    """What the node gets for a value. Raises ValueError saying what is wrong, and for a file where it would be."""
    try:
        return declared.convert(value)
    except ValueError as error:
        if isinstance(declared.type, list) and name in FOLDERS:
            raise ValueError(f"{error}; {FOLDERS[name]} DIR names the folder they are in") from None
        raise


def _check_link(graph: Graph, link: tuple[str, int], declared: Input, classes: dict[str, type]) -> None:
    """Raises GraphError if the link leads nowhere or to the wrong kind of output."""
    source_id, slot = link
    if source_id in graph.faulty:
        return  # already reported where the fault is
    if source_id not in graph.nodes:
        raise GraphError(f"linked to node {shown(source_id)}, which is not in the file")
    source = graph.nodes[source_id]
    if source.class_type not in classes:
        return
    types = classes[source.class_type].RETURN_TYPES
    if not 0 <= slot < len(types):
        count = f"{len(types)}, counted from 0" if types else "none"
        raise GraphError(f"linked to output {slot} of {graph.place(source_id)}, which has {count}")
    if not declared.accepts(types[slot]):
        raise GraphError(f"takes {declared.type_name}, but output {slot} of {graph.place(source_id)} is {types[slot]}")


def _own_check(node_class: type, constants: dict) -> bool | str:
    """What the node's VALIDATE_INPUTS says of the inputs it asks for: True, or what is wrong."""
    own = getattr(node_class, "VALIDATE_INPUTS", None)
    if own is None:
        return True
    asked = inspect.signature(own).parameters
    return own(**{name: value for name, value in constants.items() if name in asked})
