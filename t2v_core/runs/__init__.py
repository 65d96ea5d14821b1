"""Runs kept on disk: what has been sampled so far, so that a run that was cut off goes on where it was."""

from .digest import digest
from .folder import KEPT_FROM, Found, RunsFolder
from .kept_run import KeptRun
from .sampling import NOT_KEPT, key_of, sample_kept

__all__ = ["KEPT_FROM", "NOT_KEPT", "Found", "KeptRun", "RunsFolder", "digest", "key_of", "sample_kept"]
