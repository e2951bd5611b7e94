"""What docs/metrics.md describes."""

import re

from tests.support.checkout import ROOT

LINE = re.compile(r"\| `(\S+)` \| (.+) \| (.+) \|")


def page() -> dict[str, set[str]]:
    """The metrics of each table, by its title."""
    tables = (ROOT / "docs" / "metrics.md").read_text().split("\n## ")[1:]
    return {text.partition("\n")[0]: {m[1] for m in LINE.finditer(text)} for text in tables}


def described() -> set[str]:
    """Every metric that the page knows, an agent's name being AGENT."""
    found = page()
    evaluated = found["Episodes"] | found.pop("Evaluation")
    return set().union(*found.values()) | {f"eval/{name}" for name in evaluated}
