"""On-policy distillation (arXiv 2306.13649, with reverse KL): the student's own tokens, each with
the teacher's opinion of it as its advantage; rewards do not count.

A[token] = teacher's logprob - logprob
"""

from dataclasses import dataclass, replace
from typing import Any

import tyro

from agentrl.algorithms.advantages import credit
from agentrl.algorithms.grpo import GRPO
from agentrl.types import CallScores


@dataclass(frozen=True, kw_only=True)
class OPD(GRPO):
    """A teacher scores the calls as a reference would."""

    teacher: str = tyro.MISSING
    """A folder or hub name of a model with the same tokenizer."""
    scores = True

    @property
    def reference(self) -> Any:
        return self.teacher

    def advantages(self, groups):
        return [replace(s, advantage=opinions(s.call.scores)) for s in credit(groups)]


def opinions(scores: CallScores) -> list[float]:
    return [t - s for t, s in zip(scores.ref_logprobs, scores.logprobs, strict=True)]


algorithm = OPD()
