"""Fork server of the sandbox: a process that forks once for every piece of code.

Forking a process that has imported next to nothing takes a millisecond; starting Python takes
tens. One JSON line comes in on stdin, one goes out on stdout. It ends when its stdin does, or the
process that started it, whichever is first; and with it all that runs in it.
"""

import atexit
import contextlib
import importlib
import json
import os
import select
import signal
import sys
import threading
import time
import types

from agentrl.sandbox.isolation import Namespaces, NoIsolation, require_filter
from agentrl.sandbox.limits import PROCESSES, Limits

NICENESS = 10
"""Of the code: training comes first, and so does the worker that watches over it."""
LOOK_SECONDS = 0.02
"""How often it looks at what the processes of the code use together."""


def main() -> None:
    """The command line: the importable root, the kind of isolation, the number of who started it,
    and modules to import before the first fork."""
    _, root, kind, starter, *preload = sys.argv
    sys.path.remove(root)
    del sys.argv[1:]
    # It was for this process alone.
    os.environ.pop("PYTHONHASHSEED", None)
    requests = [0, os.pidfd_open(int(starter))]
    replies = os.fdopen(os.dup(1), "w")
    # Whatever is unhandled here, the code cannot send.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _be_the_first_to_go()
    try:
        require_filter()
        isolation = {"namespaces": Namespaces, "none": NoIsolation}[kind]()
        # Within the walls, and once: the code finds them imported.
        for name in preload:
            importlib.import_module(name)
    except OSError as error:
        return _answer(replies, {"refused": error.strerror})
    _answer(replies, {"not_contained": isolation.not_contained})
    with contextlib.suppress(EOFError):
        while True:
            _answer(replies, run(isolation, _next(requests), requests))


def run(isolation: Namespaces | NoIsolation, request: dict, parent_fds: list[int]) -> dict:
    """Run code in a child; return what was printed, and how it ended. EOFError: nobody listens."""
    code, bounds = request["code"], Limits(**request["limits"])
    read_end, write_end = os.pipe()
    isolation.prepare()
    child = os.fork()
    if child == 0:
        _be_the_code(code, isolation, bounds, write_end)
    os.close(write_end)
    exited = os.pidfd_open(child)
    try:
        output, ended_by = follow(read_end, exited, bounds, isolation, parent_fds)
    finally:
        status = isolation.clear(child)
        os.close(read_end)
        os.close(exited)
    return {
        "output": output.decode(errors="replace"),
        "ended_by": ended_by,
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
    }


def follow(
    pipe: int,
    exited: int,
    bounds: Limits,
    isolation: Namespaces | NoIsolation,
    parent_fds: list[int],
) -> tuple[bytes, str | None]:
    """Read what a child prints until it ends; or a bound ends it, whose name is returned."""
    output, sources = b"", [pipe, exited]
    deadline = time.monotonic() + bounds.seconds
    next_look = time.monotonic() + LOOK_SECONDS
    while True:
        now = time.monotonic()
        if now >= deadline:
            return output, "seconds"
        if now >= next_look and isolation.watch:
            if exceeded := isolation.watch.exceeded(bounds.memory_mib << 20, PROCESSES):
                return output, exceeded
            next_look = time.monotonic() + LOOK_SECONDS
        wait = max(0.0, min(deadline, next_look) - now)
        ready = select.select(sources + parent_fds, [], [], wait)[0]
        if set(ready) & set(parent_fds):
            raise EOFError
        if pipe in ready:
            printed = os.read(pipe, 1 << 16)
            output += printed
            if len(output) > bounds.output_bytes:
                return output, "output"
            if not printed:
                # It closed its output, and may go on.
                sources = [exited]
        elif exited in ready:
            return output, None


def _be_the_code(code: str, isolation: Namespaces | NoIsolation, bounds: Limits, pipe: int) -> None:
    try:
        os.nice(NICENESS)
        _take_output(pipe)
        _run_to_its_end(code, isolation.enter(bounds, code))
    except OSError as error:
        print(f"The code was not run: {error}", flush=True)
    finally:
        os._exit(1)


def _take_output(pipe: int) -> None:
    """Print into a pipe, read nothing, and hold no other file open."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(pipe, 1)
    os.dup2(pipe, 2)
    os.closerange(3, 1 << 16)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)


def _run_to_its_end(code: str, file: str) -> None:
    """Run code as ``python file`` does; but what it raised is said in a line. Never returns."""
    try:
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        main.__file__, sys.argv, sys.path[:0] = file, [file], [os.getcwd()]
        os.environ["HOME"] = os.getcwd()
        _run(code.removeprefix("\ufeff"), main)
        # What Python does at its end.
        threading._shutdown()
        atexit._run_exitfuncs()
        vars(main).clear()
        sys.stdout.flush()
    finally:
        # Whatever else it broke, it does not come back into the worker's code.
        os._exit(0)


def _run(code: str, main: types.ModuleType) -> None:
    try:
        exec(compile(code, main.__file__, "exec", dont_inherit=True), vars(main))
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        if sys.excepthook is not sys.__excepthook__:
            return sys.excepthook(type(error), error, error.__traceback__)
        print(_explain(error, sys.argv[0]))


def _explain(error: BaseException, file: str) -> str:
    """One line: where in the code it happened, and what.

    >>> _explain(SyntaxError("invalid syntax", ("code.py", 2, 1, "x =")), "code.py")
    'Error on line 2: SyntaxError: invalid syntax'
    """
    line, trace = None, error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    line = error.lineno if isinstance(error, SyntaxError) and line is None else line
    where = "" if line is None else f" on line {line}"
    return f"Error{where}: {type(error).__name__}: {text}".rstrip(": ")


def _be_the_first_to_go() -> None:
    # When the machine is out of memory, the kernel begins with whoever has the highest score.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")


def _next(requests: list[int]) -> dict:
    if select.select(requests, [], [])[0] == [0] and (line := sys.stdin.readline()):
        return json.loads(line)
    raise EOFError


def _answer(replies, message: dict) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()
