"""Evaluation: the share of held-out tasks that are solved, how sure that is, and what differs.

Tasks are drawn at random, and the episodes of one are alike: everything is by task. pass@k is the
unbiased estimator of Chen et al. (arXiv 2107.03374, section 2.1). An interval is two percentiles of
the bootstrap over tasks. Checkpoints are compared by their differences on the same tasks, whose
signs are flipped (Fisher's permutation test).
"""

from collections.abc import Mapping, Sequence
from math import comb
from typing import Any

import numpy as np

from agentrl.runs.metrics import episode_metrics
from agentrl.types import EVAL_SET, Group

RESAMPLES, PERCENTILES = 2000, (2.5, 97.5)
SUMS, DRAWN = 5_000_000, 100_000
"""Of a comparison: so many are counted at most, of more some are drawn."""
Row = Mapping[str, Any]


def evaluation_metrics(groups: Sequence[Group]) -> dict[str, Any]:
    """``eval/...`` over all held-out tasks, and ``eval/SET/...`` over those of each named set."""
    sets = {"": list(groups)}
    for group in groups:
        if name := group.task.get(EVAL_SET):
            sets.setdefault(f"{name}/", []).append(group)
    return {
        f"eval/{prefix}{name}": value
        for prefix, of_set in sets.items()
        for name, value in {**episode_metrics(of_set), **task_metrics(of_set)}.items()
    }


def task_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Intervals of success and reward; pass@k for each k that is a power of two, and for all."""
    scored, found = [group.scored for group in groups if group.scored], {}
    counts, solved = [*map(len, scored)], [sum(bool(e.success) for e in of) for of in scored]
    rewards = [sum(episode.mean_reward for episode in of) for of in scored]
    if len(scored) > 1:
        for name, sums in {"success": solved, "reward/mean": rewards}.items():
            found[f"{name}/low"], found[f"{name}/high"] = interval(np.array(sums), np.array(counts))
    most = max((len(group.episodes) for group in groups), default=1)
    for k in sorted({2**i for i in range(1, most.bit_length())} | {most} - {1}):
        passed = [pass_at_k(n, c, k) for n, c in zip(counts, solved, strict=True) if n >= k]
        if passed:
            found[f"pass@{k}"] = sum(passed) / len(passed)
    return found


def pass_at_k(n: int, c: int, k: int) -> float:
    """Whether one of k episodes solves a task of which c of n did, on average over the choices.

    >>> pass_at_k(4, 1, 2), pass_at_k(4, 3, 2), pass_at_k(9000, 1, 4500)
    (0.5, 1.0, 0.5)
    """
    # Integers of any size, whose ratio is rounded once.
    return 1 - comb(n - c, k) / comb(n, k)


def interval(sums: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """95% of the means over episodes, were tasks drawn again; of each task its sum and episodes."""
    # Of tasks that are alike it is drawn how many come.
    kinds, repeats = np.unique(np.stack([sums, counts], axis=1), axis=0, return_counts=True)
    total = repeats.sum()
    drawn = np.random.default_rng(0).multinomial(total, repeats / total, RESAMPLES) @ kinds
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], PERCENTILES).tolist()
    return low, high


def sign_flip_p_value(differences: np.ndarray) -> float:
    """Two-sided: how often their sum is so far from 0, if each could have had the other sign.

    >>> sign_flip_p_value(np.array([0.5, 0.5, 0.5, 0.0, 0.5, -0.25]))
    0.125
    """
    found = differences.round(9)
    sizes, counts = np.unique(np.abs(found[found != 0]), return_counts=True)
    least, pairs = abs(found.sum()) - 1e-9, list(zip(sizes, counts.tolist(), strict=True))
    sums, shares = np.zeros(1), np.ones(1)
    for size, count in pairs:
        if len(sums) * (count + 1) > SUMS:
            rng = np.random.default_rng(0)
            drawn = sum(s * (2 * rng.binomial(c, 0.5, DRAWN) - c) for s, c in pairs)
            return (1 + int((np.abs(drawn) >= least).sum())) / (1 + DRAWN)
        flips = range(count + 1)
        sums = np.add.outer(sums, [size * (2 * i - count) for i in flips]).ravel()
        shares = np.multiply.outer(shares, [comb(count, i) / 2**count for i in flips]).ravel()
        sums, number = np.unique(sums.round(9), return_inverse=True)
        shares = np.bincount(number, shares)
    return float(shares[np.abs(sums) >= least].sum())


def has_stopped(rows: Sequence[Row], best: str, patience: int | None) -> bool:
    """Whether so many evaluations came after the first that none is better than.

    >>> rows = [{"a": 0.5}, {}, {"a": 0.5}]
    >>> has_stopped(rows, "a", patience=1), has_stopped(rows, "a", patience=2)
    (True, False)
    """
    values = [row[best] for row in rows if best in row]
    return bool(patience and values) and len(values) > values.index(max(values)) + patience


def shown(row: Row, name: str) -> str:
    """A metric, where it is there, and its interval where it has one.

    >>> shown({"a": 0.5, "a/low": 0.4321, "a/high": 0.6}, "a")
    '0.500 [0.432, 0.600]'
    """
    value, *ends = (
        f"{row[n]:.3f}" if n in row else "" for n in (name, f"{name}/low", f"{name}/high")
    )
    return f"{value} [{', '.join(ends)}]" if any(ends) else value
