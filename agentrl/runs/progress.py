"""Progress in the terminal: a bar while something runs, a line when it is done.

Where the output is no terminal, bars become a plain line now and then.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from agentrl.printable import printable
from agentrl.types import Report

PLAIN_SECONDS = 10.0
"""How often a phase says where it is, where there is no terminal."""


class Screen(Console):
    """A console without which a run goes on, or ends as by Ctrl-C where its reader has gone."""

    def __init__(self, on_closed: Callable[[], None], **options: Any) -> None:
        super().__init__(**options)
        self._on_closed = on_closed

    def print(self, *objects: Any, **options: Any) -> None:
        # A full disk under a log, a terminal that hung up.
        with suppress(OSError):
            super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        self.quiet, nowhere = True, os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        try:
            print("interrupted: whoever read the output is gone", file=sys.stderr, flush=True)
        except OSError:
            os.dup2(nowhere, sys.stderr.fileno())
        self._on_closed()


class Display:
    def __init__(
        self, *, silent: bool = False, on_closed: Callable[[], None] = lambda: sys.exit(1)
    ) -> None:
        """silent: of several ranks, one speaks. on_closed: what ends them where nobody reads."""
        # A log file has no width: lines are not to be broken.
        self.console = Screen(on_closed, highlight=False, soft_wrap=True, quiet=silent)
        self._started = time.monotonic()

    def line(self, text: str) -> None:
        # A cause may quote what a model wrote: it is no markup.
        self.console.print(printable(text), markup=False)

    @contextmanager
    def phase(self, title: str) -> Iterator[Report]:
        """Show how far some work is; yields a function that takes its share done and a note."""
        if not self.console.is_terminal:
            yield self._plain_report(title)
            return
        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
        )
        with Progress(
            *columns, console=self.console, transient=True, redirect_stderr=False
        ) as progress:
            bar = progress.add_task(title, total=1.0, note="")
            yield lambda share, note: progress.update(bar, completed=share, note=note)

    def table(self, title: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        table = Table(title=title, title_justify="left")
        for i, name in enumerate(header):
            table.add_column(name, justify="right" if i else "left")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        self.console.print(table)

    def _plain_report(self, title: str) -> Report:
        last = time.monotonic()

        def report(share: float, note: str) -> None:
            nonlocal last
            if time.monotonic() - last >= PLAIN_SECONDS:
                last = time.monotonic()
                self.line(f"{title}: {share:.0%} {note}")

        return report


def duration(seconds: float) -> str:
    """
    >>> duration(7.2), duration(125.0)
    ('7s', '2m05s')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
