"""A headless Chromium, and a server of the viewer, for tests and for pictures."""

import os
import shutil
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvicorn
from playwright.sync_api import Browser, sync_playwright

from agentrl.records import RunRecords
from agentrl.viewer.server import make_app

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find() -> str | None:
    """The system's own; or what CHROMIUM names."""
    named = [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES)]
    return next(filter(None, named), None)


@contextmanager
def launched() -> Iterator[Browser]:
    # As root, and in a container, there is no sandbox of Chromium's own; it sees our page alone.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find(), args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def served(runs: Sequence[RunRecords]) -> Iterator[str]:
    """The viewer in a thread; its address."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    server = uvicorn.Server(uvicorn.Config(make_app(runs), log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(10)
