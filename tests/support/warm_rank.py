#!/usr/bin/env -S python3 -IS
"""A rank in the eyes of the launcher: asks for a fork of what has imported, and stands for it.

``PYTHON_EXEC`` names it, with which torch's launcher starts ``train.py``. Signals go on to the run;
it ends as the run does, and the run ends where it is killed (``warm.py``).
"""

import json
import os
import signal
import socket
import sys
from contextlib import suppress


def main() -> None:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect("\0" + os.environ["WARM"])
    _unbuffered, *arguments = sys.argv[1:]
    request = json.dumps({"start": arguments, "environment": {**os.environ}})
    socket.send_fds(connection, [b" "], [1, 2])
    connection.sendall(request.encode() + b"\n")
    answers = connection.makefile()
    pid = int(answers.readline())

    def pass_on(number, frame):
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    status = int(answers.readline())
    if status < 0:
        with suppress(OSError):
            # Of SIGKILL there is no other way.
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    main()
