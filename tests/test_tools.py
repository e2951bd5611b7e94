import asyncio
import threading
import time

import pytest

from agentrl.agents.tools import NOTHING_PRINTED, PythonTool


@pytest.fixture(scope="module")
def python():
    return PythonTool(seconds=1.0, memory_mib=256, max_characters=70, workers=2)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print(1 + 2)", "3"),
        ("print('é', 1); print('🙂')", "é 1\n🙂"),
        ("import sys; print('warned', file=sys.stderr)", "warned"),
        ("1 + 2", NOTHING_PRINTED),
        ("", NOTHING_PRINTED),
        ("raise SystemExit", NOTHING_PRINTED),
        ("print(1)\n1 / 0", "1\nError on line 2: ZeroDivisionError: division by zero"),
        ("def f():\n  g()\nf()", "Error on line 2: NameError: name 'g' is not defined"),
        ("print(1", "Error on line 1: SyntaxError: '(' was never closed"),
        ("assert False", "Error on line 1: AssertionError"),
        ("input()", "Error on line 1: EOFError: EOF when reading a line"),
        ("x = [0] * 10**9", "Error on line 1: MemoryError"),
        ("import os; os.kill(os.getpid(), 9)", "The code was ended by signal 9."),
        ("import os; os.kill(os.getppid(), 9)", "The code was ended by signal 9."),
        ("import os; os._exit(1)", NOTHING_PRINTED),
        ("print('x' * 90)", f"{'x' * 70}\n[cut after 70 characters]"),
        ("while True: print('x' * 1000)", f"{'x' * 70}\n[cut after 70 characters]"),
        ("import os; os.kill(os.getppid(), 19)", "The code was ended by signal 9."),
        ("import os; print(1); os._exit(0)", "1"),
        ("print(1)\nwhile True: pass", "1\nThe code ran longer than 1 s."),
        (
            "import os, time; os.close(1); os.close(2); time.sleep(9)",
            "The code ran longer than 1 s.",
        ),
        ("import os; print(len(os.environ) <= 1)", "True"),
    ],
)
def test_what_the_model_reads(python, code, message):
    assert python.run(code) == message


@pytest.mark.parametrize("arguments", ["", "{", "[]", "3", '{"source": "print(1)"}'])
def test_arguments_that_are_not_code(python, arguments):
    assert asyncio.run(python(arguments)).startswith("The arguments must be JSON")


def test_pieces_of_code_do_not_share_anything(python):
    python.run("import builtins; builtins.secret = 1; secret = 2")
    for _ in range(4):
        assert (
            python.run("print('secret' in dir(__builtins__) or 'secret' in globals())") == "False"
        )


def test_each_piece_has_a_scratch_folder_of_its_own(python):
    assert python.run("open('note', 'w').write('x'); import os; print(os.listdir())") == "['note']"
    assert python.run("import os; print(os.listdir())") == "[]"


def test_children_end_with_the_code(python):
    started = time.monotonic()
    code = "import subprocess; p = subprocess.Popen(['sleep', '77']); print(p.pid)"
    child = int(python.run(code))
    assert time.monotonic() - started < 1
    time.sleep(0.1)
    try:
        with open(f"/proc/{child}/stat") as stat:
            state = stat.read().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        state = "gone"
    assert state in ("gone", "Z")


def test_many_threads_share_few_workers(python):
    results = {}

    def call(i):
        results[i] = asyncio.run(python(f'{{"code": "print({i} * 2)"}}'))

    threads = [threading.Thread(target=call, args=(i,)) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: str(2 * i) for i in range(40)}
