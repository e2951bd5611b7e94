"""What a person looks at."""

from agentrl.watch.records import load, open_run

__all__ = ["load", "open_run"]
