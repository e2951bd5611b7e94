"""Trinity-RFT: its losses, its credit of a group, and its operators over the steps of episodes."""

import importlib
import inspect
import logging
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.oracles.example import Batch, outcome_rewards, rewards_by_group
from bench.oracles.stubs import Settings, bare, fake, pick, stub

OF_BATCH = {"on_policy_distill": "OnPolicyDistillAdvantage", "rloo": "RLOOAdvantageFn"}
"""Credit that is of verl's batches: their files import it."""
LOSSES, CREDITS = "trinity.algorithm.policy_loss_fn", "trinity.algorithm.advantage_fn"


class Trinity:
    def __init__(self, root: Path):
        _make_importable(root)
        self._experience = importlib.import_module("trinity.common.experience")
        self._estimates = importlib.import_module("trinity.algorithm.kl_fn.kl_fn")
        entropies = importlib.import_module("trinity.algorithm.entropy_loss_fn.entropy_loss_fn")
        self._entropy_loss = entropies.DefaultEntropyLossFn
        folder, base = root / "trinity/algorithm/advantage_fn", {"AdvantageFn": object}
        names = {**base, "torch": torch, "defaultdict": defaultdict}
        self._of_batch = {
            name: getattr(pick(folder / f"{file}_advantage.py", [name], **names), name)
            for file, name in OF_BATCH.items()
        }
        path, name = root / "trinity/common/rewards/dapo_reward.py", "MathDAPORewardFn"
        self._overlong = getattr(pick(path, [name], RewardFn=object), name)

    def loss(self, b: Batch, path: str, **settings: Any) -> Tensor:
        file, name = path.split(".")
        function = getattr(importlib.import_module(f"{LOSSES}.{file}"), name)(**settings)
        given = {"old_logprob": b.old, "action_mask": b.mask, "advantages": b.by_token}
        return function(b.logp, **given)[0]

    def kl(self, b: Batch, name: str) -> Tensor:
        function = getattr(self._estimates, name)(adaptive=False, kl_coef=1.0)
        known = inspect.signature(function.calculate_kl).parameters
        given = {"logprob": b.logp, "ref_logprob": b.ref, "old_logprob": b.old}
        each = function.calculate_kl(**{k: v for k, v in given.items() if k in known})
        return b.mean(each)

    def entropy(self, entropies: Tensor, b: Batch, weight: float) -> Tensor:
        return self._entropy_loss(weight)(entropies, b.mask)[0]

    def penalty(self, b: Batch, longest: int, buffer: int) -> Tensor:
        settings = {"max_response_length": longest, "cache_length": buffer, "penalty_factor": 1.0}
        function = self._overlong(**settings).compute_overlong_penalty
        return torch.tensor([function([0] * n) for n in b.lengths])

    def distilled(self, b: Batch) -> Tensor:
        """Of each token, the reference being the teacher."""
        given = {"old_log_probs": b.old, "teacher_logprobs": b.ref, "response_mask": b.mask}
        batch = Settings(batch=given)
        self._of_batch["OnPolicyDistillAdvantage"]()(batch)
        return given["advantages"][b.mask.bool()]

    def rloo(self) -> Tensor:
        given = outcome_rewards()
        batch = Settings(batch=given, non_tensor_batch={"uid": given["index"]})
        self._of_batch["RLOOAdvantageFn"]()(batch)
        return given["advantages"][:, 0]

    def steps(self, rewards, tasks, runs, numbers, infos=None) -> list:
        """An experience a step, of one token."""
        infos = infos or [{}] * len(rewards)
        return [
            self._experience.Experience(
                eid=self._experience.EID(batch=0, task=t, run=r, step=s),
                tokens=torch.zeros(2, dtype=torch.long),
                prompt_length=1,
                reward=reward,
                logprobs=torch.zeros(1),
                info=info,
            )
            for reward, t, r, s, info in zip(rewards, tasks, runs, numbers, infos, strict=True)
        ]

    def operator(self, path: str, experiences: list, **settings: Any) -> Tensor:
        """What a whole operator makes of steps: an advantage each."""
        file, name = path.split(".")
        function = getattr(importlib.import_module(f"{CREDITS}.{file}"), name)(**settings)
        function.process(experiences)
        return torch.stack([torch.as_tensor(e.advantages).double().mean() for e in experiences])

    def credit(self, path: str) -> Tensor:
        file, name = path.split(".")
        function = getattr(importlib.import_module(f"{CREDITS}.{file}"), name)()
        found = []
        for number, rewards in enumerate(rewards_by_group()):
            runs = range(len(rewards))
            made = self.steps(rewards, [number] * len(rewards), runs, [0] * len(rewards))
            found += function.calculate_group_advantage(str(number), made)[0]
        return torch.stack([torch.as_tensor(e.advantages).double().mean() for e in found])


def _make_importable(root: Path) -> None:
    stub("ray", "omegaconf")
    packages = ("algorithm", "algorithm.policy_loss_fn", "algorithm.advantage_fn")
    packages += (
        "algorithm.kl_fn",
        "algorithm.entropy_loss_fn",
        "buffer",
        "buffer.operators",
        "common",
        "utils",
    )
    bare(root, "trinity", *(f"trinity.{name}" for name in packages))
    sys.modules["trinity.buffer.operators"].ExperienceOperator = type("Operator", (), {})
    base = importlib.import_module(f"{LOSSES}.policy_loss_fn")
    sys.modules[LOSSES].PolicyLossFn = base.PolicyLossFn
    fake("trinity.utils.log", get_logger=lambda *a, **k: logging.getLogger("trinity"))
    advantage = importlib.import_module(f"{CREDITS}.advantage_fn")
    sys.modules[CREDITS].AdvantageFn = advantage.AdvantageFn
    sys.modules[CREDITS].GroupAdvantage = advantage.GroupAdvantage
