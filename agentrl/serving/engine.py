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
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentrl.config import EngineConfig

# vLLM reads these when it is imported.
for _name, _value in {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}.items():
    os.environ.setdefault(_name, _value)

PROBE_TOKENS = 64
SWITCH_SECONDS = 0.001
"""How long a thread that is busy in Python keeps the stepper waiting, each time it wants to go on.

The stepper lets go of the interpreter at every operation of torch. With Python's 5 ms, one episode
in ``while True: pass`` slows generation to a tenth; with less than this, a burst of episodes that
all go on at once pays for it in switching.
"""
_NEXT, _STEPPING = threading.Lock(), threading.Lock()

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
    ):
        # Slow to import, and only needed where an engine is.
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        sys.setswitchinterval(SWITCH_SECONDS)
        self._on_gpu = torch.cuda.is_available()
        args = EngineArgs(
            **arguments(folder, max_len=max_len, dtype=dtype, config=config),
            # A grammar binds what comes after the reasoning.
            reasoning_parser=reasoning_parser or "",
        )
        self._llm = LLMEngine.from_engine_args(args, enable_multiprocessing=False)
        vocabulary = self._llm.model_config.get_vocab_size()
        self._probe = np.random.default_rng(0).integers(0, vocabulary, PROBE_TOKENS).tolist()
        self._numbers = itertools.count()
        self._waiting: dict[str, tuple[Future, Callable]] = {}
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
        return self._submit(prompt_ids, params, _completion)

    def score(self, ids: list[int]) -> list[float]:
        """Log-probabilities at temperature 1 of ``ids[1:]``, each given all before it."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
        return self._submit(ids, params, _prompt_logprobs).result()

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
        """Stop stepping and shut vLLM down; calls that still wait fail."""
        self._commands.put(None)
        self._stepper.join()
        self._llm.engine_core.shutdown()

    def raise_if_stopped(self) -> None:
        """Raise RuntimeError where the stepper thread has ended: nothing can be drawn any more."""
        if self._failure is not None:
            raise RuntimeError(f"the engine has stopped: {self._failure!r}")

    # Below: how work gets onto the stepper thread, and what it does there. A command comes with the
    # future that it resolves, so that nobody waits for a thread that has ended.

    def _call(self, function: Callable, *args: Any) -> Any:
        done: Future = Future()
        self._commands.put((done, lambda: done.set_result(function(*args))))
        self._fail_if_stopped()
        return done.result()

    def _submit(self, prompt_ids: list[int], params: Any, read: Callable[[Any], Any]) -> Future:
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

        self._commands.put((done, add))
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
            while self._obey():
                with _turn():
                    self._abort_cancelled()
                    outputs = self._llm.step()
                for output in outputs:
                    done, read = self._waiting.pop(output.request_id)
                    # Whoever waited may have given up just now.
                    with suppress(InvalidStateError):
                        done.set_result(read(output))
            self._failure = RuntimeError("it was closed")
        except BaseException as error:
            self._failure = error
            log.exception("vLLM failed")
        self._fail_if_stopped()

    def _obey(self) -> bool:
        """Carry out queued commands, waiting for one if there is nothing to step; False: stop."""
        while True:
            try:
                entry = self._commands.get(block=not self._llm.has_unfinished_requests())
            except queue.Empty:
                return True
            if entry is None:
                return False
            done, command = entry
            if not done.cancelled():
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
        waiting = [done for done, _ in (*self._waiting.values(), *entries)]
        for done in waiting:
            with suppress(InvalidStateError):
                done.set_exception(RuntimeError(f"the engine has stopped: {self._failure!r}"))

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
