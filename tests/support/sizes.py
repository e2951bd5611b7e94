"""One test in two sizes, from one source: a small one in ``make slow``, a large one in
``make soak``.

The large one looks longer at the same thing, and proves nothing of its own: tests/README.md lists
all of them beside their small ones, and ``test_tiers.py`` holds it to that.
"""

from collections.abc import Collection, Iterable
from typing import Any

import pytest

SLOW, SOAK = pytest.mark.slow, pytest.mark.soak


def sizes(small: Any, *, soak: Any) -> list[Any]:
    """The two values of a parameter, for ``pytest.mark.parametrize``.

    >>> [(p.values, p.marks[0].name) for p in sizes(2, soak=20)]
    [((2,), 'slow'), ((20,), 'soak')]
    """
    return [pytest.param(small, marks=SLOW), pytest.param(soak, marks=SOAK)]


def some_of(cases: Iterable[tuple], in_slow: Collection[Any]) -> list[Any]:
    """All cases: slow are those whose first value is among these; the others are the soak's.

    >>> [(p.values, p.marks[0].name) for p in some_of([("a", 1), ("b", 2)], in_slow=["b"])]
    [(('a', 1), 'soak'), (('b', 2), 'slow')]
    """
    cases = list(cases)
    missing = set(in_slow) - {first for first, *_ in cases}
    assert not missing, f"no such cases: {missing}"
    return [pytest.param(*case, marks=SLOW if case[0] in in_slow else SOAK) for case in cases]
