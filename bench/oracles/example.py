"""Batch: padded answers as other trainers have them, and what our algorithms make of the same."""

from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentrl.algorithms import GRPO, Terms
from agentrl.algorithms.advantages import gae
from agentrl.types import Call, CallScores, Episode, Group, Sample, weighted_sum


@dataclass
class Batch:
    """[B, T] log-probabilities and their mask, in fp64; advantages [B]."""

    logp: Tensor
    old: Tensor
    advantages: Tensor
    mask: Tensor
    ref: Tensor
    rollout: Tensor

    @property
    def by_token(self) -> Tensor:
        return self.advantages[:, None].expand_as(self.mask) * self.mask

    @property
    def lengths(self) -> list[int]:
        return self.mask.sum(-1).long().tolist()

    def mean(self, values: Tensor) -> Tensor:
        """Over tokens."""
        return (values * self.mask).sum() / self.mask.sum()


def example(*, is_sampled_elsewhere: bool = False) -> Batch:
    """Six answers of different lengths, ratios on both sides of every bound. Unless it is sampled
    elsewhere, the sampler is the policy before the first step."""
    g = torch.Generator().manual_seed(0)
    lengths = torch.tensor([5, 3, 4, 2, 5, 1])
    mask = (torch.arange(5)[None] < lengths[:, None]).double()
    old = -torch.rand(6, 5, generator=g, dtype=torch.float64) * 3 - 0.05
    logp, rollout, ref = (
        old + torch.randn(6, 5, generator=g, dtype=torch.float64) * scale
        for scale in (0.35, 0.6, 0.2)
    )
    logp = logp.clamp(max=-0.01)
    # Where a dual clip bites.
    old[1, 0], logp[1, 0] = -1.0, -0.4
    advantages = torch.tensor([1.0, -1.0, 0.5, -0.5, 0.0, 2.0], dtype=torch.float64)
    rollout = rollout if is_sampled_elsewhere else old
    return Batch(logp.requires_grad_(), old, advantages, mask, ref, rollout)


def surprise(b: Batch) -> Tensor:
    """What stands for an entropy: something with a gradient."""
    return b.logp**2


def likelihood_of(algorithm: GRPO, b: Batch) -> Tensor:
    """Where every answer counts alike."""
    return loss_of(algorithm, replace(b, advantages=torch.ones_like(b.advantages)))


def added_by(algorithm: GRPO, b: Batch) -> Tensor:
    """What it adds to GRPO's loss."""
    return loss_of(algorithm, b) - loss_of(GRPO(), b)


def scored_episodes(b: Batch) -> list[Episode]:
    """Each answer is a call of an episode of its own, scored before the first step; its reward is
    0."""
    found = []
    for i, is_there in enumerate(b.mask.bool()):
        own, of_reference = (tuple(x[i][is_there].tolist()) for x in (b.old, b.ref))
        scores = CallScores(logprobs=own, entropies=own, ref_logprobs=of_reference)
        calls = (replace(_call(len(own)), scores=scores),)
        found.append(Episode(task={}, index=i, calls=calls, reward=0.0))
    return found


def with_a_tool(b: Batch) -> Tensor:
    """The mask, where a tool says the second token of each longer answer: it is of two calls."""
    mask = b.mask.clone()
    mask[mask.sum(-1) > 2, 1] = 0
    return mask


def returns_of(b: Batch, mask: Tensor, discount: float, decay: float) -> Tensor:
    """Of each token GAE and its value, where values are the old log-probabilities and the reward is
    the advantage."""
    samples = []
    for i, row in enumerate(mask.bool().tolist()):
        for is_sampled, columns in groupby(range(len(row)), row.__getitem__):
            values = tuple(b.old[i, [*columns]].tolist())
            if is_sampled:
                scores = CallScores(logprobs=values, entropies=values, others={"values": values})
                call = replace(_call(len(values)), scores=scores)
                samples.append(Sample(call, b.advantages[i].item(), group=0, episode=i))
    found = [a for s in gae(samples, discount, decay, "values") for a in s.advantage]
    return b.old[mask.bool()] + torch.tensor(found, dtype=torch.float64)


def their_rewards(b: Batch, mask: Tensor) -> Tensor:
    """The same rewards, with the last token of each answer."""
    last = mask.shape[1] - 1 - mask.flip(-1).argmax(-1)
    return torch.zeros_like(mask).scatter(1, last[:, None], b.advantages[:, None])


GAMES = [[1.0, -1.0], [-0.5, 0.5], [1.0, -1.0], [0.0, 0.0], [-1.0, 1.0]]
"""What two players got."""


