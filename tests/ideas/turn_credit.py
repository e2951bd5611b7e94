"""Turn credit and an advantage a token: MT-GRPO's (arXiv 2505.11821), discounted within the turn as
REINFORCE++ does (arXiv 2501.03262).

    A[turn, token] = (A_outcome + turn_weight * A_turn[turn]) * discount ** (tokens after it)

A_turn compares the turn's own reward, whether its tool call prints, with the group's same turns.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, replace

from agentrl.algorithms import GRPO
from agentrl.algorithms.advantages import credit, group_normalised


def turn_reward(call) -> float:
    tools = call.reply.get("tool_calls") or ()
    return float(any("print" in tool["function"]["arguments"] for tool in tools))


@dataclass(frozen=True, kw_only=True)
class TurnCredit(GRPO):
    turn_weight: float = 0.5
    discount: float = 0.99

    def advantages(self, groups):
        turns, seen = defaultdict(list), Counter()
        for sample in credit(groups):
            turns[sample.group, seen[sample.group, sample.episode]].append(sample)
            seen[sample.group, sample.episode] += 1
        return [replace(s, advantage=a) for same in turns.values() for s, a in self.compared(same)]

    def compared(self, same):
        for sample, turn in zip(same, group_normalised([turn_reward(s.call) for s in same])):
            advantage, left = sample.advantage + self.turn_weight * turn, sample.call.completion_ids
            yield sample, [advantage * self.discount**i for i in range(len(left))][::-1]


algorithm = TurnCredit()
