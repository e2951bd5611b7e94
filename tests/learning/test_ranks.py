"""One rank, and two with what the launcher gives them: the same cases, compared from their files.

All come from one process, which imports for them; slow tests' runs are started by the launcher.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from agentrl.learning.rendezvous import Rendezvous
from agentrl.signals import Signals

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[tuple[int, int], dict]:
    """What each rank of a launch of two, and of one, found; by rank and number of ranks."""
    out = tmp_path_factory.mktemp("ranks")
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.ranks_worker", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        # Should a library crash, it says where. An allocator's thread would not survive the fork.
        # Gloo's ranks need no GPU, nor as many as ranks.
        env=os.environ
        | {"PYTHONFAULTHANDLER": "1", "CUDA_VISIBLE_DEVICES": ""}
        | {"JE_ARROW_MALLOC_CONF": "background_thread:false"},
    )
    assert run.returncode == 0, run.stderr[-10000:]
    return {
        place: torch.load(out / "rank-{}-of-{}.pt".format(*place), weights_only=False)
        for place in ((0, 1), (0, 2), (1, 2))
    }


def largest_difference(mine: dict, theirs: dict) -> float:
    """Relative to the largest entry of each tensor."""
    assert set(mine) == set(theirs)
    return max(((mine[n] - theirs[n]).abs().max() / theirs[n].abs().max()).item() for n in theirs)


@pytest.mark.parametrize("family", ["qwen2, untied", "qwen3, tied"])
@pytest.mark.parametrize("recompute", ["off", "selective"])
@pytest.mark.parametrize("budget", [60, 80], ids=["an even number", "one rank idle"])
def test_gradients_of_two_ranks_are_those_of_one(results, family, recompute, budget):
    (one, two) = (results[0, n]["gradients"][family, recompute, budget] for n in (1, 2))
    assert largest_difference(two, one) < 1e-6
    num_micro_batches = [results[r, 2]["gradients"]["dealt", budget] for r in (0, 1)]
    assert num_micro_batches == [2, 2]
    assert results[0, 1]["gradients"]["dealt", budget] == {60: 4, 80: 3}[budget]


@pytest.mark.parametrize("rank", [0, 1])
def test_gradients_are_reduced_with_the_last_micro_batch(results, rank):
    """Once for each of three layers, and for what is outside of them."""
    found = results[rank, 2]["reductions"]
    assert (found["usual"], results[0, 1]["reductions"]["usual"]) == (True, False)
    assert [found[once][:2] for once in (True, False)] == [(2, 4), (2, 8)]
    assert largest_difference(found[True][2], found[False][2]) < 2e-7


@pytest.mark.parametrize("family", ["qwen2, untied", "qwen3, tied"])
@pytest.mark.parametrize("rank", [0, 1])
def test_in_bf16_one_rank_computes_what_two_do(results, family, rank):
    one, two = results[0, 1]["in_bf16"], results[rank, 2]["in_bf16"]
    assert one["masters"] == two["masters"] == {torch.float32}
    pairs = list(zip(one[family, "logprobs"], two[family, "logprobs"], strict=True))
    assert [torch.equal(a, b) for a, b in pairs] == [True] * 4
    assert largest_difference(two[family, "gradients"], one[family, "gradients"]) < 1e-5
    # Autocast leaves fp32 between the layers.
    pairs = zip(one[family, "by autocast"], two[family, "logprobs"], strict=True)
    assert max((a - b).abs().max().item() for a, b in pairs) > 1e-4


def test_a_mean_over_ranks_would_be_noticed(results):
    one, two = (results[0, n]["gradients"] for n in (1, 2))
    assert largest_difference(two["unscaled"], one["unscaled"]) == pytest.approx(0.5, abs=1e-3)
    assert two["clipped from"] == pytest.approx(one["clipped from"] / 2, rel=1e-5)


def test_what_is_not_finite_ends_all_ranks_with_one_sentence(results):
    """One of two has the NaN, and both know of whose."""
    found = [results[place]["not_finite"] for place in ((0, 1), (0, 2), (1, 2))]
    assert len({one["said"] for one in found}) == 1
    assert re.search(
        "the loss of .* terms is, such as nan in episode 1 of task 0", found[0]["said"]
    )
    assert [one["weights stayed"] for one in found] == [True] * 3


def test_work_is_dealt_and_comes_back_in_order(results):
    dealt = [results[rank, 2]["dealing"] for rank in (0, 1)]
    assert [d["share"] for d in dealt] == [[0, 2, 4, 6], [1, 3, 5]]
    assert [d["gathered"] for d in dealt] == [list(range(7))] * 2
    assert [d["nothing"] for d in dealt] == [[], []]


def test_who_is_late_is_named(results):
    said = [results[rank, 2]["waits"]["said"] for rank in (0, 1)]
    assert said == ["rank 1 did not come to 'episodes' within 1 s", None]


@pytest.mark.parametrize("rank", [0, 1])
def test_all_ranks_are_interrupted_at_one_place(results, rank):
    assert results[rank, 2]["interruptions"] == {
        "others wait": "SIGTERM",
        "others wait, then": [0, 1],
        "others work": "SIGTERM",
        "others work, then": [0, 1],
        "in step": "SIGTERM",
    }


def test_ranks_in_step_meet_without_their_devices(monkeypatch):
    """A GPU would be waited for; this device has nothing to read."""
    met = []
    monkeypatch.setattr(dist, "all_reduce", lambda asked: met.append(asked.device.type))
    Rendezvous(0, 2, torch.device("meta"), Signals(), 1.0).check_in_step()
    assert met == ["cpu"]


@pytest.mark.parametrize("place", [(0, 1), (0, 2), (1, 2)])
def test_a_resumed_run_goes_on_to_the_bit(results, place):
    found, name = results[place]["checkpoints"], f"of-{place[1]}"
    assert largest_difference(found[f"resumed from {name}"], found["left alone"]) == 0
    assert largest_difference(found["without moments"], found["left alone"]) > 0.01
    assert found[f"sentence of {name}"] is None
    assert found[f"draws of {name}"] == found["draws"] != found["draws elsewhere"]


def test_one_rank_goes_on_from_two(results):
    found = results[0, 1]["checkpoints"]
    assert largest_difference(found["resumed from of-2"], found["left alone"]) < 1e-4
    assert found["sentence of of-2"] == (
        "the checkpoint is of 2 ranks and this run has 1: random states start afresh, "
        "and sums are rounded in another order"
    )
    assert found["draws of of-2"] == found["draws elsewhere"]


@pytest.mark.parametrize("rank", [0, 1])
def test_adapters_of_two_ranks_are_those_of_one(results, rank):
    one, two = results[0, 1]["adapters"], results[rank, 2]["adapters"]
    assert largest_difference(two["gradients"], one["gradients"]) < 1e-6
    assert len(two["gradients"]) == two["moments"] == 3 * 7 * 2
    assert largest_difference(two["pushed"], one["pushed"]) < 1e-6
    assert two["saved"] == ["adapter_config.json", "adapter_model.safetensors"]


@pytest.mark.parametrize("place", [(0, 1), (0, 2), (1, 2)])
def test_adapters_go_on_to_the_bit_beside_the_model_that_they_began_with(results, place):
    found = results[place]["adapters"]
    assert largest_difference(found["gone on"], found["adapters"]) == 0
    pairs = list(zip(found["without"], found["start"], strict=True))
    assert [torch.equal(a, b) for a, b in pairs] == [True] * 4
    assert not any(torch.equal(a, b) for a, b in zip(found["with"], found["start"], strict=True))


def test_in_bf16_what_is_frozen_is_kept_so(results):
    one, two = (results[0, n]["in_bf16"] for n in (1, 2))
    assert one["dtypes"] == two["dtypes"] == {(True, torch.float32), (False, torch.bfloat16)}
    (mine, gradients), (theirs, expected) = one["lora"], two["lora"]
    assert [torch.equal(a, b) for a, b in zip(mine, theirs, strict=True)] == [True] * 4
    assert [name for name in gradients if expected[name].any()] == [
        name for name in expected if "lora_B" in name
    ]


@pytest.mark.parametrize("place", [(0, 1), (0, 2), (1, 2)])
def test_a_trial_of_memory_leaves_every_rank_as_it_was(results, place):
    found = results[place]["trials"]
    assert (found["before a step"], found["after it"], found["tokens"]) == (True, True, 200)


@pytest.mark.parametrize("place", [(0, 1), (0, 2), (1, 2)])
def test_a_disk_that_is_full_leaves_nothing_behind(results, place):
    failed = results[place]["failing_to_save"]
    assert failed["said"].endswith("step-00001 could not be written ([Errno 27] File too large)")
    assert failed["left"] == []
