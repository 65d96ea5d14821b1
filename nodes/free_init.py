"""FreeInit's numbers, for T2VSampler."""

from __future__ import annotations

from ..t2v_core.diffusion import FILTERS, FreeInit
from ..t2v_core.diffusion.free_init import MAX_ORDER, MAX_ROUNDS


class T2VFreeInit:
    """A clip that is sampled several times, each time from better noise."""

    TITLE = "T2V FreeInit"
    DESCRIPTION = (
        "Samples a clip several times. Each time it starts from noise whose slow and coarse part comes from the clip "
        "before, so that frames agree better. It takes that many times as long."
    )
    CATEGORY = "T2V/sampling"
    RETURN_TYPES = ("T2V_FREE_INIT",)
    RETURN_NAMES = ("free_init",)
    OUTPUT_TOOLTIPS = ("For T2V Sampler's free_init.",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls):
        stop = {"default": 0.25, "min": 0.0, "max": 1.0, "step": 0.01, "round": 0.001}
        return {
            "required": {
                "rounds": (
                    "INT",
                    {
                        "default": 3,
                        "min": 1,
                        "max": MAX_ROUNDS,
                        "tooltip": "How often the clip is sampled. 1 is as without this node.",
                    },
                ),
                "filter_type": (
                    list(FILTERS),
                    {
                        "default": "butterworth",
                        "tooltip": "How sharply what is kept is cut from what is drawn anew: gaussian softly, "
                        "butterworth steeper, ideal and box at once.",
                    },
                ),
                "order": (
                    "INT",
                    {
                        "default": 4,
                        "min": 1,
                        "max": MAX_ORDER,
                        "tooltip": "butterworth: how steep it is. The other filters leave it unused.",
                    },
                ),
                "spatial_stop_frequency": (
                    "FLOAT",
                    {**stop, "tooltip": "How fine the shapes within a frame may be that are kept: 0 nothing, 1 all."},
                ),
                "temporal_stop_frequency": (
                    "FLOAT",
                    {**stop, "tooltip": "How quick the changes over time may be that are kept: 0 nothing, 1 all."},
                ),
                "fast_sampling": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Fewer steps in the early rounds: of 3 rounds, a third and two thirds of them.",
                    },
                ),
            }
        }

    def make(self, rounds, filter_type, order, spatial_stop_frequency, temporal_stop_frequency, fast_sampling):
        stops = (spatial_stop_frequency, temporal_stop_frequency)
        return (FreeInit(rounds, filter_type, order, *stops, fast_sampling),)
