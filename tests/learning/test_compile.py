"""Layers that Inductor compiles: once, for trees of any size, with the gradients of other layers.

Attention stays an operator between the graphs; checkpointing and FSDP2 stay around them.
"""

import copy
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context

import pytest
import torch
from torch._dynamo.utils import counters
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen3Config, Qwen3ForCausalLM

from agentrl.config import OptimConfig
from agentrl.learning.learner import adamw
from agentrl.learning.packing import pack
from agentrl.learning.policy import ATTENTION, Policy
from agentrl.learning.ranks import Ranks
from agentrl.signals import Signals
from tests.support.small_samples import SIZES, TEMPERATURE, conversations
from tests.support.updating import largest_difference

pytestmark = pytest.mark.slow

SIZES_OF_TREES = (17, 8, 34)
"""In calls: 101, 55 and 200 tokens."""
GRAPHS = 4
"""Of all layers: around attention, and in it before and after its operator. With FSDP2 two of them
are compiled again where the backward pass recomputes: weights have gradients then."""


@cache
def language_model() -> torch.nn.Module:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**SIZES | {"num_hidden_layers": 2}, head_dim=8))


def make_policy(**options) -> Policy:
    return Policy(copy.deepcopy(language_model()), **options)


class Counted(TorchDispatchMode):
    """How often attention is computed, forward."""

    times = 0

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        # Else nothing is compiled where it looks.
        return True

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.times += operator.name() in ATTENTION
        return operator(*args, **(kwargs or {}))


def gradients(policy: Policy, calls: int) -> tuple[list[torch.Tensor], int]:
    """Of a tree of so many calls; and how often attention's operator ran."""
    (micro,) = pack(conversations()[:calls], 10_000)
    policy.zero_grad()
    with Counted() as counted:
        terms = policy.terms(micro, TEMPERATURE)
        (terms.logprobs * micro.advantages + 0.1 * terms.entropies).sum().backward()
    found = [weight.grad for weight in policy.parameters()]
    return [x.full_tensor() if isinstance(x, DTensor) else x for x in found], counted.times


def num_graphs() -> int:
    return counters["stats"]["unique_graphs"]


def check(compiled: Policy, eager: Policy, at_most: int = GRAPHS) -> None:
    """The same gradients and calls of attention, and no graph after the first tree's."""
    before, graphs = num_graphs(), []
    for calls in SIZES_OF_TREES:
        (mine, attended), (theirs, of_eager) = (gradients(p, calls) for p in (compiled, eager))
        assert largest_difference(mine, theirs) < 1e-5
        assert attended == of_eager > 0
        graphs.append(num_graphs() - before)
    assert graphs == [graphs[0]] * len(SIZES_OF_TREES)
    # Fewer, where another test has had the same compiled.
    assert graphs[0] <= at_most


@pytest.mark.parametrize(
    ("attention", "recompute"),
    [("triton", "off"), ("segments", "selective"), ("segments", "full")],
)
def test_it_compiles_once_for_all_layers_and_sizes(attention, recompute):
    """On a CPU a tree without a fork would take one graph more: its attention is a view of another
    tensor. A GPU's operator, here interpreted, has one kind of output."""
    check(
        *(make_policy(attention=attention, recompute=recompute, compile=c) for c in (True, False))
    )


def check_with_fsdp() -> None:
    """One rank whose policy FSDP2 holds, in fp32."""
    Ranks._shards = True
    ranks, optim = Ranks("float32", Signals()), OptimConfig()
    policies = [make_policy(recompute="selective", compile=c) for c in (True, False)]
    compiled, eager = (ranks.prepare(p, adamw(p.trainable(), optim))[0] for p in policies)
    assert all(isinstance(weight, DTensor) for weight in compiled.parameters())
    check(compiled, eager, at_most=GRAPHS + 2)


def test_fsdp_wraps_what_is_compiled():
    """In a process of its own, for a process group of its own: engines of other tests have one."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        process.submit(check_with_fsdp).result()
