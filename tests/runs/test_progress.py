"""A run does not end for what a person looks at, but as by Ctrl-C where nobody looks any more."""

import os
import signal
import sys
from io import BytesIO, TextIOWrapper

import pytest

from agentrl.cli import parse
from agentrl.runs.progress import Display
from agentrl.signals import Interrupted, Signals
from experiments.tiny_model import Recipe, make_tiny_model


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", rb"\u221218 \xe9 \ud83d"),
        ("latin-1", b"\\u221218 \xe9 \\ud83d"),
        ("utf-8", "\u221218 \u00e9 \\ud83d".encode()),
    ],
)
def test_what_a_terminal_cannot_show_is_spelled(monkeypatch, encoding, shown):
    screen = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(screen, encoding=encoding))
    parse(["--exp", "gsm8k_offline"], "")
    display = Display()
    display.line("\u221218 \u00e9 \ud83d")
    display.table("\u2212", ("\u221218",), [("\ud83d",)])
    assert screen.getvalue().splitlines()[0] == shown


@pytest.mark.parametrize("is_postponed", [False, True])
@pytest.mark.parametrize("shows", ["line", "table", "phase"])
def test_a_closed_pipe_is_a_first_interrupt(monkeypatch, is_postponed, shows):
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "stdout", os.fdopen(writer, "w"))
    monkeypatch.setattr("agentrl.runs.progress.PLAIN_SECONDS", 0.0)
    signals = Signals()
    signals._is_postponed = is_postponed

    def show(display: Display) -> None:
        if shows == "phase":
            with display.phase("train") as report:
                report(0.5, "half")
        else:
            getattr(display, shows)(*{"line": ("x",), "table": ("x", ("a",), [("1",)])}[shows])

    display = Display(on_closed=signals.interrupt)
    if is_postponed:
        show(display)
        show(display)
    else:
        with pytest.raises(Interrupted):
            show(display)
    assert signals.signal == signal.SIGINT
    # Saving has begun: another screen that closes ends nothing.
    signals._at -= 10
    signals.interrupt()


def test_a_full_disk_under_a_log_ends_nothing(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        Display().line("x" * 10_000)
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
def test_a_cache_that_cannot_be_written_is_said_before_a_model_is_made(monkeypatch, variable):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, "/proc/nowhere")
    with pytest.raises(ValueError, match="cannot keep a model in /proc/nowhere.* XDG_CACHE_HOME"):
        make_tiny_model(Recipe(), [], [], lambda share, note: None)
