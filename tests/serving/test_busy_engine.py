"""What keeps the engine busy: shared prompts, cheap adds and aborts, nobody that it waits for."""

import asyncio
import random
import statistics
import sys
import threading
import time

import pytest

import agentrl.serving.engine as engine_module
from agentrl.agents.tools import PythonTool
from agentrl.serving.process import SWITCH_SECONDS
from agentrl.serving.sampling import Sampling
from tests.support.collecting import by_episode, collect
from tests.support.device import BLOCK
from tests.support.faults import ask

GROUP = 8


@pytest.fixture
def computed(monkeypatch):
    """Of every call, how many tokens of its prompt vLLM computed, and did not find in its cache."""
    counts, read = [], engine_module.from_vllm

    def note(output):
        counts.append(len(output.prompt_token_ids) - output.num_cached_tokens)
        return read(output)

    monkeypatch.setattr(engine_module, "from_vllm", note)
    return counts


def draw(engine, prompts, max_tokens=4) -> float:
    """All at once; the seconds that it took."""
    started = time.monotonic()
    options = {"temperature": 1.0, "max_tokens": max_tokens, "others": {"ignore_eos": True}}
    calls = [engine.submit(p, Sampling(seed=i, **options)) for i, p in enumerate(prompts)]
    for call in calls:
        call.result()
    return time.monotonic() - started


@pytest.mark.parametrize("length", [64, 100, 300])
def test_a_groups_prompt_is_computed_once(engine, computed, length):
    """But for the end of it that fills no block, also where all come in one step."""
    rng = random.Random(length)
    prompts = [[rng.randrange(20, 300) for _ in range(length)] for _ in range(GROUP + 1)]
    draw(engine, [prompts[0]] * GROUP)
    # Whole blocks are shared, and the last token of a prompt is computed by everybody.
    rest = (length - 1) % BLOCK + 1
    assert sorted(computed) == [rest] * (GROUP - 1) + [length]
    computed.clear()
    draw(engine, prompts[1:])
    assert computed == [length] * GROUP


def test_a_turn_computes_what_the_conversation_gained(engine, computed):
    rng = random.Random(0)
    conversation = [rng.randrange(20, 300) for _ in range(400)]
    for length in (200, 300, 400):
        draw(engine, [conversation[:length]])
    assert computed == [200, 300 - 192, 400 - 288]


@pytest.mark.slow
@pytest.mark.alone
def test_adding_and_aborting_do_not_grow_with_what_waits(engine, monkeypatch):
    llm, adds, aborts = engine._llm, [], []
    real_add, real_abort = llm.add_request, llm.abort_request

    def add(*arguments):
        started = time.perf_counter()
        real_add(*arguments)
        adds.append(time.perf_counter() - started)

    def abort(numbers, internal):
        started = time.perf_counter()
        real_abort(numbers, internal=internal)
        aborts.append((len(numbers), time.perf_counter() - started))

    monkeypatch.setattr(llm, "add_request", add)
    monkeypatch.setattr(llm, "abort_request", abort)
    an_add, an_abort = {}, {}
    for waiting in (100, 2000):
        adds.clear()
        aborts.clear()
        sampling = Sampling(temperature=1.0, max_tokens=500, others={"ignore_eos": True})
        calls = [engine.submit([20, 7, 9], sampling) for _ in range(waiting)]
        while len(adds) < waiting:
            time.sleep(0.01)
        for call in calls:
            call.cancel()
        deadline = time.monotonic() + 10
        while sum(count for count, _ in aborts) < waiting and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sum(count for count, _ in aborts) == waiting
        # One a step, however many were cancelled meanwhile.
        assert len(aborts) < waiting / 10
        an_add[waiting] = statistics.median(adds[-50:])
        an_abort[waiting] = sum(seconds for _, seconds in aborts) / waiting
    assert engine._waiting == {}
    # Twenty times as many wait.
    assert an_add[2000] < 8 * an_add[100]
    assert an_abort[2000] < 8 * an_abort[100]


@pytest.mark.alone
def test_the_stepper_waits_for_no_episode(serving):
    """One blocks its event loop just when its answer arrives; the others go on meanwhile."""

    async def solve(task, model):
        if task["id"] == "0":
            call = asyncio.create_task(ask(model))
            await asyncio.sleep(0.05)
            time.sleep(3)
            await call
        for _ in range(3):
            await ask(model)
        return 1.0

    collect(serving, {}, 2, GROUP // 2)
    groups = collect(serving, {}, GROUP, 2, workflow=solve, judge=None)
    seconds = {place: episode.seconds for place, episode in by_episode(groups).items()}
    assert min(seconds["0", index] for index in (0, 1)) > 3
    assert max(s for key, s in seconds.items() if key[0] != "0") < 3


@pytest.mark.slow
@pytest.mark.alone
def test_a_thread_that_is_busy_in_python_does_not_stop_the_engine(engine):
    """With Python's own 5 ms between threads it all but would."""
    prompts, stop = [[20 + i] for i in range(16)], threading.Event()
    seconds = {SWITCH_SECONDS: [], 0.005: []}

    def spin():
        while not stop.is_set():
            pass

    draw(engine, prompts, 16)
    assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
    threading.Thread(target=spin, daemon=True).start()
    try:
        for interval in [*seconds] * 4:
            sys.setswitchinterval(interval)
            seconds[interval].append(draw(engine, prompts, 16))
    finally:
        stop.set()
        sys.setswitchinterval(SWITCH_SECONDS)
    assert sum(seconds[0.005]) > 1.3 * sum(seconds[SWITCH_SECONDS])


@pytest.mark.slow
@pytest.mark.alone
def test_busy_tools_leave_the_engine_its_cores(engine):
    """At most half of its speed is lost to eight workers that calculate all the time."""
    prompts, tool = [[20 + i] for i in range(32)], PythonTool(seconds=6.0, workers=8)
    draw(engine, prompts, 64)
    alone = min(draw(engine, prompts, 64) for _ in range(3))
    threads = [threading.Thread(target=tool.run, args=("while True: pass",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    beside = min(draw(engine, prompts, 64) for _ in range(2))
    for thread in threads:
        thread.join()
    assert beside < 2 * alone
