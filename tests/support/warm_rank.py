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


def pass_on(number, frame):
    with suppress(ProcessLookupError):
        os.kill(pid, number)


connection = socket.socket(socket.AF_UNIX)
connection.connect("\0" + os.environ["WARM"])
unbuffered, *arguments = sys.argv[1:]
socket.send_fds(connection, [b" "], [1, 2])
connection.sendall(json.dumps({"start": arguments, "environment": {**os.environ}}).encode() + b"\n")
answers = connection.makefile()
pid = int(answers.readline())
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, pass_on)
status = int(answers.readline())
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
sys.exit(status)
