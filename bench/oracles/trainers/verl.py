"""verl: its registries of losses and credit, and its correction for another sampler."""

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.oracles.example import INDEX, REWARDS, Batch, outcome_rewards, their_rewards
from bench.oracles.stubs import Settings, bare, fake, pick, stub


class Verl:
    def __init__(self, root: Path):
        _make_importable(root)
        self._algorithms = importlib.import_module("verl.trainer.ppo.core_algos")
        self._correction = importlib.import_module("verl.trainer.ppo.rollout_corr_helper")
        functions = importlib.import_module("verl.utils.torch_functional")
        names = {"torch": torch, "masked_mean": functions.masked_mean}
        path = root / "verl/trainer/ppo/ray_trainer.py"
        found = pick(path, ["apply_kl_penalty"], **names, core_algos=self._algorithms)
        self._penalise = found.apply_kl_penalty

    def loss(
        self, b: Batch, name: str, agg="token-mean", *, low=0.2, high=0.2, c=100.0, weights=None
    ) -> Tensor:
        clip = {"clip_ratio": low, "clip_ratio_low": low, "clip_ratio_high": high}
        taus, whole = {"tau_pos": 1.0, "tau_neg": 1.05}, {"global_batch_info": {}}
        config = Settings(**clip, **taus, **whole, clip_ratio_c=c, policy_loss=Settings())
        return self._algorithms.get_policy_loss_fn(name)(
            old_log_prob=b.old,
            log_prob=b.logp,
            advantages=b.by_token,
            response_mask=b.mask,
            loss_agg_mode=agg,
            config=config,
            rollout_is_weights=weights,
        )[0]

    def weights(self, b: Batch, level: str, threshold: float | str) -> Tensor:
        return self._correction.compute_rollout_correction_weights(
            b.old - b.rollout, b.mask, rollout_is=level, rollout_is_threshold=threshold
        )[0]

    def credit(self, name: str, **config: Any) -> Tensor:
        given = outcome_rewards()
        function = self._algorithms.get_adv_estimator_fn(name)
        known = inspect.signature(function).parameters
        given |= {"config": Settings(**config), **config}
        return function(**{k: v for k, v in given.items() if k in known})[0][:, 0]

    def gdpo(self, parts: dict[str, Tensor], weights: list[float]) -> Tensor:
        one, size = torch.ones(len(REWARDS), 1), len(REWARDS)
        return self._algorithms.compute_gdpo_outcome_advantage(
            one,
            one,
            INDEX,
            config=Settings(gdpo_reward_keys=list(parts), gdpo_reward_weights=weights),
            non_tensor_batch={name: part.numpy() for name, part in parts.items()},
            batch={"prompts": torch.zeros(size, 1), "attention_mask": torch.ones(size, 2).long()},
        )[0][:, 0]

    def kl_in_reward(self, b: Batch, weight: float) -> Tensor:
        """Of each answer: what is left of a reward of 0."""
        rows = _Rows(old_log_probs=b.old, ref_log_prob=b.ref, response_mask=b.mask)
        rows["token_level_scores"] = torch.zeros_like(b.mask)
        control = Settings(value=weight, update=lambda **k: None)
        self._penalise(Settings(batch=rows), control)
        return rows["token_level_rewards"].sum(-1)

    def gae(self, b: Batch, mask: Tensor, discount: float, decay: float) -> Tensor:
        function = self._algorithms.compute_gae_advantage_return
        given = their_rewards(b, mask), b.old * mask, mask, discount, decay
        return function(*given)[1][mask.bool()]

    def kl(self, b: Batch, name: str) -> Tensor:
        return b.mean(self._algorithms.kl_penalty(b.logp, b.ref, name))


class _Rows(dict):
    """A batch by name, as a TensorDict says how large it is."""

    @property
    def batch_size(self) -> tuple[int]:
        return (len(self["response_mask"]),)


def _make_importable(root: Path) -> None:
    stub("tensordict", "omegaconf", "ray", "hydra", "codetiming")
    bare(root, "verl", "verl.trainer", "verl.trainer.ppo", "verl.utils")
    device = {"get_device_name": lambda: "cpu", "get_torch_device": lambda: torch.cpu}
    fake("verl.utils.device", **device, is_npu_available=False)
    fake("verl.utils.import_utils", deprecated=lambda *a, **k: lambda function: function)
    fake("verl.trainer.config", AlgoConfig=type("AlgoConfig", (), {}))
    fake("verl.trainer.config.algorithm", RolloutCorrectionConfig=Settings)
    fake("verl.workers", "verl.protocol")
    fake("verl.workers.config", ActorConfig=Settings)
    fake("verl.workers.config.actor", PolicyLossConfig=Settings)
    utils, groupwise = sys.modules["verl.utils"], importlib.import_module("verl.utils.groupwise")
    utils.as_torch_index, utils.group_mean_std = groupwise.as_torch_index, groupwise.group_mean_std
    utils.torch_functional = importlib.import_module("verl.utils.torch_functional")
