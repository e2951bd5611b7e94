"""On-policy distillation (arXiv 2306.13649, with reverse KL): the student's own tokens, each with
the teacher's opinion of it as its advantage; no reward. --algorithm.reference names the teacher.

    A[token] = log pi_teacher - log pi
"""

from dataclasses import dataclass, replace

import numpy as np
import tyro

from agentrl.algorithms import GRPO
from agentrl.algorithms.advantages import credit


@dataclass(frozen=True, kw_only=True)
class Distillation(GRPO):
    reference: str = tyro.MISSING
    """The teacher: a folder or hub name of a model with the same tokens."""
    scores = True

    def advantages(self, groups):
        return [replace(s, advantage=opinions(s.call.scores)) for s in credit(groups)]


def opinions(scores):
    return [float(a) for a in np.subtract(scores.ref_logprobs, scores.logprobs)]


algorithm = Distillation()
