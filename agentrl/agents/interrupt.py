"""Ending a thread from outside, as far as Python can be reached.

``interrupt`` raises ThreadInterrupt in a thread, between two of its bytecodes, and kills the
process that it waits for inside ``subprocess``. What that does not end: one long call in C, such as
``time.sleep(3600)``, a lock, or a read from a socket without a timeout, hears of it only when it
returns; and code that swallows SystemExit goes on. Python has no way to end such a thread. It is
left behind, counted, and as a daemon it does not keep the process from ending. ``os._exit`` and a
crash in C take the whole process with them: nothing in it can contain those.

An exception that comes from nowhere can also hit a library between taking a lock and its ``try``.
So this is for threads alone that have not heeded a cancellation, seconds ago.
"""

import ctypes
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType

SHARED = ("agentrl.serving", "agentrl.agents.tools", "agentrl.agents.judges.symbolic")
"""Rooms that hold what episodes share. They answer in bounded time, and are never interrupted."""
MOST_INTERRUPTS = 5


class ThreadInterrupt(SystemExit):
    """Raised in a thread whose time is long over.

    A SystemExit, because asyncio lets that pass through tasks and callbacks, and threads end on it
    without a word.
    """


class EndableThread(threading.Thread):
    """A daemon thread that can be interrupted, as long as it has not ``finished``."""

    def __init__(self, work: Callable[[], None]):
        super().__init__(target=work, daemon=True)
        self._is_at_work, self._interrupts, self._lock = True, 0, threading.Lock()

    def run(self) -> None:
        try:
            super().run()
        finally:
            self.finish()

    def finish(self) -> None:
        """In the thread itself: nothing is raised in it from here on."""
        self._is_at_work = False
        # Whoever saw it at work a moment ago has raised by the time that the lock is free.
        with suppress(ThreadInterrupt), self._lock:
            pass

    def interrupt(self) -> bool:
        """Interrupt the work; False: the thread has ended, or has ignored this too often."""
        with self._lock:
            if not self.is_alive() or self._interrupts == MOST_INTERRUPTS:
                return False
            self._interrupts += 1
            if self._is_at_work:
                interrupt(self)
            return True

    @property
    def is_left_behind(self) -> bool:
        """Whether nobody tries any more to end what still runs in it."""
        return self.is_alive() and self._interrupts == MOST_INTERRUPTS


def finish() -> None:
    """What the current thread still has to do is not interrupted."""
    thread = threading.current_thread()
    if isinstance(thread, EndableThread):
        thread.finish()


def num_left_behind() -> int:
    return sum(isinstance(t, EndableThread) and t.is_left_behind for t in threading.enumerate())


def interrupt(thread: threading.Thread) -> None:
    """End what a live thread does, if that is Python, or a process that it waits for."""
    frames = list(_frames(thread))
    if any(str(frame.f_globals.get("__name__")).startswith(SHARED) for frame in frames):
        return
    set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
    set_exception(ctypes.c_ulong(thread.ident), ctypes.py_object(ThreadInterrupt))
    for frame in frames:
        waiting = frame.f_locals.get("self") if frame.f_globals is vars(subprocess) else None
        if isinstance(waiting, subprocess.Popen):
            waiting.kill()


def _frames(thread: threading.Thread) -> Iterator[FrameType]:
    """What it is doing, innermost first."""
    frame = sys._current_frames().get(thread.ident)
    while frame is not None:
        yield frame
        frame = frame.f_back
