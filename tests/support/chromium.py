"""A headless Chromium, and a server of the viewer, for tests and for pictures."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from agentrl.records import RunRecords
from agentrl.viewer.server import make_app
from tests.support import loopback

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
    with loopback.served(make_app(runs)) as address:
        yield f"{address}/"
