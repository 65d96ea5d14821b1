"""`python -m headless`: loads the pack's root folder as ComfyUI does, then hands over to its command line.

The pack is loaded as one package under a name of its own, so that every module of it exists once and nodes that
import each other relatively find each other; that is why nothing here imports `nodes` or `t2v_core` directly.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACK = "comfyui_t2v"


def main() -> int:
    """Runs the command line and returns its exit code."""
    try:
        return _run()
    except KeyboardInterrupt:  # at any moment, while modules are still loading too
        print("error: interrupted", file=sys.stderr)
        return 130


def _run() -> int:
    # Idle OpenMP threads that spin slow everything down several times over where the cores are shared, and this
    # must be said before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py")
    pack = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = pack
    spec.loader.exec_module(pack)
    return importlib.import_module(f"{PACK}.headless.cli").main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
