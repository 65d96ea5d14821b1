"""Make the bundled model again, a stage a command: `python -m t2v_core.training --help`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

import torch

from ..checkpoints import BUNDLED_PATH
from ..errors import T2VError
from . import autoencoder, denoiser, latents, text
from .clips.captions import free_caption
from .clips.mixture import Change
from .clips.scenes import FRAMES
from .config import DEFAULT, read_config
from .evaluation import evaluate, report
from .latents import draw_one
from .pack import LATENT_SCALE, pack


def _draw(options: argparse.Namespace) -> None:
    """A sheet of what the denoiser is shown, each clip with a caption as it may get it."""
    generator = torch.Generator().manual_seed(options.seed)
    rows, settings = [], read_config(options.config).latents
    for _ in range(options.clips):
        shown, frames = draw_one(FRAMES, settings.size, settings.changes, generator)
        scenes = (shown.before, shown.after) if isinstance(shown, Change) else (shown,)
        rows.append((" ... ".join(free_caption(scene, generator).text for scene in scenes), frames.permute(0, 2, 3, 1)))
    report.contact_sheet(rows).save(options.sheet)


def _autoencoder(options: argparse.Namespace) -> None:
    autoencoder.train(options.run, read_config(options.config).autoencoder)


def _text(options: argparse.Namespace) -> None:
    text.train(options.run, read_config(options.config).text)


def _latents(options: argparse.Namespace) -> None:
    settings = read_config(options.config).latents
    latents.cache(options.run / "autoencoder.pt", LATENT_SCALE, options.run, settings, options.workers)


def _denoiser(options: argparse.Namespace) -> None:
    denoiser.train(
        options.run, options.run / "latents.pt", options.run / "text.pt", read_config(options.config).denoiser
    )


def _plot(options: argparse.Namespace) -> None:
    for log in sorted(options.run.glob("*.csv")):
        report.plot_csv(log).save(log.with_suffix(".png"))
        print(log.with_suffix(".png"))


def _pack(options: argparse.Namespace) -> None:
    print(pack(options.run, options.file))


def _evaluate(options: argparse.Namespace) -> None:
    given = {field.name: getattr(options, field.name) for field in fields(evaluate.Settings)}
    settings = evaluate.Settings(**{name: value for name, value in given.items() if value is not None})
    report.run(options.file, settings, options.out, options.sets, options.limit, options.workers, options.run)


def main() -> int:
    """Read the command line and run one stage. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m t2v_core.training", description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/bundled"), help="folder of the stages' files")
    parser.add_argument("--config", type=Path, default=DEFAULT, help="settings of all stages, a JSON file")
    stages = parser.add_subparsers(required=True, metavar="STAGE")

    def stage(name: str, function, help: str) -> argparse.ArgumentParser:
        command = stages.add_parser(name, help=help)
        command.set_defaults(function=function)
        return command

    command = stage("draw", _draw, "a picture of clips as training draws them")
    command.add_argument("--clips", type=int, default=16)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--sheet", type=Path, default=Path("clips.png"))
    stage("autoencoder", _autoencoder, "train the autoencoder")
    stage("text", _text, "train the text encoder")
    command = stage("latents", _latents, "draw and encode the clips")
    command.add_argument("--workers", type=int, default=2, help="processes of one thread each; the file is the same")
    stage("denoiser", _denoiser, "train the denoiser; goes on from its last checkpoint")
    stage("plot", _plot, "draw the logs of a run")
    command = stage("pack", _pack, "write the shipped file")
    command.add_argument("--file", type=Path, default=BUNDLED_PATH)
    command = stage("evaluate", _evaluate, "generate clips for fixed prompts and read them")
    command.add_argument("--file", type=Path, default=BUNDLED_PATH)
    command.add_argument("--out", type=Path, default=Path("runs/evaluation"), help="folder of the report")
    command.add_argument("--sets", nargs="*", help="only these sets of prompts")
    command.add_argument("--limit", type=int, help="only so many prompts of a set")
    command.add_argument("--workers", type=int, default=2, help="processes of one thread each; the clips are the same")
    command.add_argument("--steps", type=int)
    command.add_argument("--cfg", type=float)
    command.add_argument("--sampler")
    command.add_argument("--scheduler")
    command.add_argument("--seed-shift", type=int, help="added to the clips' seeds: other noise for the same prompts")
    options = parser.parse_args()
    try:
        options.function(options)
    except T2VError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
