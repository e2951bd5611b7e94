"""The same with AgentScope 1.x, whose guide it is; a ``MetricBase`` of its own is the judge.

python guide_1.py MODEL ROWS
"""

import sys

from agentscope.agent import ReActAgent
from agentscope.evaluate import MetricBase, MetricResult, MetricType, SolutionOutput
from agentscope.formatter import OpenAIChatFormatter
from agentscope.message import Msg

from agentrl import AlgorithmConfig, DatasetConfig, TunerModelConfig, WorkflowOutput, tune


async def solve(task, model, auxiliary_models=None):
    agent = ReActAgent(
        name="mathematician",
        sys_prompt="You solve word problems.",
        model=model,
        formatter=OpenAIChatFormatter(),
        max_iters=1,
    )
    reply = await agent.reply(msg=Msg("user", task["question"], role="user"))
    return WorkflowOutput(response=reply)


class IsOdd(MetricBase):
    def __init__(self):
        super().__init__(name="odd", metric_type=MetricType.NUMERICAL)

    async def __call__(self, solution: SolutionOutput) -> MetricResult:
        assert solution.meta["answer"]
        said = solution.output.get_text_content() or ""
        return MetricResult(name=self.name, result=len(said) % 2)


if __name__ == "__main__":
    model, rows = sys.argv[1:]
    result = tune(
        workflow_func=solve,
        judge_func=IsOdd(),
        model=TunerModelConfig(model_path=model, max_model_len=1024, max_tokens=16),
        train_dataset=DatasetConfig(path=rows, split="train", total_steps=2),
        algorithm=AlgorithmConfig(group_size=4, batch_size=2, learning_rate=1e-3),
    )
    print("returned", result.best, result.checkpoint, result.folder)
