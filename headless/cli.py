"""The command line: run, validate, list, show schedules, runs and videos. `python -m headless --help` is its manual."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import traceback
import warnings
from pathlib import Path

from .. import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from ..nodes.host import use
from ..t2v_core.errors import GraphError, T2VError
from . import overrides, probe, runs, schedule
from .execute import execute
from .graph import Graph, read_graph
from .host import INPUTS, HeadlessHost
from .listing import listing
from .progress import Progress
from .validate import check
from .wording import plain, plain_lines

DONE, FAILED, WRONG = 0, 1, 2  # and 130, see __main__.py
OUTPUT = "output"
MOST_PROBLEMS = 50  # lines of errors printed for one file
EXIT_CODES = (
    "exit codes: 0 done; 1 a node failed while the workflow ran; 2 the command or the workflow file is wrong and "
    "nothing was run; 130 interrupted. Every error is one line on stderr that starts with 'error:'; below one about a "
    "place in a text stands that place, indented."
)


class WrongGraph(GraphError):
    """Everything that is wrong with a workflow, a message each."""

    def __init__(self, problems: list[str]):
        super().__init__("\n".join(problems))
        self.problems = problems


class Parser(argparse.ArgumentParser):
    """argparse with this program's own form of error line."""

    def error(self, message: str):
        _print_errors([f"{plain(message)} (see {self.prog} --help)"])
        raise SystemExit(WRONG)


def main(arguments: list[str]) -> int:
    """Runs one command and returns its exit code."""
    options = _parser().parse_args(arguments)
    progress = Progress(sys.stderr, _progress_style(options))
    logging.basicConfig(format="warning: %(message)s")
    if not options.debug:
        warnings.simplefilter("ignore")  # Python's own are for programmers
    signal.signal(signal.SIGTERM, _interrupt)  # the same clean end as Ctrl-C
    try:
        return options.command(options, progress)
    except T2VError as error:
        progress.close()
        if options.debug:
            traceback.print_exception(error)
        _print_errors(error.problems if isinstance(error, WrongGraph) else [str(error)])
        return WRONG if isinstance(error, GraphError) else FAILED
    except BrokenPipeError:  # whoever read our stdout has gone; keep Python from writing to it once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    finally:
        progress.close()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m headless",
        description="Runs ComfyUI workflow files (API format) with the T2V nodes, without ComfyUI. Shows schedules, "
        "runs that were cut off, and what is in a video.",
        epilog=EXIT_CODES,
    )
    parser.set_defaults(debug=False, quiet=False, progress=False)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a workflow file", epilog=EXIT_CODES)
    run.set_defaults(command=_run)
    _add_file_options(run)
    run.add_argument("--out", metavar="DIR", type=_writable, default=OUTPUT, help="where files go (default: output)")
    run.add_argument("--disable-metadata", action="store_true", help="write no prompt and no workflow into the files")
    runs.add_options(run)
    shows = run.add_mutually_exclusive_group()
    shows.add_argument("--quiet", action="store_true", help="show no progress")
    shows.add_argument("--progress", action="store_true", help="draw the progress bar even where stderr is no terminal")
    run.add_argument("--debug", action="store_true", help="show the Python traceback of an error")

    validate = commands.add_parser("validate", help="check a workflow file without running it", epilog=EXIT_CODES)
    validate.set_defaults(command=_validate)
    _add_file_options(validate)

    nodes = commands.add_parser("nodes", help="list the nodes and their inputs")
    nodes.set_defaults(command=_nodes)
    _add_models_option(nodes)
    _add_input_option(nodes)

    schedule.add(commands)
    runs.add(commands)
    probe.add(commands)
    return parser


def _add_file_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="a workflow in the API format")
    parser.add_argument(
        "--set",
        metavar="NODE.INPUT=VALUE",
        action="append",
        default=[],
        dest="settings",
        help="change an input before running; NODE is a node's id or title; may be given more than once",
    )
    _add_models_option(parser)
    _add_input_option(parser)


def _add_models_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models",
        metavar="DIR",
        type=_folder,
        default=Path("models"),
        help="a folder of models beside 'bundled', with LoRAs in its folder 'loras'; or ComfyUI's own folder 'models', "
        "which has 'text2video' or 'diffusion_models' in it (default: models, if it is there)",
    )


def _add_input_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input",
        metavar="DIR",
        type=_folder,
        default=INPUTS,
        help="a folder of videos to load (default: input, if it is there)",
    )


def _writable(text: str) -> Path:
    """A folder that can be written to or made: found out before the work, not after it."""
    path = Path(text)
    nearest = next(folder for folder in (path, *path.absolute().parents) if os.path.exists(folder))
    if not os.path.isdir(nearest):
        raise argparse.ArgumentTypeError(f"{nearest} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{nearest} may not be written to")
    return path


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    return Path(text)


def _run(options: argparse.Namespace, progress: Progress) -> int:
    metadata, kept = not options.disable_metadata, runs.chosen(options, progress)
    host = HeadlessHost(options.models, options.out, progress, metadata, options.input, kept)
    use(host)
    graph = _checked_graph(options)
    for _, shown in execute(graph, NODE_CLASS_MAPPINGS):
        for file in shown.get("images", ()):
            folder = host.temp_folder() if file["type"] == "temp" else host.output_folder()
            print(folder / file["subfolder"] / file["filename"], flush=True)
    return DONE


def _validate(options: argparse.Namespace, progress: Progress) -> int:
    use(HeadlessHost(options.models, Path(OUTPUT), progress, inputs=options.input))
    graph = _checked_graph(options)
    print(f"{options.file}: valid, {len(graph.nodes)} nodes")
    return DONE


def _nodes(options: argparse.Namespace, progress: Progress) -> int:
    use(HeadlessHost(options.models, Path(OUTPUT), progress, inputs=options.input))
    print(listing(NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS))
    return DONE


def _checked_graph(options: argparse.Namespace) -> Graph:
    """The file with every --set applied. WrongGraph with everything that is wrong."""
    graph = read_graph(options.file, NODE_DISPLAY_NAME_MAPPINGS)
    problems = overrides.apply(graph, options.settings, NODE_CLASS_MAPPINGS)
    found = check(graph, NODE_CLASS_MAPPINGS)
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if problems or found.problems:
        raise WrongGraph(problems + found.problems)
    return graph


def _progress_style(options: argparse.Namespace) -> str:
    if options.quiet:
        return "none"
    return "bar" if sys.stderr.isatty() or options.progress else "lines"


def _print_errors(messages: list[str]) -> None:
    for message in messages[:MOST_PROBLEMS]:
        print(f"error: {plain_lines(message)}", file=sys.stderr)
    if len(messages) > MOST_PROBLEMS:
        print(f"error: and {len(messages) - MOST_PROBLEMS} more", file=sys.stderr)


def _interrupt(signum, frame):
    raise KeyboardInterrupt
