"""Who may import whom, and that importing does nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from source_tree import LAYERS, ROOT, files, imports, layer_of, product_files


def wrong_arrows(root: Path) -> list[str]:
    """Every import that the table above does not allow, as `file:line: what`."""
    wrong = []
    for file in files(root, ".py"):
        path = file.relative_to(root)
        layer = layer_of(path.with_suffix("").parts)
        for line, name in imports(file, root):
            if problem := arrow_problem(layer, name):
                wrong.append(f"{path.as_posix()}:{line}: {problem}")
    return wrong


def arrow_problem(layer: str | None, name: str) -> str | None:
    top = name.split(".")[0]
    if top == "nodes":
        return "`nodes` is ComfyUI's module of that name; import ours relatively"
    if layer is None or not name or top in sys.stdlib_module_names:
        return None
    layers, packages = LAYERS[layer]
    here = layer or "the root"
    if not name.startswith("."):
        return None if top in packages else f"{here} may not import {top}"
    if name == "..":
        return "a relative import out of the pack"
    target = layer_of(tuple(name[1:].split(".")))
    return None if target in layers else f"{here} may not import {name[1:]}"


def test_imports_follow_the_arrows():
    assert len(product_files(ROOT)) > 20  # the walk found the tree
    assert wrong_arrows(ROOT) == []


@pytest.mark.parametrize(
    ("path", "source", "problem"),
    [
        ("t2v_core/a.py", "import comfy.samplers", "t2v_core may not import comfy"),
        ("t2v_core/a.py", "def f():\n    from ..nodes import host", "t2v_core may not import nodes.host"),
        ("t2v_core/video/a.py", "from ...headless.host import Host", "t2v_core may not import headless.host.Host"),
        ("t2v_core/a.py", "import t2v_core.errors", "t2v_core may not import t2v_core"),
        ("t2v_core/a.py", "import diffusers", "t2v_core may not import diffusers"),
        ("t2v_core/a.py", "from .. import NODE_CLASS_MAPPINGS", "t2v_core may not import NODE_CLASS_MAPPINGS"),
        ("t2v_core/a.py", "from ... import other_pack", "a relative import out of the pack"),
        ("nodes/a.py", "import folder_paths", "nodes may not import folder_paths"),
        ("nodes/a.py", "import importlib\nimportlib.import_module('comfy')", "nodes may not import comfy"),
        ("nodes/a.py", "from ..headless import host", "nodes may not import headless.host"),
        ("nodes/comfyui/a.py", "import nodes", "`nodes` is ComfyUI's"),
        ("nodes/comfyui/a.py", "from ...headless.host import Host", "nodes.comfyui may not import headless.host.Host"),
        ("headless/a.py", "from ..nodes.comfyui import model", "headless may not import nodes.comfyui.model"),
        ("headless/a.py", "from ..tests import helpers", "headless may not import tests.helpers"),
        ("headless/a.py", "import pytest", "headless may not import pytest"),
        ("__init__.py", "from .headless import cli", "the root may not import headless.cli"),
        ("tests/core/a.py", "import nodes.text", "`nodes` is ComfyUI's"),
    ],
)
def test_a_wrong_arrow_is_caught(tmp_path, path, source, problem):
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source)
    [found] = wrong_arrows(tmp_path)
    assert re.match(rf"{re.escape(path)}:\d: {re.escape(problem)}", found)


def test_right_arrows_are_let_through(tmp_path):
    for path, source in {
        "__init__.py": "from .nodes import NODE_CLASS_MAPPINGS",
        "t2v_core/video/a.py": "import os\nimport torch.nn\nfrom PIL import Image\nfrom ..errors import VideoError",
        "nodes/a.py": "import torch\nfrom . import host\nfrom ..t2v_core.text import chunk\nfrom .comfyui import model",
        "nodes/comfyui/a.py": "import folder_paths\nfrom comfy import utils\nfrom ...t2v_core import models",
        "headless/a.py": "from .. import NODE_CLASS_MAPPINGS\nfrom ..nodes.host import use\nfrom .graph import Graph",
        "tests/core/a.py": "import diffusers\nimport t2v_core",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(source)
    assert wrong_arrows(tmp_path) == []


# Imports every module of the pack under ComfyUI's loader, then the library by its own name; prints what that did.
IMPORT_EVERYTHING = """
import importlib, importlib.util, json, os, sys, threading
import einops, imageio_ffmpeg, numpy, PIL.Image, safetensors.torch, torch

