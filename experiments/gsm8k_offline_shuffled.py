"""The control of ``gsm8k_offline``: the same run, with the rewards of each batch shuffled.

Nothing can be learned from them, so held-out success must not rise. Where it does, something else
than the reward is teaching.
"""

import dataclasses
import random
from collections.abc import Sequence

from agentrl.learning.advantages import samples
from agentrl.types import Group, Sample
from experiments import gsm8k_offline


def shuffled(groups: Sequence[Group]) -> list[Sample]:
    """GRPO's advantages of the batch's rewards, dealt out to its episodes at random."""
    rewards = [episode.reward for group in groups for episode in group.scored]
    random.Random(repr([group.task["id"] for group in groups])).shuffle(rewards)
    deck = iter(rewards)
    dealt = [
        Group(
            group.task,
            tuple(dataclasses.replace(episode, reward=next(deck)) for episode in group.scored),
        )
        for group in groups
    ]
    return samples(dealt)


config = dataclasses.replace(gsm8k_offline.config, advantages=shuffled)
