"""rsLoRA (arXiv 2312.03732) on the attention of the upper half of the layers: adapters count
alpha / sqrt(rank), which keeps what they add as large at large ranks as at small ones."""

from dataclasses import replace

import peft

from agentrl.algorithms.kl import KL
from agentrl.learning.loading import load_as
from agentrl.learning.policy import Policy
from experiments.gsm8k_offline import config as demo


def load_policy(folder, config, ranks):
    policy = load_as(Policy, folder, config, ranks)
    count = policy.lm.config.num_hidden_layers
    adapters = peft.LoraConfig(
        r=16,
        lora_alpha=16,
        use_rslora=True,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
        layers_to_transform=list(range(count // 2, count)),
        base_model_name_or_path=policy.lm.name_or_path,
        task_type="CAUSAL_LM",
    )
    peft.inject_adapter_in_model(adapters, policy.lm)
    return policy


config = replace(demo, algorithm=KL(updates=2), load_policy=load_policy)
