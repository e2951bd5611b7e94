"""Loading: the policy to train, and its frozen reference."""

from pathlib import Path

import torch

from agentrl.config import Config
from agentrl.learning.policy import Policy
from agentrl.learning.ranks import Ranks
from kernels.tree_attention import choose


def load_policy(folder: str | Path, config: Config, ranks: Ranks) -> Policy:
    """The policy of a transformers folder or hub name, not sharded yet; every weight is trained.

    This is what the seam ``config.load_policy`` takes the place of.
    """
    # What is not in the folder, such as a head of one's own, is drawn the same on every rank.
    torch.manual_seed(config.seed)
    if config.load_policy is not None:
        return config.load_policy(folder, config, ranks)
    return _load(folder, config, ranks)


def load_reference(folder: str | Path, config: Config, ranks: Ranks) -> Policy | None:
    """A second copy of the run's first model, never trained; None where nothing asks for it.

    folder: what the run began with, also after a resume. Call it when the policy is sharded.
    """
    if not config.algorithm.reference:
        return None
    return ranks.freeze(_load(folder, config, ranks))


def _load(folder: str | Path, config: Config, ranks: Ranks) -> Policy:
    attention = choose(config.attention, ranks.device)
    return Policy.load(folder, attention=attention, recompute=config.model.recompute)
