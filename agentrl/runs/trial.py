"""Trial of memory on a GPU: a step of the largest micro-batch, before the first rollout.

It goes forward and backward while gradients and AdamW's moments are held, as from the second step
on, and vLLM sleeps. Nothing of it stays: weights, moments, gradients and random states are what
they were, to the bit. Not tried are pushes, and an optimizer step where moments were restored.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from agentrl.config import Config
from agentrl.learning.checkpoint import get_random_state, set_random_state
from agentrl.learning.learner import Learner
from agentrl.learning.packing import MicroBatch, pack
from agentrl.learning.ranks import Ranks
from agentrl.runs.preflight import CannotStart, size
from agentrl.types import Call, Sample
from kernels.tree_attention.segments import PIECE


def try_step(learner: Learner, serving: Any, config: Config, ranks: Ranks) -> str:
    """Make the trial on a GPU, all ranks together; returns a line about what it took.

    ``serving`` is left asleep; its next ``push`` wakes it. Raises CannotStart, in a sentence, where
    memory does not suffice.
    """
    torch.cuda.empty_cache()
    beside_engine, total = torch.cuda.mem_get_info()
    with serving.asleep():
        free, held = torch.cuda.mem_get_info()[0], torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        moments = trial_step(learner, config, ranks)
        # What torch counts of an engine that sleeps is not there: so the difference.
        peak = total - free + torch.cuda.max_memory_allocated() - held
    torch.cuda.empty_cache()
    if moments > beside_engine:
        raise CannotStart(
            f"AdamW's moments take {size(moments)}, and vLLM leaves {size(beside_engine)} to them: "
            "lower --engine.gpu-memory-utilization, or launch more ranks"
        )
    peak = max(ranks.gather([peak], "trial"))
    tokens = num_tokens(config)
    return f"a step with a micro-batch of {tokens} tokens: {size(peak)} of {size(total)} at most"


def trial_step(learner: Learner, config: Config, ranks: Ranks) -> int:
    """Gradients of ``largest_micro_batch``, on any device, all ranks together.

    Returns how many bytes of a GPU AdamW's moments take; 0 where they were there before. Raises
    CannotStart where memory does not suffice.
    """
    vocabulary = learner.policy.lm.config.get_text_config().vocab_size
    micro = largest_micro_batch(config, vocabulary)
    with _left_as_it_was(learner.optimizer):
        try:
            moments = _hold_state(learner)
            terms = learner.policy.terms(micro.to(ranks.device), config.sampling.temperature)
            scores = (terms.logprobs, terms.entropies, *terms.others.values())
            ranks.backward(sum(values.sum() for values in scores))
        except torch.cuda.OutOfMemoryError as error:
            raise CannotStart(
                f"a micro-batch of {num_tokens(config)} tokens does not fit on the GPU beside "
                f"weights, gradients and AdamW's moments: {_remedies(config)}"
            ) from error
    return moments


def num_tokens(config: Config) -> int:
    """Tree tokens of the largest micro-batch: a call that is longer than the budget is one."""
    return max(config.micro_batch_tokens, config.model.max_model_len)


def largest_micro_batch(config: Config, vocabulary: int) -> MicroBatch:
    """One path as long as a call may be, and branches near its end; all but the root is trained.

    A branch is as long as the queries whose keys are gathered together. Shorter ones see more keys
    still, but a tree of those alone is not to be expected.
    """
    longest = config.model.max_model_len
    path = [position % vocabulary for position in range(longest)]
    branch = min(PIECE, longest - 1)
    fork = longest - branch
    samples = [_sample(path[:1], path[1:])]
    for i, start in enumerate(range(longest, num_tokens(config), branch)):
        # Unlike the path, and unlike each other.
        ids = [(path[fork] + 1 + i) % vocabulary] * min(branch, num_tokens(config) - start)
        samples.append(_sample(path[:fork], ids))
    (micro,) = pack(samples, num_tokens(config))
    return micro


def _sample(prompt_ids: list[int], completion_ids: list[int]) -> Sample:
    logprobs = [0.0] * len(completion_ids)
    call = Call(prompt_ids=prompt_ids, completion_ids=completion_ids, logprobs=logprobs)
    return Sample(call, 1.0)


def _hold_state(learner: Learner) -> int:
    """Gradients of 0; and moments, where there are none: at a rate of 0 no weight moves."""
    optimizer = learner.optimizer
    for weight in learner.policy.trainable():
        weight.grad = torch.zeros_like(weight)
    if optimizer.state:
        return 0
    before = torch.cuda.memory_allocated()
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    return torch.cuda.memory_allocated() - before


@contextmanager
def _left_as_it_was(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    random_state, has_moments = get_random_state(), bool(optimizer.state)
    rates = [group["lr"] for group in optimizer.param_groups]
    try:
        yield
    finally:
        optimizer.zero_grad()
        if not has_moments:
            optimizer.state.clear()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        set_random_state(random_state)


def _remedies(config: Config) -> str:
    is_call = config.model.max_model_len >= config.micro_batch_tokens
    ways = ["lower --model.max-model-len" if is_call else "lower --micro-batch-tokens"]
    if config.model.recompute != "full":
        ways.append("recompute activations with --model.recompute full")
    return ", or ".join([*ways, "launch more ranks"])
