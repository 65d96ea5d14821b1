"""Starts a server of the pip-installable ComfyUI for the tests: `python launch_lts.py MAIN.PY ARGUMENT ...`.

The same call as `launch.py`, for a MAIN.PY that lies beside the package `comfy.cmd`. Such a main.py serves the models,
outputs and custom nodes of its own folder whatever `--base-directory` says; what the installed command `comfyui` runs
does not, so that is started here.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from launch import DeclareOperators, end_with_standard_input

if __name__ == "__main__":
    threading.Thread(target=end_with_standard_input, daemon=True).start()
    sys.meta_path.insert(0, DeclareOperators())
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).parent)  # the package `comfy` is found there, and no module of the tests

    from comfy.cmd.main import entrypoint

    entrypoint()
