"""A page in a headless Chromium, spoken to by its DevTools protocol over pipes: no driver, no port."""

import base64
import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Commands come by file descriptor 3, and answers go by 4.
_START = 'exec "$0" "$@" 3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null'
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--disable-dev-shm-usage")


class Page:
    """A file, opened.

    Args:
        path: The file.
        profile: A folder for what the browser keeps.
    """

    def __init__(self, path: Path, profile: Path) -> None:
        assert CHROMIUM is not None
        command = ["sh", "-c", _START, CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        environment = {**os.environ, "HOME": str(profile)}
        pipe = subprocess.PIPE
        self._browser = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment)
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.complaints = list[Any]()
        """What the console, the network and scripts have had to say."""
        target = next(one for one in self._call("Target.getTargets")["targetInfos"] if one["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self._url = path.resolve().as_uri()
        self._call("Page.navigate", url=self._url)
        while self.evaluate("document.readyState") != "complete" or self.evaluate("location.href") != self._url:
            pass

    def __enter__(self) -> "Page":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._browser.terminate()
        self._browser.communicate()

    def show(self, width: int, height: int = 800, dark: bool = False) -> None:
        """Be a window of this many pixels, in light or dark."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def evaluate(self, expression: str) -> Any:
        """The value of some JavaScript."""
        return self._call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """A PNG of the page, or of what the window shows of it."""
        answer = self._call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _call(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        assert self._browser.stdin is not None
        self._browser.stdin.write(json.dumps(message).encode() + b"\0")
        self._browser.stdin.flush()
        while (answer := self._read()).get("id") != number:
            self._hear(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self) -> Any:
        assert self._browser.stdout is not None
        message = bytearray()
        while (byte := self._browser.stdout.read(1)) != b"\0":
            assert byte, "the browser has gone"
            message += byte
        return json.loads(message)

    def _hear(self, event: Any) -> None:
        method, told = event.get("method"), event.get("params", {})
        if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed"):
            self.complaints.append(told)
        elif method == "Network.requestWillBeSent" and not told["request"]["url"].startswith(("data:", "file:")):
            self.complaints.append(told["request"]["url"])
