"""Cases: a world, a micro model, and every batch of groups that there can be, with its chance."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import product

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from agentrl.learning.packing import pack
from agentrl.learning.policy import Policy
from agentrl.types import Call, CallScores, Episode, Group, Sample
from bench.certify.worlds import World

TEMPERATURE = 0.7
"""Not 1, so that what forgets it shows."""
BUDGET = 1 << 14
Node = tuple[int, ...]
"""A sampled token, by all ids that lead to it."""


@cache
def micro_model(vocabulary: int, seed: int = 0) -> Policy:
    """In fp64, and far from uniform."""
    torch.manual_seed(seed)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4}
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
    lm = Qwen3ForCausalLM(Qwen3Config(vocab_size=vocabulary, **sizes, **heads)).double()
    for weight in lm.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.6)
    return Policy(lm)


def key(call: Call) -> tuple[int, Node]:
    return len(call.prompt_ids), tuple(call.ids)


def nodes(call: Call) -> list[Node]:
    return [tuple(call.ids[: i + 1]) for i in range(len(call.prompt_ids), len(call.ids))]


class Enumerated:
    """Every episode of a world, its calls scored by the policy, and what it leads to."""

    def __init__(
        self,
        world: World,
        policy: Policy,
        reference: Policy | None = None,
        sampler: Policy | None = None,
    ):
        """sampler: whose the episodes are; the policy's own, where it is not told."""
        self.world, self.policy, self.reference = world, policy, reference
        self.sampler = sampler or policy
        unscored = [list(world.episodes(task)) for task in world.tasks]
        distinct = {key(call): call for task in unscored for e in task for call in e.calls}
        self.calls = self._scored(list(distinct.values()))
        self.number = {key(call): i for i, call in enumerate(self.calls)}
        self.episodes = [
            [
                replace(e, calls=tuple(self.calls[self.number[key(call)]] for call in e.calls))
                for e in of_task
            ]
            for of_task in unscored
        ]
        every = dict.fromkeys(node for call in self.calls for node in nodes(call))
        self.node = {node: i for i, node in enumerate(every)}

    def _scored(self, calls: list[Call]) -> list[Call]:
        (micro,) = pack([Sample(call, 0.0) for call in calls], BUDGET)
        counts = [len(calls[i].completion_ids) for i in micro.samples]
        policies = {"logprobs": self.policy, "ref_logprobs": self.reference or self.policy}
        with torch.no_grad():
            terms = {name: p.terms(micro, TEMPERATURE) for name, p in policies.items()}
        columns = {name: of.logprobs.split(counts) for name, of in terms.items()}
        columns["entropies"] = terms["logprobs"].entropies.split(counts)
        found = list(calls)
        for row, i in enumerate(micro.samples):
            scores = {name: tuple(of[row].tolist()) for name, of in columns.items()}
            found[i] = replace(
                calls[i], logprobs=list(scores["logprobs"]), scores=CallScores(**scores)
            )
        return found

    def node_logprobs(self, policy: Policy) -> tuple[Tensor, Tensor]:
        """[M] log-probabilities and entropies of all nodes, by transformers alone, a row a node."""
        lm = policy.lm
        length = max(map(len, self.node))
        ids = torch.tensor([[*node, *[0] * (length - len(node))] for node in self.node])
        before = lm.config._attn_implementation
        lm.set_attn_implementation("eager")
        logits = lm(input_ids=ids, use_cache=False).logits / TEMPERATURE
        lm.set_attn_implementation(before)
        rows = torch.arange(len(ids))
        last = torch.tensor([len(node) - 1 for node in self.node])
        drawn_from = logits[rows, last - 1].log_softmax(-1)  # (M, V)
        entropies = -(drawn_from.exp() * drawn_from).sum(-1)
        return drawn_from[rows, ids[rows, last]], entropies

    def logprob(self, of_node: Tensor, calls: Sequence[Call]) -> Tensor:
        """Of all tokens of the calls together."""
        return of_node[[self.node[node] for call in calls for node in nodes(call)]].sum()

    @cached_property
    def chances(self) -> list[np.ndarray]:
        """Of each task's episodes; they add up to 1."""
        with torch.no_grad():
            of_node, _ = self.node_logprobs(self.sampler)
        return [
            np.array([self.logprob(of_node, e.calls).exp().item() for e in of_task])
            for of_task in self.episodes
        ]

    @cached_property
    def jacobian(self) -> Tensor:
        """[2M, weights] of the log-probabilities, then the entropies, of all nodes."""
        values = torch.cat(self.node_logprobs(self.policy))
        weights = self.policy.trainable()
        each = torch.eye(len(values), dtype=values.dtype)
        rows = torch.autograd.grad(values, weights, each, is_grads_batched=True)
        return torch.cat([row.flatten(1) for row in rows], 1).double()


@dataclass(frozen=True, eq=False)
class Case:
    """Batches of so many groups of so many episodes; the task of each group is drawn, too."""

    world: Enumerated
    group_size: int
    num_groups: int = 1

    @property
    def size(self) -> int:
        """How many batches there are."""
        of_group = sum(len(of_task) ** self.group_size for of_task in self.world.episodes)
        return of_group**self.num_groups

    def batches(self) -> Iterator[list[Group]]:
        """Every batch, in the order of ``chances``."""
        groups = [list(self._groups(place)) for place in range(self.num_groups)]
        yield from map(list, product(*groups))

    @cached_property
    def chances(self) -> np.ndarray:
        of_groups = []
        for chances in self.world.chances:
            of_group = np.ones(1)
            for _ in range(self.group_size):
                of_group = np.outer(of_group, chances).ravel()
            of_groups.append(of_group / len(self.world.chances))
        of_group = of_batch = np.concatenate(of_groups)
        for _ in range(1, self.num_groups):
            of_batch = np.outer(of_batch, of_group).ravel()
        return of_batch

    def _groups(self, place: int) -> Iterator[Group]:
        for task, of_task in zip(self.world.world.tasks, self.world.episodes, strict=True):
            # An episode that comes twice is two, as it is in a run.
            copies = [[_copy(e, i) for e in of_task] for i in range(self.group_size)]
            for episodes in product(*copies):
                yield Group(task, episodes)


def _copy(episode: Episode, index: int) -> Episode:
    return replace(episode, index=index, calls=tuple(map(replace, episode.calls)))
