"""Headless Chromium, as tests look at pages with it: over the pipe of the DevTools protocol, without a driver."""

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_OPTIONS = (
    "--headless=new --no-sandbox --disable-gpu-sandbox --use-angle=swiftshader --enable-unsafe-swiftshader"
    " --disable-background-networking --disable-component-update --no-first-run --disable-extensions"
    " --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe --window-size=1280,900"
)


class Browser:
    """One tab, 1280 x 900 pixels. Use it as a context.

    requests: addresses asked for. errors: what the console, the network and uncaught exceptions said.
    """

    def __init__(self, profile: Path) -> None:
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._profile, self._number, self._rest, self._loaded = profile, 0, b"", False

    def __enter__(self) -> "Browser":
        read, self._write = os.pipe()
        self._read, write = os.pipe()
        options = f"{_OPTIONS} --user-data-dir={self._profile}"
        command = ["bash", "-c", f"exec {CHROMIUM} {options} about:blank 3<&{read} 4>&{write}"]
        log = (self._profile.parent / "chromium.log").open("wb")
        self._process = subprocess.Popen(
            command, pass_fds=(read, write), stdout=log, stderr=log, start_new_session=True
        )
        os.close(read)
        os.close(write)
        tab = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._send("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for part in ("Page", "Runtime", "Network", "Log"):
            self._send(f"{part}.enable")
        size = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self._send("Emulation.setDeviceMetricsOverride", **size)
        return self

    def __exit__(self, *error: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def open(self, address: str) -> None:
        self._loaded = False
        self._send("Page.navigate", url=address)
        self._until(lambda: self._loaded, f"{address} to load")

    def run(self, script: str) -> object:
        """The value of a JavaScript expression; a promise's once it is kept."""
        asked = {"expression": script, "awaitPromise": True, "returnByValue": True, "userGesture": True}
        answer = self._send("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, script: str, seconds: float = 120) -> None:
        """Returns once an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"{script} is still false; {self.errors}"
            time.sleep(0.1)

    def press(self, key: str) -> None:
        text = {"Enter": "\r", " ": " "}.get(key, "")
        codes = {"Enter": 13, "Tab": 9, " ": 32, "ArrowUp": 38}
        about = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": codes[key]}
        self._send("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
        self._send("Input.dispatchKeyEvent", type="keyUp", **about)

    def picture(self, path: Path, whole: bool = False) -> None:
        """A PNG of what is seen, or of the whole page."""
        options: dict[str, object] = {"captureBeyondViewport": True} if whole else {}
        if whole:
            size = self._send("Page.getLayoutMetrics")["cssContentSize"]
            options["clip"] = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self._send("Page.captureScreenshot", format="png", **options)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _send(self, method: str, **parameters: object) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answers: list[dict] = []
        number = self._number
        self._until(lambda: any(a.get("id") == number for a in answers), method, answers)
        answer = next(a for a in answers if a.get("id") == number)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _until(self, done, what: str, answers: list[dict] | None = None, seconds: float = 180) -> None:
        end = time.monotonic() + seconds
        while not done():
            ready, _, _ = select.select([self._read], [], [], max(0, end - time.monotonic()))
            content = os.read(self._read, 1 << 20) if ready else b""
            assert content, f"Chromium did not answer: {what}"
            *whole, self._rest = (self._rest + content).split(b"\0")
            for message in map(json.loads, whole):
                self._notice(message)
                if answers is not None:
                    answers.append(message)

    def _notice(self, message: dict) -> None:
        about, method = message.get("params", {}), message.get("method")
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif method == "Network.loadingFailed" and not about.get("canceled"):
            self.errors.append(about["errorText"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(about["exceptionDetails"].get("exception", about)))
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(a.get("value", a.get("description"))) for a in about["args"]))
        elif method == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.errors.append(about["entry"]["text"])
