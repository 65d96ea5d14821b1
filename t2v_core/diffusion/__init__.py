"""Diffusion: noise schedules, denoisers, guidance, samplers, noise, and `sample`, which puts them together."""

from .denoiser import Denoiser
from .guidance import guide, rescale_guidance
from .model import Compiled, ContextWindows, FrameRate, GuidanceRescale, NativeSize, NetworkScale, VideoModel
from .modifiers import GuidanceSchedule, NoiseSeeds, StrengthSchedule, TemporalStrength
from .noise import noise_source, prepare_noise, step_noise
from .noise_schedule import NoiseSchedule
from .sample import sample
from .samplers import SAMPLERS, BoundSampler, NoiseSource, Sampler
from .schedulers import SCHEDULERS, Scheduler, sigmas_for

__all__ = [
    "SAMPLERS",
    "SCHEDULERS",
    "BoundSampler",
    "Compiled",
    "ContextWindows",
    "Denoiser",
    "FrameRate",
    "GuidanceRescale",
    "GuidanceSchedule",
    "NativeSize",
    "NetworkScale",
    "NoiseSchedule",
    "NoiseSeeds",
    "NoiseSource",
    "Sampler",
    "Scheduler",
    "StrengthSchedule",
    "TemporalStrength",
    "VideoModel",
    "guide",
    "noise_source",
    "prepare_noise",
    "rescale_guidance",
    "sample",
    "sigmas_for",
    "step_noise",
]
