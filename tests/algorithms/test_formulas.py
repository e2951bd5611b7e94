"""Formulas as their papers print them, in loops and fp64, beside the presets that fewer than two
other trainers could be compared with (``python -m bench.oracles``)."""

import inspect
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from math import exp, inf, log, prod, sqrt

import pytest
import torch

from agentrl.algorithms import GRPO
from agentrl.algorithms.advantages import credit, gae
from agentrl.algorithms.named import load_algorithm
from agentrl.types import Call, CallScores, Episode, Group, Sample
from tests.support.terms import make_terms

# ruff: noqa: N806  Symbols are the papers'.
EXACT, APART = 1e-9, 1e-3
SEEDS = range(3)

# What was sampled.


@cache
def batch(seed: int) -> list[Group]:
    """Three tasks of four episodes, in which two agents talk: of one to three calls each, or none;
    now and then one has no reward."""
    rng = random.Random(seed)
    return [
        Group({"id": str(task)}, tuple(episode(rng, task, index) for index in range(4)))
        for task in range(3)
    ]


def episode(rng: random.Random, task: int, index: int) -> Episode:
    speakers = rng.choices(["solver", "checker"], k=rng.randint(1, 5))
    context, calls = [task], []
    for agent in speakers:
        calls.append(call(rng, context, agent))
        # Of two tokens: some others say the same.
        context = [*calls[-1].ids, rng.randrange(2)]
    parts = {"right": rng.choice([0.0, 1.0]), "short": rng.random()}
    reward = {agent: rng.choice([0.0, 0.5, 1.0, rng.gauss(0, 1)]) for agent in {*speakers}}
    reward = None if rng.random() < 0.1 else dict(sorted(reward.items()))
    return Episode(task={}, index=index, calls=tuple(calls), reward=reward, parts=parts)


def call(rng: random.Random, context: list[int], agent: str) -> Call:
    count = rng.randint(1, 6)
    own, of_reference = (tuple(rng.gauss(-1, 0.5) for _ in range(count)) for _ in range(2))
    return Call(
        prompt_ids=context,
        completion_ids=[rng.randrange(2) for _ in range(count)],
        logprobs=[0.0] * count,
        agent=agent,
        reward=rng.choice([None, 0.0, 0.5, 1.0]),
        state=rng.choice(["hall", "shop", "street", None]),
        scores=CallScores(
            logprobs=own, entropies=own, ref_logprobs=of_reference, others={"values": own[::-1]}
        ),
    )


def compared(groups: Sequence[Group]) -> Iterator[list[tuple[float, list[Call]]]]:
    """Those who are compared: one agent's reward and calls in each episode of a group."""
    for group in groups:
        for agent in ("solver", "checker"):
            yield [
                (e.reward[agent], [c for c in e.calls if c.agent == agent])
                for e in group.episodes
                if e.reward is not None and agent in e.reward
            ]


def normalised(r: Sequence[float]) -> list[float]:
    """GRPO's (arXiv 2402.03300, section 4.1.2), 1e-6 beside the std of the sample."""
    G = len(r)
    mean = sum(r) / max(G, 1)
    std = sqrt(sum((r_i - mean) ** 2 for r_i in r) / max(G - 1, 1))
    return [(r_i - mean) / (std + 1e-6) for r_i in r]


def normalised_over_tokens(A: dict[int, float], groups: Sequence[Group]) -> dict[int, float]:
    """(A - mean) / std over all tokens of the batch, 1e-8 in the root."""
    every = [c for g in groups for e in g.episodes for c in e.calls if id(c) in A]
    tokens = [A[id(c)] for c in every for _ in c.completion_ids]
    mean = sum(tokens) / len(tokens)
    var = sum((a - mean) ** 2 for a in tokens) / (len(tokens) - 1)
    return {c: (a - mean) / sqrt(var + 1e-8) for c, a in A.items()}


def centred(r: Sequence[float]) -> list[float]:
    return [r_i - sum(r) / len(r) for r_i in r]


