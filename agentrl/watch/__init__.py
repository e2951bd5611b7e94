"""What a person looks at."""

from agentrl.watch.rollouts import load

__all__ = ["load"]
