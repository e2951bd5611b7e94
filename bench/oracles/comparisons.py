"""What of other trainers' is the same as what of ours, and where they are known to be otherwise."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from agentrl.algorithms import GRPO
from agentrl.algorithms.named import load_algorithm
from agentrl.types import Episode, Group
from bench.oracles.example import (
    GAMES,
    PARTS,
    STEPS,
    TWO_ALIKE,
    Batch,
    added_by,
    credit_of,
    example,
    game_credit_of,
    likelihood_of,
    loss_of,
    returns_of,
    scored_episodes,
    step_credit_of,
    surprise,
    with_a_tool,
)
from bench.oracles.stubs import Settings


@dataclass(frozen=True)
class Comparison:
    """One formula by two hands."""

    ours: str
    theirs: str
    make: Callable[[], tuple[Tensor, Tensor | None, Tensor, Tensor | None]]
    """Our value and its gradient, theirs and its."""
    why: str = ""
    """Where they are not to agree."""
    is_loss: bool = False

    @property
    def formula(self) -> str:
        """What is compared, whatever mean is taken of it."""
        name, _, note = self.ours.partition(" ")
        notes = ", ".join(part for part in note.split(", ") if part not in SAME)
        return f"{name} {'loss' if self.is_loss else 'credit'} {notes}".strip()


OF_MEANS = ("token mean", "call mean", "constant length")
SAME = (*OF_MEANS, "clip-higher", "upper bound", "both bounds", "of 5 games")
"""Notes that are of a mean, of a number, or of a batch."""


def _named(name: str, **numbers) -> GRPO:
    return replace(load_algorithm(name), **numbers)


def _loss(
    algorithm: GRPO,
    theirs: str,
    call: Callable[[Batch], Tensor],
    note: str = "",
    *,
    why: str = "",
    elsewhere: bool = False,
    part: Callable[[GRPO, Batch], Tensor] = loss_of,
) -> Comparison:
    def make():
        mine, other = (example(is_sampled_elsewhere=elsewhere) for _ in range(2))
        values = part(algorithm, mine), call(other)
        gradients = (_gradient(v, b) for v, b in zip(values, (mine, other), strict=True))
        first, second = gradients
        return values[0], first, values[1], second

    return Comparison(f"{algorithm.name} {note}".strip(), theirs, make, why, is_loss=True)


def _gradient(value: Tensor, b: Batch) -> Tensor:
    value.backward()
    return b.logp.grad


def _credit(name: str, theirs: str, call: Callable[[], Tensor], why: str = "") -> Comparison:
    algorithm = load_algorithm(name)
    return _values(algorithm, theirs, partial(credit_of, algorithm), call, why=why)


def _values(
    algorithm: GRPO,
    theirs: str,
    ours: Callable[[], Tensor],
    call: Callable[[], Tensor],
    note: str = "",
    why: str = "",
) -> Comparison:
    def make():
        return ours(), None, call().double(), None

    return Comparison(f"{algorithm.name} {note}".strip(), theirs, make, why)


def comparisons(f: dict[str, Any]) -> Iterator[Comparison]:
    yield from _clipped(f)
    yield from _sequences(f)
    yield from _soft(f)
    yield from _trust(f)
    yield from _corrections(f)
    yield from _kl(f)
    yield from _likelihoods(f)
    yield from _credits(f)
    yield from _rewards(f)
    yield from _critics(f)
    yield from _players(f)


def _clipped(f: dict[str, Any]) -> Iterator[Comparison]:
    trl, verl, trinity, areal, skyrl, openrlhf, art = (
        f[name].loss
        for name in ("trl", "verl", "trinity", "areal", "skyrl", "openrlhf", "openpipe")
    )
    ppo = "ppo_policy_loss.PPOPolicyLossFn"
    token, higher = GRPO(), GRPO(clip_high=0.28)
    call, length = GRPO(aggregation="call"), GRPO(aggregation=5)
    yield _loss(token, "trl bnpo", lambda b: trl(b, "bnpo"), "token mean")
    yield _loss(token, "skyrl", lambda b: skyrl(b, "regular"), "token mean")
    yield _loss(token, "openrlhf", openrlhf, "token mean")
    yield _loss(token, "openpipe", lambda b: art(b, ppo=True), "token mean")
    yield _loss(higher, "trl dapo", lambda b: trl(b, "dapo", high=0.28), "clip-higher")
    yield _loss(higher, "verl", lambda b: verl(b, "vanilla", high=0.28), "clip-higher")
    yield _loss(higher, "areal", lambda b: areal(b, high=0.28), "clip-higher")
    wider = {"epsilon": 0.2, "epsilon_high": 0.28}
    yield _loss(higher, "openpipe", lambda b: art(b, ppo=True, **wider), "clip-higher")
    yield _loss(call, "trl grpo", lambda b: trl(b, "grpo"), "call mean")
    yield _loss(call, "verl", lambda b: verl(b, "vanilla", "seq-mean-token-mean"), "call mean")
    yield _loss(call, "skyrl", lambda b: skyrl(b, "regular", "sequence_mean"), "call mean")
    yield _loss(call, "openrlhf", lambda b: openrlhf(b, token_mean=False), "call mean")
    norm = "seq-mean-token-sum-norm"
    yield _loss(length, "trl dr_grpo", lambda b: trl(b, "dr_grpo"), "constant length")
    yield _loss(length, "verl", lambda b: verl(b, "vanilla", norm), "constant length")
    norm = {"loss_agg_mode": norm, "clip_range": 0.2, "clip_ratio_c": 100.0}
    forgets = "it does not divide by the batch: 6 times as large"
    yield _loss(
        length, "trinity", lambda b: trinity(b, ppo, **norm), "constant length", why=forgets
    )
    name = "seq_mean_token_sum_norm"
    yield _loss(length, "skyrl", lambda b: skyrl(b, "regular", name), "constant length")
    dual = _named("dual_clip", dual=1.2)
    yield _loss(dual, "verl", lambda b: verl(b, "vanilla", c=1.2))
    clip = {"clip_range": 0.2, "clip_ratio_c": 1.2}
    yield _loss(dual, "trinity", lambda b: trinity(b, ppo, **clip))
    yield _loss(dual, "areal", lambda b: areal(b, c=1.2))
    yield _loss(dual, "skyrl", lambda b: skyrl(b, "dual_clip", c=1.2))
    yield _loss(dual, "openrlhf", lambda b: openrlhf(b, c=1.2))


def _sequences(f: dict[str, Any]) -> Iterator[Comparison]:
    trl, verl, trinity, areal, skyrl, openrlhf = (
        f[name].loss for name in ("trl", "verl", "trinity", "areal", "skyrl", "openrlhf")
    )
    low, high = bounds = 3e-2, 4e-2
    wide = {"clip_low": low, "clip_high": high}
    gspo, token = _named("gspo", **wide), _named("gspo", **wide, level="token")
    yield _loss(gspo, "trl", lambda b: trl(b, "grpo", low=low, high=high, level="sequence"))
    yield _loss(gspo, "openrlhf", lambda b: openrlhf(b, "gspo", low=low, high=high))
    mean = _named("gspo", **wide, aggregation="token")
    yield _loss(
        mean, "areal", lambda b: areal(b, low=low, high=high, level="sequence"), "token mean"
    )
    yield _loss(
        token, "verl", lambda b: verl(b, "gspo", "seq-mean-token-mean", low=low, high=high), "token"
    )
    art = f["openpipe"].loss
    own = {"ppo": True, "importance_sampling_level": "sequence", "epsilon": low}
    theirs = lambda b: art(b, **own, epsilon_high=high)  # noqa: E731
    yield _loss(mean, "openpipe", theirs, "token mean")
    ranges = dict(zip(("clip_range_low", "clip_range_high"), bounds, strict=True))
    path = "gspo_policy_loss.GSPOLossFn"
    yield _loss(token, "trinity", lambda b: trinity(b, path, **ranges), "token")
    yield _loss(
        token, "skyrl", lambda b: skyrl(b, "gspo", "sequence_mean", low=low, high=high), "token"
    )


def _soft(f: dict[str, Any]) -> Iterator[Comparison]:
    trl, verl, trinity, skyrl = (f[n].loss for n in ("trl", "verl", "trinity", "skyrl"))
    upper = _named("cispo", clip_high=0.28)
    yield _loss(upper, "trl", lambda b: trl(b, "cispo", high=1.28), "upper bound")
    both = _named("cispo", clip_low=0.2, clip_high=0.28)
    yield _loss(both, "verl", lambda b: verl(b, "cispo", high=0.28), "both bounds")
    ranges = {"clip_range_low": 0.2, "clip_range_high": 0.28}
    path = "cispo_policy_loss.CISPOPolicyLossFn"
    yield _loss(both, "trinity", lambda b: trinity(b, path, **ranges), "both bounds")
    clip = Settings(cispo_eps_clip_low=0.2, cispo_eps_clip_high=0.28)
    yield _loss(both, "skyrl", lambda b: skyrl(b, "cispo", cispo=clip), "both bounds")
    art, mean = f["openpipe"].loss, replace(both, aggregation="token")
    wide = {"epsilon": 0.2, "epsilon_high": 0.28}
    yield _loss(mean, "openpipe", lambda b: art(b, **wide), "both bounds, token mean")
    sapo, mean, taus = _named("sapo"), _named("sapo", aggregation="token"), (1.0, 1.05)
    yield _loss(sapo, "trl", lambda b: trl(b, "sapo"))
    yield _loss(sapo, "verl", lambda b: verl(b, "sapo", "seq-mean-token-mean"))
    own = Settings(tau_pos=taus[0], tau_neg=taus[1])
    yield _loss(sapo, "skyrl", lambda b: skyrl(b, "sapo", "sequence_mean", sapo=own))
    yield _loss(mean, "areal", f["areal"].sapo, "token mean")
    detached = "its gate is detached, and multiplies the log-probability"
    path = "sapo_policy_loss.SAPOPolicyLossFn"
    yield _loss(mean, "trinity", lambda b: trinity(b, path), "token mean", why=detached)


def _trust(f: dict[str, Any]) -> Iterator[Comparison]:
    verl, skyrl = f["verl"].loss, f["skyrl"].loss
    detached = "value: -sg(ratio) A logprob; the gradient is the same while a ratio is at most 20"
    for kind, bound in (("tv", 0.2), ("kl", 0.05)):
        dppo = _named("dppo", divergence=kind, clip_low=bound, clip_high=bound)
        own = Settings(dppo_type=f"binary_{kind}", delta_low=bound, delta_high=bound)
        yield _loss(dppo, "skyrl", lambda b, own=own: skyrl(b, "dppo", dppo=own), kind)
        name = f"dppo_{kind}"
        theirs = lambda b, name=name, d=bound: verl(b, name, low=d, high=d)  # noqa: E731
        yield _loss(dppo, "verl", theirs, kind, why=detached)


def _corrections(f: dict[str, Any]) -> Iterator[Comparison]:
    loss, weights = f["verl"].loss, f["verl"].weights

    def verl(level: str, threshold: float | str) -> Callable[[Batch], Tensor]:
        return lambda b: loss(b, "vanilla", weights=weights(b, level, threshold))

    def areal(b: Batch) -> Tensor:
        rejection = f["areal"].rejection(action="clamp", upper=1.1)
        return f["areal"].loss(b, rejection=rejection)

    elsewhere = {"elsewhere": True}
    yield _loss(GRPO(importance_sampling_cap=1.1), "verl", verl("token", 1.1), "cap", **elsewhere)
    yield _loss(GRPO(importance_sampling_cap=1.1), "areal", areal, "cap", **elsewhere)
    openrlhf = f["openrlhf"].loss
    clip = ("clip", 0.0, 1.1)
    theirs = lambda b: openrlhf(b, weights=clip)  # noqa: E731
    yield _loss(GRPO(importance_sampling_cap=1.1), "openrlhf", theirs, "cap", **elsewhere)
    art = f["openpipe"].loss
    theirs = lambda b: art(b, ppo=True, truncated_importance_sampling=1.1)  # noqa: E731
    yield _loss(GRPO(importance_sampling_cap=1.1), "openpipe", theirs, "cap", **elsewhere)
    ice = _named("icepop")
    theirs = lambda b: openrlhf(b, weights=("mask", 0.5, 5.0))  # noqa: E731
    yield _loss(ice, "openrlhf", theirs, **elsewhere)
    yield _loss(ice, "verl", verl("token", "0.5_5.0"), **elsewhere)
    whole = replace(ice, importance_level="sequence")
    yield _loss(whole, "verl", verl("sequence", "0.5_5.0"), "sequence", **elsewhere)
    truncated = replace(whole, importance_sampling_floor=0.0, importance_sampling_cap=1.1)
    yield _loss(truncated, "verl", verl("sequence", 1.1), "sequence, floor 0", **elsewhere)


def _kl(f: dict[str, Any]) -> Iterator[Comparison]:
    """The term alone, at weight 1."""
    verl, trinity = f["verl"].kl, f["trinity"].kl
    names = {
        "k1": ("kl", "K1Fn"),
        "k2": ("mse", "K2Fn"),
        "k3": ("low_var_kl", "K3Fn"),
        "k3+": ("low_var_kl+", None),
    }
    for estimate, (of_verl, of_trinity) in names.items():
        kl, own = _named("kl", kl_weight=1.0, kl_estimate=estimate), {"part": added_by}
        yield _loss(kl, "verl", lambda b, n=of_verl: verl(b, n), estimate, **own)
        if of_trinity is None:
            continue
        yield _loss(kl, "trinity", lambda b, n=of_trinity: trinity(b, n), estimate, **own)
        for name in ("areal", "openrlhf", "skyrl"):
            theirs = f[name].kl
            yield _loss(kl, name, lambda b, t=theirs, n=estimate: t(b, n), estimate, **own)
    both = replace(load_algorithm("kl"), kl_weight=0.1, aggregation="call")
    trl = f["trl"].loss
    yield _loss(both, "trl beta 0.1", lambda b: trl(b, "grpo", beta=0.1), "k3, call mean")


def _likelihoods(f: dict[str, Any]) -> Iterator[Comparison]:
    trinity, part = f["trinity"], {"part": likelihood_of}
    yield _loss(_named("sft"), "openrlhf", f["openrlhf"].likelihood, **part)
    yield _loss(_named("sft"), "trinity", lambda b: trinity.loss(b, "sft_loss.SFTLossFn"), **part)
    bonus = _named("entropy_bonus", entropy_weight=0.1)
    theirs = lambda b: -trinity.entropy(surprise(b), b, 0.1)  # noqa: E731
    yield _loss(bonus, "trinity", theirs, part=added_by)


def _rewards(f: dict[str, Any]) -> Iterator[Comparison]:
    """What is made of a reward of 0; and of no reward at all."""
    b, longest, buffer = example(), 4, 3
    dapo = _named("dapo", max_tokens=longest, buffer=buffer / longest)
    kl = _named("kl_in_reward", kl_weight=0.1)

    def made(reward: Callable[[Episode, str], float]) -> Callable[[], Tensor]:
        return lambda: torch.tensor([reward(e, "agent") for e in scored_episodes(b)]).double()

    unbounded = "it goes below -1"
    for name in ("trl", "openrlhf", "trinity", "areal"):
        theirs = partial(f[name].penalty, b, longest, buffer)
        why = unbounded if name == "areal" else ""
        yield _values(dapo, name, made(dapo.overlong), theirs, "penalty", why)
    yield _values(kl, "verl", made(kl.penalised), partial(f["verl"].kl_in_reward, b, 0.1))
    opd = load_algorithm("opd")

    def opinions() -> Tensor:
        samples = opd.advantages([Group({}, tuple(scored_episodes(b)))])
        return torch.tensor([a for s in samples for a in s.advantage], dtype=torch.float64)

    for name, trainer in (("trinity", f["trinity"]), ("ms-swift", f["ms"])):
        yield _values(opd, name, opinions, partial(trainer.distilled, b))


def _critics(f: dict[str, Any]) -> Iterator[Comparison]:
    b, numbers = example(), (0.9, 0.8)
    # One of them knows of tools.
    for name, mask in (("verl", with_a_tool(b)), ("verl", b.mask), ("skyrl", b.mask)):
        ours = partial(returns_of, b, mask, *numbers)
        theirs = partial(f[name].gae, b, mask, *numbers)
        yield Comparison("GAE", name, lambda o=ours, t=theirs: (o(), None, t(), None))


def _players(f: dict[str, Any]) -> Iterator[Comparison]:
    at_the_end = "its means move once a batch, by the batch's mean"
    for batches, note, why in (([[g] for g in GAMES], "", ""), ([GAMES], "of 5 games", at_the_end)):
        ours = partial(game_credit_of, _named("rae"))
        theirs = lambda b=batches: torch.tensor([*f["spiral"].credit(b)]).double()  # noqa: E731
        yield _values(_named("rae"), "spiral", ours, theirs, note, why)


def _credits(f: dict[str, Any]) -> Iterator[Comparison]:
    verl, trinity, skyrl = (f[name].credit for name in ("verl", "trinity", "skyrl"))
    yield _credit("grpo", "verl", lambda: verl("grpo"))
    yield _credit("grpo", "trinity", lambda: trinity("grpo_advantage.GRPOGroupedAdvantage"))
    yield _credit("grpo", "skyrl", lambda: skyrl("compute_grpo_outcome_advantage"))
    yield _credit("dr_grpo", "verl", lambda: verl("grpo", norm_adv_by_std_in_grpo=False))
    yield _credit("dr_grpo", "tinker", f["tinker"].credit)
    yield _credit("rloo", "verl", lambda: verl("rloo"))
    yield _credit("rloo", "skyrl", lambda: skyrl("compute_rloo_outcome_advantage"))
    yield _credit("rloo", "trinity", f["trinity"].rloo)
    name = "reinforce_plus_plus_baseline"
    yield _credit("reinforce_pp_baseline", "verl", lambda: verl(name))
    constant = "its 1e-6 beside the mean"
    name = "compute_maxrl_advantage"
    yield _credit("maxrl", "skyrl", lambda: skyrl(name), why=constant)
    # Of larger rewards the same comes, and it does not show.
    yield _credit("maxrl", "skyrl x 1000", lambda: skyrl(name, scale=1000.0))

    swift, large = f["ms"].credit, 1e6
    yield _credit("dr_grpo", "ms-swift", lambda: swift("grpo", "none"))
    yield _credit("rloo", "ms-swift", lambda: swift("rloo", "none"))
    # What each has beside a std does not show in large rewards.
    for name, of, over in (
        ("grpo", "grpo", "group"),
        ("reinforce_pp_baseline", "reinforce_plus_plus", "batch"),
    ):
        ours = partial(credit_of, load_algorithm(name), scale=large)
        theirs = partial(swift, of, over, scale=large)
        yield _values(load_algorithm(name), "ms-swift", ours, theirs)

    weights = [1.0, 0.5]
    gdpo = _named("gdpo", part_weights=dict(zip(PARTS, weights, strict=True)))
    theirs = f["verl"].gdpo
    yield _values(gdpo, "verl", lambda: credit_of(gdpo, 2), lambda: theirs(PARTS, weights))
    ours = partial(credit_of, gdpo, 2, large, TWO_ALIKE)
    yield _values(gdpo, "ms-swift", ours, partial(f["ms"].gdpo, weights, large))
    yield from _of_steps(f["trinity"])


def _of_steps(trinity: Any) -> Iterator[Comparison]:
    """Rewards of steps, and states that no two tasks have both: Trinity's are the batch's."""
    tasks, runs, rewards, states = zip(*STEPS, strict=True)
    numbers = [sum(s[:2] == step[:2] for s in STEPS[:i]) for i, step in enumerate(STEPS)]
    infos = [{"step_reward": r, "env_state_hash": s} for r, s in zip(rewards, states, strict=True)]

    def steps() -> list:
        return trinity.steps(rewards, tasks, runs, numbers, infos)

    path = "multi_step_grpo_advantage.StepWiseGRPOAdvantageFn"
    for over in ("group", "batch"):
        for norm in (False, True):
            ours = _named("multi_step_grpo", std_over=over, step_norm=norm)
            own = {"std_cal_level": over, "enable_step_norm": norm}
            theirs = partial(lambda own: trinity.operator(path, steps(), **own), own)
            note = f"{over}{', step norm' * norm}"
            yield _values(ours, "trinity", partial(step_credit_of, ours), theirs, note)
    path = "gigpo_advantage.GiGPOAdvantageFn"
    for std in (True, False):
        ours, own = _named("gigpo", std=std), {"gamma": 0.95, "fnorm": "std" if std else "none"}
        theirs = partial(lambda own: trinity.operator(path, steps(), **own), own)
        note = "std" if std else "no std"
        yield _values(ours, "trinity", partial(step_credit_of, ours), theirs, note)
