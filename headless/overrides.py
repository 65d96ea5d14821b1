"""`--set NODE.INPUT=value`: changes to a graph from the command line."""

from __future__ import annotations

from ..t2v_core.errors import GraphError
from .graph import Graph
from .schema import inputs_of
from .wording import listed, short

_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def apply(graph: Graph, settings: list[str], classes: dict[str, type]) -> list[str]:
    """Applies each setting to the graph and returns what is wrong with those that could not be, one line each."""
    problems = []
    for setting in settings:
        try:
            _apply(graph, setting, classes)
        except (GraphError, ValueError) as error:
            problems.append(f"--set {short(setting)}: {error}")
    return problems


def _apply(graph: Graph, setting: str, classes: dict[str, type]) -> None:
    target, equals, text = setting.partition("=")
    name, dot, input_name = target.rpartition(".")  # a title may hold dots, an input's name does not
    if not equals or not dot:
        raise GraphError("the form is NODE.INPUT=value, with the id or the title of a node")
    node_id = _find(graph, name)
    node = graph.nodes[node_id]
    if node.class_type not in classes:
        return  # an unknown kind of node is a problem of the file, reported with the others
    declared = inputs_of(classes[node.class_type])
    if input_name not in declared:
        raise GraphError(f"{graph.place(node_id)} has no input {short(input_name)}; it has {listed(list(declared))}")
    if isinstance(node.inputs.get(input_name), list):
        raise GraphError(f"{graph.place(node_id, input_name)} is linked to another node, so it has no value to set")
    wanted = declared[input_name]
    value = _TRUTHS.get(text.lower(), text) if wanted.type == "BOOLEAN" else text
    node.inputs[input_name] = wanted.convert(value)


def _find(graph: Graph, name: str) -> str:
    """The id of the node with that id, or else with that title."""
    if name in graph.nodes:
        return name
    titled = [node_id for node_id, node in graph.nodes.items() if node.title == name]
    if len(titled) > 1:
        raise GraphError(f'{len(titled)} nodes are called "{short(name)}"; use an id: {listed(titled)}')
    if not titled:
        known = [f'{node_id} "{node.title}"' for node_id, node in graph.nodes.items()]
        raise GraphError(f'no node has the id or title "{short(name)}"; there are {listed(known)}')
    return titled[0]
