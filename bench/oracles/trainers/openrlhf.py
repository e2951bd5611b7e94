"""OpenRLHF: its policy loss, a module of torch, and its estimates of KL."""

import importlib
from pathlib import Path
from typing import Optional, Union

import torch
from torch import Tensor

from bench.oracles.example import Batch
from bench.oracles.stubs import bare, fake, pick


class OpenRLHF:
    def __init__(self, root: Path):
        (root,) = root.glob("openrlhf-*.data/purelib")
        bare(root, "openrlhf", "openrlhf.models")
        types = {"torch": torch, "Optional": Optional, "Union": Union}
        utils = pick(
            root / "openrlhf/models/utils.py", ["masked_mean", "compute_approx_kl"], **types
        )
        fake("openrlhf.models.utils", masked_mean=utils.masked_mean)
        self._policy_loss = importlib.import_module("openrlhf.models.loss").PolicyLoss
        self._approximate = utils.compute_approx_kl

    def loss(self, b: Batch, kind="ppo", *, low=0.2, high=0.2, c=None, token_mean=True) -> Tensor:
        bounds = {"clip_eps_low": low, "clip_eps_high": high, "dual_clip": c}
        function = self._policy_loss(**bounds, token_level_loss=token_mean, policy_loss_type=kind)
        given = {"action_mask": b.mask, "rollout_log_probs": b.rollout}
        return function(b.logp, b.old, b.by_token, **given)[0]

    def kl(self, b: Batch, name: str) -> Tensor:
        each = self._approximate(b.logp, b.ref, kl_estimator=name)
        return b.mean(each)
