"""Reinforcement learning for the language model behind an agent, every token exact.

``from agentrl import tune`` is AgentScope's tuner over this project's loop: ``agentrl.tuner``.
"""

from importlib import import_module
from typing import Any

__all__ = [
    "AlgorithmConfig",
    "DatasetConfig",
    "JudgeOutput",
    "TuneResult",
    "TunerModelConfig",
    "WorkflowOutput",
    "check_judge_function",
    "check_workflow_function",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Only now: whoever imports a part of this package does not wait for all of it.
    return getattr(import_module("agentrl.tuner"), name)
