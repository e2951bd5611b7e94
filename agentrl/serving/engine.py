"""vLLM in this process, stepped by a thread of its own.

Hundreds of episodes wait for what they ``submit``; their calls are batched together continuously.
Only the stepper thread touches vLLM: whatever else happens to the engine (abort, sync, sleep) is a
command that is queued to it.
"""

import copy
import itertools
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentrl.config import EngineConfig
from agentrl.serving.tensor_parallel import Leading, Together
from agentrl.types import EngineStopped

PROBE_TOKENS = 64
SWITCH_SECONDS = 0.001
"""How long a thread that is busy in Python keeps the stepper waiting, each time it wants to go on.

The stepper lets go of the interpreter at every operation of torch. With Python's 5 ms, one episode
in ``while True: pass`` slows generation to a tenth; with less than this, a burst of episodes that
all go on at once pays for it in switching.
"""
_NEXT, _STEPPING = threading.Lock(), threading.Lock()
_OPEN: list["Engine"] = []
_CLOSED: list[Any] = []
"""vLLM's engines that step no more."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How one completion is drawn: from the model's own distribution at this temperature."""

    temperature: float
    max_tokens: int
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int = 0
    """How many alternatives to report for each token."""
    grammar: Any = None
    """vLLM's StructuredOutputsParams: draw only what these allow."""
    place: tuple = ()
    """Whose call it is, and which of that episode's: what lockstep goes by."""
    others: Mapping[str, Any] = field(default_factory=dict)
    """top_p, top_k, penalties, ...: never in training, where they would bias the ratio."""


@dataclass(frozen=True)
class Completion:
    """What the engine drew: its exact tokens and the log-probability of each when it was drawn."""

    ids: list[int]
    logprobs: list[float]
    finish_reason: str
    stop: str | None = None
    """The stop string that ended it."""
    cut_text: str | None = None
    """Only where a stop string ended it: the text before that string."""
    top: tuple[tuple[tuple[int, float], ...], ...] = ()
    """Of each token, the likeliest alternatives and their log-probabilities, if asked for."""


