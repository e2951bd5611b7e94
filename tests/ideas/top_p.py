"""Top-p sampling in training, with its correction (truncated importance weights).

drawn from q = pi / Z on the nucleus, the likeliest tokens whose mass Z is at least TOP_P;
vLLM's log-probs are those of q, so that GRPO's importance weight pi / q is Z, each token's own
"""

from dataclasses import replace
from functools import partial

from experiments import gsm8k_offline
from experiments.gsm8k.openai_sdk import solve as solve_as_told
from rollout import collect

TOP_P = 0.9


async def solve(task, model):
    completions = model.openai.chat.completions
    completions.create = partial(completions.create, top_p=TOP_P)
    return await solve_as_told(task, model)


config = replace(
    gsm8k_offline.config,
    workflow=solve,
    collect=partial(collect, own_sampling=True),
    eval=replace(gsm8k_offline.config.eval, sampling="agent"),
)
