r"""``bfcl`` at real size: all four kinds of the package's multi-turn tasks, whole.

    accelerate launch --use_fsdp --fsdp_version 2 --num_processes 8 train.py --exp bfcl_gpu

For 8 GPUs of 80 GB. Not yet run on a GPU. Every fifth task is held out, of each kind the same.
"""

import dataclasses

from agentrl.config import DataConfig, EvalConfig, ModelConfig, OptimConfig, SamplingConfig
from experiments import bfcl

config = dataclasses.replace(
    bfcl.config,
    data=DataConfig(env="bfcl:multi_turn"),
    model=ModelConfig(path="Qwen/Qwen2.5-7B-Instruct", recompute="selective", max_model_len=32768),
    sampling=SamplingConfig(max_tokens=512),
    optim=OptimConfig(lr=1e-6, warmup_steps=5),
    micro_batch_tokens=16384,
    tasks_per_step=32,
    steps=100,
    episode_seconds=1200.0,
    eval=EvalConfig(every=20, num_tasks=159),
)
