"""Trial of memory on a GPU: a micro-batch of the largest size, before the first rollout.

It goes forward and backward while vLLM sleeps, and beside gradients, as in the midst of a step.
Nothing of it stays: weights, moments, gradients and random states are what they were, to the bit.
Pushes and the optimizer's own step are not tried.
"""

from typing import Any

import torch
from rich.filesize import decimal as size

from agentrl.config import Config
from agentrl.learning.checkpoint import get_random_state, set_random_state
from agentrl.learning.learner import Learner
from agentrl.learning.packing import MicroBatch, pack
from agentrl.learning.ranks import Ranks
from agentrl.types import Call, CannotStart, Sample
from kernels.tree_attention.segments import PIECE


def try_step(learner: Learner, serving: Any, config: Config, ranks: Ranks) -> str:
    """Make the trial on a GPU, all ranks together; returns a line about what it took.

    ``serving`` is left asleep; its next ``push`` wakes it. Raises CannotStart, in a sentence, where
    memory does not suffice.
    """
    torch.cuda.empty_cache()
    with serving.asleep():
        (free, total), held = torch.cuda.mem_get_info(), torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        trial_step(learner, config, ranks)
        # What torch counts of an engine that sleeps is not there: so the difference.
        peak = total - free + torch.cuda.max_memory_allocated() - held
    torch.cuda.empty_cache()
    left = min(ranks.gather([total - peak], "trial"))
    weights = sum(weight.numel() for weight in learner.policy.trainable())
    ranks.reduces_once = ranks.size > 1 and fits_whole(weights, left, total)
    return f"a step with the largest micro-batch: {size(total - left)} of {size(total)} at most"


def fits_whole(weights: int, left: int, total: int) -> bool:
    """Whether a gradient fits whole and in fp32 beside the trial's peak; a twentieth of the GPU's
    memory stays, because later steps may need a little more than the trial.

    >>> fits_whole(8 * 10**9, left=34 * 2**30, total=80 * 2**30)
    True
    >>> fits_whole(8 * 10**9, left=33 * 2**30, total=80 * 2**30)
    False
    """
    return 4 * weights + total / 20 <= left


def trial_step(learner: Learner, config: Config, ranks: Ranks) -> None:
    """Gradients of ``largest_micro_batch``, on any device, all ranks together.

    Raises CannotStart where memory does not suffice.
    """
    policy, random_state = learner.policy, get_random_state()
    micro = largest_micro_batch(config, policy.lm.config.get_text_config().vocab_size)
    try:
        for weight in policy.trainable():
            weight.grad = torch.zeros_like(weight)
        micro = policy.on_device(micro, ranks.device, ranks.dtype)
        terms = policy.terms(micro, config.sampling.temperature)
        scores = (terms.logprobs, terms.entropies, *terms.others.values())
        ranks.backward(sum(values.sum() for values in scores))
    except torch.cuda.OutOfMemoryError as error:
        raise CannotStart(
            f"a micro-batch of {len(micro.ids)} tokens does not fit on the GPU beside weights, "
            "gradients and AdamW's moments: lower --micro-batch-tokens (a call of "
            "--model.max-model-len is one, too), recompute activations with --model.recompute "
            "full, or launch more ranks"
        ) from error
    finally:
        learner.optimizer.zero_grad()
        set_random_state(random_state)


def largest_micro_batch(config: Config, vocabulary: int) -> MicroBatch:
    """One path as long as a call may be, and branches near its end; all but the root is trained.

    A branch is as long as the queries whose keys are gathered together. Shorter ones see more keys
    still, but a tree of those alone is not to be expected.
    """
    longest = config.model.max_model_len
    tokens = max(config.micro_batch_tokens, longest)
    path = [position % vocabulary for position in range(longest)]
    branch = min(PIECE, longest - 1)
    fork = longest - branch
    samples = [_sample(path[:1], path[1:])]
    for i, start in enumerate(range(longest, tokens, branch)):
        # Unlike the path, and unlike each other.
        ids = [(path[fork] + 1 + i) % vocabulary] * min(branch, tokens - start)
        samples.append(_sample(path[:fork], ids))
    (micro,) = pack(samples, tokens)
    return micro


def _sample(prompt_ids: list[int], completion_ids: list[int]) -> Sample:
    logprobs = [0.0] * len(completion_ids)
    call = Call(prompt_ids=prompt_ids, completion_ids=completion_ids, logprobs=logprobs)
    return Sample(call, 1.0)
