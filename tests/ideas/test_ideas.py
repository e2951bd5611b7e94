"""Published ideas, a file each: every formula against numbers worked out by hand."""

import asyncio
import json
import math
from argparse import Namespace
from collections import Counter
from dataclasses import replace
from itertools import chain, combinations
from statistics import fmean, pstdev

import pytest
import torch

from agentrl.algorithms import GRPO
from agentrl.algorithms.named import load_algorithm
from agentrl.cli import parse
from agentrl.types import Call, CallScores, Episode, Group
from tests.support.ideas import FOLDER, LINES, config_of, flags, load
from tests.support.terms import make_terms


def call(num_tokens: int, **fields) -> Call:
    ids = list(range(num_tokens))
    return Call(prompt_ids=[1], completion_ids=ids, logprobs=[-1.0] * num_tokens, **fields)


def group(*episodes: tuple[float, list[int | Call]], task=None) -> Group:
    """Of each episode its reward, and its calls or how many tokens each has."""
    task = task or {"id": "t"}
    made = [
        Episode(
            task=task,
            index=i,
            calls=tuple(one if isinstance(one, Call) else call(one) for one in calls),
            reward=reward,
            success=reward >= 1,
        )
        for i, (reward, calls) in enumerate(episodes)
    ]
    return Group(task, tuple(made))


def advantages(algorithm: GRPO, *groups: Group) -> list:
    return [sample.advantage for sample in algorithm.advantages(groups)]


def gradient(algorithm: GRPO, logprobs: list[float], **terms) -> list[float]:
    """Of the sum of the losses, with respect to each log-prob."""
    given = torch.tensor(logprobs, requires_grad=True)
    losses = algorithm.loss(make_terms(given, **terms))
    return torch.autograd.grad(losses.values.sum(), given)[0].tolist()


@pytest.mark.parametrize("idea", LINES)
def test_an_idea_is_a_file_of_at_most_40_lines(idea):
    assert LINES[idea] <= 40
    assert len(LINES) == 18


@pytest.mark.parametrize("idea", LINES)
def test_train_py_is_told_by_flags(idea):
    config, module = config_of(idea, "m"), load(idea)
    seams = [getattr(config, name) for name in ("collect", "batches", "after_step", "load_policy")]
    if hasattr(module, "config"):
        assert config.algorithm == module.config.algorithm
        changed = any(seams) or config.algorithm != GRPO()
        assert changed
    else:
        assert seams == [None] * 4
        assert config.algorithm.name == module.algorithm.name


def test_a_teacher_has_to_be_named(capsys):
    with pytest.raises(SystemExit):
        parse(flags("distillation", "t")[:4], "")
    assert "--algorithm.reference" in capsys.readouterr().err


def test_dr_grpo():
    algorithm = load("dr_grpo").algorithm
    two = group((1.0, [3]), (0.0, [5]))
    assert advantages(algorithm, two) == [0.5, -0.5]
    assert algorithm.weigh(algorithm.advantages([two])) == ([1.0, 1.0], 2 * 64.0)
    # GRPO's are divided by the standard deviation, and by the tokens.
    assert advantages(GRPO(), two) == pytest.approx([0.7071, -0.7071], abs=1e-4)
    assert GRPO().weigh(algorithm.advantages([two])) == ([1.0, 1.0], 8.0)


def test_rloo():
    algorithm = load("rloo").algorithm
    four = group((1.0, [1]), (0.0, [1]), (0.0, [1]), (1.0, [1]))
    assert advantages(algorithm, four) == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3])
    # The own reward in its baseline would make halves of them.
    assert advantages(load("dr_grpo").algorithm, four) == [0.5, -0.5, -0.5, 0.5]
    assert advantages(algorithm, group((1.0, [1]))) == [0.0]


def test_dapo_penalises_what_is_overlong():
    dapo = load("dapo")
    assert [dapo.overlong(n) for n in (0, 48, 52, 56, 64)] == [0, 0, -0.25, -0.5, -1]
    task = {"id": "t", "answer": "#### 3"}
    long = Episode(task=task, index=0, calls=(call(10), call(56)))
    verdict = asyncio.run(dapo.judge(task, "\\boxed{3}", long))
    assert (verdict.reward, verdict.success) == (0.5, True)
    wrong = asyncio.run(dapo.judge(task, "\\boxed{4}", long))
    assert (wrong.reward, wrong.success) == (-0.5, False)