def of_calls(episodes, A: Sequence[float]) -> dict[int, float]:
    """The advantage of an episode is each of its calls'."""
    return {id(c): A_i for (_, calls), A_i in zip(episodes, A, strict=True) for c in calls}


def rewards_of_turns(R: float, calls: Sequence[Call]) -> list[float]:
    r = [c.reward or 0.0 for c in calls]
    r[-1] += R
    return r


# Credit: groups -> the advantage of each call.


def maxrl(groups):
    """arXiv 2602.02710: (r - mean) / mean."""
    A = {}
    for episodes in compared(groups):
        K = len(episodes)
        mean = sum(r for r, _ in episodes) / max(K, 1)
        A |= of_calls(episodes, [(r - mean) / mean if mean > 0 else 0.0 for r, _ in episodes])
    return A


def reinforce_pp_baseline(groups):
    """arXiv 2501.03262: less the group's mean, then normalised over the batch."""
    A = {}
    for episodes in compared(groups):
        k = len(episodes)
        A |= of_calls(episodes, [r - sum(r_j for r_j, _ in episodes) / k for r, _ in episodes])
    return normalised_over_tokens(A, groups)


def gdpo(groups, part_weights):
    """arXiv 2601.05242: each reward normalised in its group, summed, normalised over the batch.
    What the reward is beside its parts is one more, of weight 1."""
    A = {}
    for group in groups:
        for agent in ("solver", "checker"):
            of = [e for e in group.episodes if e.reward is not None and agent in e.reward]
            in_parts = [sum(w * e.parts[k] for k, w in part_weights.items()) for e in of]
            A_sum = normalised([e.reward[agent] - r for e, r in zip(of, in_parts, strict=True)])
            for k, w_k in part_weights.items():
                A_k = normalised([e.parts[k] for e in of])
                A_sum = [a + w_k * a_k for a, a_k in zip(A_sum, A_k, strict=True)]
            for e, a in zip(of, A_sum, strict=True):
                A |= {id(c): a for c in e.calls if c.agent == agent}
    return normalised_over_tokens(A, groups)


def rae(groups, decay):
    """SPIRAL (arXiv 2506.24119): b of each role, in the order in which its code goes: A = R - b,
    then b = alpha b + (1 - alpha) R."""
    A, b, alpha = {}, {}, decay
    for group in groups:
        for e in group.episodes:
            for p, R in (e.reward or {}).items():
                for c in e.calls:
                    if c.agent == p:
                        A[id(c)] = R - b.get(p, 0.0)
                b[p] = alpha * b.get(p, 0.0) + (1 - alpha) * R
    return A


def multi_step_grpo(groups, step_norm=False, std_over="group"):
    """Trinity-RFT (arXiv 2505.17826): the last step's reward, normalised, is every step's."""
    last = [[(rewards_of_turns(*e)[-1], e[1]) for e in episodes] for episodes in compared(groups)]
    every = [r for episodes in last for r, _ in episodes]
    mean = sum(every) / len(every)
    std_of_batch = sqrt(sum((r - mean) ** 2 for r in every) / (len(every) - 1))
    A = {}
    for episodes in last:
        G = len(episodes)
        for r, calls in episodes:
            r_mean = sum(r_j for r_j, _ in episodes) / G
            var = sum((r_j - r_mean) ** 2 for r_j, _ in episodes) / max(G - 1, 1)
            std = sqrt(var) if std_over == "group" else std_of_batch
            T = len(calls) if step_norm else 1
            A |= {id(c): (r - r_mean) / (std + 1e-6) / T for c in calls}
    return A