root, modules, library = sys.argv[1], sys.argv[2].split(), sys.argv[3].split()
done = []
WATCHED = ("socket.", "subprocess.", "shutil.", "tempfile.", "urllib.", "os.system", "os.exec", "os.fork",
           "os.posix_spawn", "os.spawn", "os.startfile", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.putenv")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

def watch(event, args):
    if event.startswith(WATCHED):
        done.append(event)
    elif event == "open":
        path, mode, flags = args
        writes = isinstance(mode, str) and set(mode) & set("wax+") or flags & WRITING
        source = str(path).endswith((".py", ".pyc"))
        if writes or (str(path).startswith(root) and not source):
            done.append(f"open {path} {mode or flags}")

def state():
    return {
        "threads": threading.active_count(), "environment": dict(os.environ), "path": list(sys.path),
        "dtype": str(torch.get_default_dtype()), "grad": torch.is_grad_enabled(), "cores": torch.get_num_threads(),
        "random numbers": torch.get_rng_state().tolist(), "CUDA": torch.cuda.is_initialized(), "folder": os.getcwd(),
    }

sys.path.insert(0, root)
before = state()
sys.addaudithook(watch)
name = root.replace(".", "_x_")
spec = importlib.util.spec_from_file_location(name, os.path.join(root, "__init__.py"))
sys.modules[name] = pack = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
for module in modules:
    importlib.import_module(f"{name}.{module}")
for module in library:
    importlib.import_module(module)
after = state()
print(json.dumps(done + [f"changed: {key}" for key in before if before[key] != after[key]]))
"""


def import_everything(root: Path) -> tuple[list[str], str]:
    """(what importing did, what it printed) for every module but `__main__` and what needs ComfyUI."""
    dotted = [file.relative_to(root).with_suffix("").parts for file in product_files(root)]
    names = [".".join(p[:-1] if p[-1] == "__init__" else p) for p in dotted if layer_of(p) and p[-1] != "__main__"]
    names = [name for name in names if layer_of(tuple(name.split("."))) != "nodes.comfyui"]
    library = [name for name in names if name.split(".")[0] == "t2v_core"]
    command = [sys.executable, "-B", "-c", IMPORT_EVERYTHING, str(root), " ".join(names), " ".join(library)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    *printed, report = ran.stdout.splitlines()
    return json.loads(report), "\n".join(printed) + ran.stderr


def test_importing_does_nothing():
    assert import_everything(ROOT) == ([], "")


def test_an_import_that_does_something_is_caught(tmp_path):
    (tmp_path / "t2v_core").mkdir()
    (tmp_path / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}")
    (tmp_path / "t2v_core" / "__init__.py").touch()  # or the real library, a package on the path, goes before it
    (tmp_path / "t2v_core" / "data.json").write_text("{}")
    (tmp_path / "t2v_core" / "a.py").write_text(
        "import os, pathlib, socket, subprocess, sys, torch\n"
        "here = pathlib.Path(__file__).parent\n"
        "(here / 'new').write_text(''); (here / 'data.json').read_text()\n"
        "socket.socket().close(); subprocess.run([sys.executable, '-c', ''])\n"
        "os.environ['T2V'] = '1'; torch.manual_seed(os.getpid()); print('loaded')\n"
    )
    done, printed = import_everything(tmp_path)
    assert printed == "loaded\nloaded"  # once in the pack, once as the library
    for expected in ("new w", "data.json r", "socket.__new__", "subprocess.Popen", "environment", "random numbers"):
        assert any(expected in what for what in done), expected
