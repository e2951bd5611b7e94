"""Credit: the samples of a batch, from calls that policy and reference have scored if need be."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from agentrl.algorithms import Terms
from agentrl.algorithms.advantages import trainable
from agentrl.config import Config
from agentrl.learning.learner import Learner
from agentrl.learning.packing import pack
from agentrl.learning.ranks import Ranks
from agentrl.types import CallScores, Episode, Group, Sample


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
    scored = []
    for micro in ranks.deal(pack(samples, config.micro_batch_tokens), learner.policy):
        models = (learner.policy, learner.reference)
        terms = [model and model.terms(micro, config.sampling.temperature) for model in models]
        scored.append((micro.samples, *terms))
    # Read when all is queued: earlier it would stop the device.
    own = [found for numbers, *terms in scored for found in _by_call(numbers, samples, *terms)]
    scores = dict(ranks.gather(own, "scores"))
    return [
        replace(sample, call=replace(sample.call, scores=scores[i]))
        for i, sample in enumerate(samples)
    ]


def _by_call(
    numbers: Sequence[int], samples: Sequence[Sample], terms: Terms, reference: Terms | None
) -> Iterator[tuple[int, CallScores]]:
    """Of each sample of a micro-batch, by its number."""
    ends = np.cumsum([len(samples[i].call.completion_ids) for i in numbers], dtype=int)

    def of_calls(values: torch.Tensor) -> list[tuple[float, ...]]:
        return [tuple(part.tolist()) for part in np.split(values.float().cpu().numpy(), ends)[:-1]]

    columns = {"logprobs": of_calls(terms.logprobs), "entropies": of_calls(terms.entropies)}
    if reference is not None:
        columns["ref_logprobs"] = of_calls(reference.logprobs)
    others = {name: of_calls(values) for name, values in terms.others.items()}
    for i, number in enumerate(numbers):
        yield (
            number,
            CallScores(
                **{name: values[i] for name, values in columns.items()},
                others={name: values[i] for name, values in others.items()},
            ),
        )