def gigpo(groups, omega, discount, std):
    """arXiv 2505.10978: A = A_E + omega * A_S; A_E of an episode's sum of rewards, A_S of
    R_t = sum over k >= t of gamma^(k - t) r_k, over the steps whose anchor state is the same; 0
    where a step has none."""
    F_norm, A = (normalised if std else centred), {}
    for episodes in compared(groups):
        steps = []
        for R, calls in episodes:
            r = rewards_of_turns(R, calls)
            for t, c in enumerate(calls):
                R_t = sum(discount ** (k - t) * r[k] for k in range(t, len(r)))
                steps.append((c, R_t))
        sums = [sum(rewards_of_turns(*e)) for e in episodes]
        A |= of_calls(episodes, F_norm(sums))
        for state in ("hall", "shop", "street"):
            same = [(c, R_t) for c, R_t in steps if c.state == state]
            A_S = F_norm([R_t for _, R_t in same])
            for (c, _), a in zip(same, A_S, strict=True):
                A[id(c)] += omega * a
    return A


def turns(groups, turn_weight):
    """MT-GRPO (arXiv 2505.11821): A_outcome + c * A_turn, both normalised over the group; a turn
    beside the same turn of the others."""
    A = {}
    for episodes in compared(groups):
        A_O = of_calls(episodes, normalised([R for R, _ in episodes]))
        for t in range(5):
            same = [calls[t] for _, calls in episodes if len(calls) > t]
            A_T = normalised([c.reward or 0.0 for c in same])
            A |= {id(c): A_O[id(c)] + turn_weight * a for c, a in zip(same, A_T, strict=True)}
    return A


def returns(groups, turn_credit, discount):
    """GRPO over the return from a turn on, G_t = sum over k >= t of gamma^(k - t) r_k."""
    A = {}
    for episodes in compared(groups):
        for t in range(5):
            same = []
            for R, calls in episodes:
                r = rewards_of_turns(R, calls)
                if len(calls) > t:
                    G_t = sum(discount ** (k - t) * r[k] for k in range(t, len(r)))
                    same.append((calls[t], G_t))
            found = normalised([G_t for _, G_t in same])
            A |= {id(c): a for (c, _), a in zip(same, found, strict=True)}
    return A


def tree_loo(groups, states=False):
    """RTMC (arXiv 2604.11037), V of a node being the mean return of those who came through it: here
    of the others alone, and of the nearest node above where there are none."""
    A = {}
    for episodes in compared(groups):
        for i, (R, calls) in enumerate(episodes):
            for t, c in enumerate(calls):
                above = [d.state for d in calls[: t + 1]] if states else c.prompt_ids
                others = []
                for h in range(len(above), -1, -1):
                    others = [
                        R_j
                        for j, (R_j, theirs) in enumerate(episodes)
                        if j != i and passes(theirs, above[:h], states)
                    ]
                    if others:
                        break
                V = sum(others) / len(others) if others else R
                A[id(c)] = R - V
    return A


def passes(calls: Sequence[Call], above: Sequence, states: bool) -> bool:
    """Whether an episode came to the node at the end of a way from the root."""
    if states:
        return not above or any(c.state == above[-1] for c in calls)
    return any(c.ids[: len(above)] == above for c in calls)


def generalised(groups, discount, decay):
    """GAE (arXiv 1506.02438, eq. 16): the sum over l of (gamma lambda)^l delta_(t + l), where
    delta_t = r_t + gamma V(s_(t + 1)) - V(s_t), over all tokens of an agent's calls."""
    A = {}
    for episodes in compared(groups):
        for R, calls in episodes:
            V = [v for c in calls for v in c.scores.others["values"]] + [0.0]
            ends = list(accumulate(len(c.completion_ids) for c in calls))
            r = dict(zip([end - 1 for end in ends], rewards_of_turns(R, calls), strict=True))
            T = len(V) - 1
            delta = [r.get(t, 0.0) + discount * V[t + 1] - V[t] for t in range(T)]
            A_t = [
                sum((discount * decay) ** k * delta[t + k] for k in range(T - t)) for t in range(T)
            ]
            A |= {id(c): A_t[e - len(c.completion_ids) : e] for c, e in zip(calls, ends)}
    return A


