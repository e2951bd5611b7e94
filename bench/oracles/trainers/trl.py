"""TRL: one method of its trainer, on a trainer that has what the method reads."""

import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from bench.oracles.example import Batch


class TRL:
    def __init__(self, root: Path):
        sys.path.append(str(root))
        from trl.rewards import get_soft_overlong_punishment
        from trl.trainer.grpo_trainer import GRPOTrainer

        self._trainer, self._overlong = GRPOTrainer, get_soft_overlong_punishment

    def loss(
        self, b: Batch, loss_type: str, *, low=0.2, high=0.2, beta=0.0, level="token"
    ) -> Tensor:
        trainer = SimpleNamespace(
            **_switched_off(),
            _get_per_token_logps_and_entropies=lambda *a, **k: (b.logp, b.logp.detach() * 0, None),
            importance_sampling_level=level,
            beta=beta,
            loss_type=loss_type,
            epsilon_low=low,
            epsilon_high=high,
            max_completion_length=b.mask.shape[1],
            get_off_policy_mask=self._trainer.get_off_policy_mask,
            get_gamma_weights=self._trainer.get_gamma_weights,
        )
        return self._trainer._compute_loss(trainer, None, _inputs(b))

    def penalty(self, b: Batch, longest: int, buffer: int) -> Tensor:
        return torch.tensor(self._overlong(longest, buffer)([[0] * n for n in b.lengths]))


def _inputs(b: Batch) -> dict[str, Tensor]:
    return {
        "prompt_ids": torch.zeros(len(b.advantages), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(b.advantages), 1, dtype=torch.long),
        "completion_ids": torch.zeros_like(b.mask, dtype=torch.long),
        "completion_mask": b.mask,
        "advantages": b.advantages,
        "old_per_token_logps": b.old,
        "num_items_in_batch": b.mask.sum(),
        "ref_per_token_logps": b.ref,
    }


def _switched_off() -> dict[str, object]:
    """What the method reads besides: one process, and nothing that is no part of the loss."""
    arguments = {"delta": None, "use_bias_correction_kl": False, "steps_per_generation": 1}
    taus = {"sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05}
    accelerator = SimpleNamespace(
        num_processes=1,
        gather=lambda x: x,
        gather_for_metrics=lambda x: x,
        reduce=lambda x, reduction=None: x,
        sync_gradients=True,
    )
    return {
        "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "args": SimpleNamespace(**arguments, **taus),
        "use_vllm": False,
        "vllm_importance_sampling_correction": False,
        "model": SimpleNamespace(training=True),
        "current_gradient_accumulation_steps": 1,
        "accelerator": accelerator,
        "_entropy_bonus_enabled": False,
        "_metrics": defaultdict(lambda: defaultdict(list)),
    }
