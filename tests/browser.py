"""A real Chromium for tests: opens what the kit writes, and notices whatever a page does that it must not."""

import contextlib
import fcntl
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
AXE = Path(__file__).parent / "axe"


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """Start Chromium and end it; skip the test, with the reason, where there is none."""
    name = next(filter(shutil.which, NAMES), None)
    if name is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    with driver.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which(name), args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser. It lasts a module, not the session: while it lives, no test of this thread may run an event loop."""
    with launched() as browser:
        yield browser


@dataclass
class Watch:
    """What a page did that a page of the kit never does."""

    complaints: list[str] = field(default_factory=list)

    def over(self, context: Any) -> Any:
        """Watch all pages of a browser's context, and return it."""
        context.on("console", self._console)
        context.on("weberror", lambda error: self.complaints.append(f"script error: {error.error}"))
        context.on("dialog", self._dialog)
        context.on("request", self._request)
        return context

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"console: {message.text}")

    def _dialog(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, request: Any) -> None:
        opened = request.url.startswith("file:") and request.is_navigation_request()
        if not opened and not request.url.startswith(("data:", "about:")):
            self.complaints.append(f"request: {request.url[:200]}")


@pytest.fixture
def contexts(chromium: Any) -> Iterator[Any]:
    """A function that makes watched contexts, with the browser's options; the test fails if a page in one complains."""
    watch, made = Watch(), []

    def make(**options: Any) -> Any:
        made.append(watch.over(chromium.new_context(**options)))
        return made[-1]

    yield make
    for context in made:
        context.close()
    assert not watch.complaints, "\n".join(watch.complaints)


@pytest.fixture
def page(contexts: Any) -> Any:
    """A page at the width of a desk. The test fails at its end if the page wrote an error to the console, had a script
    error, opened a dialog, or asked for anything beside the file that it was opened at."""
    return contexts(viewport={"width": 1280, "height": 800}).new_page()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, fetched once at its pinned version; skip, with the reason, where it can't be had."""
    script = AXE / "node_modules" / "axe-core" / "axe.min.js"
    with open(Path(tempfile.gettempdir()) / "kit-tests-axe.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not script.exists():
            _fetch()
    return script.read_text(encoding="utf-8")


def _fetch() -> None:
    npm = shutil.which("npm") or pytest.skip("axe-core is not here, and npm, which fetches it, is not installed")
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        ended = subprocess.run(command, cwd=AXE, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("npm did not fetch axe-core within two minutes")
    if ended.returncode:
        pytest.skip(f"npm could not fetch axe-core: {ended.stderr.strip()[-300:]}")


def findings(page: Any, axe: str) -> list[str]:
    """Return axe-core's serious and critical findings on a page: rule, number of elements, the first of them."""
    page.evaluate(axe)
    found = page.evaluate("axe.run({resultTypes: ['violations']})")
    assert found["passes"], "axe-core looked at nothing"
    return [
        f"{rule['id']} ({rule['impact']}, {len(rule['nodes'])}×): {rule['help']}: {rule['nodes'][0]['html'][:200]}; "
        f"{rule['nodes'][0]['failureSummary'][:300]}"
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical")
    ]


@dataclass
class Trap:
    """A listening socket that nobody has a reason to call: every connection is a page that called out."""

    socket: socket.socket
    calls: list[bytes] = field(default_factory=list)
    wanted: bool = False
    """Whether the test wants to be called."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.socket.getsockname()[1]}"

    def listen(self) -> None:
        """Note whoever calls, until the socket is closed."""
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self.socket.accept()
                caller.settimeout(0.2)
                said = b"a connection"
                with caller, contextlib.suppress(OSError):
                    said = caller.recv(200) or said
                self.calls.append(said)


@pytest.fixture
def trap() -> Iterator[Trap]:
    """Somebody to call out to; the test fails if anybody does."""
    found = Trap(socket.create_server(("127.0.0.1", 0)))
    thread = threading.Thread(target=found.listen, daemon=True)
    thread.start()
    yield found
    found.socket.shutdown(socket.SHUT_RDWR)
    found.socket.close()
    thread.join(5)
    assert found.wanted or not found.calls, found.calls