def opd(groups, teacher):
    """On-policy distillation (arXiv 2306.13649), reverse KL: log p_T - log p_S of each token."""
    A = {}
    for episodes in compared(groups):
        for _, calls in episodes:
            for c in calls:
                both = zip(c.scores.ref_logprobs, c.scores.logprobs, strict=True)
                A[id(c)] = [log_p_T - log_p_S for log_p_T, log_p_S in both]
    return A


def rejection(groups, threshold):
    """RAFT (arXiv 2304.06767): what is good enough is kept, and all of it counts alike."""
    kept = [calls for episodes in compared(groups) for r, calls in episodes if r >= threshold]
    return {id(c): 1.0 for calls in kept for c in calls}


def sft(groups):
    """The likelihood of every call."""
    return {id(c): 1.0 for episodes in compared(groups) for _, calls in episodes for c in calls}


def dapo(groups, max_tokens, buffer):
    """DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13), of an agent's longest call."""
    A, L_max, L_cache = {}, max_tokens, buffer * max_tokens
    for episodes in compared(groups):
        rewards = []
        for r, calls in episodes:
            y = max(len(c.completion_ids) for c in calls)
            if y <= L_max - L_cache:
                R_length = 0.0
            elif y <= L_max:
                R_length = ((L_max - L_cache) - y) / L_cache
            else:
                R_length = -1.0
            rewards.append(r + R_length)
        A |= of_calls(episodes, normalised(rewards))
    return A


def kl_in_reward(groups, kl_weight):
    """RLHF (arXiv 2203.02155, eq. 2): r - beta log(pi(y|x) / pi_SFT(y|x)), then GRPO's."""
    A = {}
    for episodes in compared(groups):
        rewards = []
        for r, calls in episodes:
            log_pi = sum(p for c in calls for p in c.scores.logprobs)
            log_pi_SFT = sum(p for c in calls for p in c.scores.ref_logprobs)
            rewards.append(r - kl_weight * (log_pi - log_pi_SFT))
        A |= of_calls(episodes, normalised(rewards))
    return A


def each(cases: list[tuple]) -> pytest.MarkDecorator:
    """A preset, its numbers, the formula, and a symbol of it that is made another."""
    ids = [" ".join([name, *map(str, numbers.values())]) for name, numbers, *_ in cases]
    return pytest.mark.parametrize(
        ("name", "numbers", "formula", "symbol", "other"), cases, ids=ids
    )


CREDIT = [
    # A preset, its numbers, the formula; a symbol of it, and another that makes it wrong.
    ("maxrl", {}, maxrl, "/ mean if", "/ 1 if"),
    ("reinforce_pp_baseline", {}, reinforce_pp_baseline, "r - sum", "sum"),
    ("gdpo", {"part_weights": {"right": 1.0, "short": 0.5}}, gdpo, "+ w_k * a_k", "+ a_k"),
    ("rae", {"decay": 0.9}, rae, "(1 - alpha) * R", "alpha * R"),
    ("multi_step_grpo", {}, multi_step_grpo, "[-1], e[1])", "[0], e[1])"),
    ("multi_step_grpo", {"step_norm": True}, multi_step_grpo, "/ T for", "for"),
    ("multi_step_grpo", {"std_over": "batch"}, multi_step_grpo, "(len(every) - 1)", "len(every)"),
    (
        "multi_step_grpo",
        {"step_norm": True, "std_over": "batch"},
        multi_step_grpo,
        "len(calls) if",
        "len(episodes) if",
    ),
    ("gigpo", {"omega": 0.7, "discount": 0.9, "std": False}, gigpo, "** (k - t)", "** k"),
    ("gigpo", {"omega": 0.7, "discount": 0.9, "std": True}, gigpo, "+= omega", "= omega"),
    ("turns", {"turn_weight": 0.5}, turns, "A_O[id(c)] +", ""),
    ("turns", {"turn_credit": "returns", "discount": 0.9}, returns, "range(t, len(r))", "[t]"),
    ("tree_loo", {}, tree_loo, "j != i and ", ""),
    ("tree_loo", {"states": True}, tree_loo, "calls[: t + 1]", "calls[:t]"),
    ("opd", {"teacher": "m"}, opd, "log_p_T - log_p_S", "log_p_S - log_p_T"),
    ("rejection", {"threshold": 0.5}, rejection, "r >= threshold", "r > threshold"),
    ("sft", {}, sft, "1.0", "0.5"),
    ("dapo", {"max_tokens": 5, "buffer": 0.6}, dapo, "/ L_cache", "/ L_max"),
    ("kl_in_reward", {"kl_weight": 0.1}, kl_in_reward, "- kl_weight", "+ kl_weight"),
]


