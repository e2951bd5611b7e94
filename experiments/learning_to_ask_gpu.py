r"""``learning_to_ask`` at its real size, with a patient that talks; not yet run on a GPU.

    accelerate launch train.py --exp learning_to_ask_gpu

For one GPU of 80 GB. The patient is the model that the run starts from, in an engine of its own: it
is told what it has, and says so in its words. Rewards know the facts, whatever it says.
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
from experiments import learning_to_ask

config = dataclasses.replace(
    learning_to_ask.config,
    model=ModelConfig(path="Qwen/Qwen2.5-3B-Instruct", max_model_len=4096, recompute="selective"),
    auxiliary_models={
        "patient": AuxiliaryModel(model=None, engine=EngineConfig(gpu_memory_utilization=0.15))
    },
    steps=100,
    tasks_per_step=32,
    micro_batch_tokens=16384,
    sampling=SamplingConfig(max_tokens=256),
    optim=OptimConfig(lr=1e-6, warmup_steps=5),
    eval=EvalConfig(every=20, num_tasks=400),
)
