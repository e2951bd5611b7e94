r"""``werewolves`` at real size: one policy for the trained side, its frozen start for the other.

    accelerate launch --use_fsdp --fsdp_version 2 --num_processes 8 train.py --exp werewolves_gpu

For 8 GPUs of 80 GB; each holds an eighth of the policy and an engine for either side. Not yet run
on a GPU. The other way round, ``auxiliary_models`` names the wolves, as in ``werewolves_village``.

All roles of a side are one agent, and a run has one LoRA adapter (``--model.lora.rank``): roles do
not get one each. For that, each role takes a run of its own: ``play`` gives it an agent's name, and
the others' names are auxiliary models, whose folders are the merged checkpoints of their runs.
"""

import dataclasses

from agentrl.config import (
    AuxiliaryModel,
    EngineConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    SamplingConfig,
)
from experiments import werewolves
from experiments.werewolves.game import VILLAGE

config = dataclasses.replace(
    werewolves.config,
    model=ModelConfig(path="Qwen/Qwen2.5-7B-Instruct", recompute="selective", max_model_len=8192),
    auxiliary_models={VILLAGE: AuxiliaryModel(model=None, max_model_len=8192)},
    engine=EngineConfig(gpu_memory_utilization=0.3),
    sampling=SamplingConfig(max_tokens=32),
    optim=OptimConfig(lr=1e-6, warmup_steps=5),
    micro_batch_tokens=16384,
    tasks_per_step=32,
    steps=200,
    eval=EvalConfig(every=20, num_tasks=400),
)