@each(CREDIT)
def test_credit(name, numbers, formula, symbol, other):
    gaps = []
    for groups in map(batch, SEEDS):
        # Anew each time: one remembers.
        samples = replace(load_algorithm(name), **numbers).advantages(groups)
        found = by_token({id(sample.call): sample.advantage for sample in samples})
        right, wrong = (
            by_token(one(groups, **numbers)) for one in (formula, altered(formula, symbol, other))
        )
        assert found == pytest.approx(right, rel=EXACT, abs=EXACT)
        gaps.append(gap(found, wrong))
    assert max(gaps) > APART


def test_gae():
    for groups in map(batch, SEEDS):
        samples = gae(credit(groups, list), 0.9, 0.8, "values")
        found = by_token({id(sample.call): sample.advantage for sample in samples})
        right, wrong = (
            by_token(one(groups, 0.9, 0.8))
            for one in (generalised, altered(generalised, "V[t + 1]", "V[t]"))
        )
        assert found == pytest.approx(right, rel=EXACT, abs=EXACT)
        assert gap(found, wrong) > APART


def by_token(A: dict[int, float | list[float]]) -> dict[tuple[int, int], float]:
    lists = {c: a if isinstance(a, list) else [a] for c, a in A.items()}
    return {(c, t): a_t for c, a in lists.items() for t, a_t in enumerate(a)}


def gap(mine: dict, theirs: dict) -> float:
    """Infinite where they are not of the same calls."""
    return max(abs(mine.get(key, inf) - theirs.get(key, -inf)) for key in {*mine, *theirs})


def altered(formula: Callable, symbol: str, other: str) -> Callable:
    """The formula with one symbol that is wrong."""
    source = inspect.getsource(formula)
    assert source.count(symbol) == 1, f"{source.count(symbol)} of {symbol!r}"
    names = dict(globals())
    exec(source.replace(symbol, other), names)
    return names[formula.__name__]


# Means: the lengths of the calls of each episode of each group -> what a token of each call counts.


def of_episodes(lengths):
    """GRPO as published (arXiv 2402.03300, eq. 3): 1/G sum over i of 1/|o_i| sum over t; the mean
    over questions."""
    found = []
    for group in lengths:
        G = len(group)
        for o_i in group:
            found += [1 / len(lengths) / G / sum(o_i)] * len(o_i)
    return found


def of_prompts(lengths):
    """DAPO as published (arXiv 2503.14476, eq. 8): 1 / sum over i of |o_i|, of each question; the
    mean over questions."""
    found = []
    for group in lengths:
        for o_i in group:
            found += [1 / len(lengths) / sum(sum(o_j) for o_j in group)] * len(o_i)
    return found


