"""What goes between a worker and the engines: token ids, exactly, and how calls end."""

import os
import socket
import threading
import time
from concurrent.futures import CancelledError, Future
from multiprocessing import Pipe

import pytest
from vllm.sampling_params import StructuredOutputsParams

from agentrl.serving.connection import EngineCall, EngineEnd, RemoteEngine, Sender, WorkerEnd
from agentrl.serving.sampling import Completion, Sampling
from agentrl.types import EngineStopped
from tests.support.spy import SpyEngine

SAMPLING = Sampling(temperature=1.0, max_tokens=4, seed=2**63 - 1, rng_key=((0, 1, "t", 2), 0, 0))


class Noted(SpyEngine):
    """One that notes what it is asked, for somebody else to answer."""

    def __init__(self):
        super().__init__()
        self.asked, self.came = [], threading.Semaphore(0)

    def submit(self, prompt_ids, sampling):
        self.asked.append((prompt_ids, sampling, Future()))
        self.came.release()
        return self.asked[-1][2]

    def take(self):
        assert self.came.acquire(timeout=10)
        return self.asked[-1]


@pytest.fixture
def ends():
    theirs, ours = Pipe()
    engines = {"policy": Noted(), "judge": Noted()}
    worker, engine_end = WorkerEnd(theirs), EngineEnd(ours, engines)
    yield worker, engine_end, engines
    theirs.close()
    ours.close()


def test_a_call_and_its_completion_are_what_they_were(ends):
    worker, engine_end, engines = ends
    grammar = StructuredOutputsParams(json={"type": "object"}, disable_any_whitespace=True)
    sampling = Sampling(
        temperature=0.7, max_tokens=3, stop=("\n", "é"), top_logprobs=2, grammar=grammar, seed=1
    )
    asked = RemoteEngine("policy", worker).submit([0, 151_935, 7], sampling)
    prompt_ids, seen, done = engines["policy"].take()
    assert prompt_ids == [0, 151_935, 7]
    assert seen == sampling
    # Log-probs to the last bit.
    logprobs = [-1 / 3, -1e-300, float("-inf")]
    top = (((3, -0.5), (4, -0.75)), (), ((1, -2.0),))
    completion = Completion([5, 6, 2], logprobs, "stop", "é", "caf", top)
    done.set_result(completion)
    assert asked.result(10) == completion
    assert engine_end.num_tokens == 3
    other = RemoteEngine("judge", worker).submit([1], SAMPLING)
    engines["judge"].take()[2].set_result(Completion([9, 9], [-1.0, -1.0], "length"))
    assert other.result(10).ids == [9, 9]
    assert engine_end.num_tokens == 3


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (ValueError("too long"), ValueError, "too long"),
        (EngineStopped("it has stopped"), EngineStopped, "it has stopped"),
        (KeyError("x"), RuntimeError, "'x'"),
    ],
)
def test_what_the_engine_raises_is_raised_in_the_worker(ends, raised, kind, message):
    worker, _, engines = ends
    asked = RemoteEngine("policy", worker).submit([1], SAMPLING)
    engines["policy"].take()[2].set_exception(raised)
    assert (type(asked.exception(10)), str(asked.exception())) == (kind, message)


def test_who_cancels_aborts_it_in_the_engine(ends):
    worker, _, engines = ends
    asked = RemoteEngine("policy", worker).submit([1], SAMPLING)
    _, _, done = engines["policy"].take()
    asked.cancel()
    deadline = time.monotonic() + 10
    while not done.cancelled():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # And an answer that comes too late is nobody's.
    late = RemoteEngine("policy", worker).submit([1], SAMPLING)
    _, _, done = engines["policy"].take()
    late.cancel()
    later = RemoteEngine("policy", worker).submit([2], SAMPLING)
    engines["policy"].take()[2].set_result(Completion([3], [-1.0], "stop"))
    assert later.result(10).ids == [3]


def test_a_side_that_goes_is_noticed():
    theirs, ours = Pipe()
    engine, worker = Noted(), WorkerEnd(theirs)
    remote = RemoteEngine("policy", worker)
    asked = remote.submit([1], SAMPLING)
    ours.close()
    assert isinstance(asked.exception(10), EngineStopped)
    with pytest.raises(EngineStopped, match="the engine's process has gone"):
        remote.raise_if_stopped()
    assert isinstance(remote.submit([1], SAMPLING).exception(10), EngineStopped)

    theirs, ours = Pipe()
    end = EngineEnd(ours, {"policy": engine})
    Sender(theirs).put(EngineCall(0, "policy", b"", SAMPLING))
    _, _, done = engine.take()
    # What is in the middle of a read is told so, too.
    socket.socket(fileno=os.dup(theirs.fileno())).shutdown(socket.SHUT_RDWR)
    with pytest.raises(CancelledError):
        done.result(10)
    assert end.num_tokens == 0


def test_many_calls_at_once_are_few_messages(ends):
    worker, _, engines = ends
    remote = RemoteEngine("policy", worker)
    asked = [remote.submit([n], SAMPLING) for n in range(1000)]
    for n in range(1000):
        assert engines["policy"].came.acquire(timeout=10), n
    for ids, _, done in engines["policy"].asked:
        done.set_result(Completion(ids, [-1.0], "stop"))
    assert [one.result(10).ids for one in asked] == [[n] for n in range(1000)]
    assert [ids for ids, _, _ in engines["policy"].asked] == [[n] for n in range(1000)]


def test_a_message_holds_ids_and_no_text(ends):
    """A call of 128 tokens, and as many drawn: four bytes each, and eight for a log-prob."""
    worker, engine_end, engines = ends
    asked = RemoteEngine("policy", worker).submit([*range(128)], SAMPLING)
    completion = Completion([*range(128)], [-1.0] * 128, "stop")
    engines["policy"].take()[2].set_result(completion)
    asked.result(10)
    assert 4 * 128 < worker._sender.num_bytes < 4 * 128 + 150
    assert 12 * 128 < engine_end._sender.num_bytes < 12 * 128 + 50
    # The episode's key, which names its task, stays where it is.
    assert engines["policy"].asked[0][1].rng_key == ()


def test_an_end_leaves_no_thread_and_no_file():
    def held() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    before = held()
    for _ in range(20):
        theirs, ours = Pipe()
        worker, _ = WorkerEnd(theirs), EngineEnd(ours, {"policy": Noted()})
        # As when its process ends.
        socket.socket(fileno=os.dup(theirs.fileno())).shutdown(socket.SHUT_RDWR)
        del worker
    deadline = time.monotonic() + 10
    while any(now > then for now, then in zip(held(), before, strict=True)):
        assert time.monotonic() < deadline, (before, held())
        time.sleep(0.02)
