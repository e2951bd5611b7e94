import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen3Config, Qwen3ForCausalLM

from agentrl.learning import packing, transfer
from agentrl.learning.packing import pack
from agentrl.learning.policy import Policy
from agentrl.types import Call, Sample
from kernels.tree.plan import plan
from tests.support.small_samples import SIZES, conversations


def sample(prompt, completion, advantage, logprob=-0.5):
    call = Call(prompt_ids=prompt, completion_ids=completion, logprobs=[logprob] * len(completion))
    return Sample(call, advantage)


# Two episodes of a task: one asks twice, its second prompt growing from the first call; the other
# begins with the same token.
SAMPLES = [
    sample([1, 2], [3, 4], 1.0),
    sample([1, 2, 3, 4, 5], [6], 1.0),
    sample([1, 2], [3, 7], -1.0, logprob=-0.25),
]


def test_literal_tree_and_terms():
    (micro,) = pack(SAMPLES, budget=100)
    assert micro.ids.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert micro.parent.tolist() == [-1, 0, 1, 2, 3, 4, 2]
    assert micro.depth.tolist() == [0, 1, 2, 3, 4, 5, 3]
    assert micro.plan.end.tolist() == [7, 7, 7, 6, 6, 6, 7]
    # Token 3 was sampled twice: one tree token, two loss terms. Token 5 is a tool's: none.
    assert micro.trained.tolist() == [2, 3, 5, 6]
    terms = zip(
        micro.trained[micro.term].tolist(),
        micro.advantages.tolist(),
        micro.sampler_logprobs.tolist(),
        strict=True,
    )
    assert sorted(terms) == [
        (2, -1.0, -0.25),
        (2, 1.0, -0.5),
        (3, 1.0, -0.5),
        (5, 1.0, -0.5),
        (6, -1.0, -0.25),
    ]


@pytest.mark.parametrize("budget", [1, 6, 7, 100])
def test_no_term_is_lost_or_doubled_by_cutting(budget):
    micro_batches = pack(SAMPLES, budget)
    found = [
        (micro.ids[micro.trained[term]].item(), advantage.item())
        for micro in micro_batches
        for term, advantage in zip(micro.term, micro.advantages, strict=True)
    ]
    assert sorted(found) == [(3, -1.0), (3, 1.0), (4, 1.0), (6, 1.0), (7, -1.0)]
    assert all(len(micro.ids) <= max(budget, 6) for micro in micro_batches)


def test_inputs_unchanged():
    before = copy.deepcopy(SAMPLES)
    for micro in pack(SAMPLES, budget=6):
        micro.ids.zero_()
        micro.sampler_logprobs.zero_()
    assert before == SAMPLES


def test_no_samples_at_all():
    assert list(pack([], budget=6)) == []


@pytest.mark.parametrize(("size", "made"), [(1, [4]), (2, [2, 2]), (3, [2, 2, 2])])
def test_a_rank_makes_the_trees_of_its_share(monkeypatch, size, made):
    """An idle micro-batch of two tokens is made, too, where the others have one more."""
    plans = []
    monkeypatch.setattr(packing, "plan", lambda tree: plans.append(len(tree)) or plan(tree))
    shares = []
    every = [len(micro.ids) for micro in pack(conversations(), 60)]
    for rank in range(size):
        plans.clear()
        share = pack(conversations(), 60).deal(rank, size)
        assert (plans, len(share)) == ([], made[rank])
        shares += [len(micro.ids) for micro in share if micro.samples]
        assert len(plans) == made[rank]
    assert sorted(shares) == sorted(every)


def test_too_few_advantages_are_told_on_every_rank():
    """Before any rank has packed: else the others would wait for the one that has the call."""
    wrong = sample([1, 2], [3, 4], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="3 were given for 2 tokens"):
        pack([*SAMPLES, wrong], budget=6)


class CountCopies(TorchDispatchMode):
    times = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.times += operator.name() == "aten::_to_copy"
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("attention", ["triton", "flash"])
def test_one_copy_takes_all_to_a_device(attention):
    """With what attention reads; the device is one without memory."""
    policy = Policy(Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16)), attention=attention)
    (micro,) = pack(conversations(), budget=10_000)
    with CountCopies() as counted:
        moved = policy.on_device(micro, torch.device("meta"), torch.bfloat16)
    assert counted.times == 1
    assert (moved.samples, moved.proximal_logprobs) == (micro.samples, None)
    for name in ("ids", "depth", "parent", "trained", "term", "call", "weights"):
        mine, theirs = getattr(moved, name), getattr(micro, name)
        assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
        assert mine.device.type == "meta"
    end, made = moved.plan.tensors
    tensors = [x for kind in made.values() for x in kind if isinstance(x, torch.Tensor)]
    assert len(tensors) == {"triton": 2 * 9, "flash": 3}[attention]
    assert {x.device.type for x in (end, *tensors)} == {"meta"}


def test_what_is_copied_together_is_what_it_was():
    dtypes = (torch.int64, torch.int32, torch.float32, torch.uint8)
    given = [torch.arange(n).to(dtype) for n in (0, 1, 7, 100) for dtype in dtypes]
    given.append(torch.arange(12).view(3, 4).T)
    copied = transfer._copied(given, torch.device("cpu"))
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(copied, given, strict=True))
    assert {x.data_ptr() % 16 for x in copied if len(x)} == {0}