@pytest.mark.parametrize(
    ("over", "formula", "symbol", "other"),
    [("episode", of_episodes, "/ sum(o_i)", "/ len(o_i)"), ("prompt", of_prompts, "sum(o_j)", "1")],
)
def test_mean(over, formula, symbol, other):
    gaps = []
    for seed in SEEDS:
        rng = random.Random(seed)
        lengths = [
            [[rng.randint(1, 9) for _ in range(rng.randint(1, 3))] for _ in range(4)]
            for _ in range(3)
        ]
        samples = [
            Sample(Call(prompt_ids=[0], completion_ids=[0] * n, logprobs=[0.0] * n), 1.0, g, i)
            for g, group in enumerate(lengths)
            for i, o_i in enumerate(group)
            for n in o_i
        ]
        weights, divisor = GRPO(aggregation=over).weigh(samples)
        found = [weight / divisor for weight in weights]
        assert found == pytest.approx(formula(lengths), rel=EXACT)
        wrong = altered(formula, symbol, other)(lengths)
        gaps += [abs(a - b) for a, b in zip(found, wrong, strict=True)]
    assert max(gaps) > APART


# Losses: the terms of a call -> of each its value, and its slopes by log pi and by the entropy.


@dataclass(frozen=True)
class Term:
    """Log-probabilities of a token: of the policy, before the batch's first step, of the sampler,
    of the reference; its advantage, and the entropy where it was drawn."""

    log_pi: float
    log_pi_old: float
    log_mu: float
    log_pi_ref: float
    A: float
    H: float


@cache
def terms(seed: int) -> list[list[Term]]:
    """Of six calls."""
    rng = random.Random(seed)

    def term(A: float) -> Term:
        log_pi_old = -0.05 - 2 * rng.random()
        near = (min(-0.01, rng.gauss(log_pi_old, width)) for width in (0.3, 0.6, 0.5))
        log_pi, log_mu, log_pi_ref = near
        return Term(log_pi, log_pi_old, log_mu, log_pi_ref, A, rng.random())

    return [[term(A) for _ in range(rng.randint(1, 5))] for A in (1, -1, 0.5, -0.5, 0, 2)]


def clipped(t: Term, eps: float = 0.2) -> tuple[float, float]:
    """PPO (arXiv 1707.06347, eq. 7): the surrogate and its slope."""
    r = exp(t.log_pi - t.log_pi_old)
    J = min(r * t.A, min(max(r, 1 - eps), 1 + eps) * t.A)
    return J, r * t.A if r * t.A <= J else 0.0


def corrected(call, weights):
    return [(-w * clipped(t)[0], -w * clipped(t)[1], 0.0) for t, w in zip(call, weights)]


def icepop(call):
    """Ring-1T (arXiv 2510.18855): M(k) = k where alpha <= k <= beta, else 0."""
    alpha, beta = 0.5, 5.0
    k = [exp(t.log_pi_old - t.log_mu) for t in call]
    return corrected(call, [k_t if alpha <= k_t <= beta else 0.0 for k_t in k])


def icepop_of_sequences(call):
    """The same of k of the sequence, the product over its tokens."""
    alpha, beta = 0.5, 5.0
    k = prod(exp(t.log_pi_old - t.log_mu) for t in call)
    return corrected(call, [k if alpha <= k <= beta else 0.0] * len(call))


def truncated_of_sequences(call):
    """Truncated importance sampling: min(k, C) of the sequence."""
    C = 1.5
    k = prod(exp(t.log_pi_old - t.log_mu) for t in call)
    return corrected(call, [min(k, C)] * len(call))


def k3_plus(call):
    """joschu.net/blog/kl-approx.html: the value of (r - 1) - log r, r = pi_ref / pi, and the slope
    of (log r)^2 / 2."""
    found = []
    for t, (value, slope, _) in zip(call, grpo(call)):
        log_r = t.log_pi_ref - t.log_pi
        found.append((value + 0.1 * ((exp(log_r) - 1) - log_r), slope - 0.1 * log_r, 0.0))
    return found


def grpo(call):
    """With the sampler's weight, at most 2."""
    return corrected(call, [min(exp(t.log_pi_old - t.log_mu), 2.0) for t in call])


def entropy_bonus(call):
    """A3C (arXiv 1602.01783, section 4): - beta H."""
    beta = 0.05
    return [(v - beta * t.H, slope, -beta) for t, (v, slope, _) in zip(call, grpo(call))]


