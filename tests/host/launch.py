"""Starts a ComfyUI server for the tests, in ComfyUI's own interpreter: `python launch.py MAIN.PY ARGUMENT ...`.

Two things `python MAIN.PY ARGUMENT ...` alone would lack: the server ends when its standard input does, so none
outlives the tests, whatever ended them; and a torchvision without compiled operators serves.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import runpy
import sys
import threading
from pathlib import Path

# What torchvision registers gradients and shape rules for when it is imported, and ComfyUI never calls.
OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class DeclareOperators(importlib.abc.MetaPathFinder):
    """Declares torchvision's operators, when it is first imported, if its compiled library cannot be loaded.

    Not earlier, for ComfyUI must be the one that imports torch. Wheels of torchvision fail so beside a PyTorch from
    another build.
    """

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            found = importlib.util.find_spec(name)
            if found is not None and not loads(Path(found.origin).parent):
                self.declare()
        return None  # the finders after this one do the finding

    def declare(self) -> None:
        import torch

        DeclareOperators.kept = torch.library.Library("torchvision", "DEF")  # gone with the object
        for operator in OPERATORS:
            self.kept.define(operator)


def loads(package: Path) -> bool:
    """Whether the compiled library in torchvision's folder can be loaded. Loading it twice does no harm."""
    import torch

    try:
        for library in [*package.glob("_C*.so"), *package.glob("_C*.pyd")]:
            torch.ops.load_library(library)
            return True
    except OSError:
        pass
    return False


def end_with_standard_input() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_standard_input, daemon=True).start()
    sys.meta_path.insert(0, DeclareOperators())
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).parent)  # as if it had been started itself
    runpy.run_path(sys.argv[0], run_name="__main__")
