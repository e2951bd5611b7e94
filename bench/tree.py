"""Time to build and plan a large tree: 8 episodes of 20 turns behind one long prompt.

make bench      or      python -m bench.tree
"""

import statistics
import time

import numpy as np

from kernels.tree import build_tree
from kernels.tree.plan import plan

REPEATS = 20


def make_calls() -> list[np.ndarray]:
    """160 calls, 2 million tokens as they are sent, 150,000 distinct."""
    rng = np.random.default_rng(0)
    prompt, calls = rng.integers(0, 150_000, 3000), []
    for _ in range(8):
        context = prompt
        for _ in range(20):
            calls.append(np.concatenate([context, rng.integers(0, 150_000, 150)]))
            context = np.concatenate([calls[-1], rng.integers(0, 150_000, 800)])
    return [call.astype(np.int32) for call in calls]


def main() -> None:
    calls = make_calls()
    taken: dict[str, list[float]] = {"tree": [], "blocks of 128 x 64": [], "runs": []}
    for _ in range(REPEATS):
        started = time.perf_counter()
        tree = build_tree(calls)
        built = time.perf_counter()
        planned = plan(tree)
        planned.blocks(128, 64)
        blocked = time.perf_counter()
        planned.runs  # noqa: B018
        for times, seconds in zip(
            taken.values(),
            (built - started, blocked - built, time.perf_counter() - blocked),
            strict=True,
        ):
            times.append(1e3 * seconds)
    print(f"{len(calls)} calls, {sum(map(len, calls)):,} tokens, {len(tree):,} distinct; ms:")
    for name, times in taken.items():
        print(f"{name:20} {statistics.median(times):6.2f}   {min(times):6.2f} .. {max(times):6.2f}")


if __name__ == "__main__":
    main()
