"""Control of ``gsm8k_offline``: the same run, with the rewards of each batch shuffled; of any other
experiment with ``--algorithm experiments/gsm8k_offline_shuffled.py``.

Nothing can be learned from them, so held-out success must not rise. Where it does, something else
than the reward is teaching.
"""

import dataclasses
import random
from collections.abc import Sequence

from agentrl.algorithms import GRPO
from agentrl.types import Group, Sample
from experiments import gsm8k_offline


class Shuffled(GRPO):
    """GRPO on the batch's rewards, dealt out to its episodes at random."""

    separable = False

    def advantages(self, groups: Sequence[Group]) -> list[Sample]:
        rewards = [episode.reward for group in groups for episode in group.scored]
        random.Random(repr([group.task["id"] for group in groups])).shuffle(rewards)
        deck = iter(rewards)

        def dealt(group: Group) -> Group:
            episodes = (dataclasses.replace(e, reward=next(deck)) for e in group.scored)
            return Group(group.task, tuple(episodes))

        return super().advantages([dealt(group) for group in groups])


algorithm = Shuffled()
config = dataclasses.replace(gsm8k_offline.config, algorithm=algorithm)
