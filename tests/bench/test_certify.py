"""Certify says what is so: of algorithms, of what is wrong on purpose, and of a real engine."""

import re
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from itertools import accumulate, islice, zip_longest
from random import Random

import numpy as np
import pytest
import torch

from agentrl.algorithms.named import load_algorithm
from agentrl.algorithms.tree_loo import TreeLOO
from agentrl.learning.policy import Policy
from agentrl.serving.client import Serving
from agentrl.serving.server import Server
from agentrl.types import Episode, Group
from bench.certify.__main__ import COLUMNS
from bench.certify.cases import TEMPERATURE, Case, Enumerated, key
from bench.certify.certificate import UNBIASED, case_of, certify_in, controls, enumerated
from bench.certify.estimates import Pipeline, credit, estimate, of_batches
from bench.certify.reference import REFERENCE
from bench.certify.trials import load, presets
from bench.certify.truth import expected_reward, gradient
from bench.certify.worlds import SMALL, World, two_turns
from rollout import collect
from tests.support import small_samples
from tests.support.checkout import ROOT
from tests.support.ideas import FOLDER
from tests.support.sizes import sizes
from tests.support.spy import make_handler
from tests.support.updating import make_config, one_rank, updated

_, TWO_TURNS, _ = SMALL
UNBIASED_PRESETS = {"dr_grpo", "tree_loo", "tree_loo states"}
PRESET_ROW = re.compile(r"^\| ((?:`\w+`(?:, )?)+) \| .* \| .* \| (.*) \|$", re.MULTILINE)


def test_a_preset_with_a_bias_and_one_without():
    biased, unbiased = (certify_in(name, TWO_TURNS, (2,)) for name in ("grpo", "tree_loo"))
    assert biased.batches == unbiased.batches == [2 * 5**2]
    assert not biased.is_unbiased
    assert biased.biases == pytest.approx([0.0085], abs=1e-4)
    assert (biased.of_credit, biased.of_weights) == pytest.approx((0.0386, 0.0302), abs=1e-4)
    assert unbiased.is_unbiased
    assert unbiased.cosines == pytest.approx([1.0], abs=1e-9)
    # Of two, one is the other's baseline, wherever they met.
    assert unbiased.variances == pytest.approx([1.0], abs=1e-6)


def test_what_is_wrong_shows():
    found = controls(TWO_TURNS)
    assert found.pop("nothing") < UNBIASED
    assert len(found) == 5
    assert min(found.values()) > 500 * UNBIASED


def test_chances_and_episodes():
    world = enumerated(TWO_TURNS)
    assert [len(episodes) for episodes in world.episodes] == [5, 5]
    assert [chances.sum() for chances in world.chances] == pytest.approx([1.0, 1.0], abs=1e-12)
    case = Case(world, 2, num_groups=2)
    assert case.chances.sum() == pytest.approx(1.0, abs=1e-12)
    assert len(case.chances) == case.size == (2 * 25) ** 2
    first, *_, last = Case(world, 2).batches()
    assert [group.task["id"] for group in (first[0], last[0])] == ["a", "b"]
    # An episode that is drawn twice is two.
    assert first[0].episodes[0].calls[0] is not first[0].episodes[1].calls[0]


def blind(group: Group) -> Group:
    """Without parts, rewards of calls and states."""

    def plain(episode: Episode) -> Episode:
        calls = tuple(replace(call, reward=None, state=None) for call in episode.calls)
        return replace(episode, calls=calls, parts={})

    return replace(group, episodes=tuple(map(plain, group.episodes)))


def test_worlds_have_parts_rewards_of_calls_and_states():
    episodes = [e for of_task in enumerated(TWO_TURNS).episodes for e in of_task]
    assert all(sum(e.parts.values()) == e.reward for e in episodes)
    assert {len({e.parts[name] for e in episodes}) for name in ("some", "rest")} == {4}
    calls = [call for e in episodes for call in e.calls]
    assert {call.reward for call in calls} == {None, 0.5, 1.0}
    # Each task's second calls are in one state, wherever in the tree they begin.
    second = {tuple(call.prompt_ids) for call in calls if call.state == "answer 0"}
    assert len(second) == 4


