"""Signals, Ctrl-C and SIGTERM: the first ends work where it can end, the second at once."""

import ctypes
import os
import signal
import time
from typing import Any

ECHO_SECONDS = 1.0
"""A launcher passes on the signal that the terminal sent to all: that is not a second one."""
PR_SET_PDEATHSIG = 1


class Interrupted(BaseException):
    """A signal has asked the process to end. No handler of ordinary errors stops it."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


class Signals:
    """Which signal, if any, has asked this process to end."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._is_postponed, self._at = False, 0.0

    def listen(self) -> None:
        """Raise Interrupted on SIGINT and SIGTERM from now on, in the main thread."""
        signal.signal(signal.SIGINT, self._handle)
        signal.signal(signal.SIGTERM, self._handle)
        # A launcher that is gone cannot pass anything on.
        if "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    def interrupt(self) -> None:
        """As a first Ctrl-C does; a second is nobody's wish."""
        if self.signal is None:
            self._handle(signal.SIGINT, None)

    def postpone(self) -> None:
        """From now on the signal is only noted: whoever works asks for it where work can end."""
        self._is_postponed = True

    def _handle(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self.signal is not None and now - self._at > ECHO_SECONDS:
            # No clean-up may hold this up; the tool's workers end with their parent.
            os._exit(128 + number)
        if self.signal is None:
            self.signal, self._at = number, now
            if not self._is_postponed:
                raise Interrupted(number)
