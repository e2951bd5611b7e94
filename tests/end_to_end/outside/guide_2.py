"""A program as AgentScope's tuner guide has it, with the names of 2.x; run from anywhere.

python guide_2.py MODEL ROWS
"""

import sys

from agentscope.agent import Agent, InjectionConfig, ReActConfig
from agentscope.message import UserMsg

from agentrl import (
    AlgorithmConfig,
    DatasetConfig,
    JudgeOutput,
    TunerModelConfig,
    WorkflowOutput,
    tune,
)

MODEL, ROWS = sys.argv[1:]


async def solve(task, model, auxiliary_models=None):
    agent = Agent(
        name="mathematician",
        system_prompt="You solve word problems.",
        model=model,
        react_config=ReActConfig(max_iters=1, interruption_raise_cancelled_error=True),
        injection_config=InjectionConfig(inject_runtime_state=False),
    )
    return WorkflowOutput(response=await agent.reply(UserMsg("user", task["question"])))


async def judge(task, response, auxiliary_models=None):
    said = response.get_text_content() or ""
    # A model this small says no answer: some of what it says is worth more than other.
    return JudgeOutput(reward=float(len(said) % 2), metrics={"letters": float(len(said))})


def trained(steps, **more):
    dataset = DatasetConfig(path=ROWS, split="train", total_steps=steps)
    dataset.preview(n=2)
    result = tune(
        workflow_func=solve,
        judge_func=judge,
        model=TunerModelConfig(model_path=MODEL, max_model_len=1024, max_tokens=16),
        train_dataset=dataset,
        algorithm=AlgorithmConfig(group_size=4, batch_size=2, learning_rate=1e-3),
        **more,
    )
    print("returned", result.best, result.checkpoint, result.folder)


if __name__ == "__main__":
    held_out = DatasetConfig(path=ROWS, split="test")
    # Under one name it is one run, which goes on; this process makes two of it.
    trained(1, eval_dataset=held_out, project_name="word problems", experiment_name="first")
    trained(2, eval_dataset=held_out, project_name="word problems", experiment_name="first")
