import asyncio
import json
import os
import subprocess
import sys
import threading
import time

import psutil
import pytest

from agentrl.agents.tools import NOTHING_PRINTED, PythonTool
from agentrl.sandbox.limits import Limits
from agentrl.sandbox.process import Sandbox


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
        ("import os; os._exit(1)", NOTHING_PRINTED),
        ("print('x' * 90)", f"{'x' * 70}\n[cut after 70 characters]"),
        ("while True: print('x' * 1000)", f"{'x' * 70}\n[cut after 70 characters]"),
        ("import os; print(1); os._exit(0)", "1"),
        ("print(1)\nwhile True: pass", "1\nThe code ran longer than 1 s."),
        (
            "import os, time; os.close(1); os.close(2); time.sleep(9)",
            "The code ran longer than 1 s.",
        ),
    ],
)
def test_what_the_model_reads(python, code, message):
    assert python.run(code) == message


LIKE_A_FILE = {
    "pickle": "import pickle\nclass A: x = 1\nprint(pickle.loads(pickle.dumps(A())).x)",
    "a pool": """
from multiprocessing import Pool
def double(x): return 2 * x
if __name__ == "__main__":
    with Pool(2) as pool: print(pool.map(double, [1, 2]))
""",
    "a pool that is spawned": """
import multiprocessing, sys
def double(x): return 2 * x
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool: print(pool.map(double, [1, 2]))
""",
    "an executor": """
from concurrent.futures import ProcessPoolExecutor
def double(x): return 2 * x
if __name__ == "__main__":
    with ProcessPoolExecutor(2) as pool: print([*pool.map(double, [1, 2])])
""",
    "a thread": """
import threading, time
threading.Thread(target=lambda: (time.sleep(0.1), print("late"))).start()
threading.Thread(target=lambda: (time.sleep(9), print("never")), daemon=True).start()
print("first")
""",
    "an executor that is left": """
import time
from concurrent.futures import ThreadPoolExecutor
ThreadPoolExecutor(1).submit(lambda: (time.sleep(0.1), print("late")))
""",
    "the end": "import atexit\nfor word in 'ab': atexit.register(print, word)\nprint(1)",
    "the end after an error": "import atexit\natexit.register(print, 'bye')\nraise SystemExit",
    "the end of an object": "class A:\n  def __del__(self): print('gone')\na = A()",
    "words": "import sys\nsys.exit('words')",
    "a list": "raise SystemExit(['words'])",
    "a number": "print(1)\nexit(3)",
    "no end of a line": "import sys\nsys.stdout.write('words')",
    "its name": "import __main__\nx = 3\nprint(__main__.x, __name__, __main__.__spec__)",
    "its source": "import inspect\ndef f(): return 1\nprint(inspect.getsource(f))",
    "its types": "import typing\nclass A: b: 'B'\nclass B: ...\nprint(typing.get_type_hints(A))",
    "a module beside it": "open('mine.py', 'w').write('y = 5')\nimport mine\nprint(mine.y)",
    "a doctest": 'def f():\n  """\n  >>> f()\n  3"""\n  return 3\nimport doctest\n'
    "print(doctest.testmod())",
    "a hook": "import sys\nsys.excepthook = lambda kind, *_: print(kind.__name__)\n1 / 0",
    "a mark of bytes": "\ufeffprint(1)",
}


@pytest.mark.parametrize("name", LIKE_A_FILE)
def test_code_runs_as_a_file_does(name, tmp_path):
    """The same is printed by ``python file.py``."""
    (tmp_path / "program.py").write_text(LIKE_A_FILE[name])
    command = [sys.executable, "program.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert PATIENT.run(LIKE_A_FILE[name]) == (
        (done.stdout + done.stderr).rstrip() or NOTHING_PRINTED
    )
    assert done.stdout + done.stderr != ""


PATIENT = PythonTool(seconds=20.0, memory_mib=512, workers=1)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print(1)\0", "Error: SyntaxError: source code string cannot contain null bytes"),
        ("print('\ud83d')", "Error: UnicodeEncodeError: 'utf-8' codec can't encode character"),
        ("\0" * 3, "Error: SyntaxError: source code string cannot contain null bytes"),
        (
            "import threading\nthreading.Thread(target=lambda: 1 / 0).start()",
            "Exception in thread Thread-1 (<lambda>):\nTraceback (most recent call last):",
        ),
    ],
)
def test_what_is_no_text_of_a_file(code, message):
    assert PATIENT.run(code).startswith(message)
    assert asyncio.run(PATIENT(json.dumps({"code": code}))).startswith(message)


