"""A node that puts the pack's modifiers on a MODEL."""

from __future__ import annotations

import importlib
import json
import sys


class ProbeModify:
    """A MODEL with modifiers of the pack, given as JSON: `[["NoiseSeeds", {"keys": ...}], ...]`.

    They are given to the host in use, as the pack's own nodes do.
    """

    CATEGORY, FUNCTION, RETURN_TYPES = "t2v_probe", "patch", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "modifiers": ("STRING", {})}}

    def patch(self, model, modifiers):
        comfyui_nodes = sys.modules["nodes"]
        pack = comfyui_nodes.NODE_CLASS_MAPPINGS["T2VSampler"].__module__.removesuffix(".nodes.sample")
        host = importlib.import_module(f"{pack}.nodes.host").current()
        kinds = importlib.import_module(f"{pack}.t2v_core.diffusion")
        for kind, numbers in json.loads(modifiers):
            model = host.patch(model, getattr(kinds, kind)(**numbers))
        return (model,)
