"""The prompt that ComfyUI is running.

A node's hidden input PROMPT holds it while the node runs, and is empty when IS_CHANGED is asked, by which ComfyUI
decides whether the node has to run at all. The queue has it at both times.
"""

from __future__ import annotations

import sys
from typing import Any

SERVERS = ("server", "comfy.cmd.server")  # ComfyUI's own, and that of the fork that is a package


def prompt_with(node_id: str | None) -> dict[str, Any] | None:
    """The running prompt, in the API format, that has a node of this id; None where it is not one that can be found.

    Nodes that another node made while it ran have ids that stand in no prompt.
    """
    found = [prompt for prompt in _running() if node_id in prompt]
    return found[0] if len(found) == 1 else None


def executing() -> dict[str, Any] | None:
    """The nodes of the prompt that decide what the node at work is given, and that node: class and inputs by their ids.
    None where that cannot be told."""
    context = getattr(sys.modules.get("comfy_execution.utils"), "get_executing_context", lambda: None)()
    prompt = None if context is None else prompt_with(context.node_id)
    if prompt is None:
        return None
    found, waiting = {}, [context.node_id]
    while waiting:
        node_id = waiting.pop()
        if node_id in found or node_id not in prompt:
            continue
        inputs = prompt[node_id].get("inputs", {})
        found[node_id] = prompt[node_id].get("class_type"), inputs
        waiting += [value[0] for value in inputs.values() if isinstance(value, list) and len(value) == 2]
    return found


def _running() -> list[dict[str, Any]]:
    server = next((sys.modules[name] for name in SERVERS if name in sys.modules), None)
    instance = getattr(getattr(server, "PromptServer", None), "instance", None)
    queue = getattr(instance, "prompt_queue", None)
    # The other one copies all that waits, too.
    ask = getattr(queue, "get_current_queue_volatile", None) or getattr(queue, "get_current_queue", None)
    if ask is None:
        return []
    running, _ = ask()
    prompts = [item.get("prompt") if isinstance(item, dict) else item[2] for item in running]
    return [prompt for prompt in prompts if isinstance(prompt, dict)]
