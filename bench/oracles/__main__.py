"""Table: our losses and credit beside other trainers', value and gradient, in fp64."""

import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from agentrl.algorithms.named import algorithm_names, load_algorithm
from bench.oracles.comparisons import Comparison, comparisons
from bench.oracles.trainers import load

FOLDER = Path(__file__).parents[2] / ".oracles"
EXACT = 1e-6


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Relative to the larger of the norms."""
    size = max(ours.norm().item(), theirs.norm().item())
    return (ours.double() - theirs.double()).norm().item() / size


def rows(made: Iterable[Comparison]) -> list[tuple[Comparison, float, float | None]]:
    """Each comparison, and how far apart its values and gradients are."""
    found = []
    for one in made:
        value, gradient, their_value, their_gradient = one.make()
        apart = None if gradient is None else distance(gradient, their_gradient)
        found.append((one, distance(value.detach(), their_value.detach()), apart))
    return found


def by_trainers(made: Iterable[Comparison]) -> dict[str, list[str]]:
    """What is equal with two trainers or more, with one, with none; of the last, what differs, and
    the presets that no trainer here has."""
    trainers: dict[str, set[str]] = defaultdict(set)
    presets = {load_algorithm(name).name for name in algorithm_names()}
    for one in made:
        presets.discard(one.ours.partition(" ")[0])
        trainers[one.formula] |= set() if one.why else {one.theirs.partition(" ")[0]}
    trainers |= {name: set() for name in presets}
    found: dict[str, list[str]] = {"two or more": [], "one": [], "none": []}
    for name, of in sorted(trainers.items()):
        found[("none", "one", "two or more")[min(len(of), 2)]].append(name)
    return found


def main() -> None:
    warnings.filterwarnings("ignore")
    found, wrong = rows(comparisons(load(FOLDER))), 0
    print(f"{'ours':42s} {'theirs':14s} {'value':>8s} {'gradient':>8s}")
    for one, value, gradient in found:
        agrees = max(value, gradient or 0.0) < EXACT
        wrong += agrees != (not one.why)
        verdict = one.why if not agrees and one.why else "" if agrees else "DIFFERS"
        shown = "" if gradient is None else f"{gradient:8.1e}"
        print(f"{one.ours:42s} {one.theirs:14s} {value:8.1e} {shown:8s} {verdict}".rstrip())
    for number, names in by_trainers(one for one, *_ in found).items():
        print(f"equal with {number}: {', '.join(names)}")
    sys.exit(f"{wrong} are not as expected" if wrong else 0)


if __name__ == "__main__":
    main()
