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
