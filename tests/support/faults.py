"""Everything that a workflow, a judge or a tool may do wrong, by name; and what a run holds."""

import asyncio
import ctypes
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from agentrl.agents.contract import WorkflowOutput
from agentrl.agents.tools import PythonTool

ASK = [{"role": "user", "content": "2+3?"}]
SETTLE_SECONDS = 20.0
ENDED_WELL = ("ok", "truncated")
python = PythonTool(seconds=1.0, memory_mib=256, max_characters=70, workers=4)


@dataclass(frozen=True)
class Fault:
    do: Callable[[dict, Any], Any]
    """(task, model), after the episode's first call."""
    statuses: tuple[str, ...] = ENDED_WELL
    cause: str = ""
    """How it begins."""


FAULTS: dict[str, Fault] = {}


def fault(statuses: str | tuple[str, ...] = ENDED_WELL, cause: str = "") -> Callable:
    def note(do: Callable) -> Callable:
        FAULTS[do.__name__] = Fault(
            do, (statuses,) if isinstance(statuses, str) else statuses, cause
        )
        return do

    return note


async def ask(model, **options) -> str:
    answer = await model.openai.chat.completions.create(model="policy", messages=ASK, **options)
    return answer.choices[0].message.content


def judging(verdict: Callable[[], Any], statuses: str | tuple[str, ...], cause: str) -> Fault:
    """A judge's fault: the workflow hands it over as its response."""

    async def respond(task, model):
        return WorkflowOutput(response=verdict)

    return Fault(respond, (statuses,) if isinstance(statuses, str) else statuses, cause)


# Raising


@fault("error", "RuntimeError: broken")
async def raises(task, model):
    raise RuntimeError("broken")


@fault("error", "Unreadable: its message cannot be read")
async def raises_what_cannot_be_printed(task, model):
    class Unreadable(Exception):
        def __str__(self):
            raise RuntimeError("no")

    raise Unreadable


@fault("error", "ValueError: xxxx")
async def raises_an_endless_message(task, model):
    raise ValueError("x" * 10**7)


@fault("error", "ValueError: \\ud800")
async def raises_what_is_no_text(task, model):
    raise ValueError("\ud800")


@fault("error", "KeyboardInterrupt")
async def raises_an_interrupt(task, model):
    raise KeyboardInterrupt


@fault("error", "CancelledError")
async def cancels_everything(task, model):
    for one in asyncio.all_tasks():
        one.cancel()
    await asyncio.sleep(60)


@fault("error", "SystemExit: 3")
async def exits(task, model):
    sys.exit(3)


@fault("error", "RuntimeError: Event loop stopped")
async def stops_its_loop(task, model):
    asyncio.get_running_loop().stop()
    await asyncio.sleep(60)


@fault("error", "RuntimeError: Cannot send a request")
async def closes_the_client(task, model):
    await model.openai.close()
    await ask(model)


# Returning nonsense


@fault("error", "TypeError: the workflow returned str")
async def returns_text(task, model):
    return "fine"


@fault("error", "TypeError: 1 names a metric or an agent")
async def rewards_without_names(task, model):
    return {1: 1.0}


@fault()
async def writes_to_its_task(task, model):
    task.clear()


@fault()
async def returns_a_lot(task, model):
    return WorkflowOutput(response="x" * 10**7, metadata={"all": "x" * 10**7})


# Hanging and blocking


@fault("timeout", "the episode ran longer than")
async def hangs(task, model):
    await asyncio.Event().wait()


@fault("timeout", "the episode ran longer than")
async def hangs_with_calls_in_flight(task, model):
    while True:
        await asyncio.gather(*(ask(model) for _ in range(4)))


@fault("timeout", "the episode ran longer than")
async def swallows_its_cancellation(task, model):
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)


@fault("timeout", "the workflow blocked its thread for over")
async def spins(task, model):
    while True:
        pass


@fault("timeout", "the workflow blocked its thread for over")
async def sleeps_in_pieces(task, model):
    while True:
        time.sleep(0.05)


@fault("timeout", "the workflow blocked its thread for over")
async def waits_for_a_program(task, model):
    subprocess.run(["sleep", "1000"], check=True)


@fault("timeout", "the workflow blocked its thread for over")
async def waits_for_a_program_with_its_key(task, model):
    program = subprocess.Popen(["sleep", "1000"], env=model.environment, stdout=subprocess.PIPE)
    with program:
        program.stdout.read()
    # It ends with its client; the workflow goes on.
    while True:
        time.sleep(0.05)


# Leaving things behind


@fault()
async def leaks_a_task(task, model):
    leaks_a_task.task = asyncio.create_task(asyncio.sleep(1000))


