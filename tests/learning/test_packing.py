import copy

import pytest

from agentrl.learning.packing import pack
from agentrl.types import Call, Sample


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
    assert pack([], budget=6) == []
