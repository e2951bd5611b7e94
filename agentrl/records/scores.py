"""Scores: what the trainer made of each sampled token, and whose call the token is in."""

import logging
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from agentrl.records.schema import IMPORTANCE
from agentrl.types import Call, Group, Sample

log = logging.getLogger(__name__)

CallKey = tuple[int, int, int]
"""Of a call in its batch: the numbers of its group, of its episode there, its own there."""


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
        cls, samples: Tensor, logprobs: Tensor, entropies: Tensor, **measures: Tensor
    ) -> "Scores":
        """measures: an algorithm's own, [N]; its importance weights are ``importance``."""
        values = torch.stack([logprobs, entropies, *measures.values()]).detach().float()
        return cls(samples.cpu().numpy(), values.cpu().numpy(), tuple(measures))


@dataclass(frozen=True, eq=False, kw_only=True)
class Trained:
    """A call as a sample: its credit, and its scores where it was in the loss."""

    call: Call
    advantage: float | Sequence[float]
    logprobs: np.ndarray | None = None
    entropies: np.ndarray | None = None
    measures: Mapping[str, np.ndarray] = field(default_factory=dict)


def trained(
    groups: Sequence[Group], samples: Sequence[Sample], scores: Sequence[Scores]
) -> dict[CallKey, Trained]:
    """The samples by the calls that they are of; see ``keys_of``."""
    keys = keys_of(groups, samples)
    found = {
        key: Trained(call=sample.call, advantage=sample.advantage)
        for key, sample in zip(keys, samples, strict=True)
    }
    for part in scores:
        numbers = part.samples.tolist()
        ends = np.cumsum([len(samples[s].call.completion_ids) for s in numbers], dtype=int)
        for s, values in zip(numbers, np.split(part.values, ends, axis=1)[:-1], strict=True):
            found[keys[s]] = Trained(
                call=samples[s].call,
                advantage=samples[s].advantage,
                logprobs=values[0],
                entropies=values[1],
                measures=dict(zip(part.measures, values[2:], strict=True)),
            )
    found.pop(None, None)
    return found


def keys_of(groups: Sequence[Group], samples: Sequence[Sample]) -> list[CallKey | None]:
    """The call that each sample is of: the very object, or, where it is a copy, an equal one.

    Of several that are equal each is taken once, in order. None, and a warning, where no episode
    has such a call.
    """
    calls = {
        (g, e, c): call
        for g, group in enumerate(groups)
        for e, episode in enumerate(group.episodes)
        for c, call in enumerate(episode.calls)
    }
    by_identity, by_value, taken = _indexed(calls, id), None, set()
    keys = []
    for sample in samples:
        same = by_identity.get(id(sample.call))
        if same is None:
            # Made where one is needed: it holds every token of every call.
            by_value = by_value or _indexed(calls, _value)
            same = by_value.get(_value(sample.call), [])
        fitting = [key for key in same if _is_from(sample, key)]
        keys.append(next((key for key in fitting if key not in taken), (*fitting, None)[0]))
        taken.add(keys[-1])
    if strangers := keys.count(None):
        log.warning("%d samples are of no call of the step: they are not recorded", strangers)
    return keys


def _indexed(
    calls: Mapping[CallKey, Call], name: Callable[[Call], Hashable]
) -> dict[Hashable, list[CallKey]]:
    found = defaultdict(list)
    for key, call in calls.items():
        found[name(call)].append(key)
    return found


def _value(call: Call) -> Hashable:
    return call.agent, tuple(call.prompt_ids), tuple(call.completion_ids), tuple(call.logprobs)


def _is_from(sample: Sample, key: CallKey) -> bool:
    return sample.group in (None, key[0]) and sample.episode in (None, key[1])


def importance_cap(parts: Iterable[Trained]) -> float | None:
    """The cap with which all importance weights are ``min(exp(trainer - sampler), cap)``.

    None where they are not, or none were measured.
    """
    measured = [part for part in parts if IMPORTANCE in part.measures]
    if not measured:
        return None
    weights = np.concatenate([part.measures[IMPORTANCE] for part in measured])
    trainer = np.concatenate([part.logprobs for part in measured])
    sampler = np.concatenate([part.call.logprobs for part in measured]).astype(np.float32)
    cap = weights.max(initial=0.0)
    follows = np.minimum(np.exp(trainer - sampler), cap)
    return float(cap) if np.allclose(weights, follows, rtol=2e-6, atol=0) else None