def test_a_thread_that_never_ends_is_waited_for(python):
    code = (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(9,)).start()\nprint(1)"
    )
    assert python.run(code) == "1\nThe code ran longer than 1 s."


@pytest.mark.slow
def test_a_plot_needs_no_home_of_its_own():
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.savefig('a.png')\nprint(1)"
    assert PATIENT.run(code) == "1"


def test_modules_are_imported_before_the_first_fork():
    """Where the code could not write, but they find a home; and texts hash alike everywhere."""
    code = "import sys; print('sqlite3' in sys.modules, 'wave' in sys.modules, hash('a'))"
    tools = [PythonTool(workers=1, preload=["sqlite3", "wave"]) for _ in range(2)]
    first, second = (tool.run(code) for tool in tools)
    assert first == second
    assert first.startswith("True True ")
    assert PATIENT.run(code).startswith("False False ")
    with pytest.raises(RuntimeError, match="worker did not start"):
        PythonTool(workers=1, preload=["not_there"]).run("1")


def test_a_piece_of_code_can_have_limits_of_its_own(python):
    wide = Limits(seconds=20.0, memory_mib=256, output_bytes=9999)
    code = "print('x' * 999)"
    narrow, long = (asyncio.run(python.outcome(code, limits)) for limits in (None, wide))
    assert (narrow.ended_by, long.ended_by, long.output) == ("output", None, "x" * 999 + "\n")


DEEP = "[" * 100_000
BAD_ARGUMENTS = [
    "",
    "{",
    "[]",
    "3",
    '{"source": "print(1)"}',
    DEEP,
    f'{{"code": {DEEP}',
    "9" * 5000,
]


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS, ids=lambda text: text[:12])
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


@pytest.mark.alone
def test_children_are_not_waited_for(python):
    started = time.monotonic()
    code = "import subprocess; subprocess.Popen(['sleep', '77']); print('on')"
    assert python.run(code) == "on"
    assert time.monotonic() - started < 1


def test_the_common_libraries_work():
    python = PythonTool(seconds=10.0, workers=1)
    code = (
        "import asyncio, decimal, multiprocessing, random, sqlite3, subprocess, sys, tempfile\n"
        "from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor\n"
        "with tempfile.NamedTemporaryFile('w') as file: file.write('x')\n"
        "with ThreadPoolExecutor(2) as pool: print(list(pool.map(abs, [-1, 2])))\n"
        "with ProcessPoolExecutor(2) as pool: print(list(pool.map(abs, [-3, 4])))\n"
        "asyncio.run(asyncio.sleep(0)); multiprocessing.Queue().put(1)\n"
        "print(subprocess.check_output([sys.executable, '-c', 'print(5)']))"
    )
    assert python.run(code).splitlines() == ["[1, 2]", "[3, 4]", r"b'5\n'"]


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


def test_waiting_is_not_running():
    """Five pieces of 0.4 s, one after the other, each with 1.5 s of its own."""
    python = PythonTool(seconds=1.5, workers=1)

    async def crowd():
        calls = [python('{"code": "import time; time.sleep(0.4); print(1)"}') for _ in range(5)]
        return await asyncio.gather(*calls)

    started = time.monotonic()
    assert asyncio.run(crowd()) == ["1"] * 5
    assert time.monotonic() - started >= 2


@pytest.mark.alone
def test_a_call_cancelled_while_it_waits_never_runs(monkeypatch):
    python, ran = PythonTool(workers=1), []
    run = Sandbox.run
    monkeypatch.setattr(
        Sandbox, "run", lambda self, code, limits: (ran.append(code), run(self, code, limits))[1]
    )

    async def cancel():
        first = asyncio.create_task(python('{"code": "import time; time.sleep(0.3)"}'))
        second = asyncio.create_task(python('{"code": "print(2)"}'))
        await asyncio.sleep(0.1)
        second.cancel()
        started = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await second
        return time.monotonic() - started, await first

    seconds, first = asyncio.run(cancel())
    assert seconds < 0.1
    assert first == NOTHING_PRINTED
    assert python.run("print(3)") == "3"
    assert ran == ["import time; time.sleep(0.3)", "print(3)"]


def test_workers_start_when_they_are_needed(python):
    python.run("")
    before = len(psutil.Process().children())
    later = PythonTool(workers=3)
    assert len(psutil.Process().children()) == before
    later.run("")
    assert len(psutil.Process().children()) == before + 1


def test_training_comes_first(python):
    priority = os.getpriority(os.PRIO_PROCESS, 0)
    code = "import os; print(os.getpriority(os.PRIO_PROCESS, 0))"
    assert python.run(code) == str(min(priority + 10, 19))
