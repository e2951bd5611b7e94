"""Loading: the policy to train, and its frozen reference."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from agentrl.algorithms import Terms
from agentrl.config import Config
from agentrl.learning.lora import add_adapters, trains_adapters_alone, without_adapters
from agentrl.learning.packing import MicroBatch
from agentrl.learning.policy import Policy
from agentrl.learning.ranks import Ranks
from kernels.tree_attention import choose


def load_policy(folder: str | Path, config: Config, ranks: Ranks) -> Policy:
    """The policy of a transformers folder or hub name, not sharded yet; every weight is trained, or
    LoRA's adapters alone.

    The seam ``config.load_policy`` takes the place of ``load_as``.
    """
    # What is not in the folder, such as a head of one's own, is drawn the same on every rank.
    torch.manual_seed(config.seed)
    policy = (config.load_policy or partial(load_as, Policy))(folder, config, ranks)
    if config.model.lora.rank is not None:
        add_adapters(policy.lm, config.model.lora)
    return policy


@dataclass(frozen=True)
class WithoutAdapters:
    """The reference of a policy whose adapters alone are trained: the same weights, no copy."""

    policy: Policy

    def terms(self, micro: MicroBatch, temperature: float = 1.0) -> Terms:
        with without_adapters(self.policy.lm):
            return self.policy.terms(micro, temperature)


def load_reference(
    policy: Policy, folder: str | Path, config: Config, ranks: Ranks
) -> Policy | WithoutAdapters | None:
    """The run's first model, never trained: a second copy, or the policy without its adapters; or
    the model that the algorithm names. None where nothing asks for it.

    folder: what the run began with, also after a resume. Call it when the policy is sharded.
    """
    reference = config.algorithm.reference
    if not reference:
        return None
    if reference is True and trains_adapters_alone(policy.lm):
        return WithoutAdapters(policy)
    return ranks.freeze(load_as(Policy, folder if reference is True else reference, config, ranks))


def load_as(kind: type[Policy], folder: str | Path, config: Config, ranks: Ranks) -> Policy:
    """A policy of this class, such as one with a value head, as the config wants it to compute;
    ``partial(load_as, MyPolicy)`` is a ``config.load_policy``."""
    attention = choose(config.attention, ranks.device, ranks.dtype)
    # What is frozen needs no more than what is computed in.
    dtype = torch.float32 if config.model.lora.rank is None else ranks.dtype
    how = {"recompute": config.model.recompute, "compile": config.compile}
    return kind.load(folder, dtype=dtype, attention=attention, **how)
