"""The shipped workflows as they can be run here: with the bundled model in place of those that nobody ships, and long
clips with few steps.

A workflow for models that people have names them, so that it runs as it is where they are. `STAND_INS` says what to run
it with where they are not: the bundled model, at its own size and then larger.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOR_PEOPLE = sorted(ROOT.glob("workflows/*.json"))
FOR_PROGRAMS = sorted(ROOT.glob("workflows/api/*.json"))

# Nodes that the page shows and never sends.
PAGE_ONLY = {"MarkdownNote"}

_CASCADE = {
    "1.model_name": "bundled",
    "2.text": "a red circle moving left to right on a white background",
    "3.text": "",
    "4.width": 96,
    "4.height": 96,
    "5.steps": 12,
    "5.cfg": 2.0,
    "7.model_name": "bundled",
    "8.width": 128,
    "8.height": 128,
}
# By the workflow's name: what its inputs, as NODE.INPUT, are set to.
STAND_INS: dict[str, dict[str, Any]] = {
    "ten_prompt_story": {"6.steps": 2},
    "seamless_loop": {"6.steps": 3},
    "zeroscope_cascade": {**_CASCADE, "4.num_frames": 16, "9.steps": 4, "9.cfg": 2.0},
    "zeroscope_cascade_stock": {**_CASCADE, "4.batch_size": 16, "10.steps": 4, "10.cfg": 2.0},
}


def read(file: Path) -> dict:
    """A workflow file as it is."""
    return json.loads(file.read_text(encoding="utf-8"))


def stand_ins(file: Path) -> list[str]:
    """The stand-ins of a workflow for the command line."""
    changes = STAND_INS.get(file.stem, {}).items()
    return [argument for target, value in changes for argument in ("--set", f"{target}={value}")]


def for_programs(file: Path) -> dict:
    """A workflow in the API format with its stand-ins."""
    graph = read(file)
    for target, value in STAND_INS.get(file.stem, {}).items():
        node_id, name = target.split(".")
        assert name in graph[node_id]["inputs"]
        graph[node_id]["inputs"][name] = value
    return graph


def for_people(file: Path) -> dict:
    """A workflow in the page's format with its stand-ins, each in the widget that has the value of its twin's input."""
    workflow, twin = read(file), read(file.parent / "api" / file.name)
    nodes = {str(node["id"]): node for node in workflow["nodes"]}
    values = {node_id: list(node["widgets_values"]) for node_id, node in nodes.items()}
    for target, value in STAND_INS.get(file.stem, {}).items():
        node_id, name = target.split(".")
        shipped = twin[node_id]["inputs"][name]
        assert values[node_id].count(shipped) == 1, f"{target}: no widget, or several, with {shipped!r}"
        nodes[node_id]["widgets_values"][values[node_id].index(shipped)] = value
    return workflow
