"""Diffusion: noise schedules, denoisers, guidance, samplers, noise, and `sample`, which puts them together."""

from .denoiser import Denoiser
from .free_init import FILTERS, FreeInit
from .guidance import guide, rescale_guidance
from .long_noise import KINDS as LONG_NOISE_KINDS
from .long_noise import LongNoise
from .model import Compiled, ContextWindows, FrameRate, GuidanceRescale, NativeSize, NetworkScale, VideoModel
from .modifiers import GuidanceSchedule, NoiseSeeds, StrengthSchedule, TemporalStrength
from .noise import noise_source, prepare_noise, step_noise
from .noise_schedule import NoiseSchedule
from .rounds import sample_with_free_init
from .sample import sample
from .samplers import SAMPLERS, BoundSampler, NoiseSource, Sampler
from .schedulers import SCHEDULERS, Scheduler, sigmas_for

__all__ = [
    "FILTERS",
    "LONG_NOISE_KINDS",
    "SAMPLERS",
    "SCHEDULERS",
    "BoundSampler",
    "Compiled",
    "ContextWindows",
    "Denoiser",
    "FrameRate",
    "FreeInit",
    "GuidanceRescale",
    "GuidanceSchedule",
    "LongNoise",
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
    "sample_with_free_init",
    "sigmas_for",
    "step_noise",
]
