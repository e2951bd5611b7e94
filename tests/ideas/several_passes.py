"""PPO's reuse of a batch (arXiv 1707.06347, algorithm 1): K passes of M minibatches each.

ratio = pi / pi_before, where pi_before is the policy before the batch's first optimizer step
"""

from agentrl.algorithms import GRPO

algorithm = GRPO(passes=2, updates=4)
