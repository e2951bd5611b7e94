"""DAPO (arXiv 2503.14476): clip-higher, dynamic sampling, and a soft penalty for what is overlong.

r += clip((max_tokens - BUFFER - length) / BUFFER, -1, 0)        clip(ratio, 1 - 0.2, 1 + 0.28)
"""

from dataclasses import replace
from random import Random

from agentrl.algorithms import GRPO
from experiments import gsm8k, gsm8k_offline
from rollout import collect, find_tasks

MAX_TOKENS, BUFFER, ROUNDS = gsm8k_offline.config.sampling.max_tokens, 16, 3


def overlong(length: int) -> float:
    return max(-1.0, min(0.0, (MAX_TOKENS - BUFFER - length) / BUFFER))


async def judge(task, response, episode):
    verdict = await gsm8k.judge(task, response, episode)
    longest = max((len(call.completion_ids) for call in episode.calls), default=0)
    return replace(verdict, reward=verdict.reward + overlong(longest), success=verdict.reward == 1)


def refill(tasks, config, serving, ranks, run, step):
    """Groups of equal rewards give way to other tasks' groups; after the last round they stay."""
    pool, rng, wanted, kept, equal = find_tasks(config)[0], Random(step), list(tasks), [], []
    for _ in range(ROUNDS):
        groups = collect(wanted, config, serving, ranks, run, step)
        kept += [g for g in groups if len({e.reward for e in g.scored}) > 1]
        equal += [g for g in groups if len({e.reward for e in g.scored}) <= 1]
        asked = [g.task for g in kept + equal]
        wanted = rng.sample([t for t in pool if t not in asked], len(tasks) - len(kept))
    return (kept + equal)[: len(tasks)]


algorithm = GRPO(clip_low=0.2, clip_high=0.28, updates=4)
config = replace(gsm8k_offline.config, algorithm=algorithm, judge=judge, collect=refill)
