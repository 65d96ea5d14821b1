"""A page in a real browser: Chromium without a window, driven over the DevTools protocol.

    with Browser(find_chromium(), folder) as browser:
        page = browser.open("http://127.0.0.1:8188")
        page.wait_for("document.querySelector('canvas')")
        page.screenshot(Path("page.png"))

The protocol: https://chromedevtools.github.io/devtools-protocol/. It is spoken over two pipes, so that the browser ends
when they close, whatever ended the tests.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ANSWER_SECONDS = 60
END_SECONDS = 10
WINDOW = "2560,1440"
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # for root, as in containers; it sees nothing but a server of ours
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
    # A page that the browser takes for hidden has its timers slowed and its videos stopped.
    "--disable-background-media-suspend",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # no network
    f"--window-size={WINDOW}",
)


# A GPU made of software: slow, and exact where the quick conversions of a browser without one are not. libyuv's
# coefficients are bytes, and the one from Cb to blue is cut short: BT.709's blue comes out as 243.
SOFTWARE_GPU = (
    *(flag for flag in FLAGS if flag != "--disable-gpu"),
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--enable-gpu-rasterization",
)


def find_chromium() -> str | None:
    """The program, or None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class PageError(Exception):
    """An expression threw, or the browser refused a command."""


@dataclass(frozen=True)
class Message:
    """What a page's console shows. level: log, info, warning, error and so on, or "exception" if nobody caught it."""

    level: str
    text: str
    url: str


class Browser:
    """A running Chromium. folder: for its profile and its log; flags: `FLAGS` or `SOFTWARE_GPU`."""

    def __init__(self, program: str, folder: Path, flags: tuple[str, ...] = FLAGS):
        self.log_file = folder / "chromium.log"
        self._pages: dict[str, Page] = {}
        self._number, self._answers, self._ended = 0, {}, False
        self._news = threading.Condition()
        heard, self._commands = _pipe()
        self._said, spoken = _pipe()
        log = _out_of_the_way(os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))
        profile = f"--user-data-dir={folder / 'profile'}"
        inherited = {heard: 3, spoken: 4, log: 2}  # 3 and 4 are where it expects the pipes
        self._process = os.posix_spawn(
            program,
            [program, *flags, profile],
            {**os.environ, "XDG_CONFIG_HOME": str(folder)},  # where it keeps reports of crashes
            file_actions=[(os.POSIX_SPAWN_DUP2, ours, its) for ours, its in inherited.items()],
            setpgroup=0,
        )
        for end in inherited:
            os.close(end)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        rest = b""
        while chunk := os.read(self._said, 1 << 20):
            *messages, rest = (rest + chunk).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    with self._news:
                        self._answers[message["id"]] = message
                        self._news.notify_all()
                elif message.get("sessionId") in self._pages:
                    self._pages[message["sessionId"]].happened(message["method"], message["params"])
        with self._news:
            self._ended = True
            self._news.notify_all()

    def command(self, method: str, session: str | None = None, **parameters: Any) -> dict:
        """Sends a command of the protocol and returns its result. Raises PageError."""
        self._number += 1
        number, message = self._number, {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data and not self._ended:
            data = data[os.write(self._commands, data) :]
        with self._news:
            came = self._news.wait_for(lambda: number in self._answers or self._ended, ANSWER_SECONDS)
            answer = self._answers.pop(number, None)
        if answer is None:
            raise PageError(f"{method}: {'the browser ended' if came else 'no answer'}; see {self.log_file}")
        if "error" in answer:
            raise PageError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def open(self, url: str) -> Page:
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, target, session)
        for domain in ("Runtime", "Log", "Page"):
            page.command(f"{domain}.enable")
        page.command("Page.bringToFront")
        page.command("Page.navigate", url=url)
        return page

    def close(self) -> None:
        """Ends the browser. Harmless when it has ended."""
        if self._commands is None:
            return
        os.close(self._commands)
        self._commands = None
        deadline = time.monotonic() + END_SECONDS
        while os.waitpid(self._process, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.killpg(self._process, signal.SIGKILL)
            time.sleep(0.05)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_) -> None:
        self.close()


class Page:
    """A page of a browser. `console` holds what its console has shown so far, failed requests included."""

    def __init__(self, browser: Browser, target: str, session: str):
        self.browser, self.target, self.session = browser, target, session
        self.console: list[Message] = []

    def command(self, method: str, **parameters: Any) -> dict:
        return self.browser.command(method, self.session, **parameters)

    def happened(self, event: str, data: dict) -> None:
        if event == "Runtime.consoleAPICalled":
            text = " ".join(str(each.get("value", each.get("description", ""))) for each in data["args"])
            frames = data.get("stackTrace", {}).get("callFrames", [])
            self.console.append(Message(data["type"], text, frames[0]["url"] if frames else ""))
        elif event == "Runtime.exceptionThrown":
            self.console.append(Message("exception", *_thrown(data["exceptionDetails"])))
        elif event == "Log.entryAdded":
            entry = data["entry"]
            self.console.append(Message(entry["level"], entry["text"], entry.get("url", "")))

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, of a promise if it is one. Raises PageError with what it throws."""
        answer = self.command(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise PageError(f"{expression[:200]}: {_thrown(answer['exceptionDetails'])[0]}")
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 60) -> Any:
        """Evaluates an expression until it is truthy, and returns its value. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {seconds} seconds: {expression}")
            time.sleep(0.1)
        return value

    def click(self, selector: str) -> None:
        """Presses the mouse in the middle of the first element that a CSS selector matches."""
        place = self.evaluate(
            f"(() => {{ const box = document.querySelector({json.dumps(selector)})?.getBoundingClientRect();"
            " return box && {x: box.x + box.width / 2, y: box.y + box.height / 2} })()"
        )
        if place is None:
            raise PageError(f"nothing on the page matches {selector}")
        for event in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=event, button="left", clickCount=1, **place)

    def screenshot(self, file: Path) -> None:
        """Writes what the page looks like now as a PNG."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        self.browser.command("Target.closeTarget", targetId=self.target)


def _pipe() -> tuple[int, int]:
    """The ends of a pipe to read from and to write to, clear of the numbers that the browser's end takes."""
    heard, said = os.pipe()
    return _out_of_the_way(heard), _out_of_the_way(said)


def _out_of_the_way(file: int) -> int:
    """The same open file under a number that nothing is put in the place of."""
    high = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(file)
    return high


def _thrown(details: dict) -> tuple[str, str]:
    """What was thrown, and the address of the script that threw it."""
    frames = details.get("stackTrace", {}).get("callFrames", [])
    text = details.get("exception", {}).get("description") or details["text"]
    return text, frames[0]["url"] if frames else details.get("url", "")
