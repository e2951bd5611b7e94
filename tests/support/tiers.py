"""Tiers: which each test is of, quick, slow or soak; and what comes last in them."""

import pytest

COLLECTED = pytest.StashKey[dict[str, set[str]]]()
"""The tiers of each test function that was collected, whatever of it is run."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Before the marks choose among them, note what there is.

    Who has the machine alone comes last: before, it would wait for a long one beside it each time,
    and keep another waiting.
    """
    tiers = config.stash[COLLECTED] = {}
    for item in items:
        tier = next((name for name in ("soak", "slow") if item.get_closest_marker(name)), "quick")
        tiers.setdefault(item.nodeid.partition("[")[0], set()).add(tier)
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)