class Engine:
    """A colocated vLLM engine."""

    def __init__(
        self,
        folder: str | Path,
        *,
        max_len: int,
        dtype: str,
        config: EngineConfig,
        reasoning_parser: str | None = None,
        lockstep: bool = False,
    ):
        """lockstep: batches, and so bits, do not depend on threads. The engine steps only while
        every live episode waits for it, and admits calls in the order of their places.
        """
        # Slow to import, and only needed where an engine is.
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        sys.setswitchinterval(SWITCH_SECONDS)
        self._on_gpu = torch.cuda.is_available()
        self._device = torch.cuda.current_device() if self._on_gpu else None
        args = EngineArgs(
            **arguments(folder, max_len=max_len, dtype=dtype, config=config),
            # A grammar binds what comes after the reasoning.
            reasoning_parser=reasoning_parser or "",
            tensor_parallel_size=config.tensor_parallel,
            # In the process group that is there.
            **({"distributed_executor_backend": "external_launcher"} if _several_ranks() else {}),
        )
        self._llm = LLMEngine.from_engine_args(args, enable_multiprocessing=False)
        self._together = None
        if config.tensor_parallel > 1:
            self._together = Together(config.tensor_parallel)
            if self._together.leads:
                self._llm = Leading(self._llm, self._together)
        vocabulary = self._llm.model_config.get_vocab_size()
        length = min(PROBE_TOKENS, max_len - 1)
        self._probe = np.random.default_rng(0).integers(0, vocabulary, length).tolist()
        self._numbers = itertools.count()
        self._waiting: dict[str, tuple[Future, Callable]] = {}
        self._lockstep = _Lockstep() if lockstep else None
        self._commands: queue.SimpleQueue[tuple[Future, Callable] | None] = queue.SimpleQueue()
        self._cancelled: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        _OPEN.append(self)
        self._stepper = threading.Thread(target=self._run, name="engine", daemon=True)
        self._stepper.start()

    @property
    def probe(self) -> list[int]:
        """The fixed token ids that ``sync`` scores."""
        return self._probe

    def submit(self, prompt_ids: list[int], sampling: Sampling) -> "Future[Completion]":
        """Queue a call from any thread. Cancelling the future aborts it in the engine."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            stop=list(sampling.stop),
            detokenize=bool(sampling.stop),
            skip_special_tokens=False,
            logprobs=sampling.top_logprobs,
            flat_logprobs=True,
            structured_outputs=copy.copy(sampling.grammar),
            output_kind=RequestOutputKind.FINAL_ONLY,
            **sampling.others,
        )
        return self._submit(prompt_ids, params, _completion, sampling.place)

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
        from vllm import SamplingParams

        if self._follows:
            return self._call(lambda: self._heard)
        params = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
        scores = self._result(self._submit(ids, params, _prompt_logprobs))
        if self._together:
            self._tell(lambda: self._together.say("heard", scores))
            self._call(lambda: None)
        return scores

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> list[float]:
        """Replace the weights, forget what was cached under the old ones, and score the probe.

        weights: transformers names, whole tensors. Raises RuntimeError while calls are running.
        """
        self._call(self._load, list(weights))
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
        """Stop stepping, and shut vLLM down with the process's last engine; calls that wait fail.

        What vLLM tears down with one engine, process groups, is the others' too.
        """
        self._commands.put(None)
        self._stepper.join()
        if self in _OPEN:
            _OPEN.remove(self)
            _CLOSED.append(self._llm)
        while _CLOSED and not _OPEN:
            _CLOSED.pop().engine_core.shutdown()

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
            if self._together and self._together.leads:
                self._together.say("command")
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
        self, prompt_ids: list[int], params: Any, read: Callable[[Any], Any], place: tuple = ()
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
            self._lockstep.hold(place, done, add)
            # Whoever is cancelled waits no more, and the others may go on.
            done.add_done_callback(lambda _: self._tell(lambda: None))

        self._commands.put((done, hold if self._lockstep and place else add))
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
        return self._together is not None and not self._together.leads

    def _lead(self) -> None:
        try:
            while self._obey():
                with _turn():
                    self._abort_cancelled()
                    outputs = self._llm.step()
                for output in outputs:
                    done, read = self._waiting.pop(output.request_id)
                    # Whoever waited may have given up just now.
                    with suppress(InvalidStateError):
                        done.set_result(read(output))
        finally:
            if self._together:
                self._together.say("close")

    def _follow(self) -> None:
        """Do what the leader does; at its commands, what this rank was asked for meanwhile."""
        while (heard := self._together.hear()) != ("close",):
            match heard:
                case ("command",):
                    self._carry_out(*self._commands.get())
                case ("heard", scores):
                    self._heard = scores
                case (name, args, kwargs):
                    with _turn():
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
            with _turn():
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

    def _load(self, weights: list[tuple[str, Tensor]]) -> None:
        if self._llm.has_unfinished_requests():
            raise RuntimeError("weights cannot change while calls are running")
        self._llm.collective_rpc(
            "reload_weights",
            kwargs={"weights_iterator": iter(weights), "is_checkpoint_format": True},
        )
        self._llm.apply_model(_refresh_head)
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM kept its prefix cache, which belongs to the old weights")


class _Lockstep:
    """Which episodes live, and the calls of theirs that are not with vLLM yet, or not done."""

    def __init__(self) -> None:
        self.live: set[tuple] = set()
        self._held: list[tuple[tuple, Future, Callable[[], None]]] = []
        self._unfinished: dict[Future, tuple] = {}

    def hold(self, place: tuple, done: Future, add: Callable[[], None]) -> None:
        self._held.append((place, done, add))
        self._unfinished[done] = place[0]

    def everyone_waits(self) -> bool:
        self._unfinished = {d: episode for d, episode in self._unfinished.items() if not d.done()}
        return self.live <= set(self._unfinished.values())

    def admit(self) -> list[tuple[Future, Callable[[], None]]]:
        """The calls that were held, in the order of their places."""
        held, self._held = sorted(self._held, key=itemgetter(0)), []
        return [(done, add) for _, done, add in held]


def _drained(entries: queue.SimpleQueue) -> list:
    found = []
    with suppress(queue.Empty):
        while True:
            found.append(entries.get_nowait())
    return found


def arguments(
    folder: str | Path, *, max_len: int, dtype: str, config: EngineConfig
) -> dict[str, Any]:
    """vLLM's, for an engine of ours; the bench gives them to a plain one."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(config.cpu_cache_gib))
    on_gpu = torch.cuda.is_available()
    return {
        "model": str(folder),
        "dtype": dtype,
        "max_model_len": max_len,
        "max_num_seqs": config.max_num_seqs,
        "gpu_memory_utilization": config.memory_share,
        "enforce_eager": not on_gpu,
        "enable_sleep_mode": on_gpu,
        "enable_prefix_caching": True,
        # Log-probs of the distribution that was drawn from, temperature included.
        "logprobs_mode": "processed_logprobs",
        "disable_log_stats": True,
        # Nothing may be in flight when the last call has returned and weights are to change.
        "async_scheduling": False,
        "use_tqdm_on_load": False,
        **({} if on_gpu else _on_cpu(max_len, config.max_num_seqs)),
    }


