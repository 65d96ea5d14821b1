"""The network compiled for the machine it runs on."""

from __future__ import annotations

from ..t2v_core.diffusion import Compiled
from . import host


class T2VCompile:
    """A model whose parts are compiled by torch."""

    TITLE = "T2V Compile"
    DESCRIPTION = (
        "Compiles the parts that the model repeats, with torch.compile: the first step of each size takes a minute or "
        "more; what the steps after it gain depends on the machine. Where torch cannot compile, the model runs as it "
        "is. Results differ by no more than rounding."
    )
    CATEGORY = "T2V/sampling"
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("The same model, compiled in its first step.",)
    FUNCTION = "patch"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL", {"tooltip": "The model to be sampled. T2V models only."})}}

    def patch(self, model):
        return (host.current().patch(model, Compiled()),)
