"""SkyRL: one module of losses, credit and estimates of KL."""

import importlib
import inspect
import sys
from pathlib import Path

from torch import Tensor

from bench.oracles.example import Batch, outcome_rewards, their_rewards
from bench.oracles.stubs import Settings, bare, fake, stub


class SkyRL:
    def __init__(self, root: Path):
        stub("ray", "omegaconf", "loguru")
        vars(sys.modules["ray"]).update(remote=_remote, is_initialized=lambda: False)
        nested = ("backends", "backends.skyrl_train", "backends.skyrl_train.utils", "train")
        bare(root, "skyrl", *(f"skyrl.{name}" for name in nested))
        fake("skyrl.train.config")
        self._utils = importlib.import_module("skyrl.backends.skyrl_train.utils.ppo_utils")

    def loss(
        self, b: Batch, name: str, agg="token_mean", *, low=0.2, high=0.2, c=3.0, **own
    ) -> Tensor:
        nothing = dict.fromkeys(("low", "high"))
        none = {f"outlier_token_is_threshold_{n}": v for n, v in nothing.items()}
        config = Settings(
            policy_loss_type=name,
            eps_clip_low=low,
            eps_clip_high=high,
            clip_ratio_c=c,
            use_kl_loss=False,
            loss_reduction=agg,
            max_seq_len=b.mask.shape[1],
            off_policy_correction=Settings(tis_ratio_type=None, sequence_mask_metric=None, **none),
            **own,
        )
        scale = self._utils.apply_loss_reduction_to_advantages_minibatch
        known = inspect.signature(scale).parameters
        sizes = {"micro_batch_size": len(b.advantages), "max_seq_len": b.mask.shape[1]}
        sizes = {k: v for k, v in {**sizes, "config": config}.items() if k in known}
        scaled = scale(b.by_token, b.mask, agg, **sizes)
        return self._utils.PolicyLossRegistry.get(name)(
            b.logp, b.old, scaled, config, b.mask, None
        )[0]

    def credit(self, name: str, scale: float = 1.0) -> Tensor:
        return getattr(self._utils, name)(**outcome_rewards(scale))[0][:, 0]

    def gae(self, b: Batch, mask: Tensor, discount: float, decay: float) -> Tensor:
        function = self._utils.compute_gae_advantage_return
        given = their_rewards(b, mask), b.old * mask, mask, discount, decay
        return function(*given)[1][mask.bool()]

    def kl(self, b: Batch, name: str) -> Tensor:
        each = self._utils.compute_approx_kl(b.logp, b.ref, None, kl_estimator_type=name)
        return b.mean(each)


def _remote(function=None, **options):
    return function or (lambda inner: inner)
