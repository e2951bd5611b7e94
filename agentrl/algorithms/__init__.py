"""Algorithms: credit and losses, as pure functions of what was sampled.

An algorithm is a frozen dataclass. Its fields are its numbers, and so flags; its methods say what
makes it GRPO, DAPO, GSPO:

    advantages(groups) -> samples          credit: a number a call, or one a token
    weigh(samples) -> weights, divisor     how much each call's tokens count, and one divisor
    loss(terms) -> losses                  [N] values, and [N] measures by name

``grpo`` is the textbook, and the base of every other: a variant overrides what it does differently.
``--algorithm NAME`` is the module of that name here, ``--algorithm path.py`` a file of one's own;
each defines ``algorithm``, an instance. It imports no torch: every config knows its algorithm.
"""

from agentrl.algorithms.grpo import GRPO
from agentrl.algorithms.terms import Losses, Terms

__all__ = ["GRPO", "Losses", "Terms"]
