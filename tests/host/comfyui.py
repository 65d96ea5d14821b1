"""A real ComfyUI for the tests: where it is, and a server of it that lives in a folder of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from prompts import Client

HERE = Path(__file__).resolve().parent
PACK = "ComfyUI-T2V"  # the folder people clone the pack into
PACKS = {PACK: HERE.parents[1], "t2v_probe": HERE / "probe"}

NEEDED = ("torch", "aiohttp", "einops", "imageio_ffmpeg")  # by the server and by our nodes in it
START_SECONDS = 180
STOP_SECONDS = 15
TAIL_LINES = 60


class NotInstalled(Exception):
    """No ComfyUI to test with. Says what was looked for, and what would help."""


@dataclass(frozen=True)
class Installation:
    """A ComfyUI to run: `root` holds its main.py, `python` is the interpreter it runs in."""

    root: Path
    python: Path

    def command(self) -> list[str]:
        """The command that starts a server, to which options are added."""
        launcher = "launch_lts.py" if self.is_package else "launch.py"
        return [str(self.python), str(HERE / launcher), str(self.root / "main.py")]

    @property
    def is_package(self) -> bool:
        """Whether it is the fork that can be installed by pip, whose server is a module of the package."""
        return (self.root / "comfy" / "cmd" / "main.py").is_file()

    def has_option(self, option: str) -> bool:
        return option in (self.root / "comfy" / "cli_args.py").read_text(encoding="utf-8")


def find() -> Installation:
    """The ComfyUI in COMFYUI_PATH, else in ~/comfy/ComfyUI, run by COMFYUI_PYTHON, else by the environment in or
    beside it. Raises NotInstalled."""
    root = Path(os.environ.get("COMFYUI_PATH") or "~/comfy/ComfyUI").expanduser().absolute()
    if not (root / "main.py").is_file():
        raise NotInstalled("no ComfyUI in COMFYUI_PATH or ~/comfy/ComfyUI")
    beside = [folder / name / "bin" / "python" for folder in (root, root.parent) for name in (".venv", "venv")]
    named = os.environ.get("COMFYUI_PYTHON")
    python = Path(named).expanduser() if named else next((python for python in beside if python.is_file()), None)
    if python is None or not python.is_file():
        raise NotInstalled(f"no Python for {root}: set COMFYUI_PYTHON, or make a .venv there")
    lacking = _lacking(python)
    if lacking:
        raise NotInstalled(f"{python} lacks {', '.join(lacking)}")
    return Installation(root, python)


def _lacking(python: Path) -> list[str]:
    look = "import importlib.util, sys; print(*(n for n in sys.argv[1:] if importlib.util.find_spec(n) is None))"
    asked = subprocess.run([python, "-c", look, *NEEDED], capture_output=True, text=True, check=True, timeout=60)
    return asked.stdout.split()


class Server(Client):
    """A ComfyUI server on a free port of this machine, and a client of it.

    base: a folder that becomes ComfyUI's: models, input, output, user and custom_nodes are in it. Put model files below
        `models` at any time.
    options: more of ComfyUI's command line, such as "--novram" or "--preview-method", "latent2rgb".
    packs: the custom nodes, folder name to folder.
    extra_model_paths: what an extra_model_paths.yaml would say, {section: {"base_path": ..., category: ...}}.

    Leave it by `stop()`, or use it in a `with`; should neither come about, it ends with this process. Raises
    RuntimeError with the end of the log when ComfyUI does not come up.
    """

    def __init__(
        self,
        installation: Installation,
        base: Path,
        *options: str,
        packs: Mapping[str, Path] = PACKS,
        extra_model_paths: Mapping[str, Mapping[str, str]] | None = None,
    ):
        self.installation, self.base = installation, base
        self.models, self.input, self.output = base / "models", base / "input", base / "output"
        self.log_file = base / "server.log"
        self._furnish(packs)
        if extra_model_paths:
            config = base / "extra_model_paths.yaml"
            config.write_text(json.dumps(extra_model_paths), encoding="utf-8")  # JSON is YAML
            options = (*options, "--extra-model-paths-config", str(config))
        port = _free_port()
        super().__init__(f"http://127.0.0.1:{port}")
        self.process = self._start(port, options)
        try:
            self._wait_until_it_answers()
            self.startup_log = self.log()
        except BaseException:
            self.stop()
            raise

    def _furnish(self, packs: Mapping[str, Path]) -> None:
        for folder in (self.models, self.input, self.output, self.base / "custom_nodes"):
            folder.mkdir(parents=True, exist_ok=True)
        for name, folder in packs.items():
            link = self.base / "custom_nodes" / name
            if not link.is_symlink():
                link.symlink_to(folder, target_is_directory=True)

    def _start(self, port: int, options: tuple[str, ...]) -> subprocess.Popen:
        command = [*self.installation.command(), "--cpu", "--listen", "127.0.0.1", "--port", str(port)]
        command += ["--base-directory", str(self.base), "--disable-auto-launch"]
        if self.installation.has_option("--disable-api-nodes"):  # their services are on the network
            command += ["--disable-api-nodes"]
        if self.installation.has_option("--database-url"):  # else it lies in ComfyUI's own folder
            database = f"/{self.base}/comfyui.db" if self.installation.is_package else ":memory:"
            command += ["--database-url", f"sqlite:///{database}"]
        if self.installation.is_package:  # it would hash every model
            command += ["--disable-assets-autoscan"]
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1"}
        environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, **offline, "PYTHONUNBUFFERED": "1"}
        with self.log_file.open("ab") as log:
            # Its own session, so that Ctrl-C reaches the tests first. Standard input: see launch.py.
            return subprocess.Popen(
                [*command, *options],
                cwd=self.base,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended with {self.process.returncode}:\n{self.log_tail()}")
            try:
                self.get("/system_stats")
                return
            except aiohttp.ClientError:
                time.sleep(0.2)
        raise RuntimeError(f"ComfyUI did not answer within {START_SECONDS} seconds:\n{self.log_tail()}")

    def log(self) -> str:
        """What the server has written so far, to standard output and standard error."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def log_tail(self) -> str:
        """The end of the log, without progress bars."""
        return "\n".join([line for line in self.log().splitlines() if "%|" not in line][-TAIL_LINES:])

    def kill(self) -> None:
        """Ends the server at once, as a crash would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Ends the server and the client. Harmless when it has ended."""
        self.close()
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process.stdin.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_) -> None:
        self.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
