"""Headless Chromium, driven through its DevTools protocol, for tests of HTML pages.

The protocol's messages are JSON over two pipes: see ``--remote-debugging-pipe`` and
https://chromedevtools.github.io/devtools-protocol.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CHROMIUM = shutil.which("chromium")
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
#: The virtual key codes of keys that have no character.
_KEY_CODES = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}
_KEY_CODES |= {"End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38}
_KEY_CODES |= {"ArrowRight": 39, "ArrowDown": 40}


class Browser:
    """A Chromium process. Use it as a context manager, which ends the process.

    Args:
        profile: an empty directory for the browser's own files.
    """

    def __init__(self, profile: Path) -> None:
        read, commands = os.pipe()
        answers, write = os.pipe()
        # Chromium reads commands from descriptor 3 and writes answers to 4.
        self._process = subprocess.Popen(
            [
                *("bash", "-c", f'exec "$@" 3<&{read} 4>&{write}', "bash", str(CHROMIUM)),
                *(*_OPTIONS, f"--user-data-dir={profile}"),
            ],
            pass_fds=(read, write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        self._commands, self._answers = os.fdopen(commands, "wb"), os.fdopen(answers, "rb")
        self._count = 0
        #: The events of each session in the order in which they arrived.
        self.events: dict[str, list[dict[str, Any]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        with contextlib.suppress(RuntimeError):
            self.call("Browser.close")
        self._commands.close()
        self._process.wait(30)
        self._answers.close()

    def call(self, method: str, session: str | None = None, **parameters: object) -> dict[str, Any]:
        """Send a command and return its result.

        Raises:
            RuntimeError: if the command fails or the browser exits.
        """
        self._count += 1
        command = {"id": self._count, "method": method, "params": parameters}
        if session:
            command["sessionId"] = session
        self._commands.write(json.dumps(command).encode() + b"\0")
        self._commands.flush()
        while True:
            message = self.receive()
            if message.get("id") == self._count:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                result: dict[str, Any] = message["result"]
                return result

    def receive(self) -> dict[str, Any]:
        """The next message; an event is also added to ``events``."""
        text = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("chromium has exited")
            text += byte
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            self.events.setdefault(message.get("sessionId", ""), []).append(message)
        return message

    @contextlib.contextmanager
    def open(
        self, page: Path, width: int = 1280, height: int = 900, scheme: str = "light"
    ) -> Iterator["Page"]:
        """Load a page and wait until it has loaded.

        Args:
            page: an HTML file.
            width: the width of the viewport in CSS pixels; below 600 it is that of a phone.
            height: the height of the viewport.
            scheme: "light" or "dark".
        """
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        opened = Page(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Network", "Log"):
            opened.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        opened.call("Emulation.setDeviceMetricsOverride", **size)
        opened.emulate(scheme=scheme)
        opened.call("Page.navigate", url=page.resolve().as_uri())
        while not opened.events("Page.loadEventFired"):
            self.receive()
        try:
            yield opened
        finally:
            self.call("Target.closeTarget", targetId=target)


class Page:
    """A loaded page."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Send a command of the protocol to the page."""
        return self._browser.call(method, self._session, **parameters)

    def events(self, method: str) -> list[dict[str, Any]]:
        """The parameters of all events with a name, such as "Page.loadEventFired"."""
        known = self._browser.events.get(self._session, [])
        return [event["params"] for event in known if event["method"] == method]

    @property
    def errors(self) -> list[str]:
        """Uncaught exceptions, errors and warnings of the console."""
        thrown = [
            str(event["exceptionDetails"]) for event in self.events("Runtime.exceptionThrown")
        ]
        logged = [str(event["entry"]) for event in self.events("Log.entryAdded")]
        printed = [
            str(event["args"])
            for event in self.events("Runtime.consoleAPICalled")
            if event["type"] in ("error", "warning", "assert")
        ]
        return thrown + logged + printed

    @property
    def requests(self) -> list[str]:
        """The addresses that the page has asked for, without embedded data."""
        sent = [event["request"]["url"] for event in self.events("Network.requestWillBeSent")]
        return [url for url in sent if not url.startswith("data:")]

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, key: str, modifiers: int = 0) -> None:
        """Press and release a key: "a", "Tab", "ArrowLeft"; ``modifiers=8`` holds Shift."""
        code = _KEY_CODES.get(key) or ord(key.upper())
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        pressed = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        kind = "keyDown" if text else "rawKeyDown"
        self.call("Input.dispatchKeyEvent", type=kind, **pressed, text=text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def centre(self, selector: str) -> tuple[float, float]:
        """The middle of the first element that matches, scrolled into view."""
        x, y = self.evaluate(
            f"(() => {{ const element = document.querySelector({json.dumps(selector)});"
            "element.scrollIntoView({block: 'center', behavior: 'instant'});"
            "const box = element.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        return x, y

    def hover(self, selector: str) -> None:
        """Move the mouse to the middle of an element."""
        x, y = self.centre(selector)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        """Click the middle of an element."""
        x, y = self.centre(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def emulate(self, media: str = "", scheme: str = "light") -> None:
        """Show the page as on another medium ("print"), or in a colour scheme ("dark")."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Save the viewport, or the whole page, as a PNG."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def print(self, path: Path) -> None:
        """Save the page as a PDF on A4."""
        answer = self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)
        path.write_bytes(base64.b64decode(answer["data"]))
