"""A headless Chromium, led through its DevTools protocol on two pipes: no driver and no further package is needed."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECONDS = 120.0
"""After which an answer, or something awaited on a page, counts as never coming."""
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run")


class Browser:
    """A browser with one page, in a ``with`` block that ends it.

    Args:
        folder: an empty folder, for its profile.
        width, height: what of a page is visible, in pixels.
    """

    def __init__(self, folder: Path, width: int = 1600, height: int = 1000) -> None:
        assert BROWSER is not None
        for name in ("commands", "answers"):
            os.mkfifo(folder / name)
        program = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}"]
        self._process = subprocess.Popen(
            ["sh", "-c", 'exec "$@" 3<"$0/commands" 4>"$0/answers"', str(folder), *program, "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self._commands = (folder / "commands").open("wb", buffering=0)
        self._answers = (folder / "answers").open("rb", buffering=0)
        self._read = b""
        self._count = 0
        self._session: str | None = None
        self._requests: list[str] = []
        targets = self._send("Target.getTargets")["targetInfos"]
        page = next(item["targetId"] for item in targets if item["type"] == "page")
        self._session = self._send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        self._send("Network.enable")
        self._send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        self._commands.close()
        self._answers.close()

    def open(self, address: str) -> None:
        """Go to another address."""
        self._send("Page.navigate", url="about:blank")  # a change behind `#` alone would keep the old page
        self._send("Page.navigate", url=address)

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page, as JSON gives it; a promise is awaited."""
        answer = self._send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """The value of an expression as soon as there is one that counts as true; until then it may also be an error."""
        last = time.monotonic() + SECONDS
        while time.monotonic() < last:
            if found := self.ask(f"(() => {{ try {{ return {expression} }} catch {{ return null }} }})()"):
                return found
            time.sleep(0.1)
        raise AssertionError(f"never on the page: {expression}\n{self.ask('document.body?.innerText')}")

    def requested(self) -> list[str]:
        """What pages have asked the network for since the browser began, answered or not."""
        self.ask("new Promise(done => setTimeout(done, 300))")
        return [
            address for address in self._requests if address.partition(":")[0] not in ("file", "data", "blob", "about")
        ]

    def press(self, key: str) -> None:
        """Press a key, such as ``ArrowRight``, where the page has its focus."""
        for kind in ("keyDown", "keyUp"):
            self._send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])

    def click(self, x: float, y: float) -> None:
        """Click at a place, in pixels from the upper left corner of what is visible."""
        for kind in ("mousePressed", "mouseReleased"):
            self._send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, path: Path) -> None:
        """Write what is visible as a PNG file."""
        path.write_bytes(base64.b64decode(self._send("Page.captureScreenshot", format="png")["data"]))

    def _send(self, method: str, **words: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": words}
        if self._session is not None:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self._receive())
            if answer.get("method") == "Network.requestWillBeSent":
                self._requests.append(answer["params"]["request"]["url"])
            if answer.get("id") == self._count:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _receive(self) -> bytes:
        """The next message, which may be one of those that nobody has asked for."""
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._answers], [], [], SECONDS)
            assert ready, "the browser does not answer"
            part = os.read(self._answers.fileno(), 1 << 20)
            assert part, "the browser has ended"
            self._read += part
        message, _, self._read = self._read.partition(b"\0")
        return message


KEYS = {"ArrowRight": 39, "ArrowLeft": 37}
"""Numbers of keys."""
