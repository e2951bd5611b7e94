"""Whether processes have ended."""

import time
from pathlib import Path


def is_alive(process: int | str) -> bool:
    # Whoever adopted it may not have waited for it yet.
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return False
    return state != "Z"


def ended(process: int | str, seconds: float = 5.0) -> bool:
    until = time.monotonic() + seconds
    while is_alive(process) and time.monotonic() < until:
        time.sleep(0.01)
    return not is_alive(process)
