r"""``documents_qa`` at its real size: all questions, whole passages; not yet run on a GPU.

    accelerate launch train.py --exp documents_qa_gpu

For one GPU of 80 GB. A search returns three passages, and every kind of question is asked. Thinking
is part of the completion.
"""

import dataclasses

from agentrl.agents.contract import WorkflowOutput
from agentrl.callables import load_named
from agentrl.config import EvalConfig, ModelConfig, OptimConfig, SamplingConfig
from experiments import documents_qa


async def solve(task, model) -> WorkflowOutput:
    return await documents_qa.answered(task, model, size=800, most=3)


config = dataclasses.replace(
    documents_qa.config,
    workflow=solve,
    tasks=load_named(f"documents:{documents_qa.FOLDER}", "agentrl.tasks"),
    model=ModelConfig(
        path="Qwen/Qwen3-1.7B", max_model_len=8192, recompute="selective", reasoning_parser="qwen3"
    ),
    steps=100,
    tasks_per_step=32,
    micro_batch_tokens=16384,
    sampling=SamplingConfig(max_tokens=1024),
    optim=OptimConfig(lr=1e-6, warmup_steps=5),
    eval=EvalConfig(every=20, num_tasks=400),
)
