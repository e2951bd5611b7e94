"""Connection between a worker and the engines: calls by token ids, and what they have ended with.

Either side sends all that has come up since it last sent, in one message. Text is in it only where
a call stops at some, or is bound by a schema.
"""

import queue
import threading
from array import array
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from agentrl.serving.sampling import Completion, EngineClient, Sampling
from agentrl.types import EngineStopped


class EngineCall(msgspec.Struct, array_like=True):
    """A call, or without a prompt, that it is cancelled."""

    number: int
    engine: str
    """The name of the model."""
    prompt_ids: bytes | None = None
    sampling: Sampling | None = None


class Ended(msgspec.Struct, array_like=True):
    """How a call ended."""

    number: int
    error: tuple[str, str] | None = None
    """What was raised, its type and its message; or as a Completion has them:"""
    ids: bytes = b""
    logprobs: bytes = b""
    finish_reason: str = ""
    stop: str | None = None
    cut_text: str | None = None
    top: tuple[tuple[tuple[int, float], ...], ...] = ()


ERRORS = {"ValueError": ValueError, "EngineStopped": EngineStopped}
"""Those that a handler tells from others."""


class Sender:
    """Sends what is put, from a thread of its own: whoever puts never waits for the other side.

    ``put(None)`` is the last: the connection is closed.
    """

    def __init__(self, connection: Connection):
        self._connection, self._messages = connection, queue.SimpleQueue()
        self.num_bytes = 0
        threading.Thread(target=self._run, name="sender", daemon=True).start()

    def put(self, message: Any) -> None:
        self._messages.put(message)

    def _run(self) -> None:
        encode = msgspec.msgpack.Encoder().encode
        while None not in (batch := self._batch()):
            raw = encode(batch)
            self.num_bytes += len(raw)
            # The other side may have gone: the receiver hears of it, too.
            with suppress(OSError):
                self._connection.send_bytes(raw)
        self._connection.close()

    def _batch(self) -> list[Any]:
        """All that was put, at least one."""
        batch = [self._messages.get()]
        with suppress(queue.Empty):
            while True:
                batch.append(self._messages.get_nowait())
        return batch


def receive(connection: Connection, kind: Any, take: Callable[[Any], None]) -> None:
    """Take every message until the other side has gone."""
    decode = msgspec.msgpack.Decoder(list[kind]).decode
    with suppress(EOFError, OSError):
        while True:
            for message in decode(connection.recv_bytes()):
                take(message)


class RemoteEngine:
    """Engine in another process, as a worker knows it."""

    def __init__(self, name: str, line: "WorkerEnd"):
        self._name, self._line = name, line

    def submit(self, prompt_ids: list[int], sampling: Sampling) -> "Future[Completion]":
        """Queue a call. Cancelling the future aborts it in the engine."""
        return self._line.submit(self._name, prompt_ids, sampling)

    def enter(self, episode: tuple) -> None:
        """Nothing: there is no lockstep over a connection."""

    def leave(self, episode: tuple) -> None:
        """Nothing either."""

    def raise_if_stopped(self) -> None:
        """Raise EngineStopped where the engine's process has gone."""
        if self._line.is_over:
            raise EngineStopped("the engine's process has gone")

    def close(self) -> None:
        """Nothing: it is another process's."""


class WorkerEnd:
    """A worker's end."""

    def __init__(self, connection: Connection):
        self._connection, self._sender = connection, Sender(connection)
        self._numbers, self._waiting = count(), {}
        self.is_over = False
        threading.Thread(target=self._receive, name="engine", daemon=True).start()

    def submit(self, engine: str, prompt_ids: list[int], sampling: Sampling) -> Future:
        number, done = next(self._numbers), Future()
        self._waiting[number] = done
        grammar = sampling.grammar and _given(sampling.grammar)
        plain = replace(sampling, grammar=grammar, rng_key=())
        self._sender.put(EngineCall(number, engine, array("i", prompt_ids).tobytes(), plain))
        done.add_done_callback(partial(self._cancel, number, engine))
        if self.is_over:
            self._fail()
        return done

    def _cancel(self, number: int, engine: str, done: Future) -> None:
        if done.cancelled():
            self._sender.put(EngineCall(number, engine))

    def _receive(self) -> None:
        try:
            receive(self._connection, Ended, self._end)
        finally:
            self.is_over = True
            self._fail()
            self._sender.put(None)

    def _end(self, ended: Ended) -> None:
        done = self._waiting.pop(ended.number)
        # Whoever waited may have given up.
        with suppress(InvalidStateError):
            if ended.error:
                kind, message = ended.error
                done.set_exception(ERRORS.get(kind, RuntimeError)(message))
            else:
                ids, logprobs = array("i", ended.ids).tolist(), array("d", ended.logprobs).tolist()
                told = (ended.finish_reason, ended.stop, ended.cut_text, ended.top)
                done.set_result(Completion(ids, logprobs, *told))

    def _fail(self) -> None:
        while self._waiting:
            with suppress(KeyError, InvalidStateError):
                _, done = self._waiting.popitem()
                done.set_exception(EngineStopped("the engine's process has gone"))


class EngineEnd:
    """The engines' end of the connection to one worker."""

    def __init__(self, connection: Connection, engines: Mapping[str, EngineClient]):
        self._connection, self._engines = connection, engines
        self._sender, self._running = Sender(connection), {}
        self.num_tokens = 0
        """That the first of the engines, the trained model's, has drawn for it."""
        self._trained = next(iter(engines))
        threading.Thread(target=self._receive, name="worker", daemon=True).start()

    def _receive(self) -> None:
        try:
            receive(self._connection, EngineCall, self._take)
        finally:
            # The worker has gone, and with it whoever waited.
            for done in list(self._running.values()):
                done.cancel()
            self._sender.put(None)

    def _take(self, call: EngineCall) -> None:
        if call.prompt_ids is None:
            if done := self._running.get(call.number):
                done.cancel()
            return
        sampling = call.sampling
        if sampling.grammar is not None:
            sampling = replace(sampling, grammar=_structured(sampling.grammar))
        prompt_ids = array("i", call.prompt_ids).tolist()
        done = self._running[call.number] = self._engines[call.engine].submit(prompt_ids, sampling)
        done.add_done_callback(partial(self._end, call))

    def _end(self, call: EngineCall, done: Future) -> None:
        self._running.pop(call.number, None)
        if done.cancelled():
            return
        if error := done.exception():
            told = (type(error).__name__, str(error))
            return self._sender.put(Ended(call.number, error=told))
        c = done.result()
        if call.engine == self._trained:
            self.num_tokens += len(c.ids)
        ids, logprobs = array("i", c.ids).tobytes(), array("d", c.logprobs).tobytes()
        told = (c.finish_reason, c.stop, c.cut_text, c.top)
        self._sender.put(Ended(call.number, None, ids, logprobs, *told))


def _given(grammar: Any) -> dict[str, Any]:
    """What vLLM's StructuredOutputsParams were made with."""
    given = {name: value for name, value in asdict(grammar).items() if not name.startswith("_")}
    return {name: value for name, value in given.items() if value is not None}


def _structured(given: dict[str, Any]) -> Any:
    from vllm.sampling_params import StructuredOutputsParams

    return StructuredOutputsParams(**given)
