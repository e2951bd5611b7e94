"""An experiment to debug, and rollout.py as a command."""

import sys
import textwrap
from pathlib import Path

AGENT = """
    import threading

    from agentrl.agents.contract import JudgeOutput, WorkflowOutput
    from agentrl.config import Config, ModelConfig, SamplingConfig

    async def solve(task, model):
        messages = [{"role": "user", "content": f"QUESTION {task['id']}"}]
        answer = await model.openai.chat.completions.create(model=model.name, messages=messages)
        said = answer.choices[0].message.content
        return WorkflowOutput(response=said, metadata={"thread": threading.current_thread().name})

    async def judge(task, response, episode):
        return JudgeOutput(reward=0.25, metrics={"calls": float(len(episode.calls))})

    def tasks(data):
        rows = [{"id": str(i)} for i in range(4)]
        return rows[2:], rows[:2]

    config = Config(
        workflow=solve, judge=judge, tasks=tasks,
        model=ModelConfig(path="unused", max_model_len=512), sampling=SamplingConfig(max_tokens=16),
    )
"""


def write_agent(folder: Path, *edits: tuple[str, str]) -> Path:
    """The experiment's file, with some of its text replaced."""
    text = textwrap.dedent(AGENT)
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    (folder / "agent.py").write_text(text)
    return folder / "agent.py"


def debug_command(agent: Path, *flags: str) -> list[str]:
    return [sys.executable, "rollout.py", "--exp", str(agent), "--debug", *flags]
