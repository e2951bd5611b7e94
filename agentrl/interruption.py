"""Ctrl-C and SIGTERM: the first is noted, and work ends where it can; the second ends at once."""

import ctypes
import os
import signal
import time
from typing import Any

ECHO_SECONDS = 1.0
"""A launcher passes on the signal that the terminal sent to all: that is not a second one."""
PR_SET_PDEATHSIG = 1


class Interrupted(Exception):
    """Work was ended by a signal."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


class Interruption:
    """Which signal, if any, has asked this process to end."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._noted = 0.0

    def listen(self) -> None:
        """Note SIGINT and SIGTERM from now on; only the main thread may ask for this."""
        signal.signal(signal.SIGINT, self._note)
        signal.signal(signal.SIGTERM, self._note)
        # A launcher that is gone cannot pass anything on.
        if "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    def _note(self, number: int, frame: Any) -> None:
        if self.signal is None:
            self.signal, self._noted = number, time.monotonic()
        elif time.monotonic() - self._noted > ECHO_SECONDS:
            # No clean-up may hold this up; the tool's workers end with their parent.
            os._exit(128 + number)
