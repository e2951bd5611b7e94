"""Functions of seven trainers, from their unpacked wheels: ``loss(batch, ...)`` is a scalar,
``credit(...)`` the advantages of the example's rewards."""

import importlib
import inspect
import logging
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional, Union

import numpy as np
import torch
from torch import Tensor

from bench.oracles.example import GROUP_OF, REWARDS, Batch
from bench.oracles.stubs import Settings, bare, fake, pick, stub

Functions = dict[str, Callable]
INDEX = np.array([str(int(g)) for g in GROUP_OF])


def trl(root: Path) -> Functions:
    sys.path.append(str(root))
    from trl.trainer.grpo_trainer import GRPOTrainer

    accelerator = SimpleNamespace(
        num_processes=1,
        gather=lambda x: x,
        gather_for_metrics=lambda x: x,
        reduce=lambda x, reduction=None: x,
        sync_gradients=True,
    )

    def loss(b: Batch, loss_type: str, *, low=0.2, high=0.2, beta=0.0, level="token") -> Tensor:
        arguments = {"delta": None, "use_bias_correction_kl": False, "steps_per_generation": 1}
        taus = {"sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05}
        trainer = SimpleNamespace(
            _get_per_token_logps_and_entropies=lambda *a, **k: (b.logp, b.logp.detach() * 0, None),
            aux_loss_enabled=False,
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=None,
            importance_sampling_level=level,
            beta=beta,
            loss_type=loss_type,
            epsilon_low=low,
            epsilon_high=high,
            args=SimpleNamespace(**arguments, **taus),
            use_vllm=False,
            vllm_importance_sampling_correction=False,
            model=SimpleNamespace(training=True),
            current_gradient_accumulation_steps=1,
            max_completion_length=b.mask.shape[1],
            accelerator=accelerator,
            _entropy_bonus_enabled=False,
            _metrics=defaultdict(lambda: defaultdict(list)),
            get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
            get_gamma_weights=GRPOTrainer.get_gamma_weights,
        )
        inputs = {
            "prompt_ids": torch.zeros(len(b.advantages), 1, dtype=torch.long),
            "prompt_mask": torch.ones(len(b.advantages), 1, dtype=torch.long),
            "completion_ids": torch.zeros_like(b.mask, dtype=torch.long),
            "completion_mask": b.mask,
            "advantages": b.advantages,
            "old_per_token_logps": b.old,
            "num_items_in_batch": b.mask.sum(),
            "ref_per_token_logps": b.ref,
        }
        return GRPOTrainer._compute_loss(trainer, None, inputs)

    return {"loss": loss}


def verl(root: Path) -> Functions:
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
    algorithms = importlib.import_module("verl.trainer.ppo.core_algos")
    correction = importlib.import_module("verl.trainer.ppo.rollout_corr_helper")

    def loss(
        b: Batch, name: str, agg="token-mean", *, low=0.2, high=0.2, c=100.0, weights=None
    ) -> Tensor:
        clip = {"clip_ratio": low, "clip_ratio_low": low, "clip_ratio_high": high}
        taus, whole = {"tau_pos": 1.0, "tau_neg": 1.05}, {"global_batch_info": {}}
        config = Settings(**clip, **taus, **whole, clip_ratio_c=c, policy_loss=Settings())
        return algorithms.get_policy_loss_fn(name)(
            old_log_prob=b.old,
            log_prob=b.logp,
            advantages=b.by_token,
            response_mask=b.mask,
            loss_agg_mode=agg,
            config=config,
            rollout_is_weights=weights,
        )[0]

    def weights(b: Batch, level: str, threshold: float | str) -> Tensor:
        return correction.compute_rollout_correction_weights(
            b.old - b.rollout, b.mask, rollout_is=level, rollout_is_threshold=threshold
        )[0]

    def credit(name: str, **config: Any) -> Tensor:
        one = torch.ones(len(REWARDS), 1, dtype=torch.float64)
        given = {"token_level_rewards": REWARDS[:, None], "response_mask": one, "index": INDEX}
        function = algorithms.get_adv_estimator_fn(name)
        known = inspect.signature(function).parameters
        given |= {"config": Settings(**config), **config}
        return function(**{k: v for k, v in given.items() if k in known})[0][:, 0]

    def gdpo(parts: dict[str, Tensor], weights: list[float]) -> Tensor:
        one, size = torch.ones(len(REWARDS), 1), len(REWARDS)
        return algorithms.compute_gdpo_outcome_advantage(
            one,
            one,
            INDEX,
            config=Settings(gdpo_reward_keys=list(parts), gdpo_reward_weights=weights),
            non_tensor_batch={name: part.numpy() for name, part in parts.items()},
            batch={"prompts": torch.zeros(size, 1), "attention_mask": torch.ones(size, 2).long()},
        )[0][:, 0]

    def kl(b: Batch, name: str) -> Tensor:
        return (algorithms.kl_penalty(b.logp, b.ref, name) * b.mask).sum() / b.mask.sum()

    return {"loss": loss, "credit": credit, "gdpo": gdpo, "kl": kl, "weights": weights}


def trinity(root: Path) -> Functions:
    stub("ray", "omegaconf")
    rooms = ("algorithm", "algorithm.policy_loss_fn", "algorithm.advantage_fn", "algorithm.kl_fn")
    rooms += ("buffer", "buffer.operators", "common", "utils")
    bare(root, "trinity", *(f"trinity.{name}" for name in rooms))
    sys.modules["trinity.buffer.operators"].ExperienceOperator = type("Operator", (), {})
    losses, credits = "trinity.algorithm.policy_loss_fn", "trinity.algorithm.advantage_fn"
    base = importlib.import_module(f"{losses}.policy_loss_fn")
    sys.modules[losses].PolicyLossFn = base.PolicyLossFn
    fake("trinity.utils.log", get_logger=lambda *a, **k: logging.getLogger("trinity"))
    experience = importlib.import_module("trinity.common.experience")
    advantage = importlib.import_module(f"{credits}.advantage_fn")
    sys.modules[credits].AdvantageFn = advantage.AdvantageFn
    sys.modules[credits].GroupAdvantage = advantage.GroupAdvantage
    estimates = importlib.import_module("trinity.algorithm.kl_fn.kl_fn")

    def loss(b: Batch, path: str, **settings: Any) -> Tensor:
        file, name = path.split(".")
        function = getattr(importlib.import_module(f"{losses}.{file}"), name)(**settings)
        given = {"old_logprob": b.old, "action_mask": b.mask, "advantages": b.by_token}
        return function(b.logp, **given)[0]

    def kl(b: Batch, name: str) -> Tensor:
        function = getattr(estimates, name)(adaptive=False, kl_coef=1.0)
        known = inspect.signature(function.calculate_kl).parameters
        given = {"logprob": b.logp, "ref_logprob": b.ref, "old_logprob": b.old}
        each = function.calculate_kl(**{k: v for k, v in given.items() if k in known})
        return (each * b.mask).sum() / b.mask.sum()

    def steps(rewards, tasks, runs, numbers, infos=None) -> list:
        """An experience a step, of one token."""
        infos = infos or [{}] * len(rewards)
        return [
            experience.Experience(
                eid=experience.EID(batch=0, task=t, run=r, step=s),
                tokens=torch.zeros(2, dtype=torch.long),
                prompt_length=1,
                reward=reward,
                logprobs=torch.zeros(1),
                info=info,
            )
            for reward, t, r, s, info in zip(rewards, tasks, runs, numbers, infos, strict=True)
        ]

    def operator(path: str, experiences: list, **settings: Any) -> Tensor:
        """What a whole operator makes of steps: an advantage each."""
        file, name = path.split(".")
        function = getattr(importlib.import_module(f"{credits}.{file}"), name)(**settings)
        function.process(experiences)
        return torch.stack([torch.as_tensor(e.advantages).double().mean() for e in experiences])

    def credit(path: str) -> Tensor:
        file, name = path.split(".")
        function = getattr(importlib.import_module(f"{credits}.{file}"), name)()
        found = []
        for number in (0, 1):
            rewards = REWARDS[number == GROUP_OF].tolist()
            runs = range(len(rewards))
            made = steps(rewards, [number] * len(rewards), runs, [0] * len(rewards))
            found += function.calculate_group_advantage(str(number), made)[0]
        return torch.stack([torch.as_tensor(e.advantages).double().mean() for e in found])

    return {"loss": loss, "kl": kl, "credit": credit, "steps": steps, "operator": operator}


def areal(root: Path) -> Functions:
    bare(root, "areal", *(f"areal.{n}" for n in ("utils", "utils.functional", "infra")))
    fake("areal.api", "areal.api.cli_args", "areal.utils.logging", "areal.utils.constants")
    fake("areal.infra.platforms", is_npu_available=False)
    fake("areal.utils.perf_tracer", "areal.utils.stats_tracker")
    estimator = pick(root / "areal/utils/data.py", ["KLEstimator"], torch=torch, Any=Any)
    fake("areal.utils.data", KLEstimator=estimator.KLEstimator)
    functional = importlib.import_module("areal.utils.functional.functional")

    def loss(b: Batch, *, low=0.2, high=None, c=None, level="token", rejection=None) -> Tensor:
        given = (b.logp, b.old, b.rollout, b.by_token, low, b.mask.bool(), high, c)
        return functional.ppo_actor_loss_fn(*given, rejection, level)[0]

    def sapo(b: Batch) -> Tensor:
        return functional.sapo_loss_fn(b.logp, b.old, b.by_token, 1.0, 1.05, b.mask.bool())[0]

    def rejection(**settings: Any) -> Settings:
        given = {"level": "token", "action": "mask", "metric": "ratio", "agg": "mean"}
        return Settings(**{**given, "lower": None, "upper": 2.0, **settings})

    def kl(b: Batch, name: str) -> Tensor:
        each = estimator.KLEstimator(name, apply_clamp=False)(b.logp, b.ref)
        return (each * b.mask).sum() / b.mask.sum()

    return {"loss": loss, "sapo": sapo, "kl": kl, "rejection": rejection}


def skyrl(root: Path) -> Functions:
    def remote(function=None, **options):
        return function or (lambda inner: inner)

    stub("ray", "omegaconf", "loguru")
    vars(sys.modules["ray"]).update(remote=remote, is_initialized=lambda: False)
    nested = ("backends", "backends.skyrl_train", "backends.skyrl_train.utils", "train")
    bare(root, "skyrl", *(f"skyrl.{name}" for name in nested))
    fake("skyrl.train.config")
    utils = importlib.import_module("skyrl.backends.skyrl_train.utils.ppo_utils")

    def loss(b: Batch, name: str, agg="token_mean", *, low=0.2, high=0.2, c=3.0, **own) -> Tensor:
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
        scale = utils.apply_loss_reduction_to_advantages_minibatch
        known = inspect.signature(scale).parameters
        sizes = {"micro_batch_size": len(b.advantages), "max_seq_len": b.mask.shape[1]}
        sizes = {k: v for k, v in {**sizes, "config": config}.items() if k in known}
        scaled = scale(b.by_token, b.mask, agg, **sizes)
        return utils.PolicyLossRegistry.get(name)(b.logp, b.old, scaled, config, b.mask, None)[0]

    def credit(name: str) -> Tensor:
        one = torch.ones(len(REWARDS), 1, dtype=torch.float64)
        given = {"token_level_rewards": REWARDS[:, None], "response_mask": one, "index": INDEX}
        return getattr(utils, name)(**given)[0][:, 0]

    def kl(b: Batch, name: str) -> Tensor:
        each = utils.compute_approx_kl(b.logp, b.ref, None, kl_estimator_type=name)
        return (each * b.mask).sum() / b.mask.sum()

    return {"loss": loss, "credit": credit, "kl": kl}


def openrlhf(root: Path) -> Functions:
    root = root / "openrlhf-0.11.2.data" / "purelib"
    bare(root, "openrlhf", "openrlhf.models")
    types = {"torch": torch, "Optional": Optional, "Union": Union}
    utils = root / "openrlhf/models/utils.py"
    fake("openrlhf.models.utils", masked_mean=pick(utils, ["masked_mean"], **types).masked_mean)
    policy_loss = importlib.import_module("openrlhf.models.loss").PolicyLoss
    approximate = pick(utils, ["compute_approx_kl"], **types).compute_approx_kl

    def loss(b: Batch, kind="ppo", *, low=0.2, high=0.2, c=None, token_mean=True) -> Tensor:
        bounds = {"clip_eps_low": low, "clip_eps_high": high, "dual_clip": c}
        function = policy_loss(**bounds, token_level_loss=token_mean, policy_loss_type=kind)
        given = {"action_mask": b.mask, "rollout_log_probs": b.rollout}
        return function(b.logp, b.old, b.by_token, **given)[0]

    def kl(b: Batch, name: str) -> Tensor:
        each = approximate(b.logp, b.ref, kl_estimator=name)
        return (each * b.mask).sum() / b.mask.sum()

    return {"loss": loss, "kl": kl}


def tinker(root: Path) -> Functions:
    path = root / "tinker_cookbook/rl/data_processing.py"
    names = {"torch": torch, "List": list, "TrajectoryGroup": object}
    function = pick(path, ["compute_advantages"], **names).compute_advantages

    def credit() -> Tensor:
        groups = [REWARDS[number == GROUP_OF].tolist() for number in (0, 1)]
        given = [SimpleNamespace(get_total_rewards=partial(list, group)) for group in groups]
        return torch.cat([found.double() for found in function(given)])

    return {"credit": credit}


FOLDERS = {
    "trl": (trl, "trl-1.16.0"),
    "verl": (verl, "verl-0.9.1"),
    "trinity": (trinity, "trinity_rft-0.6.0"),
    "areal": (areal, "areal-1.0.4"),
    "skyrl": (skyrl, "skyrl-0.4.0"),
    "openrlhf": (openrlhf, "openrlhf-0.11.2"),
    "tinker": (tinker, "tinker_cookbook-0.6.1"),
}


def load(folder: Path) -> dict[str, Functions]:
    """Of each trainer its functions, by its name."""
    return {name: loader(folder / wheel) for name, (loader, wheel) in FOLDERS.items()}
