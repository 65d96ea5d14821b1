"""Runs kept on disk in ComfyUI: where, which, and what decides a run's bits under its guider.

Nodes of every kind change a MODEL by functions and objects of their own. What is digested is all that can be seen of
them, and the graph that the running node depends on besides, for what cannot. A run that is the same and does not look
so begins anew, no more.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.model_patcher
import comfy.samplers
import folder_paths
from torch import Tensor

from ...t2v_core.diffusion import BoundSampler
from ...t2v_core.errors import T2VError
from ...t2v_core.runs import KEPT_FROM, NOT_KEPT, KeptRun, RunsFolder, key_of
from ...t2v_core.runs.folder import frames_of
from . import running

FOLDER = "t2v_runs"
VARIABLE = "T2V_RUNS_FROM"
ADVICE = f"start ComfyUI with another --output-directory, or with the environment variable {VARIABLE}=0 to keep nothing"

# What holds these changes while a run is made ready, or is the same as something that counts already.
_OF_GUIDER = {"model_options", "inner_model", "loaded_models", "original_conds"}
_OF_PATCHER = (
    "patches", "object_patches", "hook_patches", "wrappers", "callbacks", "injections", "attachments",
    "additional_models", "weight_wrapper_patches",
)  # fmt: skip


def runs_folder() -> RunsFolder | None:
    """Where runs are kept; None where none are. T2VError for a variable that is no number of frames."""
    text = os.environ.get(VARIABLE, str(KEPT_FROM))
    if not (text.isascii() and text.isdigit()):
        raise T2VError(
            f"the environment variable {VARIABLE} is {text!r}; it is the number of frames from which on a clip is "
            "kept, or 0 to keep none"
        )
    if int(text) == 0:
        return None
    return RunsFolder(Path(folder_paths.get_output_directory()) / FOLDER, int(text), ADVICE)


def opened(bound: BoundSampler, model: Any, x: Tensor, sigmas: Tensor, extra_args: dict) -> KeptRun | None:
    """The run that a sampler's function is called for, with the arguments of that call; None where it is not kept."""
    runs = runs_folder()
    if runs is None or not runs.keeps(frames_of(x.shape)):
        return None
    guider, graph = model.inner_model, running.executing()
    start = (getattr(model, "latent_image", None), getattr(model, "noise", None))
    options = {name: value for name, value in extra_args.items() if name != "seed"}
    decides = (bound, x, sigmas, extra_args.get("seed"), start, options, guider, graph)
    key = key_of(*decides, device=x.device, known=_KNOWN)
    if key is None:
        runs.say(NOT_KEPT)
        return None
    return runs.open(key, x.shape, len(sigmas) - 1, bound.name)


def _of_guider(guider: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(guider).items() if name not in _OF_GUIDER}


def _of_patcher(patcher: Any) -> tuple:
    """Weights as they are without the patches, whether or not these are in them now, and the patches."""
    weights = {**patcher.model.state_dict()}
    for name, saved in getattr(patcher, "hook_backup", {}).items():
        weights[name] = saved[0]
    for name, saved in patcher.backup.items():
        weights[name] = saved.weight
    return patcher.model, weights, {name: getattr(patcher, name, None) for name in _OF_PATCHER}


def _of_model(model: Any) -> tuple:
    """A BaseModel without its weights."""
    config = model.model_config
    names = ("manual_cast_dtype", "model_type", "latent_format", "model_sampling")
    return type(config), config.unet_config, [getattr(model, name, None) for name in names]


_KNOWN = {
    comfy.samplers.CFGGuider: _of_guider,
    comfy.model_patcher.ModelPatcher: _of_patcher,
    comfy.model_base.BaseModel: _of_model,
}
