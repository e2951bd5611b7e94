"""In CI nothing is skipped: a test that finds the machine without what it needs fails, and says
what that is.

A test that is marked ``gpu`` is not run there to begin with, and may be skipped.
"""

import os
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # What is expected to fail, and does, is reported as skipped, too.
    is_skip = report.skipped and not hasattr(report, "wasxfail")
    if is_skip and os.environ.get("CI") and item.get_closest_marker("gpu") is None:
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"{reason}: in CI a skip is a failure"
    return report
