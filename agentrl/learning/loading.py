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
    return load_as(Policy, folder, config, ranks)


def load_reference(folder: str | Path, config: Config, ranks: Ranks) -> Policy | None:
    """A second copy of the run's first model, or the model that the algorithm names; never trained.
    None where nothing asks for it.

    folder: what the run began with, also after a resume. Call it when the policy is sharded.
    """
    reference = config.algorithm.reference
    if not reference:
        return None
    return ranks.freeze(load_as(Policy, folder if reference is True else reference, config, ranks))


def load_as(kind: type[Policy], folder: str | Path, config: Config, ranks: Ranks) -> Policy:
    """A policy of this class, such as one with a value head, as the config wants it to compute;
    ``partial(load_as, MyPolicy)`` is a ``config.load_policy``."""
    attention = choose(config.attention, ranks.device, ranks.dtype)
    how = {"recompute": config.model.recompute, "compile": config.compile}
    return kind.load(folder, attention=attention, **how)
