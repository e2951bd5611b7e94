"""OpenRLHF: its policy loss, a module of torch, and its estimates of KL."""

import importlib
from pathlib import Path
from types import SimpleNamespace
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
        losses = importlib.import_module("openrlhf.models.loss")
        self._policy_loss, self._likelihood = losses.PolicyLoss, losses.SFTLoss()
        path = root / "openrlhf/trainer/ppo_utils/length_penalty.py"
        self._overlong = pick(path, ["apply_overlong_penalty"]).apply_overlong_penalty
        self._approximate = utils.compute_approx_kl

    def loss(
        self, b: Batch, kind="ppo", *, low=0.2, high=0.2, c=None, token_mean=True, weights=None
    ) -> Tensor:
        """weights: ``mask`` or ``clip``, and between what they are kept."""
        bounds = {"clip_eps_low": low, "clip_eps_high": high, "dual_clip": c}
        if weights:
            of = {"is_correction_mode": weights[0], "is_correction_threshold": weights[1:]}
            bounds |= {"is_correction_level": "token", **of}
        function = self._policy_loss(**bounds, token_level_loss=token_mean, policy_loss_type=kind)
        given = {"action_mask": b.mask, "rollout_log_probs": b.rollout}
        return function(b.logp, b.old, b.by_token, **given)[0]

    def likelihood(self, b: Batch) -> Tensor:
        return self._likelihood(b.logp, b.mask)

    def penalty(self, b: Batch, longest: int, buffer: int) -> Tensor:
        rewards, lengths = torch.zeros(len(b.lengths)), torch.tensor(b.lengths)
        self._overlong([SimpleNamespace(response_length=lengths, rewards=rewards)], longest, buffer)
        return rewards

    def kl(self, b: Batch, name: str) -> Tensor:
        each = self._approximate(b.logp, b.ref, kl_estimator=name)
        return b.mean(each)
