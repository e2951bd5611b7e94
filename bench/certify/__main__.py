"""The table: a line for each preset in each world; then the controls."""

import sys
import time
from collections.abc import Iterable, Iterator

from bench.certify.certificate import UNBIASED, Row, certify, controls
from bench.certify.trials import presets

ABOUT = """
Groups of 2 and of 3 episodes of a task, a batch of one group (of two, where credit looks at all of
them). Bias: what of the expected gradient is not along that of E[...], in units of what is; what
RLOO's sums over episodes leave of it (of credit), and what RLOO's credit leaves (of weights), both
in groups of 2. Variance: in units of RLOO's, with sums over episodes, for the same E[...].
r: an episode's reward, of two named parts where there is one agent. calls, last: what its calls or
the last of them get. long: a penalty of length. log p: the likelihood of another model's episodes;
all others are the policy's. Before every batch rae remembers what each agent gets on average.
"""
COLUMNS = (
    *(("", 26), ("", 12), ("E[...]", 10), ("batches", 11), ("cosine", 18), ("bias", 16)),
    *(("of credit", 11), ("of weights", 12), ("variance", 12)),
)


def percent(bias: float) -> str:
    return "0" if bias < UNBIASED else f"{100 * bias:.1f}%"


def line(values: Iterable[str]) -> str:
    return "".join(f"{v:{width}}" for v, (_, width) in zip(values, COLUMNS, strict=True))


def cells(name: str, row: Row) -> Iterator[str]:
    yield from (name, row.world, row.objective)
    yield " ".join(map(str, row.batches))
    yield " ".join(f"{cosine:.6f}" for cosine in row.cosines)
    yield " ".join(map(percent, row.biases))
    yield percent(row.of_credit)
    yield "" if row.of_weights is None else percent(row.of_weights)
    yield " ".join(f"{variance:.2f}" for variance in row.variances)


def main() -> None:
    started = time.process_time()
    print(ABOUT)
    print(line(name for name, _ in COLUMNS))
    for name in sys.argv[1:] or presets():
        for row in certify(name):
            print(line(cells(name, row)), flush=True)
    print("\nRLOO with sums over episodes, two turns, groups of 2; what is wrong, and its bias:")
    for name, bias in controls().items():
        print(f"  {name:32}{bias:10.1e}  {'not ' * (bias < UNBIASED)}caught")
    print(f"{time.process_time() - started:.0f} CPU seconds")


if __name__ == "__main__":
    main()
