"""One update of a small model by ``train.update``, and the same gradient by transformers alone."""

import copy
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from agentrl.algorithms import GRPO
from agentrl.config import Config, ModelConfig, OptimConfig, SamplingConfig
from agentrl.learning.learner import Learner
from agentrl.learning.policy import Policy
from agentrl.learning.ranks import Ranks
from agentrl.signals import Signals
from agentrl.types import Call, Chunk, Group
from tests.support.small_samples import SIZES, TEMPERATURE
from train import update

Weights = list[Tensor]


class Watched:
    """The part of a session that an update sees, and what it was told."""

    num_steps = 1

    def __init__(self):
        self.num_updates, self.tally = 0, None

    def progress(self, items: Sequence):
        return iter(items)

    def stepped(self) -> None:
        self.num_updates += 1

    def record(self, step: int, tally) -> None:
        self.tally = tally


@cache
def one_rank() -> Ranks:
    return Ranks("float32", Signals())


def language_model(seed: int = 0) -> torch.nn.Module:
    """In fp64, so that what differs is not rounding."""
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8)).double()


def make_config(algorithm: GRPO, **fields) -> Config:
    """A step moves the weights by the gradient itself: see ``updated``."""
    return Config(
        workflow=_never,
        tasks=lambda data: ([], []),
        model=ModelConfig(path="m"),
        algorithm=algorithm,
        sampling=SamplingConfig(temperature=TEMPERATURE),
        optim=OptimConfig(lr=1.0, max_grad_norm=1e9),
        **{"micro_batch_tokens": 60, **fields},
    )


async def _never(task, model): ...


def updated(
    policy: Policy,
    algorithm: GRPO,
    chunks: Iterable[Chunk] | Sequence[Group],
    reference: Policy | None = None,
    **fields,
) -> Namespace:
    """Train a policy on a batch by gradient descent, one step of length 1 an update.

    Returns by how much each weight has ``moved``, downwards: with one update, its gradient; the
    step's ``metrics``; and the ``run`` that watched.
    """
    if all(isinstance(one, Group) for one in chunks):
        chunks = [Chunk(chunks)]
    run, config = Watched(), make_config(algorithm, **fields)
    before = [weight.detach().clone() for weight in policy.parameters()]
    learner = Learner(policy, reference, torch.optim.SGD(policy.parameters(), lr=1.0))
    metrics = update(learner, chunks, 0, config, one_rank(), run)
    moved = [a - b.detach() for a, b in zip(before, policy.parameters(), strict=True)]
    return Namespace(moved=moved, metrics=metrics, run=run)


def gradient_of_update(algorithm: GRPO, chunks, **options) -> Weights:
    """Of one update of the small model."""
    return updated(Policy(language_model()), algorithm, chunks, **options).moved


def scored(lm: torch.nn.Module, call: Call) -> tuple[Tensor, Tensor]:
    """The log-probability and the entropy of each token of a call; one row, eager attention."""
    ids = torch.tensor([call.ids])
    logprobs = (lm(input_ids=ids, use_cache=False).logits / TEMPERATURE).log_softmax(-1)
    start = len(call.prompt_ids)
    drawn_from = logprobs[0, start - 1 : -1]
    entropies = -(drawn_from.exp() * drawn_from).sum(-1)
    return drawn_from.gather(-1, ids[0, start:, None])[:, 0], entropies


def gradient_by_hand(
    calls: Iterable[Call], loss_of: Callable[[Call, Tensor, Tensor], Tensor], lm=None
) -> Weights:
    """Of the sum over calls of a loss of (call, log-probs, entropies), call by call."""
    lm = copy.deepcopy(lm or language_model())
    lm.set_attn_implementation("eager")
    for call in calls:
        loss_of(call, *scored(lm, call)).backward()
    return [weight.grad.clone() for weight in lm.parameters() if weight.requires_grad]


def largest_difference(mine: Weights, theirs: Weights) -> float:
    """Relative to the largest entry of each weight."""
    return max(
        ((a - b).abs().max() / b.abs().max()).item() for a, b in zip(mine, theirs, strict=True)
    )


def rewarded(group: Group, *rewards: float) -> Group:
    """The group, with other rewards."""
    episodes = zip(group.episodes, rewards, strict=True)
    return replace(group, episodes=tuple(replace(e, reward=r) for e, r in episodes))
