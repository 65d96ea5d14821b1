"""torch.compile for the parts that UNet3D repeats, and without it from the first failure on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)

MOST_KINDS = 64
"""Compiled forms of one part: the published network has 16 of its residual block. torch gives up at 8 of its own."""


class CompiledParts:
    """Calls a part by its compiled form. Parts of one kind and one shape of input share one, so compiling takes about
    as long as for one of each; the whole network would take many times that.

    Where compiling fails, as without a compiler or on a platform that it does not know, parts run as they are from then
    on, which a warning says once. The numbers are those of the parts, to rounding.

    backend: of torch.compile.
    """

    def __init__(self, backend: str | Callable = "inductor"):
        self.backend = backend
        self.failure: str | None = None
        self._forms: dict[nn.Module, Callable] = {}

    def __call__(self, part: nn.Module, *arguments: Any) -> Any:
        """`part(*arguments)`."""
        if self.failure is not None:
            return part(*arguments)
        try:
            with torch._dynamo.config.patch(**{_limit(): MOST_KINDS}):
                return self._form(part)(*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of compilers, drivers and torch's own, which have no type in common
            self.failure = " ".join(str(error).split())[:200] or type(error).__name__
            logger.warning("torch.compile does not work here, so the model runs without it: %s", self.failure)
            return part(*arguments)

    def __deepcopy__(self, memo: dict) -> CompiledParts:
        return self  # a copy of a host's options compiles nothing again

    def _form(self, part: nn.Module) -> Callable:
        if part not in self._forms:
            self._forms[part] = torch.compile(part.forward, backend=self.backend, dynamic=False)
        return self._forms[part]


def _limit() -> str:
    """The name of torch's own limit, which was another one before 2.7."""
    return "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
