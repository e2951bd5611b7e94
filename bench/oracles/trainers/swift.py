"""ms-swift: its credit of a batch, one module of pure functions."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.oracles.example import GROUP_OF, PARTS, REWARDS, TWO_ALIKE, Batch
from bench.oracles.stubs import pick


class Swift:
    def __init__(self, root: Path):
        std = pick(root / "swift/utils/torch_utils.py", ["nanstd"], torch=torch).nanstd
        wanted = ["compute_advantages", "compute_advantages_dynamic", "compute_teacher_logratio"]
        names = {"torch": torch, "nanstd": std, "dataclass": dataclass}
        self._of = pick(root / "swift/rl_core/advantage.py", wanted, **names)

    def credit(self, name: str, std_over: str, scale: float = 1.0) -> Tensor:
        each = [str(i) for i in range(len(REWARDS))]
        groups = [str(int(group)) for group in GROUP_OF]
        # It gathers in fp32.
        rewards = scale * REWARDS[:, None].float()
        given = rewards, torch.ones(1), groups, each, name, std_over
        return self._of.compute_advantages_dynamic(*given)[0]

    def gdpo(self, weights: list[float], scale: float) -> Tensor:
        """Of groups of one size, which alone it takes."""
        parts = scale * torch.stack([PARTS[name][:TWO_ALIKE] for name in PARTS], dim=1)
        size = TWO_ALIKE // 2
        given = parts, torch.tensor(weights).double(), size, "grpo", "gdpo"
        return self._of.compute_advantages(*given)[0]

    def distilled(self, b: Batch) -> Tensor:
        """Of each token, the reference being the teacher."""
        return self._of.compute_teacher_logratio(b.ref, b.old, b.mask)[b.mask.bool()]
