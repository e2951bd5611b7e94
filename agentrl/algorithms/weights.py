"""Weights: how much each call's tokens count, and what the sum of the losses is divided by.

    token      1                          tokens
    call       1 / tokens of the call     calls
    episode    1 / tokens of the episode  episodes
    prompt     1 / tokens of the group    groups
    a number   1                          episodes x that number, a constant length

Only a constant length depends on nothing that was sampled, and leaves the gradient unbiased. Each
divisor adds up over groups, so that a batch may be cut wherever a group ends.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from agentrl.types import Sample

Aggregation = Literal["token", "call", "episode", "prompt"] | int


def aggregate(samples: Sequence[Sample], over: Aggregation) -> tuple[list[float], float]:
    """A weight a call, which counts for each of its tokens, and the divisor."""
    episodes = [(sample.group, sample.episode) for sample in samples]
    counts = [len(sample.call.completion_ids) for sample in samples]
    if over == "token" or isinstance(over, int):
        return [1.0] * len(samples), float(
            sum(counts) if over == "token" else over * len({*episodes})
        )
    owners = {"call": range(len(samples)), "episode": episodes, "prompt": [e[0] for e in episodes]}
    tokens: Counter = Counter()
    for owner, count in zip(owners[over], counts, strict=True):
        tokens[owner] += count
    return [1 / tokens[owner] for owner in owners[over]], float(len(tokens))
