"""Self-play with Qwen2.5-1.5B-Instruct; for a GPU of 80 GiB, not yet run on one.

    accelerate launch train.py --exp self_play_gpu

The opponent's engine and the model that the pull is to lie beside the policy. ``kuhn/legal`` says
for how much of what is answered the exploitability stands: for answers of a word and no more.
"""

from dataclasses import replace

from agentrl.config import AuxiliaryModel, ModelConfig, OptimConfig, SamplingConfig
from experiments import self_play

config = replace(
    self_play.config,
    make_model=None,
    model=ModelConfig(path="Qwen/Qwen2.5-1.5B-Instruct", max_model_len=1024, recompute="selective"),
    sampling=SamplingConfig(max_tokens=8),
    optim=OptimConfig(lr=1e-6, warmup_steps=5),
    micro_batch_tokens=16384,
    group_size=64,
    steps=300,
    auxiliary_models={"opponent": AuxiliaryModel(model=None, max_model_len=1024)},
)
