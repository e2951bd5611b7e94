"""Sampling parameters and Completion: one request to vLLM, and its result."""

import copy
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How one completion is sampled: from the model's own distribution at this temperature."""

    temperature: float
    max_tokens: int
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int = 0
    """How many alternatives to report for each token."""
    grammar: Any = None
    """vLLM's StructuredOutputsParams: draw only what these allow."""
    rng_key: tuple = ()
    """Its episode's key, the number of the request, and the choice: what lockstep goes by."""
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


@runtime_checkable
class EngineClient(Protocol):
    """An engine, as the handler of a model and its clients know it. For any thread."""

    def submit(self, prompt_ids: list[int], sampling: Sampling) -> Future:
        """Queue a call; resolves to its Completion. Cancelling the future aborts it."""

    def enter(self, episode: tuple) -> None:
        """From now on there may be calls of this episode."""

    def leave(self, episode: tuple) -> None:
        """There will be none any more, and the episodes that come after it have entered."""

    def raise_if_stopped(self) -> None:
        """Raise EngineStopped where nothing can be sampled any more."""

    def close(self) -> None:
        """Calls that wait fail."""


def to_vllm(sampling: Sampling) -> Any:
    """vLLM's parameters for a call; its answer comes once, when it is whole."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
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


def to_vllm_scoring() -> Any:
    """vLLM's parameters for the log-probabilities, at temperature 1, of a prompt."""
    from vllm import SamplingParams

    # One token comes besides. Neither drawn nor without a seed: either would move a generator of
    # the process, whose state a checkpoint holds.
    options = {"temperature": 0.0, "seed": 0, "detokenize": False}
    return SamplingParams(max_tokens=1, prompt_logprobs=0, **options)


def from_vllm(output: Any) -> Completion:
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


def scores_from_vllm(output: Any) -> list[float]:
    ids = output.prompt_token_ids
    return [scores[i].logprob for scores, i in zip(output.prompt_logprobs[1:], ids[1:])]
