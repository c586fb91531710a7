"""Headless Chromium by its own driver, and what tests ask of a page."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.support import ROOT

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
AXE = ROOT / ".cache/tools/clients/axe_playwright_python/axe.min.js"
WAIT_SECONDS = 60.0
"""A busy machine draws late; what is waited for is looked at ten times a second."""


def why_not() -> str:
    """Why no test with a browser can run here; empty where they can."""
    if CHROMIUM is None or DRIVER is None:
        return "there is no chromium with its chromedriver; `make dev` installs them"
    return "" if AXE.is_file() else "axe-core is not in .cache/tools; `make dev` puts it there"


class Page:
    """One tab."""

    def __init__(self, driver: Chrome, base: str) -> None:
        self.driver = driver
        self.base = base

    def open(self, path: str = "/") -> None:
        """Go there as by the address bar, and wait until the page says that it is live."""
        self.driver.get("about:blank")
        self.driver.get(f"{self.base}{path}")
        self.until(lambda: self.text("#link") == "live", "the page is live")

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until it holds. Raises AssertionError with what the page shows."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not holds():
            assert time.monotonic() < deadline, f"never seen: {what}; the page shows:\n{self.text('body')}"
            time.sleep(0.1)

    def script(self, text: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self.driver.execute_script(text, *arguments)

    def text(self, selector: str) -> str:
        """The visible text of the first that fits; empty where none does."""
        return str(self.script("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def texts(self, selector: str) -> list[str]:
        """The visible text of each that fits."""
        return list(
            self.script("return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText)", selector)
        )

    def click(self, selector: str, text: str = "") -> None:
        """Press the first that fits and bears the text, once there is one."""
        self._do(selector, text, WebElement.click)

    def _do(self, selector: str, text: str, what: Callable[[WebElement], None]) -> None:
        """To the first that is seen, enabled, fits and bears the text; looked for anew where a drawing took it away."""
        seen = (
            "return [...document.querySelectorAll(arguments[0])]"
            ".find((e) => e.checkVisibility() && !e.disabled && e.innerText.includes(arguments[1])) ?? null"
        )

        def done() -> bool:
            element = self.script(seen, selector, text)
            if element is None:
                return False
            try:
                what(element)
            except StaleElementReferenceException:
                return False
            return True

        self.until(done, f"{selector} {text}")

    def type(self, selector: str, text: str) -> None:
        """Replace what a field holds, as its user does: what is selected is typed over.

        To clear it first tells the page nothing, so that a drawing between the two would put the old text back.
        """
        self._do(selector, "", lambda element: element.send_keys(Keys.CONTROL + "a" + Keys.NULL + text))

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        """The window's size in CSS pixels, and the colours that its owner prefers."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def accessibility(self) -> list[str]:
        """What axe-core's rules find, a line each."""
        self.script(AXE.read_text())
        found = self.driver.execute_async_script(
            "const done = arguments[0];"
            "axe.run().then((r) => done(r.violations), (e) => done([{id: String(e), nodes: []}]))"
        )
        return [f"{one['id']}: {[node['html'][:160] for node in one['nodes'][:3]]}" for one in found]

    def complaints(self) -> list[str]:
        """What the browser has logged since the last time, but for answers that refuse a request."""
        entries: list[dict[str, Any]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in entries if entry["source"] != "network"]

    def shot(self, path: Path) -> None:
        """A picture of the window."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(path))


@contextmanager
def browser(profile: Path) -> Iterator[Chrome]:
    """Chromium with a profile of its own, which is the caller's to remove."""
    options = Options()
    options.binary_location = str(CHROMIUM)
    for argument in (
        "--headless=new",
        "--no-sandbox",  # it has none as root; it sees this machine's loopback alone
        "--disable-dev-shm-usage",
        "--disable-gpu",
        # What it takes to be out of sight it gives less of the processor, and fewer turns.
        "--disable-renderer-backgrounding",
        "--disable-backgrounding-occluded-windows",
        "--disable-background-timer-throttling",
        "--window-size=1200,900",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(str(DRIVER)))
    try:
        driver.set_script_timeout(WAIT_SECONDS)
        yield driver
    finally:
        driver.quit()
