"""Make the bundled model again, a stage a command: `python -m t2v_core.training --help`."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from ..checkpoints import BUNDLED_PATH, load_bundled
from . import autoencoder, denoiser, evaluate, text
from .captions import plain_caption
from .pack import LATENT_SCALE, pack


def _autoencoder(options: argparse.Namespace) -> None:
    autoencoder.train(options.run, options.steps or 3600)


def _text(options: argparse.Namespace) -> None:
    text.train(options.run, options.steps or 1500)


def _latents(options: argparse.Namespace) -> None:
    network = autoencoder.trained(options.run / "autoencoder.pt", LATENT_SCALE)
    denoiser.cache_latents(network, LATENT_SCALE, options.clips, 11, options.run)


def _denoiser(options: argparse.Namespace) -> None:
    settings = denoiser.Run(workers=options.workers, **({"steps": options.steps} if options.steps else {}))
    denoiser.train(options.run, options.run / "latents.pt", options.run / "text.pt", settings)


def _pack(options: argparse.Namespace) -> None:
    print(pack(options.run, options.file))


def _evaluate(options: argparse.Namespace) -> None:
    bundled = load_bundled(path=options.file)
    given = {field.name: getattr(options, field.name) for field in fields(evaluate.Settings)}
    settings = evaluate.Settings(**{name: value for name, value in given.items() if value is not None})
    print(settings)
    seen = round(0.6 * options.prompts)
    wanted = evaluate.fixed_prompts(seen, options.prompts - seen)
    lists = {"seen": wanted[:seen], "held out": wanted[seen:]}
    rows = []
    for name, wanted in lists.items():
        results = []
        for result in evaluate.evaluate(bundled, wanted, settings):
            results.append(result)
            print(f"\r{name}: {len(results)}/{len(wanted)}", end="", flush=True)
        table = evaluate.summary(results)
        print(f"\r{name}, {len(wanted)} prompts: " + ", ".join(f"{key} {value:.3f}" for key, value in table.items()))
        for result in results:
            if not result.right:
                print(f"  asked for {plain_caption(result.wanted)}; read {plain_caption(result.reading.attributes)}")
        rows += [(plain_caption(result.wanted), result.frames) for result in results[:8]]
    if options.sheet:
        evaluate.contact_sheet(rows).save(options.sheet)


def main() -> None:
    """Read the command line and run one stage."""
    parser = argparse.ArgumentParser(prog="python -m t2v_core.training", description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/bundled"), help="folder of the stages' files")
    stages = parser.add_subparsers(required=True, metavar="STAGE")

    def stage(name: str, function, help: str) -> argparse.ArgumentParser:
        command = stages.add_parser(name, help=help)
        command.set_defaults(function=function)
        return command

    stage("autoencoder", _autoencoder, "train the autoencoder").add_argument("--steps", type=int)
    stage("text", _text, "train the text encoder").add_argument("--steps", type=int)
    stage("latents", _latents, "draw and encode the clips").add_argument("--clips", type=int, default=8000)
    command = stage("denoiser", _denoiser, "train the denoiser; goes on from its last checkpoint")
    command.add_argument("--steps", type=int)
    command.add_argument("--workers", type=int, default=2, help="processes of one thread each; changes the result")
    for name, function, help in (
        ("pack", _pack, "write the shipped file"),
        ("evaluate", _evaluate, "generate clips for fixed prompts and read them"),
    ):
        command = stage(name, function, help)
        command.add_argument("--file", type=Path, default=BUNDLED_PATH)
    command.add_argument("--prompts", type=int, default=40, help="how many; 6 in 10 were seen in training")
    command.add_argument("--sheet", type=Path, help="write a contact sheet")
    command.add_argument("--steps", type=int)
    command.add_argument("--cfg", type=float)
    command.add_argument("--sampler")
    command.add_argument("--scheduler")
    options = parser.parse_args()
    options.function(options)


if __name__ == "__main__":
    main()
