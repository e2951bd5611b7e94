"""Scores: what the trainer made of each sampled token, and whose call the token is in."""

import logging
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentrl.records.schema import IMPORTANCE, ROUNDED_BITS
from agentrl.types import Group, Sample

log = logging.getLogger(__name__)

CallKey = tuple[int, int, int]
"""Of a call in its batch: the numbers of its group, of its episode there, its own there."""
Row = dict[str, Any]
"""Of a table, by column."""


@dataclass(frozen=True, eq=False)
class Scores:
    """What the trainer made of the terms of a micro-batch, call by call."""

    samples: np.ndarray
    """Which of the batch's samples they are of, in order."""
    values: np.ndarray
    """float32 [2 + K, N]: the trainer's log-probabilities, entropies, K measures."""
    measures: tuple[str, ...] = ()
    """Their names."""

    @classmethod
    def of(
        cls, samples: Sequence[int], logprobs: Tensor, entropies: Tensor, **measures: Tensor
    ) -> "Scores":
        """measures: an algorithm's own, [N]; its importance weights are ``importance``. Waits for
        the device."""
        values = torch.stack([logprobs, entropies, *measures.values()]).detach().float()
        return cls(np.array(samples, int), values.cpu().numpy(), tuple(measures))


def trained(
    groups: Sequence[Group], samples: Sequence[Sample], scores: Sequence[Scores]
) -> tuple[dict[CallKey, Row], float | None]:
    """What calls have in their rows as samples, and the cap of the importance weights.

    With a cap, the weights follow from it and are left out.
    """
    rows: list[Row] = []
    for sample in samples:
        each = np.asarray(sample.advantage, np.float64)
        rows.append({"advantage": float(each.mean()), "advantages": each if each.ndim else None})
    for part in scores:
        ends = np.cumsum([len(samples[s].call.completion_ids) for s in part.samples], dtype=int)
        for s, values in zip(part.samples, np.split(part.values, ends, axis=1)[:-1], strict=True):
            rows[s]["trainer_logprobs"], entropies, *measures = values
            rows[s]["entropies"] = rounded(entropies)
            rows[s]["measures"] = dict(zip(part.measures, measures, strict=True))
    cap = _importance_cap(samples, rows)
    for row in rows:
        measures = row.get("measures", {})
        row["measures"] = [(n, v) for n, v in measures.items() if n != IMPORTANCE or cap is None]
    found = dict(zip(keys_of(groups, samples), rows, strict=True))
    found.pop(None, None)
    return found, cap


def rounded(values: np.ndarray | float) -> np.ndarray | float:
    """Floats of fewer bits: of those that are 0 everywhere nothing is left on the disk.

    >>> rounded(np.array([0.1, np.nan], np.float32)).tolist()
    [0.100006103515625, nan]
    """
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.rint(mantissa * 2.0**ROUNDED_BITS), exponent - ROUNDED_BITS)


def keys_of(groups: Sequence[Group], samples: Sequence[Sample]) -> list[CallKey | None]:
    """The call that each sample is of: the one with its very list of log-probabilities, which a
    copy with scores has, too. None, and a warning, where no episode has such a call."""
    found: dict[int, deque[CallKey | None]] = defaultdict(lambda: deque([None]))
    for g, group in enumerate(groups):
        for e, episode in enumerate(group.episodes):
            for c, call in enumerate(episode.calls):
                found.setdefault(id(call.logprobs), deque()).append((g, e, c))
    keys = []
    for sample in samples:
        # Of calls that are one object each has its own sample.
        keys.append(found[id(sample.call.logprobs)][0])
        found[id(sample.call.logprobs)].rotate(-1)
    if strangers := keys.count(None):
        log.warning("%d samples are of no call of the step: they are not recorded", strangers)
    return keys


def _importance_cap(samples: Sequence[Sample], rows: Sequence[Row]) -> float | None:
    """The cap with which all importance weights are ``min(exp(trainer - sampler), cap)``.

    None where they are not, or none were measured.
    """
    measured = [
        (row["measures"][IMPORTANCE], row["trainer_logprobs"], sample.call.logprobs)
        for sample, row in zip(samples, rows, strict=True)
        if IMPORTANCE in row.get("measures", ())
    ]
    if not measured:
        return None
    weights, trainer, sampler = (np.concatenate(one).astype(np.float32) for one in zip(*measured))
    cap = weights.max(initial=0.0)
    follows = np.minimum(np.exp(trainer - sampler), cap)
    return float(cap) if np.allclose(weights, follows, rtol=2e-6, atol=0) else None