def likelihood(call):
    """- log pi, as often as it was kept."""
    return [(-t.A * t.log_pi, -t.A, 0.0) for t in call]


def dppo_tv(call):
    """arXiv 2602.04879, eq. 13: nothing where the total variation grew beyond delta."""
    delta, found = 0.2, []
    for t in call:
        pi, mu = exp(t.log_pi), exp(t.log_mu)
        leaves = (t.A > 0 and pi > mu) or (t.A < 0 and pi < mu)
        M = 0.0 if leaves and delta < abs(pi - mu) else 1.0
        found.append((-M * pi / mu * t.A, -M * pi / mu * t.A, 0.0))
    return found


def dppo_kl(call):
    """arXiv 2602.04879, eq. 14: nothing where the binary KL did."""
    delta, found = 0.05, []
    for t in call:
        pi, mu = exp(t.log_pi), exp(t.log_mu)
        leaves = (t.A > 0 and pi > mu) or (t.A < 0 and pi < mu)
        D = mu * log(mu / pi) + (1 - mu) * log((1 - mu) / (1 - pi))
        M = 0.0 if leaves and delta < D else 1.0
        found.append((-M * pi / mu * t.A, -M * pi / mu * t.A, 0.0))
    return found


OF_SEQUENCES = {"importance_level": "sequence"}
TRUNCATED = {"importance_sampling_floor": 0.0, "importance_sampling_cap": 1.5}
NARROW = {"divergence": "kl", "clip_low": 0.05, "clip_high": 0.05}
LOSSES = [
    ("icepop", {}, icepop, "else 0.0", "else beta"),
    ("icepop", OF_SEQUENCES, icepop_of_sequences, "prod(", "max("),
    ("icepop", OF_SEQUENCES | TRUNCATED, truncated_of_sequences, "min(k, C)]", "k]"),
    ("kl", {"kl_weight": 0.1, "kl_estimate": "k3+"}, k3_plus, "slope - 0.1", "slope + 0.1"),
    ("entropy_bonus", {"entropy_weight": 0.05}, entropy_bonus, "slope, -beta", "slope, beta"),
    ("sft", {}, likelihood, "-t.A, 0.0", "-1, 0.0"),
    ("rejection", {}, likelihood, "(-t.A * t.log_pi", "(-t.log_pi"),
    ("dppo", {}, dppo_tv, "and pi < mu", "and pi > mu"),
    ("dppo", NARROW, dppo_kl, "(1 - mu) * log", "(1 - pi) * log"),
]


@each(LOSSES)
def test_loss(name, numbers, formula, symbol, other):
    gaps = []
    for calls in map(terms, SEEDS):
        found = value_and_slopes(replace(load_algorithm(name), **numbers), calls)
        right, wrong = (
            torch.tensor([row for call in calls for row in one(call)], dtype=torch.float64)
            for one in (formula, altered(formula, symbol, other))
        )
        assert torch.allclose(found, right, rtol=EXACT, atol=EXACT)
        gaps.append((found - wrong).abs().max().item())
    assert max(gaps) > APART


def value_and_slopes(algorithm: GRPO, calls: list[list[Term]]) -> torch.Tensor:
    every = [t for call in calls for t in call]
    logprobs, references, entropies = (
        torch.tensor([getattr(t, name) for t in every], dtype=torch.float64, requires_grad=True)
        for name in ("log_pi", "log_pi_ref", "H")
    )
    given = make_terms(
        logprobs,
        [t.log_mu for t in every],
        [float(t.A) for t in every],
        [t.log_pi_old for t in every],
        [number for number, call in enumerate(calls) for _ in call],
        ref_logprobs=references.detach(),
    )
    values = algorithm.loss(replace(given, entropies=entropies)).values
    values.sum().backward()
    by_entropy = torch.zeros_like(values) if entropies.grad is None else entropies.grad
    return torch.stack([values.detach(), logprobs.grad, by_entropy], 1)
