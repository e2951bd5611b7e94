"""Countdown with Qwen2.5-3B, which thinks first; for a GPU of 80 GiB, not yet run on one.

accelerate launch train.py --exp countdown_gpu
"""

import dataclasses

from agentrl.agents.contract import WorkflowOutput
from agentrl.config import ModelConfig, OptimConfig, SamplingConfig
from experiments import countdown

SYSTEM = f"{countdown.SYSTEM} Think first, then write it between <answer> and </answer>."


async def solve(task, model) -> WorkflowOutput:
    messages = countdown.prompt(task, SYSTEM)
    answer = await model.openai.chat.completions.create(model="policy", messages=messages)
    return WorkflowOutput(response=answer.choices[0].message.content)


config = dataclasses.replace(
    countdown.config,
    workflow=solve,
    make_model=None,
    steps=200,
    micro_batch_tokens=16384,
    model=ModelConfig(path="Qwen/Qwen2.5-3B", max_model_len=2048, recompute="selective"),
    sampling=SamplingConfig(max_tokens=1024),
    optim=OptimConfig(lr=1e-6, warmup_steps=5),
)
