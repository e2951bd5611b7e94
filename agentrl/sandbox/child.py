"""Child process of the fork server: runs a model's code, from its first line to its last."""

import os
import sys


def take_output(pipe: int) -> None:
    """Print into a pipe, read nothing, and hold no other file open."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(pipe, 1)
    os.dup2(pipe, 2)
    os.closerange(3, 1 << 16)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)


def run_to_its_end(code: str) -> None:
    """Run code; say in a line what it raised. Never returns."""
    try:
        _run(code)
        sys.stdout.flush()
    finally:
        # Whatever else it broke, it does not come back into the worker's code.
        os._exit(0)


def _run(code: str) -> None:
    try:
        exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
    except SystemExit:
        pass
    except BaseException as error:
        print(explain(error))


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
