"""Which tier each test is of: quick, slow or soak."""

import pytest

COLLECTED = pytest.StashKey[dict[str, set[str]]]()
"""The tiers of each test function that was collected, whatever of it is run."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Before the marks choose among them, note what there is."""
    tiers = config.stash[COLLECTED] = {}
    for item in items:
        tier = next((name for name in ("soak", "slow") if item.get_closest_marker(name)), "quick")
        tiers.setdefault(item.nodeid.partition("[")[0], set()).add(tier)
