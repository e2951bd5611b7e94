"""Metrics of episodes and of tokens, and the clock of a step; ``tally`` has those of the loss."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from agentrl.types import STATUSES, Group, Sample
from kernels.tree import build_tree


def episode_metrics(groups: Sequence[Group]) -> dict[str, Any]:
    """Rewards and the experiment's own metrics over the scored episodes; counts over all.

    Where rewards are per agent, ``reward/NAME`` is one's mean over the episodes that give it one;
    ``reward/parts/NAME`` is a part's. ``failure`` is the commonest cause of a failure. Where no
    episode was scored there are no means.
    """
    scored = [episode for group in groups for episode in group.scored]
    statuses = Counter(episode.status for group in groups for episode in group.episodes)
    causes = Counter(e.error for group in groups for e in group.episodes if e.error)
    own = [e.metrics | {f"reward/parts/{n}": x for n, x in e.parts.items()} for e in scored]
    names = sorted(set().union(*own))
    agents = sorted({name for e in scored if isinstance(e.reward, dict) for name in e.reward})
    rewards = {agent: [episode.reward_of(agent) for episode in scored] for agent in agents}
    means = {
        **{f"reward/{agent}": [r for r in rewards[agent] if r is not None] for agent in agents},
        "reward/mean": [episode.mean_reward for episode in scored],
        "success": [episode.success for episode in scored],
        "episodes/calls": [len(episode.calls) for episode in scored],
        **{name: [of[name] for of in own if name in of] for name in names},
    }
    return {
        **{name: sum(values) / len(values) for name, values in means.items() if values},
        **{f"episodes/{status}": statuses[status] for status in STATUSES},
        "failure": causes.most_common(1)[0][0] if causes else None,
    }


def token_metrics(groups: Sequence[Group], samples: Sequence[Sample], computed: int) -> dict:
    """How many tokens the samples hold, how many of those are distinct within a group, how many
    were run; and how many were sampled under a grammar, which are not trained."""
    of_group = defaultdict(list)
    for sample in samples:
        of_group[sample.group].append(sample.call.ids)
    return {
        "tokens/logical": sum(len(sample.call.ids) for sample in samples),
        "tokens/unique": sum(len(build_tree(calls)) for calls in of_group.values()),
        "tokens/computed": computed,
        "tokens/trained": sum(len(sample.call.completion_ids) for sample in samples),
        "tokens/under_grammar": sum(
            len(call.completion_ids)
            for group in groups
            for episode in group.scored
            for call in episode.calls
            if call.under_grammar
        ),
    }


class Clock:
    """Seconds of the parts of a step: ``with clock("rollout"): ...``"""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._seconds[part] = self._seconds.get(part, 0.0) + time.monotonic() - started

    def metrics(self) -> dict[str, float]:
        parts = {f"time/{part}_seconds": seconds for part, seconds in self._seconds.items()}
        return {**parts, "time/step_seconds": time.monotonic() - self._started}
