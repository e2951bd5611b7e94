"""Blame for a gradient that is not finite: the terms and the episode that the first NaN is of."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from agentrl.algorithms import Losses, Terms
from agentrl.learning.packing import MicroBatch
from agentrl.types import Call, Group, Sample

Blamable = tuple[list[int], dict[str, Tensor]]
"""Of a micro-batch: its samples, by their numbers in the batch, and columns of its terms."""


def columns(micro: MicroBatch, terms: Terms, losses: Losses) -> dict[str, Tensor]:
    """What makes a loss, in the order in which one thing makes the next."""
    found = {
        "advantage": micro.advantages,
        "weight": micro.weights,
        "sampler's log-probability": micro.sampler_logprobs,
        "reference's log-probability": micro.ref_logprobs,
        "log-probability": terms.logprobs,
        "loss": losses.values,
    }
    return {name: values.detach() for name, values in found.items() if values is not None}


def find_cause(
    blamable: Sequence[Blamable], samples: Sequence[Sample], groups: Sequence[Group]
) -> str | None:
    """The first column that is not finite, of how many terms, and whose the first of them is."""
    for name in blamable[0][1] if blamable else ():
        for numbers, found in blamable:
            wrong = found[name].isfinite().logical_not().nonzero()[:, 0].tolist()
            if wrong:
                ends = np.cumsum([len(samples[i].call.completion_ids) for i in numbers])
                call = samples[numbers[np.searchsorted(ends, wrong[0], side="right")]].call
                return (
                    f"the {name} of {len(wrong)} terms is, such as {found[name][wrong[0]].item()} "
                    f"in {_owner(call, groups)}"
                )
    return None


def _owner(call: Call, groups: Sequence[Group]) -> str:
    """Scored calls are others, with the same tokens."""
    for group in groups:
        for episode in group.episodes:
            if any(one.completion_ids is call.completion_ids for one in episode.calls):
                return f"episode {episode.index} of task {episode.task['id']}"
    return "a call of no episode"


def sentence(norm: float, loss: float, causes: Sequence[str | None]) -> str:
    """causes: of each rank."""
    cause = next(filter(None, causes), "its terms are finite: their derivative, or divisor, is not")
    return f"a gradient of norm {norm} and loss {loss} is not finite, so no step was made: {cause}"