SEEING = ("gdpo", "gigpo", "multi_step_grpo", "tree_loo states", "turns", "turns returns")


@pytest.mark.parametrize("name", [*SEEING, "grpo"])
def test_presets_see_there_what_they_are_for(name):
    algorithm, _ = load(name)
    differ = (
        [s.advantage for s in algorithm.advantages(batch)]
        != [s.advantage for s in algorithm.advantages([*map(blind, batch)])]
        for batch in islice(Case(enumerated(TWO_TURNS), 3).batches(), 125)
    )
    assert any(differ) == (name in SEEING)


def test_one_pass_is_the_mean_of_all_batches_one_by_one():
    """Packing, tree and kernels against transformers, and the sum of weights against the sum."""
    case, algorithm = case_of(enumerated(TWO_TURNS), 2), load_algorithm("grpo")
    found = credit(algorithm, case)
    mean = Pipeline().mean(algorithm, case.world, found, case.chances)
    each = of_batches(algorithm, case, found) @ case.world.jacobian
    assert (mean + torch.from_numpy(case.chances) @ each).norm() < 1e-6 * mean.norm()


def test_the_mean_and_the_variance_are_those_of_draws():
    case = case_of(enumerated(TWO_TURNS), 2)
    found = credit(REFERENCE, case)
    each = -of_batches(REFERENCE, case, found) @ case.world.jacobian
    drawn = each[np.random.default_rng(0).choice(case.size, 4000, p=case.chances)]
    exact = estimate(REFERENCE, case)
    assert drawn.var(0).sum().item() == pytest.approx(exact.variance, rel=0.1)
    assert ((drawn.mean(0) - exact.mean).square().sum() * 4000 / exact.variance).item() < 2


@pytest.mark.slow
def test_an_algorithm_of_ones_own():
    row = certify_in(str(FOLDER / "several_passes.py"), TWO_TURNS, (2,))
    assert UNBIASED < row.biases[0] < 1


def cells(line: str) -> list[str]:
    stops = accumulate(width for _, width in COLUMNS)
    return [line[stop - width : stop].strip() for stop, (_, width) in zip(stops, COLUMNS)]


def is_documented(row: list[str]) -> bool:
    """Where there are groups of three, of two turns or else of one."""
    _, world, _, batches, *_ = row
    return world != "two agents" and len(batches.split()) == 2


def figures(row: list[str]) -> tuple[str, str]:
    """The preset, and what its bias and variance are in groups of three, for which objective."""
    name, _, objective, _, _, biases, _, _, variances = row
    found = [biases.split()[1], *variances.split()[1:]]
    return name, ", ".join(found) + f" ({objective})" * (objective != "r")


def documented() -> dict[str, str]:
    """The same by docs/algorithms.md: in a row one behind the other, for each that it names."""
    found = {}
    for names, said in PRESET_ROW.findall((ROOT / "docs" / "algorithms.md").read_text()):
        names = re.findall(r"`(\w+)`", names)
        for name, one in zip_longest(names, said.split("; ")):
            label, _, numbers = one.rpartition(": ")
            found[name or f"{names[0]} {label}"] = numbers
    return found


SOME = ("grpo", "dr_grpo", "rloo", "tree_loo", "cispo", "kl", "turns")


@pytest.mark.parametrize("names", sizes(SOME, soak=tuple(presets())), ids=["some", "all"])
def test_presets_in_under_two_minutes(names):
    """In a process of its own: types that are checked in every call would take most of the time."""
    command = [sys.executable, "-m", "bench.certify", *names]
    said = subprocess.check_output(command, cwd=ROOT, text=True).splitlines()
    rows = [row for row in map(cells, said) if row[0] in names]
    biases = {name: [] for name in names}
    for name, _, _, _, _, bias, *_ in rows:
        biases[name] += bias.split()
    assert all(len(of_preset) >= 4 for of_preset in biases.values())
    unbiased = {name for name, of_preset in biases.items() if {*of_preset} == {"0"}}
    assert unbiased == UNBIASED_PRESETS & {*names}
    known = {name: figures for name, figures in documented().items() if name in names}
    assert known == dict(map(figures, filter(is_documented, rows)))
    assert sum(row.endswith("  caught") for row in said) == 5
    assert int(said[-1].removesuffix(" CPU seconds")) < 120


