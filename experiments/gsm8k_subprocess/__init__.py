"""``gsm8k_offline`` with an agent that is another program.

It finds the model as any program finds OpenAI's: OPENAI_BASE_URL and OPENAI_API_KEY. It reads the
question from stdin, and what it prints is the answer. `agent.mjs` needs Node 20; `--workflow
experiments.gsm8k_subprocess:shell` runs `agent.sh`, which needs bash, curl and jq.
"""

import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from agentrl.agents.contract import WorkflowOutput
from experiments import gsm8k_offline

FOLDER = Path(__file__).parent
# Its python3 is the one that runs here.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


async def node(task, model) -> WorkflowOutput:
    answer = await run("node", FOLDER / "agent.mjs", question=task["question"], model=model)
    return WorkflowOutput(response=answer)


async def shell(task, model) -> WorkflowOutput:
    answer = await run("bash", FOLDER / "agent.sh", question=task["question"], model=model)
    return WorkflowOutput(response=answer)


async def run(*command: str | Path, question: str, model) -> str:
    """What a program prints. Nothing that it started in its process group outlives this call."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, **model.environment, "PATH": PATH},
        start_new_session=True,
    )
    try:
        printed, complaint = await process.communicate(question.encode())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if process.returncode != 0:
        said = complaint.decode(errors="replace").strip()[-500:]
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {said}")
    return printed.decode(errors="replace").strip()


config = dataclasses.replace(
    gsm8k_offline.config,
    workflow=node,
    # Each is a process or two, of some 50 MB.
    concurrent_episodes=16,
)
