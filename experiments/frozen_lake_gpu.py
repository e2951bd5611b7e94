"""Frozen lake with Qwen2.5-1.5B-Instruct; for a GPU of 80 GiB, not yet run on one.

accelerate launch train.py --exp frozen_lake_gpu
"""

from dataclasses import replace

from agentrl.config import EvalConfig, ModelConfig, OptimConfig, SamplingConfig
from experiments import frozen_lake

config = replace(
    frozen_lake.config,
    make_model=None,
    model=ModelConfig(path="Qwen/Qwen2.5-1.5B-Instruct", max_model_len=8192, recompute="selective"),
    # It may think before it names a move: the last one counts.
    sampling=SamplingConfig(max_tokens=256),
    optim=OptimConfig(lr=1e-6, warmup_steps=5),
    micro_batch_tokens=16384,
    tasks_per_step=32,
    steps=200,
    eval=EvalConfig(every=20, num_tasks=200),
)
