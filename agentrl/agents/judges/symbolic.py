"""Symbolic equality of an answer and a number, by math-verify, in a process of its own.

What sympy makes of a text may take for ever and hold the interpreter meanwhile; so it has a second
of a CPU for each, after which the kernel ends its process. Whatever ends it is not equal.
"""

import importlib.util
import json
import logging
import resource
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache

SECONDS, MEMORY_BYTES = 1.0, 2 << 30

log = logging.getLogger(__name__)
_turn = threading.Lock()
_workers: list[subprocess.Popen] = []
"""The one that is used, where it lives."""


def is_equal(answer: str, gold: str) -> bool:
    """Whether two expressions in LaTeX have one value. Safe to call from any thread."""
    if not _is_installed():
        return False
    with _turn:
        if not _workers:
            command = [sys.executable, "-I", __file__]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            _workers.append(subprocess.Popen(command, **pipes, stderr=subprocess.DEVNULL, env={}))
        worker = _workers[0]
        # What ended since the last answer is noticed here.
        with suppress(BrokenPipeError):
            worker.stdin.write(json.dumps([answer, gold]) + "\n")
            worker.stdin.flush()
        said = worker.stdout.readline()
        if not said:
            _workers.pop().communicate()
        return said == "True\n"


@cache
def _is_installed() -> bool:
    found = importlib.util.find_spec("math_verify") is not None
    if not found:
        log.warning(
            "math-verify is not installed: of answers, single numbers alone are right "
            "(pip install math-verify==0.9.0 antlr4-python3-runtime==4.13.2)"
        )
    return found


def main() -> None:
    """Answer each line of stdin, two expressions in JSON, by True or False."""
    from math_verify import LatexExtractionConfig, parse, verify

    def value(text: str) -> list:
        # Of its ways to read an answer this one alone evaluates no Python.
        latex = [LatexExtractionConfig(boxed_match_priority=0)]
        return parse(rf"\boxed{{{text}}}", extraction_config=latex, parsing_timeout=None)

    # Its tables are made when they are first needed.
    verify(value("1+1"), value("2"), timeout_seconds=None)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        answer, gold = map(value, json.loads(line))
        print(verify(gold, answer, timeout_seconds=None), flush=True)
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    main()
