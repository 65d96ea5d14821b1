"""The project's own source as data, for the tests that hold it to the house rules."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Folders at the top that are not ours, and every folder whose name starts with a dot; `t2v_core/models` is ours.
NOT_OURS = {"output", "build", "models", "runs"}

# What the extra `full` installs: imported when a public model's text encoder or autoencoder is loaded.
FULL = {"transformers", "diffusers"}
LIBRARY = {"torch", "einops", "safetensors", "numpy", "PIL", "imageio_ffmpeg"}
# ComfyUI's own modules, and tqdm, which it requires.
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "latent_preview", "tqdm"}

# layer: (layers it may import, relatively; packages it may import besides the standard library).
# "" is the pack's root. What stands in no layer (tests, benchmarks, examples) may import anything but `nodes`.
LAYERS: dict[str, tuple[set[str], set[str]]] = {
    "": ({"nodes"}, set()),
    "t2v_core": ({"t2v_core"}, LIBRARY),
    "nodes": ({"nodes", "nodes.comfyui", "t2v_core"}, {"torch"}),
    "nodes.comfyui": ({"nodes", "nodes.comfyui", "t2v_core"}, {"torch", "einops"} | COMFYUI),
    "headless": ({"", "nodes", "t2v_core", "headless"}, LIBRARY | FULL),
}


def files(root: Path, *suffixes: str) -> list[Path]:
    """Every file of the project with one of these suffixes."""
    found = []
    for folder, folders, names in os.walk(root):
        skipped = NOT_OURS if Path(folder) == Path(root) else {"__pycache__"}
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in skipped)
        found += [Path(folder, name) for name in sorted(names) if name.endswith(suffixes)]
    return found


def product_files(root: Path) -> list[Path]:
    """The Python files that users run: the layers, examples and benchmarks, but no tests."""
    return [file for file in files(root, ".py") if file.relative_to(root).parts[0] != "tests"]


def layer_of(parts: tuple[str, ...]) -> str | None:
    """The innermost layer that a dotted name below the pack's root lies in; None outside them all."""
    inside = [layer for layer in LAYERS if layer and parts[: layer.count(".") + 1] == tuple(layer.split("."))]
    return max(inside, key=len, default="" if len(parts) < 2 else None)


def imports(file: Path, root: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of each import, wherever it stands; names inside the pack start with a dot for the root.

    `import_module` and `__import__` count too where the name is a literal. A relative import that climbs out of the
    pack is named "..".
    """
    package = file.relative_to(root).parent.parts

    def anchored(level: int, name: str) -> str:
        if level == 0:
            return name
        climbed = len(package) - (level - 1)
        return ".." if climbed < 0 else "." + ".".join([*package[:climbed], *filter(None, [name])])

    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}" if node.module else alias.name
                yield node.lineno, anchored(node.level, name)
        elif isinstance(node, ast.Call) and called(node).split(".")[-1] in ("import_module", "__import__"):
            name = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else ""
            yield node.lineno, anchored(len(name) - len(name.lstrip(".")), name.lstrip("."))


def called(call: ast.Call) -> str:
    """The dotted name a call is written with, such as `os.system`; empty for anything but names and attributes."""
    return ast.unparse(call.func) if isinstance(call.func, (ast.Name, ast.Attribute)) else ""


def foreign_imports(root: Path) -> set[str]:
    """The top-level packages outside the standard library that the layers import."""
    names = set()
    for file in product_files(root):
        if layer_of(file.relative_to(root).with_suffix("").parts) is not None:
            names |= {name.split(".")[0] for _, name in imports(file, root) if name and not name.startswith(".")}
    return names - sys.stdlib_module_names
