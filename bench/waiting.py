"""``gsm8k_offline`` whose tool waits, as a network's would: log-normal, median 0.5 s, one in twenty
over 4 s. What ``bench.modes`` trains."""

import asyncio
import dataclasses
import math
from random import Random

from experiments import gsm8k, gsm8k_offline

MEDIAN, NINETY_FIFTH = 0.5, 4.0
SIGMA = math.log(NINETY_FIFTH / MEDIAN) / 1.645


async def solve(task, model):
    """The wait is the episode's own: the same in every mode."""
    await asyncio.sleep(Random(model.seed).lognormvariate(math.log(MEDIAN), SIGMA))
    return await gsm8k.solve(task, model)


config = dataclasses.replace(gsm8k_offline.config, workflow=solve)
