"""Tuner: AgentScope's ``tune()`` and its configs, over this project's own loop.

A program that trains with ``agentscope.tuner`` trains here when it imports from ``agentrl``. Every
argument has its counterpart among our settings, or is refused in a sentence:
docs/coming_from.md lists them.
"""

from agentrl.agents.contract import JudgeOutput as JudgeOutput
from agentrl.agents.contract import WorkflowOutput as WorkflowOutput
from agentrl.tuner.configs import AlgorithmConfig as AlgorithmConfig
from agentrl.tuner.configs import DatasetConfig as DatasetConfig
from agentrl.tuner.configs import TunerModelConfig as TunerModelConfig
from agentrl.tuner.functions import check_judge_function as check_judge_function
from agentrl.tuner.functions import check_workflow_function as check_workflow_function
from agentrl.tuner.run import TuneResult as TuneResult
from agentrl.tuner.run import tune as tune