def test_dapo_clips_higher():
    algorithm = load("dapo").config.algorithm
    beyond = {"sampler": [-1.0], "advantages": [1.0], "proximal": [-1.0]}
    # Ratios of 1.25 and 1.3: the one still counts, where GRPO's 1.2 has cut it.
    assert gradient(algorithm, [-1 + math.log(1.25)], **beyond) == pytest.approx([-1.25])
    assert gradient(algorithm, [-1 + math.log(1.3)], **beyond) == [0.0]
    assert gradient(GRPO(), [-1 + math.log(1.25)], **beyond) == [0.0]


def test_dapo_refills_the_batch(monkeypatch):
    """Tasks of an odd number have equal rewards; there are enough others."""
    dapo, asked = load("dapo"), []
    pool = [{"id": str(i)} for i in range(40)]

    def collect(tasks, *_):
        asked.append([task["id"] for task in tasks])
        return [group((1.0, [1]), (float(int(t["id"]) % 2), [1]), task=t) for t in tasks]

    monkeypatch.setattr(dapo, "collect", collect)
    monkeypatch.setattr(dapo, "find_tasks", lambda config: (pool, []))
    kept = dapo.refill(pool[:4], dapo.config, None, None, None, 1)
    ids = [g.task["id"] for g in kept]
    assert len(ids) == len(set(ids)) == 4
    assert [int(i) % 2 for i in ids][:3] == [0, 0, 0]
    assert asked[0] == ["0", "1", "2", "3"]
    # Nobody is asked twice, and as many as are missing.
    assert max(Counter(chain(*asked)).values()) == 1
    assert len(asked[1]) == 2
    # The same on every rank.
    assert [g.task["id"] for g in dapo.refill(pool[:4], dapo.config, None, None, None, 1)] == ids
    # Where no group differs, the batch is what there is.
    equal = [{"id": str(i)} for i in range(1, 40, 2)]
    monkeypatch.setattr(dapo, "find_tasks", lambda config: (equal, []))
    kept = dapo.refill(equal[:4], dapo.config, None, None, None, 1)
    assert [g.task["id"] for g in kept] == ["1", "3", "5", "7"]


def test_gspo_has_one_ratio_a_call():
    algorithm = load("gspo").GSPO(clip_low=0.1, clip_high=0.22)
    logprobs = torch.tensor([-1.0, -1.2, -0.5], requires_grad=True)
    proximal = [-1.1, -1.5, -0.4]
    terms = make_terms(logprobs, proximal, [1.0] * 3, proximal=proximal, call=[0, 0, 1])
    losses = algorithm.loss(terms)
    # Log ratios 0.1 and 0.3 have the mean 0.2: exp is 1.2214, just beyond; -0.1: 0.9048.
    assert losses.values.tolist() == pytest.approx([-1.22, -1.22, -math.exp(-0.1)], abs=1e-6)
    assert losses.measures["clipped"].tolist() == [1, 1, 0]
    # Clipped by tokens, the first would be within: exp(0.1) = 1.105.
    token_wise = GRPO(clip_low=0.1, clip_high=0.22).loss(terms)
    assert token_wise.measures["clipped"].tolist() == [0, 1, 0]
    wider = load("gspo").GSPO(clip_low=0.5, clip_high=0.5).loss(terms)
    weights = torch.tensor([0.5, 0.5, 1.0])
    (found,) = torch.autograd.grad((wider.values * weights).sum(), logprobs)
    # d s / d logp of a token is s / tokens.
    assert found.tolist() == pytest.approx([-math.exp(0.2) / 2] * 2 + [-math.exp(-0.1)])


def test_gspo_is_a_mean_over_calls():
    algorithm = load("gspo").algorithm
    samples = algorithm.advantages([group((1.0, [2]), (0.0, [8]))])
    assert algorithm.weigh(samples) == ([1 / 2, 1 / 8], 2.0)