@contextmanager
def _turn() -> Iterator[None]:
    """One engine of the process at a time, and no engine twice while another waits.

    vLLM keeps the context of the forward pass that is running, and its CPU kernels their scratch
    memory, in globals: engines that step at once draw nonsense or die.
    """
    with _NEXT:
        _STEPPING.acquire()
    try:
        yield
    finally:
        _STEPPING.release()


def _completion(output: Any) -> Completion:
    drawn = output.outputs[0]
    flat, was_cut = drawn.logprobs, isinstance(drawn.stop_reason, str)
    logprobs, top = list(flat.logprobs), ()
    if len(logprobs) > len(drawn.token_ids):
        # A position's entries are the token that was drawn, then the likeliest ones.
        entries = list(zip(flat.token_ids, flat.logprobs, strict=True))
        top = tuple(tuple(entries[a + 1 : b]) for a, b in zip(flat.start_indices, flat.end_indices))
        logprobs = [flat.logprobs[start] for start in flat.start_indices]
    return Completion(
        list(drawn.token_ids),
        logprobs,
        drawn.finish_reason,
        drawn.stop_reason if was_cut else None,
        drawn.text if was_cut else None,
        top,
    )


def _prompt_logprobs(output: Any) -> list[float]:
    ids = output.prompt_token_ids
    return [scores[i].logprob for scores, i in zip(output.prompt_logprobs[1:], ids[1:])]


def _several_ranks() -> bool:
    return torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def _on_cpu(max_len: int, max_num_seqs: int) -> dict[str, Any]:
    return {
        # vLLM rewinds a seeded generator when it splits a prompt, which a CPU's cannot do.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(max_len, 4096, 8 * max_num_seqs),
        # Prompts are shared by whole blocks: vLLM's 128 would leave most of ours unshared, and
        # cost as much. A GPU's are of 16.
        "block_size": 32,
    }


def _refresh_head(model: torch.nn.Module) -> None:
    """vLLM's CPU build packs the head; a tied one would keep its old copy without a word."""
    head = getattr(model, "lm_head", None)
    if head is None or torch.cuda.is_available():
        return
    if getattr(model.config, "tie_word_embeddings", False):
        head.weight = model.model.embed_tokens.weight
    head.quant_method.process_weights_after_loading(head)
