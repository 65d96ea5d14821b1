"""LoRA files in a folder, by the names of its files; opens none of them."""

from __future__ import annotations

import os
from pathlib import Path

from ..checkpoints.folders import MAX_DEPTH, MAX_FILES, is_inside

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")


def find_loras(root: str | os.PathLike) -> dict[str, Path]:
    """Every weight file below a folder, by its path from there with "/" between the parts, in the order of these names.

    Links count as what they lead to inside the folder; folders that are links are not followed. Raises nothing: a
    folder that is not there holds none.
    """
    root, found, seen = Path(root).resolve(), {}, 0
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        deep = len(here.relative_to(root).parts) >= MAX_DEPTH
        folders[:] = [] if deep else sorted(name for name in folders if not name.startswith("."))
        for name in files:
            seen += 1
            path = here / name
            if not name.lower().endswith(SUFFIXES) or name.startswith("."):
                continue
            if path.is_file() and is_inside(path, root):
                found[path.relative_to(root).as_posix()] = path
        if seen > MAX_FILES:
            break
    return dict(sorted(found.items()))