# A real engine.

GROUPS = 192


def of_four_tokens(folder, ids: list[int]) -> Policy:
    """The folder's model, with every other token as good as impossible after one of these."""
    policy = Policy.load(folder)
    embedding, inner = policy.lm.get_input_embeddings().weight, policy.lm.model
    with torch.no_grad():
        # One dimension that no layer writes to tells the two kinds apart, and the last norm
        # makes a hundred nats of it.
        embedding[:, 0] = -2.0
        embedding[ids, 0] = 2.0
        for layer in inner.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        inner.norm.weight[0] = 20.0
    return policy


def player(world: World):
    async def play(task, model):
        while (ask := world.next(world, task, model.calls)) is not None:
            await model.openai.completions.create(
                model="policy", prompt=ask.prompt_ids, max_tokens=ask.max_tokens
            )
        return world.judged(task, model.calls).reward

    return play


@pytest.fixture
def micro(tiny_folder, engine, tokenizer):
    """A world of four of the tokenizer's tokens, enumerated, and played by vLLM."""
    ids = (tokenizer.eos_token_id, *tokenizer.encode("123", add_special_tokens=False))
    world = World(name="four tokens", vocabulary=ids, next=two_turns, limits=(2, 1))
    policy = of_four_tokens(tiny_folder, list(ids))
    limits = {"temperature": TEMPERATURE, "max_tokens": 2, "max_model_len": 512}
    handler = make_handler("policy", engine, tokenizer, "hermes", **limits)
    serving = Serving(Server(), handler, seed=0)
    engine.sync(policy.weights())
    yield Enumerated(world, policy), serving
    engine.sync(Policy.load(tiny_folder).weights())
    serving.server.close()


@pytest.mark.slow
def test_what_vllm_draws_has_the_gradient_that_was_enumerated(micro):
    assert TEMPERATURE == small_samples.TEMPERATURE
    enumerated, serving = micro
    assert [chances.sum() for chances in enumerated.chances] == pytest.approx([1, 1], abs=1e-5)
    # Long steps: of short ones fp32 weights would keep few digits.
    algorithm, size = TreeLOO(aggregation=1), 2
    config = replace(make_config(algorithm), workflow=player(enumerated.world), group_size=size)
    tasks = Random(0).choices(enumerated.world.tasks, k=GROUPS)
    tasks = [{**task, "id": str(i)} for i, task in enumerate(tasks)]
    run = Namespace(report=lambda share, note: None)
    groups = collect(tasks, config, serving, one_rank(), run, 1)
    # Token ids in and out: what was sent and drawn is what was written down, and is as likely.
    for call in (c for group in groups for e in group.episodes for c in e.calls):
        same = enumerated.calls[enumerated.number[key(call)]]
        assert call.logprobs == pytest.approx(same.logprobs, abs=1e-3)
    # Before the update, which moves the policy.
    exact = estimate(algorithm, Case(enumerated, size))
    assert exact.bias(gradient(expected_reward(enumerated), enumerated)) < 1e-3
    found = updated(enumerated.policy, algorithm, groups, micro_batch_tokens=10_000)
    drawn = -torch.cat([moved.flatten() for moved in found.moved]).double()
    # The square of the distance to the mean of N groups is the variance / N, on average.
    assert 0.2 < distance(drawn, exact) < 3
    # The other way, or half as long, is not within it.
    assert distance(-drawn, exact) > 6
    assert distance(drawn / 2, exact) > 3


def distance(drawn: torch.Tensor, exact) -> float:
    return ((drawn - exact.mean).square().sum() * GROUPS / exact.variance).item()
