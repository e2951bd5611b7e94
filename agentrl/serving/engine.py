"""Engine: vLLM in this process, stepped by a thread of its own.

Hundreds of episodes wait for what they ``submit``; their calls are batched together continuously.
Only the stepper thread touches vLLM: whatever else happens to the engine (abort, sync, sleep) is a
command that is queued to it.
"""

import itertools
import logging
import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentrl.serving import vllm_args
from agentrl.serving.follower import EngineRanks, Schedule, follow
from agentrl.serving.lockstep import Lockstep
from agentrl.serving.queued import Command, QueuedCall
from agentrl.serving.sampling import (
    Completion,
    Sampling,
    from_vllm,
    scores_from_vllm,
    to_vllm,
    to_vllm_scoring,
)
from agentrl.types import EngineStopped

PROBE_TOKENS = 64

log = logging.getLogger(__name__)


class Engine:
    """A colocated vLLM engine. Its methods may be called from any thread."""

    def __init__(self, llm: Any, *, lockstep: bool = False, sleep_level: int = 1):
        """llm: what ``start_vllm`` returns. lockstep: batches, and so bits, do not depend on
        threads; see that module. sleep_level: see ``EngineConfig``."""
        # vLLM copies results behind the stream that it was made on, and the trainer gathers weights
        # there: the stepper, which would start on the first GPU and its default stream, goes on it.
        self._stream = torch.cuda.current_stream() if torch.cuda.is_available() else None
        self._llm, self.sleep_level = llm, sleep_level
        self.dtype: torch.dtype = llm.model_config.dtype
        """Of the weights."""
        self.probe = _probe_ids(llm.model_config)
        """The fixed token ids that ``sync`` scores."""
        self._numbers = itertools.count()
        self._waiting: dict[str, QueuedCall] = {}
        self._queue: queue.SimpleQueue[QueuedCall | Command | None] = queue.SimpleQueue()
        self._cancelled: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._lockstep = Lockstep() if lockstep else None
        size = llm.vllm_config.parallel_config.tensor_parallel_size
        ranks = EngineRanks(size) if size > 1 else None
        self._leader = ranks if ranks and not ranks.leads else None
        """Of a rank that follows: where it hears what to do."""
        self._schedule = Schedule(self._llm, None if self._leader else ranks)
        self._stepper = threading.Thread(target=self._run, name="engine", daemon=True)
        self._stepper.start()

    def submit(self, prompt_ids: list[int], sampling: Sampling) -> "Future[Completion]":
        """Queue a call. Cancelling the future aborts it in the engine."""
        return self._submit(prompt_ids, to_vllm(sampling), from_vllm, sampling.rng_key)

    def enter(self, episode: tuple) -> None:
        """In lockstep: from now on wait for this episode's calls."""
        if self._lockstep:
            self._queue.put(Command(self._enter, (episode,)))

    def leave(self, episode: tuple) -> None:
        """In lockstep: it is over, and those that come after it have entered."""
        if self._lockstep:
            self._queue.put(Command(self._lockstep.live.discard, (episode,)))

    def score(self, ids: list[int]) -> list[float]:
        """Log-probabilities at temperature 1 of ``ids[1:]``, each given all before it."""
        if self._leader:
            return self._call(self._leader.receive)[0]
        scores = self._result(self._submit(ids, to_vllm_scoring(), scores_from_vllm))
        self._call(self._schedule.broadcast, scores)
        return scores

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> list[float]:
        """Replace the weights, forget what was cached under the old ones, and score the probe;
        wakes what sleeps.

        weights: transformers names, whole tensors, which are taken one by one, in the stepper's
        thread. Raises RuntimeError while calls are running.
        """
        self._call(self._replace, weights)
        return self.score(self.probe)

    def sleep(self) -> None:
        """Give the GPU's memory to the trainer, where the engine can sleep; ``sync`` wakes it."""
        if self._llm.model_config.enable_sleep_mode:
            self._call(self._llm.sleep, self.sleep_level)

    def close(self) -> None:
        """Stop stepping; vLLM ends with the process's last engine. Calls that wait fail."""
        self._queue.put(None)
        self._stepper.join()
        if self._llm.is_sleeping():
            # What sleeps is not mapped, and vLLM would unmap it. Without room to wake it only says
            # so.
            with suppress(RuntimeError):
                self._llm.wake_up()
        vllm_args.shut_down(self._llm)

    def raise_if_stopped(self) -> None:
        """Raise EngineStopped where the stepper thread has ended."""
        if self._failure is not None:
            raise self._stopped()

    # How work gets onto the stepper thread.

    def _call(self, function: Callable, *args: Any) -> Any:
        """Carry out what every rank of the engine is asked for, and return what comes of it."""
        command = Command(function, args, on_all_ranks=True)
        self._queue.put(command)
        self._fail_if_stopped()
        return self._result(command.done)

    def _result(self, done: Future) -> Any:
        # A stepper that dies with a command in its hand leaves it to nobody.
        while not done.done():
            wait([done], timeout=1.0)
            self.raise_if_stopped()
        return done.result()

    def _submit(
        self, prompt_ids: list[int], params: Any, read: Callable[[Any], Any], rng_key: tuple = ()
    ) -> Future:
        call = QueuedCall(str(next(self._numbers)), prompt_ids, params, read, rng_key)
        self._queue.put(call)
        self._fail_if_stopped()
        return call.done

    # What the stepper thread does.

    def _run(self) -> None:
        try:
            if self._stream:
                torch.cuda.set_device(self._stream.device)
                torch.cuda.set_stream(self._stream)
            if self._leader:
                follow(self._leader, self._schedule, lambda: self._carry_out(self._queue.get()))
            else:
                self._lead()
            self._failure = RuntimeError("it was closed")
        except BaseException as error:
            self._failure = error
            log.exception("vLLM failed")
        self._fail_if_stopped()

    def _lead(self) -> None:
        try:
            while self._empty_queue():
                with vllm_args.engine_lock():
                    self._abort_cancelled()
                    outputs = self._schedule.step()
                for output in outputs:
                    call = self._waiting.pop(output.request_id)
                    # Whoever waited may have given up just now.
                    with suppress(InvalidStateError):
                        call.done.set_result(call.read(output))
        finally:
            self._schedule.broadcast("close")

    def _empty_queue(self) -> bool:
        """Carry out what is queued, waiting for it if there is nothing to step; False: stop."""
        while True:
            try:
                entry = self._queue.get(block=not self._may_step())
            except queue.Empty:
                return True
            if entry is None:
                return False
            self._carry_out(entry)

    def _may_step(self) -> bool:
        if self._lockstep:
            if not self._lockstep.everyone_waits():
                return False
            for call in self._lockstep.admit():
                self._attempt(self._add, call)
        return self._llm.has_unfinished_requests()

    def _carry_out(self, entry: QueuedCall | Command) -> None:
        if isinstance(entry, Command):
            self._attempt(self._run_command, entry)
        else:
            is_held = self._lockstep and entry.rng_key
            self._attempt(self._hold if is_held else self._add, entry)

    def _attempt(self, action: Callable, entry: QueuedCall | Command) -> None:
        """Do something for who waits for an entry: what it raises is raised there."""
        if entry.done.cancelled():
            return
        try:
            with vllm_args.engine_lock():
                action(entry)
        except Exception as error:
            with suppress(InvalidStateError):
                entry.done.set_exception(error)

    def _run_command(self, command: Command) -> None:
        if command.on_all_ranks:
            self._schedule.broadcast("command")
        command.done.set_result(command.function(*command.args))

    def _replace(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Less is held at once where the KV cache wakes after the weights have come."""
        sleeps = self._llm.is_sleeping()
        if sleeps:
            self._llm.wake_up(["weights"])
        vllm_args.load(self._llm, weights)
        if sleeps:
            self._llm.wake_up(["kv_cache"])

    def _add(self, call: QueuedCall) -> None:
        self._schedule.add_request(call.number, call.prompt_ids, call.params)
        self._waiting[call.number] = call
        call.done.add_done_callback(partial(self._note_cancelled, call.number))

    def _hold(self, call: QueuedCall) -> None:
        self._lockstep.hold(call)
        # Whoever is cancelled waits no more, and the others may go on.
        call.done.add_done_callback(lambda _: self._queue.put(Command(lambda: None)))

    def _enter(self, episode: tuple) -> None:
        # What an earlier batch has cached may be computed here, or not be: bits would tell.
        if not self._lockstep.live:
            self._schedule.reset_prefix_cache()
        self._lockstep.live.add(episode)

    def _note_cancelled(self, number: str, done: Future) -> None:
        if done.cancelled():
            self._cancelled.put(number)

    def _abort_cancelled(self) -> None:
        """All that were cancelled since the last step, at once: vLLM goes through its queues."""
        # One that finished just before is no longer waiting.
        numbers = [n for n in _drained(self._cancelled) if self._waiting.pop(n, None) is not None]
        if numbers:
            self._schedule.abort(numbers)

    def _fail_if_stopped(self) -> None:
        """Fail whatever waits for a stepper that has ended. Whoever queues comes by here after."""
        if self._failure is None:
            return
        queued = filter(None, _drained(self._queue))
        held = self._lockstep.admit() if self._lockstep else []
        for entry in (*self._waiting.values(), *held, *queued):
            with suppress(InvalidStateError):
                entry.done.set_exception(self._stopped())

    def _stopped(self) -> EngineStopped:
        return EngineStopped(f"the engine has stopped: {self._failure!r}")


def _probe_ids(model: Any) -> list[int]:
    length = min(PROBE_TOKENS, model.max_model_len - 1)
    return np.random.default_rng(0).integers(0, model.get_vocab_size(), length).tolist()


def _drained(entries: queue.SimpleQueue) -> list:
    found = []
    with suppress(queue.Empty):
        while True:
            found.append(entries.get_nowait())
    return found
