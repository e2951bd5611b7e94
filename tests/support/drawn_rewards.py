"""An experiment for tests: every episode is worth something else, and a step draws at random."""

import dataclasses
import random
import zlib

import numpy as np
import torch

from agentrl.algorithms import GRPO
from experiments import gsm8k, gsm8k_offline


async def judge(task, response, episode):
    verdict = await gsm8k.judge(task, response, episode)
    said = repr([call.completion_ids for call in episode.calls]).encode()
    return dataclasses.replace(verdict, reward=zlib.crc32(said) % 5 / 4)


class Noisy(GRPO):
    """In the main thread, from every generator: what a resumed run must draw again."""

    def advantages(self, groups):
        noise = random.random() + np.random.rand() + torch.rand(1).item()
        samples = super().advantages(groups)
        return [dataclasses.replace(s, advantage=s.advantage + 0.1 * noise) for s in samples]


config = dataclasses.replace(
    gsm8k_offline.config,
    judge=judge,
    algorithm=Noisy(),
    steps=30,
    tasks_per_step=2,
    group_size=4,
    sampling=dataclasses.replace(gsm8k_offline.config.sampling, max_tokens=24),
    eval=dataclasses.replace(gsm8k_offline.config.eval, every=10, num_tasks=8),
)