def game_credit_of(algorithm: GRPO) -> Tensor:
    """The advantages of both players, game by game."""
    games = [dict(zip(("first", "second"), rewards, strict=True)) for rewards in GAMES]
    episodes = [
        Episode(task={}, index=i, reward=of, calls=tuple(replace(_call(1), agent=p) for p in of))
        for i, of in enumerate(games)
    ]
    found = algorithm.advantages([Group({}, tuple(episodes))])
    return torch.tensor([sample.advantage for sample in found], dtype=torch.float64)


def loss_of(algorithm: GRPO, b: Batch) -> Tensor:
    """Each answer is a call of an episode of its own; three of them are a group."""
    mask, counts = b.mask.bool(), b.lengths
    call = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    terms = Terms(
        logprobs=b.logp[mask],
        entropies=surprise(b)[mask],
        sampler_logprobs=b.rollout[mask],
        proximal_logprobs=b.old[mask],
        ref_logprobs=b.ref[mask],
        advantages=b.by_token[mask],
        call=call,
    )
    weights, divisor = algorithm.weigh(
        [
            Sample(_call(count), advantage, group=i // 3, episode=i)
            for i, (count, advantage) in enumerate(zip(counts, b.advantages.tolist()))
        ]
    )
    weighted = algorithm.loss(terms).values * torch.tensor(weights, dtype=torch.float64)[call]
    return weighted.sum() / divisor


REWARDS = torch.tensor([1.0, 0.0, 0.5, 0.25, 1.0, 0.0, 0.0], dtype=torch.float64)
GROUP_OF = torch.tensor([0, 0, 0, 1, 1, 1, 1])
TWO_ALIKE = 6
"""So many of them are two groups of one size."""
INDEX = np.array([str(int(group)) for group in GROUP_OF])
PARTS = {"right": REWARDS, "short": torch.tensor([0.1, 0.2, 0.3, 0.0, 0.0, 0.5, 0.7]).double()}


def rewards_by_group() -> list[list[float]]:
    return [REWARDS[number == GROUP_OF].tolist() for number in (0, 1)]


def outcome_rewards(scale: float = 1.0) -> dict[str, Any]:
    """As verl and what derives from it take them: an answer of one token each."""
    one = torch.ones(len(REWARDS), 1, dtype=torch.float64)
    return {"token_level_rewards": scale * REWARDS[:, None], "response_mask": one, "index": INDEX}


def credit_of(
    algorithm: GRPO, num_parts: int = 0, scale: float = 1.0, count: int = len(REWARDS)
) -> Tensor:
    """The advantages of the first of those rewards, or of so many parts; a call of one token an
    episode."""
    groups = []
    for number in (0, 1):
        rows = (number == GROUP_OF[:count]).nonzero()[:, 0].tolist()
        task, episodes = {"id": str(number)}, []
        for i, row in enumerate(rows):
            parts = {name: scale * PARTS[name][row].item() for name in list(PARTS)[:num_parts]}
            alone = scale * REWARDS[row].item()
            reward = weighted_sum(parts, algorithm.part_weights) if parts else alone
            of = {"task": task, "index": i, "calls": (_call(1),)}
            episodes.append(Episode(**of, reward=reward, parts=parts))
        groups.append(Group(task, tuple(episodes)))
    found = [sample.advantage for sample in algorithm.advantages(groups)]
    return torch.tensor(found, dtype=torch.float64)


STEPS = [
    # task, run, reward of the step, state
    *((0, 0, 1.0, "a"), (0, 0, 0.5, "b"), (0, 1, 0.0, "a"), (0, 1, 0.25, "a"), (0, 1, 2.0, "b")),
    *((0, 2, 0.5, "c"), (1, 0, 1.0, "d"), (1, 1, 0.0, "d"), (1, 1, 0.75, "e")),
]


def step_credit_of(algorithm: GRPO) -> Tensor:
    """The advantages of those steps; the reward of an episode is its last step's."""
    groups = []
    for task in (0, 1):
        runs = sorted({run for t, run, *_ in STEPS if t == task})
        episodes = []
        for run in runs:
            rewards = [(reward, state) for t, r, reward, state in STEPS if (t, r) == (task, run)]
            calls = [replace(_call(1), reward=reward, state=state) for reward, state in rewards]
            calls[-1] = replace(calls[-1], reward=None)
            of = {"task": {"id": str(task)}, "index": run, "calls": tuple(calls)}
            episodes.append(Episode(**of, reward=rewards[-1][0]))
        groups.append(Group({"id": str(task)}, tuple(episodes)))
    found = [sample.advantage for sample in algorithm.advantages(groups)]
    return torch.tensor(found, dtype=torch.float64)


def _call(num_tokens: int) -> Call:
    ids = [0] * num_tokens
    return Call(prompt_ids=[0], completion_ids=ids, logprobs=[0.0] * num_tokens)
