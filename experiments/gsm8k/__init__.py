r"""GSM8K with a Python tool: a ReAct agent, judged on the number in its last ``\boxed{}``.

`accelerate launch train.py --exp gsm8k` trains Qwen2.5-1.5B-Instruct on the hub's rows;
`--data.path FOLDER` reads train.jsonl and test.jsonl instead.

The agent is written in four ways, a file each: `openai_sdk`, `raw_http`, `langchain_agent` and
`agentscope_agent`. `--workflow experiments.gsm8k.raw_http:solve` picks one.
"""

from agentrl.agents.judges.numbers import boxed_equals, gold_number
from agentrl.agents.judges.penalties import impatient, malformed, no_print
from agentrl.config import Config, DataConfig, ModelConfig, OptimConfig, SamplingConfig
from agentrl.tasks.hf import read_hub
from agentrl.tasks.jsonl import read_folder
from agentrl.types import Task
from experiments.gsm8k.agent import talk as talk
from experiments.gsm8k.openai_sdk import solve


def tasks(data: DataConfig) -> tuple[list[Task], list[Task]]:
    if data.path:
        return read_rows(data)
    return read_hub("openai/gsm8k", "main", data)


def read_rows(data: DataConfig) -> tuple[list[Task], list[Task]]:
    """Train and held-out rows in GSM8K's schema, each with a gold answer."""
    return read_folder(
        data, required=("question", "answer"), check=lambda task: gold_number(task["answer"])
    )


def is_right(task: Task, response: str | None) -> bool:
    return boxed_equals(response, task["answer"])


judge = is_right + no_print + impatient + malformed

config = Config(
    workflow=solve,
    judge=judge,
    tasks=tasks,
    tasks_per_step=32,
    group_size=8,
    model=ModelConfig(path="Qwen/Qwen2.5-1.5B-Instruct", recompute="selective"),
    sampling=SamplingConfig(max_tokens=1024),
    optim=OptimConfig(lr=1e-6, warmup_steps=5),
)
