"""Where ComfyUI keeps LoRA files."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...t2v_core.errors import CheckpointError
from .files import names_in

FOLDER = "loras"


def lora_names() -> list[str]:
    """The files of ComfyUI's `loras` folders."""
    return sorted(names_in(FOLDER))


def lora_path(name: str) -> Path:
    """One of `lora_names`; a name that is not in that list is never made into a path."""
    path = folder_paths.get_full_path(FOLDER, name) if name in names_in(FOLDER) else None
    if path is None:
        raise CheckpointError(
            f"lora_name: there is no LoRA {name!r} in models/{FOLDER}; put it there and refresh the page, or choose "
            "another"
        )
    return Path(path)
