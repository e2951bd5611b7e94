"""vLLM in this process, stepped by a thread of its own.

Hundreds of episodes wait for what they ``submit``; their calls are batched together continuously.
Only the stepper thread touches vLLM: whatever else happens to the engine (abort, sync, sleep) is a
command that is queued to it.
"""

import itertools
import logging
import queue
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentrl.config import EngineConfig
from agentrl.serving import vllm_args
from agentrl.serving.follower import EngineRanks, Leader
from agentrl.serving.lockstep import Lockstep
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
SWITCH_SECONDS = 0.001
"""How long a thread that is busy in Python keeps the stepper waiting, each time it wants to go on.

The stepper lets go of the interpreter at every operation of torch. With Python's 5 ms, one episode
in ``while True: pass`` slows generation to a tenth; with less than this, a burst of episodes that
all go on at once pays for it in switching.
"""

log = logging.getLogger(__name__)


class Engine:
    """A colocated vLLM engine."""

    def __init__(
        self,
        folder: str | Path,
        *,
        max_model_len: int,
        dtype: str,
        config: EngineConfig,
        reasoning_parser: str | None = None,
        lockstep: bool = False,
    ):
        """lockstep: batches, and so bits, do not depend on threads; see that module."""
        sys.setswitchinterval(SWITCH_SECONDS)
        self._on_gpu = torch.cuda.is_available()
        self._device = torch.cuda.current_device() if self._on_gpu else None
        self._llm = vllm = vllm_args.start(
            folder,
            max_model_len=max_model_len,
            dtype=dtype,
            config=config,
            reasoning_parser=reasoning_parser,
        )
        self._shut_down = partial(vllm_args.shut_down, vllm)
        self._engine_ranks = None
        if config.tensor_parallel_size > 1:
            self._engine_ranks = EngineRanks(config.tensor_parallel_size)
            if self._engine_ranks.leads:
                self._llm = Leader(vllm, self._engine_ranks)
        vocabulary = self._llm.model_config.get_vocab_size()
        length = min(PROBE_TOKENS, max_model_len - 1)
        self._probe = np.random.default_rng(0).integers(0, vocabulary, length).tolist()
        self._numbers = itertools.count()
        self._waiting: dict[str, tuple[Future, Callable]] = {}
        self._lockstep = Lockstep() if lockstep else None
        self._commands: queue.SimpleQueue[tuple[Future, Callable] | None] = queue.SimpleQueue()
        self._cancelled: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._stepper = threading.Thread(target=self._run, name="engine", daemon=True)
        self._stepper.start()

    @property
    def probe(self) -> list[int]:
        """The fixed token ids that ``sync`` scores."""
        return self._probe

    def submit(self, prompt_ids: list[int], sampling: Sampling) -> "Future[Completion]":
        """Queue a call from any thread. Cancelling the future aborts it in the engine."""
        return self._submit(prompt_ids, to_vllm(sampling), from_vllm, sampling.rng_key)

    def enter(self, episode: tuple) -> None:
        """In lockstep: from now on wait for this episode's calls."""
        if self._lockstep:
            self._tell(lambda: self._enter(episode))

    def leave(self, episode: tuple) -> None:
        """In lockstep: it is over, and whoever takes its place has entered."""
        if self._lockstep:
            self._tell(lambda: self._lockstep.live.discard(episode))

    def score(self, ids: list[int]) -> list[float]:
        """Log-probabilities at temperature 1 of ``ids[1:]``, each given all before it."""
        if self._follows:
            return self._call(lambda: self._heard)
        scores = self._result(self._submit(ids, to_vllm_scoring(), scores_from_vllm))
        if self._engine_ranks:
            self._tell(lambda: self._engine_ranks.broadcast("heard", scores))
            self._call(lambda: None)
        return scores

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> list[float]:
        """Replace the weights, forget what was cached under the old ones, and score the probe.

        weights: transformers names, whole tensors. Raises RuntimeError while calls are running.
        """
        self._call(vllm_args.load, self._llm, list(weights))
        return self.score(self._probe)

    def sleep(self) -> None:
        """Give the GPU's memory to the trainer, keeping the weights in the host's."""
        if self._on_gpu:
            self._call(self._llm.sleep, 1)

    def wake(self) -> None:
        """Take the memory back, where it was given."""
        if self._on_gpu and self._call(self._llm.is_sleeping):
            self._call(self._llm.wake_up)

    def close(self) -> None:
        """Stop stepping; vLLM ends with the process's last engine. Calls that wait fail."""
        self._commands.put(None)
        self._stepper.join()
        self._shut_down()

    def raise_if_stopped(self) -> None:
        """Raise EngineStopped where the stepper thread has ended."""
        if self._failure is not None:
            raise self._stopped()

    # Below: how work gets onto the stepper thread, and what it does there. A command comes with the
    # future that it resolves, so that nobody waits for a thread that has ended.

    def _call(self, function: Callable, *args: Any) -> Any:
        """Carry out what every rank of the engine is asked for, and return what comes of it."""
        done: Future = Future()

        def command() -> None:
            if self._engine_ranks and self._engine_ranks.leads:
                self._engine_ranks.broadcast("command")
            done.set_result(function(*args))

        self._commands.put((done, command))
        self._fail_if_stopped()
        return self._result(done)

    def _result(self, done: Future) -> Any:
        # A stepper that dies with a command in its hand leaves it to nobody.
        while not done.done():
            wait([done], timeout=1.0)
            self.raise_if_stopped()
        return done.result()

    def _tell(self, command: Callable[[], None]) -> None:
        """Queue what nobody waits for."""
        self._commands.put((Future(), command))

    def _enter(self, episode: tuple) -> None:
        # What an earlier batch has cached may be computed here, or not be: bits would tell.
        if not self._lockstep.live:
            self._llm.reset_prefix_cache()
        self._lockstep.live.add(episode)

    def _submit(
        self, prompt_ids: list[int], params: Any, read: Callable[[Any], Any], rng_key: tuple = ()
    ) -> Future:
        """Queue a request; its future resolves to what ``read`` makes of vLLM's output."""
        from vllm.exceptions import VLLMValidationError
        from vllm.inputs.engine import tokens_input

        number, done = str(next(self._numbers)), Future()

        def add() -> None:
            try:
                request_id = self._llm.add_request(number, tokens_input(prompt_ids), params)
            except VLLMValidationError as error:
                raise ValueError(str(error)) from error
            self._waiting[number] = done, read
            done.add_done_callback(
                lambda done: self._cancelled.put((number, request_id)) if done.cancelled() else None
            )

        def hold() -> None:
            self._lockstep.hold(rng_key, done, add)
            # Whoever is cancelled waits no more, and the others may go on.
            done.add_done_callback(lambda _: self._tell(lambda: None))

        self._commands.put((done, hold if self._lockstep and rng_key else add))
        self._fail_if_stopped()
        return done

    def _abort_cancelled(self) -> None:
        """All that were cancelled since the last step, at once: vLLM goes through its queues."""
        request_ids = []
        for number, request_id in _drained(self._cancelled):
            # One that finished just before is no longer waiting.
            if self._waiting.pop(number, None) is not None:
                request_ids.append(request_id)
        if request_ids:
            self._llm.abort_request(request_ids, internal=True)

    def _run(self) -> None:
        try:
            if self._on_gpu:
                # A thread starts on the first GPU, whichever its process has.
                torch.cuda.set_device(self._device)
            self._follow() if self._follows else self._lead()
            self._failure = RuntimeError("it was closed")
        except BaseException as error:
            self._failure = error
            log.exception("vLLM failed")
        self._fail_if_stopped()

    @property
    def _follows(self) -> bool:
        return self._engine_ranks is not None and not self._engine_ranks.leads

    def _lead(self) -> None:
        try:
            while self._obey():
                with vllm_args.engine_lock():
                    self._abort_cancelled()
                    outputs = self._llm.step()
                for output in outputs:
                    done, read = self._waiting.pop(output.request_id)
                    # Whoever waited may have given up just now.
                    with suppress(InvalidStateError):
                        done.set_result(read(output))
        finally:
            if self._engine_ranks:
                self._engine_ranks.broadcast("close")

    def _follow(self) -> None:
        """Do what the leader does; at its commands, what this rank was asked for meanwhile."""
        while (heard := self._engine_ranks.receive()) != ("close",):
            match heard:
                case ("command",):
                    self._carry_out(*self._commands.get())
                case ("heard", scores):
                    self._heard = scores
                case (name, args, kwargs):
                    with vllm_args.engine_lock():
                        getattr(self._llm, name)(*args, **kwargs)

    def _obey(self) -> bool:
        """Carry out queued commands, waiting for one if there is nothing to step; False: stop."""
        while True:
            try:
                entry = self._commands.get(block=not self._may_step())
            except queue.Empty:
                return True
            if entry is None:
                return False
            self._carry_out(*entry)

    def _may_step(self) -> bool:
        if self._lockstep:
            if not self._lockstep.everyone_waits():
                return False
            for done, add in self._lockstep.admit():
                self._carry_out(done, add)
        return self._llm.has_unfinished_requests()

    def _carry_out(self, done: Future, command: Callable[[], None]) -> None:
        if done.cancelled():
            return
        try:
            with vllm_args.engine_lock():
                command()
        except Exception as error:
            with suppress(InvalidStateError):
                done.set_exception(error)

    def _fail_if_stopped(self) -> None:
        """Fail whatever waits for a stepper that has ended. Whoever queues comes by here after."""
        if self._failure is None:
            return
        entries = filter(None, _drained(self._commands))
        held = self._lockstep.admit() if self._lockstep else []
        waiting = [done for done, _ in (*self._waiting.values(), *held, *entries)]
        for done in waiting:
            with suppress(InvalidStateError):
                done.set_exception(self._stopped())

    def _stopped(self) -> EngineStopped:
        return EngineStopped(f"the engine has stopped: {self._failure!r}")


def _drained(entries: queue.SimpleQueue) -> list:
    found = []
    with suppress(queue.Empty):
        while True:
            found.append(entries.get_nowait())
    return found