def test_cispo_keeps_the_gradient_of_what_it_clips():
    algorithm = load("cispo").algorithm
    ratio = {"proximal": [-1.5, -0.5], "sampler": [-1.5, -0.5], "advantages": [2.0, -1.0]}
    found = gradient(algorithm, [-1.0, -1.0], **ratio)
    # exp(0.5) = 1.65 is clipped to 1.28; exp(-0.5) = 0.61 is not: there is no lower bound.
    assert found == pytest.approx([-1.28 * 2.0, math.exp(-0.5)])
    assert gradient(GRPO(clip_high=0.28), [-1.0, -1.0], **ratio) == [0.0, 0.0]
    # The sampler's correction multiplies: exp(-1.5 - -1.6).
    ratio["sampler"] = [-1.6, -0.5]
    found = gradient(algorithm, [-1.0, -1.0], **ratio)
    assert found[0] == pytest.approx(-1.28 * 2.0 * math.exp(0.1))


def test_kl_to_the_reference_is_k3():
    algorithm = load("kl_to_reference").algorithm
    same = {"sampler": [-1.0], "advantages": [0.0], "ref_logprobs": torch.tensor([-1.5])}
    losses = algorithm.loss(make_terms(torch.tensor([-1.0]), **same))
    # d = -0.5: exp(d) - d - 1 = 0.106531; its derivative 1 - exp(d) = 0.393469.
    assert losses.values.item() == pytest.approx(0.04 * 0.106531, abs=1e-6)
    assert losses.measures["kl/reference"].item() == pytest.approx(0.106531, abs=1e-6)
    # k1's would be 1, k2's 0.5; of the other direction 0.6487.
    assert gradient(algorithm, [-1.0], **same) == pytest.approx([0.04 * 0.393469], abs=1e-6)
    assert (algorithm.reference, algorithm.every_call) == (True, True)


def test_entropy_bonus():
    algorithm = load("entropy_bonus").algorithm
    entropies = torch.tensor([0.7], requires_grad=True)
    plain = make_terms(torch.tensor([-1.0]), [-1.0], [1.0])
    losses = algorithm.loss(replace(plain, entropies=entropies))
    assert losses.values.item() == pytest.approx(-1.0 - 0.01 * 0.7)
    assert torch.autograd.grad(losses.values.sum(), entropies)[0].tolist() == pytest.approx([-0.01])
    assert algorithm.every_call


def test_several_passes():
    algorithm = load("several_passes").algorithm
    assert (algorithm.passes, algorithm.updates, algorithm.has_proximal) == (2, 4, True)
    # The ratio is to what the policy was: exp(0.5), clipped; corrected by exp(-1.5 - -1.4).
    given = {"sampler": [-1.4], "advantages": [1.0], "proximal": [-1.5]}
    value = algorithm.loss(make_terms(torch.tensor([-1.0]), **given)).values.item()
    assert value == pytest.approx(-math.exp(-0.1) * 1.2)


def tool_call(code: str) -> dict:
    function = {"name": "python", "arguments": json.dumps({"code": code})}
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}


def test_turn_credit():
    algorithm = load("turn_credit").TurnCredit(turn_weight=0.5, discount=0.5)
    prints, forgets = (call(2, reply=tool_call(code)) for code in ("print(1+1)", "1+1"))
    answer = {"role": "assistant", "content": "\\boxed{2}"}
    two = group((1.0, [prints, call(1, reply=answer)]), (0.0, [forgets, call(1, reply=answer)]))
    found = {
        (s.episode, len(s.call.completion_ids)): s.advantage for s in algorithm.advantages([two])
    }
    # Outcomes are +-0.7071, and so are the first turns; the last turns are all alike.
    whole = 0.70711 * 1.5
    assert found == {
        (0, 2): pytest.approx([whole / 2, whole], abs=1e-5),
        (1, 2): pytest.approx([-whole / 2, -whole], abs=1e-5),
        (0, 1): pytest.approx([0.70711], abs=1e-5),
        (1, 1): pytest.approx([-0.70711], abs=1e-5),
    }


