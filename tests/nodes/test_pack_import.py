"""Importing the pack: as ComfyUI does it, under one name, without side effects."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# A folder name with a dot and a hyphen, as people unpack archives; ComfyUI makes such a module name from it.
LOAD = f"""
import importlib.util, sys
import einops, imageio_ffmpeg, numpy, safetensors, torch  # what these do on import is not ours
root, seen = {str(ROOT)!r}, []
def watch(event, arguments):
    if event == "open":
        path = str(arguments[0])
        if path.startswith(root) and "/.venv/" not in path and not path.endswith(".py") and "__pycache__" not in path:
            seen.append(path)
    elif event.startswith(("socket.", "subprocess.", "os.mkdir", "os.remove")):
        seen.append(event)
sys.addaudithook(watch)
name = "/some where/ComfyUI-T2V_x_1"
spec = importlib.util.spec_from_file_location(name, root + "/__init__.py")
pack = importlib.util.module_from_spec(spec)
sys.modules[name] = pack
spec.loader.exec_module(pack)
for node in pack.NODE_CLASS_MAPPINGS.values():
    node.INPUT_TYPES()
assert not seen, seen
outside = [m for m in sys.modules if m.split(".")[0] in ("t2v_core", "nodes", "headless", "comfy", "folder_paths")]
assert not outside, outside
assert not torch.cuda.is_initialized()
"""


def test_loading_prints_nothing_opens_nothing_and_stays_under_its_own_name(tmp_path):
    done = subprocess.run([sys.executable, "-c", LOAD], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_a_package_around_it_the_root_defines_nothing():
    names = runpy.run_path(str(ROOT / "__init__.py"))  # as pytest's collector meets it
    assert "NODE_CLASS_MAPPINGS" not in names


def test_without_a_host_inputs_can_be_listed_and_running_says_what_to_do(part):
    nodes, errors = part("nodes"), part("t2v_core.errors")
    part("nodes.host").use(None)
    assert nodes.NODE_CLASS_MAPPINGS["T2VLoadModel"].INPUT_TYPES()["required"]["model_name"][0] == ["bundled"]
    with pytest.raises(errors.T2VError, match="python -m headless run"):
        nodes.T2VLoadModel().load("bundled", "auto")


def test_a_model_name_that_comes_over_a_link_is_no_reason_to_load_again(part):
    """ComfyUI does not know it yet when it asks, and takes an error for a change at every run."""
    assert part("nodes").T2VLoadModel.IS_CHANGED(None, "auto") is None
