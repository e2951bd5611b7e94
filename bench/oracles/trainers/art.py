"""ART (openpipe-art): its loss, one function, over rows whose first token is of the prompt."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from bench.oracles.example import Batch
from bench.oracles.stubs import Anything, pick


class ART:
    def __init__(self, root: Path):
        mean = pick(root / "art/utils/group_aggregate.py", ["group_aggregate"], torch=torch)
        names = {"torch": torch, "dev": Anything(), "Literal": Literal, "Loss": dict}
        names["group_aggregate"] = mean.group_aggregate
        found = pick(root / "art/loss.py", ["loss_fn", "shift_tensor"], **names)
        self._loss, found.TrainInputs = found.loss_fn, dict

    def loss(self, b: Batch, **config: Any) -> Tensor:
        """The mean over tokens."""
        rows = torch.arange(1, len(b.mask) + 1)[:, None].expand_as(b.mask)
        shifted = {
            "logprobs": b.old,
            "advantages": b.by_token,
            "assistant_mask": b.mask.bool(),
            "weights": b.mask,
            "group_ids": rows,
            "original_logprobs": b.rollout,
        }
        inputs = {name: pad(of, (1, 0)) for name, of in shifted.items()}
        return self._loss(inputs, pad(b.logp, (0, 1)), None, None, config)["policy_loss"]