def test_a_turn_is_compared_with_the_same_turn_of_its_own_group():
    algorithm = load("turn_credit").TurnCredit(turn_weight=1.0, discount=1.0)
    prints, forgets = (call(1, reply=tool_call(code)) for code in ("print(1)", "1"))
    first = group((1.0, [prints]), (1.0, [forgets]))
    second = group((1.0, [forgets, prints]), (1.0, [forgets, prints]))
    found = [s.advantage for s in algorithm.advantages([first, second])]
    # Outcomes are equal; turns differ in the first group alone, though not over both groups.
    assert found[:2] == [pytest.approx([0.70711], abs=1e-5), pytest.approx([-0.70711], abs=1e-5)]
    assert found[2:] == [[0.0]] * 4


def test_multi_step_divides_by_the_steps():
    algorithm = load("multi_step").algorithm
    two = group((1.0, [3, 3]), (0.0, [3]))
    expected = [0.70711 / 2, 0.70711 / 2, -0.70711]
    assert advantages(algorithm, two) == pytest.approx(expected, abs=1e-5)
    assert algorithm.updates == 2


@pytest.fixture
def curriculum():
    module = load("curriculum")
    module.seen.clear()
    yield module
    module.seen.clear()


EASY, HARD = ({"id": answer, "answer": answer} for answer in ("<<", "<<<<"))


def drawn(curriculum, num_steps: int) -> list[str]:
    settings = Namespace(steps=num_steps, tasks_per_step=1, seed=0)
    batches = curriculum.Curriculum([EASY, HARD], settings)
    assert len(batches) == num_steps
    return [task["id"] for step in range(num_steps) for task in batches[step]]


def test_curriculum_draws_in_proportion_to_p_times_1_less_p(curriculum):
    solved = [(1.0, [1])] * 8
    assert fmean(i == EASY["id"] for i in drawn(curriculum, 2000)) == pytest.approx(0.5, abs=0.03)
    curriculum.learn(Namespace(groups=[group(*solved, task=EASY)]))
    # Of ten, nine solved: 0.09, against 0.25 of what nobody has tried.
    share = fmean(i == EASY["id"] for i in drawn(curriculum, 2000))
    assert share == pytest.approx(0.09 / 0.34, abs=0.03)


def test_curriculum_remembers(curriculum):
    curriculum.learn(Namespace(groups=[group((1.0, [1]), (0.0, [1]), task=HARD)]))
    state, before = json.loads(json.dumps(curriculum.Curriculum.state())), drawn(curriculum, 50)
    assert state == {"2 steps": [2, 4]}
    curriculum.seen.clear()
    curriculum.learn(Namespace(groups=[group(*[(1.0, [1])] * 20, task=HARD)]))
    assert drawn(curriculum, 50) != before
    curriculum.Curriculum.load_state(state)
    assert drawn(curriculum, 50) == before


def test_critic():
    algorithm = load("critic").config.algorithm
    values = torch.tensor([0.25, 0.75], requires_grad=True)
    logprobs = torch.tensor([-1.0, -1.0], requires_grad=True)
    terms = make_terms(logprobs, [-1.0, -1.0], [1.0, 0.0], others={"values": values})
    losses = algorithm.loss(terms)
    assert losses.values.tolist() == pytest.approx([-0.75 + 0.28125, 0.75 + 0.28125])
    of_policy, of_values = torch.autograd.grad(losses.values.sum(), (logprobs, values))
    # -(r - V) for the policy; 2 * 0.5 * (V - r) for the critic, and no more: A is detached.
    assert (of_policy.tolist(), of_values.tolist()) == ([-0.75, 0.75], [-0.75, 0.75])
    assert advantages(algorithm, group((1.0, [1, 1]), (0.5, [1]))) == [1.0, 1.0, 0.5]
    assert algorithm.every_call


def test_rejection_sampling():
    algorithm = load("rejection_sampling").algorithm
    samples = algorithm.advantages([group((1.0, [3, 1]), (0.0, [5]), (0.5, [7]))])
    assert [(s.episode, s.advantage) for s in samples] == [(0, 1.0), (0, 1.0)]
    # The mean is over what is kept.
    assert algorithm.weigh(samples) == ([1.0, 1.0], 4.0)
    # The likelihood, whatever the ratios are; the surrogate would be cut off here.
    given = {"sampler": [-1.5], "advantages": [1.0], "proximal": [-2.0]}
    assert gradient(algorithm, [-1.0], **given) == [-1.0]
    assert gradient(GRPO(), [-1.0], **given) == [0.0]


