"""AReaL: its functions of losses, and its estimates of KL."""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.oracles.example import Batch
from bench.oracles.stubs import Settings, bare, fake, pick


class AReaL:
    def __init__(self, root: Path):
        bare(root, "areal", *(f"areal.{n}" for n in ("utils", "utils.functional", "infra")))
        fake("areal.api", "areal.api.cli_args", "areal.utils.logging", "areal.utils.constants")
        fake("areal.infra.platforms", is_npu_available=False)
        fake("areal.utils.perf_tracer", "areal.utils.stats_tracker")
        found = pick(root / "areal/utils/data.py", ["KLEstimator"], torch=torch, Any=Any)
        self._estimator = found.KLEstimator
        fake("areal.utils.data", KLEstimator=self._estimator)
        self._functional = importlib.import_module("areal.utils.functional.functional")

    def loss(
        self, b: Batch, *, low=0.2, high=None, c=None, level="token", rejection=None
    ) -> Tensor:
        given = (b.logp, b.old, b.rollout, b.by_token, low, b.mask.bool(), high, c)
        return self._functional.ppo_actor_loss_fn(*given, rejection, level)[0]

    def sapo(self, b: Batch) -> Tensor:
        return self._functional.sapo_loss_fn(b.logp, b.old, b.by_token, 1.0, 1.05, b.mask.bool())[0]

    def rejection(self, **settings: Any) -> Settings:
        given = {"level": "token", "action": "mask", "metric": "ratio", "agg": "mean"}
        return Settings(**{**given, "lower": None, "upper": 2.0, **settings})

    def penalty(self, b: Batch, longest: int, buffer: int) -> Tensor:
        rewards = torch.zeros(len(b.lengths))
        data = {"rewards": rewards, "input_ids": b.mask, "loss_mask": b.mask}
        return self._functional.reward_overlong_penalty(data, buffer, 1.0, longest)["rewards"]

    def kl(self, b: Batch, name: str) -> Tensor:
        each = self._estimator(name, apply_clamp=False)(b.logp, b.ref)
        return b.mean(each)
