"""Fixtures for the tests of the adapters: the pack as ComfyUI imports it, and the command line as a person runs it.

Tests of the library (`tests/core`) say `import t2v_core` and use none of this: the pack has its own `t2v_core` inside.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACK = "t2v_pack_under_test"


@pytest.fixture(scope="session")
def pack() -> ModuleType:
    """The pack's root, loaded from its folder as ComfyUI loads a custom node."""
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def part(pack):
    """part("headless.graph") is that module of the pack."""
    return lambda name: importlib.import_module(f"{pack.__name__}.{name}")


@pytest.fixture
def headless():
    """headless("run", FILE, ...) runs `python -m headless` and returns the finished process, output as text."""

    def run(*arguments: object, **options) -> subprocess.CompletedProcess:
        options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 240, **options}
        return subprocess.run([sys.executable, "-m", "headless", *map(str, arguments)], **options)

    return run
