"""IcePop (Ring-1T, arXiv 2510.18855): nothing is learnt where trainer and sampler differ too much.

importance = exp(proximal - sampler) inside [floor, cap], else 0; with a floor of 0 it is truncated
"""

from dataclasses import dataclass
from typing import Literal

from agentrl.algorithms.grpo import GRPO
from agentrl.algorithms.losses import importance


@dataclass(frozen=True, kw_only=True)
class IcePop(GRPO):
    """The correction for the sampler masks what it would truncate."""

    importance_sampling_floor: float = 0.5
    importance_sampling_cap: float = 5.0
    importance_level: Literal["token", "sequence"] = "token"
    """sequence: a call's weight is the product of its tokens'."""

    def importance(self, terms):
        floor, of_call = self.importance_sampling_floor, self.importance_level == "sequence"
        return importance(terms, self.importance_sampling_cap, floor=floor, of_call=of_call)


algorithm = IcePop()
