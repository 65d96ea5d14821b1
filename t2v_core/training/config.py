"""The settings of a training run, a JSON file with a section a stage; what it leaves out has its default."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import T2VError
from . import autoencoder, denoiser, latents, text

DEFAULT = Path(__file__).parent / "bundled.json"
STAGES = {"autoencoder": autoencoder.Run, "text": text.Run, "latents": latents.Run, "denoiser": denoiser.Run}


@dataclass(frozen=True)
class Config:
    """What each stage is run with."""

    autoencoder: autoencoder.Run
    text: text.Run
    latents: latents.Run
    denoiser: denoiser.Run


def read_config(path: Path = DEFAULT) -> Config:
    """The settings in a file. Raises T2VError where it is no such file, or names a stage or setting there is not."""
    try:
        sections = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise T2VError(f"{path}: {error}") from None
    if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
        raise T2VError(f"{path}: should be an object with an object a stage: {', '.join(STAGES)}")
    runs = {}
    for stage, section in sections.items():
        if stage not in STAGES:
            raise T2VError(f"{path}: there is no stage {stage!r}, only {', '.join(STAGES)}")
        known = {field.name: type(field.default) for field in fields(STAGES[stage])}
        for name, value in section.items():
            if name not in known:
                raise T2VError(f"{path}: {stage} has no setting {name!r}, only {', '.join(known)}")
            if type(value) is not known[name] and not (known[name] is float and type(value) is int):
                raise T2VError(f"{path}: {stage}.{name} should be {known[name].__name__}, got {value!r}")
        runs[stage] = STAGES[stage](**section)
    return Config(**{stage: runs.get(stage, kind()) for stage, kind in STAGES.items()})
