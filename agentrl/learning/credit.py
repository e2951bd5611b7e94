"""Credit: the samples of a batch, from calls that policy and reference have scored if need be."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from agentrl.algorithms import Terms
from agentrl.algorithms.advantages import trainable
from agentrl.config import Config
from agentrl.learning.learner import Learner
from agentrl.learning.packing import MicroBatch, pack
from agentrl.learning.ranks import Ranks
from agentrl.types import Call, CallScores, Episode, Group, Sample


def credit(groups: Sequence[Group], learner: Learner, config: Config, ranks: Ranks) -> list[Sample]:
    """The samples to train on: credit, from scored calls where the algorithm reads scores.

    Calls that the loss alone compares, with the reference or with the policy before several steps,
    are scored after credit, and only those.
    """
    algorithm = config.algorithm
    if algorithm.scores:
        groups = _scored_groups(groups, learner, config, ranks)
    samples = trainable(algorithm.advantages(groups), config.trained_agents)
    if algorithm.scores or not (algorithm.reference or algorithm.has_proximal):
        return samples
    return _scored(samples, learner, config, ranks)


def _scored_groups(
    groups: Sequence[Group], learner: Learner, config: Config, ranks: Ranks
) -> list[Group]:
    samples = trainable(
        [Sample(call, 0.0) for group in groups for e in group.scored for call in e.calls],
        config.trained_agents,
    )
    scored = _scored(samples, learner, config, ranks)
    found = {id(s.call): new.call for s, new in zip(samples, scored, strict=True)}

    def with_scores(episode: Episode) -> Episode:
        return replace(episode, calls=tuple(found.get(id(c), c) for c in episode.calls))

    return [replace(g, episodes=tuple(map(with_scores, g.episodes))) for g in groups]


@torch.no_grad()
def _scored(
    samples: Sequence[Sample], learner: Learner, config: Config, ranks: Ranks
) -> list[Sample]:
    """The samples with ``call.scores``; each call is scored by one rank, and known to all."""
    own = {}
    for micro in ranks.deal(pack(samples, config.micro_batch_tokens)):
        own |= _score(micro.to(ranks.device), samples, learner, config.sampling.temperature)
    scores = dict(ranks.gather(list(own.items()), "scores"))
    return [
        replace(sample, call=replace(sample.call, scores=scores[i]))
        for i, sample in enumerate(samples)
    ]


def _score(
    micro: MicroBatch, samples: Sequence[Sample], learner: Learner, temperature: float
) -> dict[int, CallScores]:
    terms = learner.policy.terms(micro, temperature)
    reference = learner.reference and learner.reference.terms(micro, temperature).logprobs
    numbers = micro.samples.tolist()
    calls = [samples[i].call for i in numbers]
    by_call = {name: _cut(values, calls) for name, values in _columns(terms, reference).items()}
    return {i: _call_scores({n: v[j] for n, v in by_call.items()}) for j, i in enumerate(numbers)}


def _columns(terms: Terms, reference: torch.Tensor | None) -> dict[str, torch.Tensor]:
    columns = {"logprobs": terms.logprobs, "entropies": terms.entropies}
    if reference is not None:
        columns["ref_logprobs"] = reference
    return columns | {f"others/{name}": values for name, values in terms.others.items()}


def _cut(values: torch.Tensor, calls: Sequence[Call]) -> list[tuple[float, ...]]:
    ends = np.cumsum([len(call.completion_ids) for call in calls])
    return [tuple(part.tolist()) for part in np.split(values.float().cpu().numpy(), ends)[:-1]]


def _call_scores(values: dict[str, tuple[float, ...]]) -> CallScores:
    others = {n.removeprefix("others/"): v for n, v in values.items() if n.startswith("others/")}
    plain = {name: v for name, v in values.items() if not name.startswith("others/")}
    return CallScores(**plain, others=others)
