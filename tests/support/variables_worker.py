"""A gradient, and what else a config decides, in whatever environment this process was started.

python -m tests.support.variables_worker
"""

import hashlib
import json
import os

import torch

from agentrl.config import EngineConfig, OptimConfig
from agentrl.learning.learner import adamw
from agentrl.learning.packing import pack
from agentrl.learning.policy import Policy
from agentrl.learning.ranks import Ranks
from agentrl.serving.process import prepare_process
from agentrl.serving.vllm_args import arguments
from agentrl.signals import Signals
from tests.support.small_samples import TEMPERATURE, conversations
from tests.support.updating import language_model

READ_BY_VLLM = (
    *("VLLM_CPU_KVCACHE_SPACE", "VLLM_ENABLE_V1_MULTIPROCESSING", "TRITON_F32_DEFAULT"),
    "VLLM_FLOAT32_MATMUL_PRECISION",
)


def main() -> None:
    prepare_process()
    torch.set_num_threads(1)
    ranks = Ranks("float32", Signals())
    policy = Policy(language_model().float())
    policy, optimizer = ranks.prepare(policy, adamw(policy.trainable(), OptimConfig()))
    for micro in pack(conversations(), 60):
        terms = policy.terms(micro.to(ranks.device), TEMPERATURE)
        ranks.backward((terms.logprobs * terms.advantages).sum())
    gradient = torch.cat([weight.grad.flatten() for weight in policy.parameters()])
    config = EngineConfig()
    args = arguments("m", max_model_len=99, dtype="float32", config=config, use="training")
    found = {
        "gradient": hashlib.sha256(gradient.numpy().tobytes()).hexdigest(),
        "norm": gradient.norm().item(),
        "accelerate": [
            str(ranks.accelerator.distributed_type),
            ranks.accelerator.mixed_precision,
            ranks.accelerator.gradient_accumulation_steps,
            str(ranks.device),
        ],
        "torch": [torch.get_float32_matmul_precision(), str(torch.get_default_dtype())],
        "optimizer": str(optimizer),
        "vllm": {**args, **{name: os.environ[name] for name in READ_BY_VLLM}},
    }
    print(json.dumps(found, default=str))


if __name__ == "__main__":
    main()