def test_distillation():
    algorithm = load_algorithm(str(FOLDER / "distillation.py"))
    scores = CallScores(logprobs=(-1.0, -2.0), entropies=(0.0, 0.0), ref_logprobs=(-0.5, -3.0))
    (found,) = advantages(algorithm, group((1.0, [call(2, scores=scores)])))
    assert found == [0.5, -1.0]
    assert (algorithm.scores, algorithm.every_call) == (True, False)


def test_pass_at_k():
    algorithm = load("pass_at_k").PassAtK(k=2)
    # One of four: p = 1 - 3/6; the solved (1 - p) / 0.5, the others (0.5 - 2/3) / 0.5.
    assert algorithm.compare([1.0, 0.0, 0.0, 0.0]) == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    assert algorithm.compare([0.0] * 4) == algorithm.compare([1.0] * 4) == [0.0] * 4
    # With three of four, every choice of two has one that succeeds.
    assert algorithm.compare([1.0, 1.0, 1.0, 0.0]) == [0.0] * 4
    assert algorithm.compare([1.0]) == [0.0]


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("num_solved", [1, 2, 4])
def test_pass_at_k_is_grpo_over_all_choices_of_k(k, num_solved):
    rewards = [1.0] * num_solved + [0.0] * (6 - num_solved)
    choices = list(combinations(range(6), k))
    succeeds = {choice: max(rewards[i] for i in choice) for choice in choices}
    p, std = fmean(succeeds.values()), pstdev(succeeds.values())
    by_hand = [
        fmean((succeeds[choice] - p) / std for choice in choices if i in choice) if std else 0.0
        for i in range(6)
    ]
    assert load("pass_at_k").PassAtK(k=k).compare(rewards) == pytest.approx(by_hand)
    assert load("pass_at_k").pass_at(k, rewards) == pytest.approx(p)


def test_pass_at_k_is_logged():
    one_of_four = group((1.0, [1]), (0.0, [1]), (0.0, [1]), (0.0, [1]))
    moment = Namespace(groups=[one_of_four, group(*[(0.0, [1])] * 4)])
    assert load("pass_at_k").measure(moment) == {"pass@1": 0.125, "pass@4": 0.5}


@pytest.mark.parametrize(
    ("mine", "theirs", "reward", "success"),
    [("2", "3", 1.0, True), ("2", "2", 0.0, True), ("3", "2", -1.0, False), ("3", "3", 0.0, False)],
)
def test_self_play(monkeypatch, mine, theirs, reward, success):
    self_play = load("self_play")

    async def solve(task, model):
        return Namespace(response=f"\\boxed{{{model}}}")

    monkeypatch.setattr(self_play, "solve", solve)
    played = asyncio.run(self_play.play({"answer": "#### 2"}, mine, {"opponent": theirs}))
    assert (played.reward, played.success) == (reward, success)


def test_the_opponent_takes_the_policys_weights_now_and_then():
    taken = []
    opponent = Namespace(engine=Namespace(sync=taken.append))
    serving = Namespace(auxiliary={"opponent": opponent})
    for step in (1, 2, 3, 4):
        policy = Namespace(weights=lambda step=step: step)
        load("self_play").renew_opponent(Namespace(step=step, policy=policy, serving=serving))
    assert taken == [2, 4]


def test_episode_mean():
    algorithm = load("episode_mean").algorithm
    # Episodes of 2 + 2 and of 4 + 12 tokens, in a group each: the number of one is not another's.
    samples = algorithm.advantages(
        [group((1.0, [2, 2]), (0.0, [4, 12])), group((1.0, [1]), (0.0, [3]))]
    )
    weights, divisor = algorithm.weigh(samples)
    assert weights == [1 / 4, 1 / 4, 1 / 16, 1 / 16, 1, 1 / 3]
    assert divisor == 4.0
    # Each episode counts the same: +A and -A cancel, whatever their lengths.
    terms = [w * s.advantage * len(s.call.completion_ids) for w, s in zip(weights, samples)]
    assert sum(terms) == pytest.approx(0.0, abs=1e-9)
    assert sum(s.advantage * len(s.call.completion_ids) for s in samples) < -8
