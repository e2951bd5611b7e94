"""The other side of the Python tool: a small process that forks once for every piece of code.

Forking a process that has imported next to nothing takes a millisecond; starting Python takes
thirty. It is started by ``tools.py`` as a script with an empty environment and a scratch folder,
and imports the standard library alone. One JSON line comes in on stdin, one goes out on stdout.

What it limits: wall-clock and CPU time, memory, output, open files, file size. What it does not:
network, and reading files.
"""

import contextlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time


def serve() -> None:
    # The pipe to tools.py, kept away from the code that runs in the children.
    replies = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        replies.write(json.dumps(run(**json.loads(line))) + "\n")
        replies.flush()


def run(code: str, seconds: float, memory_bytes: int, output_bytes: int) -> dict:
    """Run code in a child; return what it printed, and how it ended."""
    read_end, write_end = os.pipe()
    scratch = tempfile.mkdtemp()
    child = os.fork()
    if child == 0:
        os.chdir(scratch)
        become_the_code(code, write_end, seconds, memory_bytes)
    os.close(write_end)
    output, ended_in_time = collect(read_end, child, time.monotonic() + seconds, output_bytes)
    os.close(read_end)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    shutil.rmtree(scratch, ignore_errors=True)
    return {
        "output": output.decode(errors="replace"),
        "timed_out": not ended_in_time,
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
    }


def collect(pipe: int, child: int, deadline: float, limit: int) -> tuple[bytes, bool]:
    """Read until the child ends, its time is up or it has printed too much."""
    exited = os.pidfd_open(child)
    os.set_blocking(pipe, False)
    output, done = b"", False
    try:
        while not done and time.monotonic() < deadline and len(output) <= limit:
            left = max(0.0, deadline - time.monotonic())
            ready = select.select([pipe, exited], [], [], left)[0]
            # Look at the pipe once more after the end, for what was printed last.
            done = exited in ready
            with contextlib.suppress(BlockingIOError):
                while len(output) <= limit and (piece := os.read(pipe, 65536)):
                    output += piece
                if not done and len(output) <= limit and pipe in ready:
                    # End of file: the code closed its output; wait for it to end.
                    left = max(0.0, deadline - time.monotonic())
                    done = bool(select.select([exited], [], [], left)[0])
    finally:
        os.close(exited)
    return output, done or len(output) > limit


def become_the_code(code: str, write_end: int, seconds: float, memory_bytes: int) -> None:
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(write_end, 1)
    os.dup2(write_end, 2)
    os.closerange(3, 256)
    for limit, value in (
        (resource.RLIMIT_CPU, int(seconds) + 1),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, 16 << 20),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
    try:
        exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
    except SystemExit:
        pass
    except BaseException as error:
        print(explain(error))
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(0)


def explain(error: BaseException) -> str:
    """One line: where in the code it happened, and what.

    >>> explain(SyntaxError("invalid syntax", ("<code>", 2, 1, "x =")))
    'Error on line 2: SyntaxError: invalid syntax'
    """
    line, trace = None, error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == "<code>":
            line = trace.tb_lineno
        trace = trace.tb_next
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    line = error.lineno if isinstance(error, SyntaxError) and line is None else line
    return f"Error on line {line}: {type(error).__name__}: {text}".rstrip(": ")


if __name__ == "__main__":
    serve()
