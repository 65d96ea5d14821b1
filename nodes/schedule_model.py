"""Numbers for each frame, handed to a model."""

from __future__ import annotations

from numbers import Real

from ..t2v_core.diffusion import GuidanceSchedule, NoiseSeeds, StrengthSchedule, TemporalStrength
from ..t2v_core.errors import T2VError
from . import host


class T2VScheduleModel:
    """A model that is sampled with numbers of its own for each frame."""

    TITLE = "T2V Schedule Model"
    DESCRIPTION = "Gives a model numbers for each frame, which any sampler then obeys, ComfyUI's KSampler too."
    CATEGORY = "T2V/schedules"
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("The model with the numbers that are connected.",)
    FUNCTION = "patch"

    @classmethod
    def INPUT_TYPES(cls):
        tooltips = {
            "cfg": ("FLOAT", "The cfg of each frame, in place of the sampler's."),
            "cfg_steps": (
                "FLOAT",
                "What cfg is multiplied by from the first step to the last: any number of values, even over the "
                "noise levels. Make it with T2V Value Schedule, with num_frames the number of steps.",
            ),
            "strength": (
                "FLOAT",
                "How much of each frame is replaced, as denoise says it for the whole clip: 1 all of it, 0 nothing.",
            ),
            "seeds": ("INT", "The seed that each frame's noise comes from, in place of the sampler's."),
            "temporal_attention": (
                "FLOAT",
                "How strongly the temporal attention changes each frame: 1 as trained, 0 not at all. T2V models only.",
            ),
            "temporal_convolution": (
                "FLOAT",
                "How strongly the temporal convolutions change each frame: 1 as trained, 0 not at all. "
                "T2V models only.",
            ),
        }
        return {
            "required": {"model": ("MODEL", {"tooltip": "The model to be sampled."})},
            "optional": {
                name: (kind, {"forceInput": True, "tooltip": tooltip}) for name, (kind, tooltip) in tooltips.items()
            },
        }

    def patch(
        self,
        model,
        cfg=None,
        cfg_steps=None,
        strength=None,
        seeds=None,
        temporal_attention=None,
        temporal_convolution=None,
    ):
        cfg, cfg_steps = _row(cfg, "cfg"), _row(cfg_steps, "cfg_steps")
        strength, seeds = _row(strength, "strength"), _row(seeds, "seeds")
        attention = _row(temporal_attention, "temporal_attention")
        convolution = _row(temporal_convolution, "temporal_convolution")
        modifiers = []
        if cfg is not None or cfg_steps is not None:
            modifiers.append(GuidanceSchedule(cfg, cfg_steps))
        if strength is not None:
            modifiers.append(StrengthSchedule(strength))
        if seeds is not None:
            modifiers.append(NoiseSeeds.per_frame(_whole(seeds, "seeds")))
        if attention is not None or convolution is not None:
            modifiers.append(TemporalStrength(attention, convolution))
        for modifier in modifiers:
            model = host.current().patch(model, modifier)
        return (model,)


def _row(values, name: str) -> tuple | None:
    """A list of numbers that came over a link, unchanged; None where nothing is connected."""
    if values is None:
        return None
    if isinstance(values, (list, tuple)) and values and all(isinstance(each, Real) for each in values):
        return tuple(values)
    found = f"{values} is one number" if isinstance(values, (int, float)) else "this is not a list of numbers"
    raise T2VError(f"{name}: {found}; connect a list with a number for each frame, as T2V Value Schedule gives it")


def _whole(values: tuple, name: str) -> list[int]:
    for frame, value in enumerate(values):
        if value != value // 1:
            raise T2VError(
                f"{name}: number {frame} is {value}; whole numbers are needed, such as whole_numbers of "
                "T2V Value Schedule"
            )
    return [int(value) for value in values]
