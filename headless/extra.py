"""The packages of the optional extra `full`, without which the parts of public models cannot be run here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..t2v_core.errors import T2VError


@contextmanager
def needed_for(part: str) -> Iterator[None]:
    """Around the imports of packages of the extra: T2VError with the part and the command where one fails.

    part: what is to be loaded, for people: "the text encoder (model.safetensors)".
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or "").split(".")[0]
        reason = f"needs the Python package {package}, which is not installed"
        if not isinstance(error, ModuleNotFoundError) or package not in ("transformers", "diffusers"):
            reason = f"needs Python packages that cannot be imported ({' '.join(str(error).split()):.200})"
        raise T2VError(f'{part} {reason}; run in this pack\'s folder: pip install ".[full]"') from None
