"""The bench compares like with like: all layouts give the same gradient."""

from types import SimpleNamespace

import pytest
import torch

from agentrl.types import Call, Sample
from bench.step import layouts, rows, workloads
from bench.step.layouts import Options, Way, gradients, make_model, make_step, operations


def sample(prompt, completion, advantage=1.0) -> Sample:
    logprobs = [-6.7] * len(completion)
    return Sample(Call(prompt_ids=prompt, completion_ids=completion, logprobs=logprobs), advantage)


EPISODES = [
    [sample([1, 2], [3, 4], 1.0), sample([1, 2, 3, 4, 5], [6], -0.5), sample([1, 2, 9], [8], 2.0)],
    [sample([1, 2], [3, 7], -1.0), sample([1, 2, 3, 7], [1, 1, 1], 0.3)],
]


def test_memory_is_free_before_another_process_needs_it(monkeypatch):
    order = []

    class Pool(SimpleNamespace):
        def __init__(self, *args, **kwargs):
            super().__init__(submit=lambda *args: self, result=lambda: order.append("peak") or 1.0)

        def __enter__(self):
            return self

        def __exit__(self, *error): ...

    monkeypatch.setattr(layouts, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: order.append("freed"))
    layouts.peak_mib("single turn", Way("C", "tree", 2048), Options())
    assert order == ["freed", "peak"]


def test_rows():
    assert [row.ids for row in rows.one_per_call(EPISODES)] == [
        *([1, 2, 3, 4], [1, 2, 3, 4, 5, 6], [1, 2, 9, 8]),
        *([1, 2, 3, 7], [1, 2, 3, 7, 1, 1, 1]),
    ]
    chains = rows.one_per_chain(EPISODES)
    assert [row.ids for row in chains] == [
        [1, 2, 3, 4, 5, 6],
        [1, 2, 9, 8],
        [1, 2, 3, 7, 1, 1, 1],
    ]
    assert [row.trained.tolist() for row in chains] == [[2, 3, 5], [3], [2, 3, 4, 5, 6]]


@pytest.mark.parametrize(("is_padded", "sizes"), [(True, [2, 1, 1]), (False, [2, 1, 1])])
def test_batches_keep_to_the_budget(is_padded, sizes):
    lengths = [4, 4, 7, 6]
    made = rows.batches(
        [rows.Row([sample([0], [1] * (n - 1))]) for n in lengths], 12, is_padded=is_padded
    )
    assert [len(batch) for batch in made] == sizes


@pytest.mark.parametrize("budget", [8, 2048])
@pytest.mark.parametrize(("side", "layout"), [("A", "padded"), ("A", "packed"), ("B", "padded")])
def test_every_layout_has_the_gradient_of_the_tree(side, layout, budget):
    options, model = Options(), make_model(Options())
    tree = gradients(make_step(Way("C", "tree", 2048), EPISODES, options, model), model[0])
    mine = gradients(make_step(Way(side, layout, budget), EPISODES, options, model), model[0])
    for a, b in zip(mine, tree, strict=True):
        assert ((a - b).abs().max() / b.abs().max()).item() < 1e-4


def test_the_tokens_of_each_workload():
    counts = {}
    lm = make_model(Options())[0]
    for name in workloads.WORKLOADS:
        episodes = workloads.make(name)
        due = [operations(Way(side, "tree", 0), episodes, lm) for side in "ABC"]
        counts[name] = [tokens for _, tokens in due]
        assert due[0][0] >= due[1][0] >= due[2][0]
    assert counts == {
        "append-only, 10 turns": [40_000, 6_880, 6_180],
        "append-only, 20 turns": [85_600, 8_080, 7_780],
        "long shared prompt": [50_240, 25_600, 3_100],
        "thinking stripped": [29_120, 29_120, 8_120],
        "two agents": [44_800, 10_880, 6_980],
        "single turn": [11_200, 11_200, 5_600],
    }


def test_operations_by_hand():
    lm = make_model(Options())[0]
    weights = sum(p.numel() for p in lm.model.layers.parameters() if p.ndim == 2)
    needed, tokens = operations(Way("B", "packed", 0), [[sample([1, 2], [3])]], lm)
    # Three tokens see six pairs, in 4 layers of 4 heads of 32.
    assert (needed, tokens) == (3 * 6 * weights + 6 * 14 * 4 * 4 * 32 + 8 * 800 * 128, 3)