@fault()
async def leaks_calls(task, model):
    async def more():
        while True:
            await ask(model)

    asyncio.create_task(more())  # noqa: RUF006
    await asyncio.sleep(0.01)


@fault()
async def leaks_a_stubborn_task(task, model):
    asyncio.create_task(swallows_its_cancellation(task, model))  # noqa: RUF006
    await asyncio.sleep(0)


@fault()
async def leaks_a_thread(task, model):
    def sleep_in_pieces():
        while True:
            time.sleep(0.05)

    asyncio.get_running_loop().run_in_executor(None, sleep_in_pieces)


@fault()
async def leaks_a_thread_that_waits(task, model):
    asyncio.get_running_loop().run_in_executor(None, subprocess.run, ["sleep", "1000"])


@fault()
async def leaks_a_generator(task, model):
    async def numbers():
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(1000)

    leaks_a_generator.open = numbers()
    await anext(leaks_a_generator.open)


@fault()
async def leaks_a_program(task, model):
    await asyncio.create_subprocess_exec("sleep", "1000")


@fault()
async def leaks_a_program_with_its_key(task, model):
    # Its child has the key, too, and another parent.
    command = "sleep 1000 & sleep 1000 & disown; sleep 1000"
    subprocess.Popen(["bash", "-c", command], env=model.environment, start_new_session=True)


# Tools


def tool(name: str, code: str, message: str) -> None:
    async def use(task, model):
        said = await python(json.dumps({"code": code}))
        assert said == message, said

    FAULTS[name] = Fault(use)


tool(
    "prints_a_gigabyte",
    "for _ in range(1024): print('x' * 2**20)",
    f"{'x' * 70}\n[cut after 70 characters]",
)
tool(
    "forks",
    "import os, time\nfor _ in range(8): os.fork() or time.sleep(1000)\nprint(1)",
    "1",
)
tool("allocates", "x = [0] * 10**9", "Error on line 1: MemoryError")
tool("sleeps", "import time; time.sleep(1000)", "The code ran longer than 1 s.")
tool(
    "kills_its_parent",
    "import os; os.kill(os.getppid(), 9)",
    "Error on line 1: PermissionError: [Errno 1] Operation not permitted",
)

# Judges


def _raises():
    raise RuntimeError("no verdict")


def _sleeps():
    while True:
        time.sleep(0.05)


FAULTS["judge_raises"] = judging(_raises, "error", "RuntimeError: no verdict")
FAULTS["judge_returns_nan"] = judging(lambda: float("nan"), "error", "ValueError: the reward is")
FAULTS["judge_returns_text"] = judging(lambda: "good", "error", "TypeError: the judge returned")
FAULTS["judge_blocks"] = judging(_sleeps, "timeout", "the workflow blocked its thread")


class _MallInfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def allocated_mebibytes() -> float:
    """By malloc and by Python. Resident memory would not do: vLLM's cache, which is allocated from
    the start, becomes resident call by call."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _MallInfo
    info = mallinfo()
    # A block of Python's own allocator has 512 bytes at most.
    return (info.uordblks + info.hblkhd + 100 * sys.getallocatedblocks()) / 2**20


@dataclass
class Held:
    """What this process holds, and what runs for it."""

    threads: int
    processes: int
    files: int
    agent_keys: int
    requests: int
    mebibytes: float

    @classmethod
    def now(cls, serving) -> "Held":
        gc.collect()
        here = psutil.Process()
        children = [p for p in here.children(recursive=True) if p.status() != "zombie"]
        engine = serving.engine
        return cls(
            threads=threading.active_count(),
            processes=len(children),
            files=here.num_fds(),
            agent_keys=len(serving.server.agent_keys),
            requests=len(engine._waiting) + engine._llm.get_num_unfinished_requests(),
            mebibytes=allocated_mebibytes(),
        )

    def more_than(self, before: "Held", mebibytes: float) -> dict[str, float]:
        """What there is more of than before; of memory, more than this much."""
        more = {name: now - getattr(before, name) for name, now in vars(self).items()}
        more["mebibytes"] -= mebibytes
        return {name: surplus for name, surplus in more.items() if surplus > 0}


def check_back_to(before: Held, serving, mebibytes: float) -> None:
    """Assert that there is nothing more than before, as soon as what is ending has ended."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while (more := Held.now(serving).more_than(before, mebibytes)) and time.monotonic() < deadline:
        time.sleep(0.1)
    names = [thread.name for thread in threading.enumerate()]
    files = sorted(os.path.realpath(f"/proc/self/fd/{f}") for f in os.listdir("/proc/self/fd"))
    assert not more, f"still there: {more}, threads: {names}, files: {files}"
